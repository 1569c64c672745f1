//! PURE. Services that lead nowhere, whatever becomes of their pods: no pod has their labels, or none has their port.
//!
//! In: a snapshot. Out: what a person should know. A pod that comes later takes it back with the next snapshot.

use std::collections::{BTreeSet, HashMap};

use mesh_common::model::{Service, ServicePort, TargetPort, Text};
use mesh_common::snapshot::{ServiceRecord, Snapshot};

use super::advice::{Advice, Budget};
use super::object::{Kind, ObjectKey};
use super::store::first_of;
use super::translate::Effect;

/// A Service of which a port has no endpoint, and what was found of its pods.
struct Open<'a> {
    service: &'a Service,
    ports: Vec<&'a ServicePort>,
    has_pods: bool,
    /// Names of ports that its pods have.
    names: BTreeSet<&'a Text>,
}

/// A namespace and a label.
type Selected<'a> = (&'a Text, &'a Text, &'a Text);

/// What is to be known of each.
pub(super) fn unserved(snapshot: &Snapshot) -> Vec<Advice> {
    let mut open: Vec<Open<'_>> = snapshot.services().filter_map(|record| of(record)).collect();
    let mut by_label: HashMap<Selected<'_>, Vec<usize>> = HashMap::new();
    for (index, Open { service, .. }) in open.iter().enumerate() {
        let label = service.selector.first_key_value();
        let label = label.map(|(key, value)| (&service.name.namespace, key, value));
        label.into_iter().for_each(|label| by_label.entry(label).or_default().push(index));
    }
    let mut looks = Budget::default();
    for pod in snapshot.workloads().filter(|_| !by_label.is_empty()) {
        let of_label = |(key, value)| by_label.get(&(&pod.name.namespace, key, value));
        for index in pod.details.labels.iter().filter_map(of_label).flatten() {
            if !looks.take(1) {
                // Not all were looked at: what was not found may be there.
                return open[*index].unfinished().into();
            }
            let open = &mut open[*index];
            if pod.has_labels(&open.service.selector) {
                open.has_pods = true;
                open.names.extend(pod.details.named_ports.iter().map(|(name, _)| name));
            }
        }
    }
    open.iter().flat_map(Open::advice).collect()
}

/// A Service that selects pods and of which a port has no endpoint.
fn of(record: &ServiceRecord) -> Option<Open<'_>> {
    let service = &*record.service;
    let ports = service.ports.iter().enumerate();
    let ports: Vec<&ServicePort> =
        ports.filter(|(index, _)| record.endpoints_of(*index).is_empty()).map(|(_, port)| port).collect();
    let is_open = !ports.is_empty() && !service.selector.is_empty();
    is_open.then(|| Open { service, ports, has_pods: false, names: BTreeSet::new() })
}

impl Open<'_> {
    fn warning(&self, field: &str, reason: String) -> Advice {
        Advice {
            key: ObjectKey { kind: Kind::Service, name: self.service.name.clone() },
            field: field.to_owned(),
            reason,
            effect: Effect::Warning,
        }
    }

    /// What is known where not all pods were looked at.
    fn unfinished(&self) -> [Advice; 1] {
        let reason = "too many Services select the same pods: they were not all looked at, and more Services may \
                      lead nowhere";
        [self.warning("spec.selector", reason.to_owned())]
    }

    fn advice(&self) -> Vec<Advice> {
        let Self { service, ports, has_pods, names } = self;
        let advice = |field: &str, reason: String| self.warning(field, reason);
        if !has_pods {
            let reason = format!(
                "no pod of namespace {} has these labels: the Service leads nowhere",
                service.name.namespace
            );
            return vec![advice("spec.selector", reason)];
        }
        let missing = ports.iter().filter_map(|port| match &port.target_port {
            TargetPort::Named(name) if !names.contains(name) => Some((port.port, name)),
            TargetPort::Named(_) | TargetPort::Number(_) => None,
        });
        let known = match names.len() {
            0 => "they name none".to_owned(),
            count => format!("they name {}", first_of(names.iter().map(ToString::to_string), count)),
        };
        let reason = |(port, name)| {
            format!("targetPort {name} of port {port} is the name of no container port of its pods: {known}")
        };
        missing.map(|missing| advice("spec.ports", reason(missing))).collect()
    }
}
