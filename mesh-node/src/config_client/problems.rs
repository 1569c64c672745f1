//! What a person should know of the stream, in the words of the folder's problems.

use std::collections::BTreeMap;

use mesh_common::model::NamespacedName;
use mesh_common::model::policy::PolicyFault;
use mesh_common::snapshot::Snapshot;

use super::world::Refused;
use super::{ClientSettings, Trouble};
use crate::control::documents::{Complaint, ObjectName, Place, Problem};
use crate::control::translate::Effect;
use crate::xds::{Key, ResourceType};

/// Most resources that are listed one by one.
const MAX_LISTED: usize = 1000;

/// All that is wrong now.
pub(super) fn problems(
    settings: &ClientSettings,
    refused: &BTreeMap<Key, Refused>,
    snapshot: &Snapshot,
    trouble: &Trouble,
) -> Vec<Problem> {
    let place = Place { file: format!("controller {}", settings.address).into(), document: 0 };
    let problem = |object, field, reason, effect| Problem {
        place: place.clone(),
        line: 0,
        complaint: Complaint { line: 0, object, field, reason, effect },
    };
    let whole = |reason| problem(None, None, reason, Effect::LastGoodKept);
    let stream = trouble.stream.iter().map(|reason| whole(format!("no stream: {reason}")));
    let saving = trouble.saving.iter().map(|reason| {
        whole(format!("the state cannot be written to {}: {reason}", settings.state_dir.display()))
    });
    let roots = trouble.roots.iter().map(|reason| whole(format!("its roots cannot be used: {reason}")));
    // What the controller did not understand of an object, and told every agent.
    let policies = faults(snapshot).filter(|(name, _)| !refused.keys().any(|key| object(key) == *name));
    let policies = policies.take(MAX_LISTED).map(|(name, fault)| {
        problem(Some(name), Some(fault.field.clone()), fault.reason.clone(), Effect::Denies)
    });
    let resources = refused.iter().take(MAX_LISTED).map(|(key, Refused { error, denies })| {
        let effect = if *denies { Effect::Denies } else { Effect::LastGoodKept };
        problem(Some(object(key)), Some(error.field.clone()), error.reason.clone(), effect)
    });
    stream.chain(saving).chain(roots).chain(resources).chain(policies).collect()
}

fn faults(snapshot: &Snapshot) -> impl Iterator<Item = (ObjectName, &PolicyFault)> {
    let name = |kind: &str, name: &NamespacedName| ObjectName {
        kind: kind.to_owned(),
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
    };
    let authorization = snapshot.authorization_policies().filter_map(move |policy| {
        Some((name(ResourceType::AuthorizationPolicy.name(), &policy.name), policy.fault.as_deref()?))
    });
    let request = snapshot.all_request_authentications().filter_map(move |policy| {
        Some((name(ResourceType::RequestAuthentication.name(), &policy.name), policy.fault.as_deref()?))
    });
    authorization.chain(request)
}

fn object(key: &Key) -> ObjectName {
    let (namespace, name) = key.name.split_once('/').unwrap_or(("", &key.name));
    ObjectName { kind: key.kind.name().to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
}
