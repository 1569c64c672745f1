//! PURE. What should be known of AuthorizationPolicies that are each fine by themselves: whom they ask, and where nobody
//! sees requests.
//!
//! In: a snapshot. Out: what a person should know, standalone in `status`, beside an API server in the policy's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::model::policy::{Action, AuthorizationPolicy, Rule, Scope};
use mesh_common::model::{Endpoint, NamespacedName, Protocol, Workload};
use mesh_common::snapshot::{ServiceRecord, Snapshot};

use super::advice::{Advice, Budget, unfinished};
use super::object::{Kind, ObjectKey};
use super::translate::Effect;

/// All that should be known, in no order.
pub(crate) fn policy_advice(snapshot: &Snapshot) -> Vec<Advice> {
    let mut advice = unknown_servers(snapshot);
    advice.extend(unseen_requests(snapshot));
    advice
}

fn warning(policy: &AuthorizationPolicy, field: String, reason: String) -> Advice {
    let key = ObjectKey { kind: Kind::AuthorizationPolicy, name: policy.name.clone() };
    Advice { key, field, reason, effect: Effect::Warning }
}

/// CUSTOM policies whose server nobody knows, or whose server is no port of a Service.
fn unknown_servers(snapshot: &Snapshot) -> Vec<Advice> {
    let root = &snapshot.settings().root_namespace;
    let mut advice = Vec::new();
    for policy in snapshot.authorization_policies() {
        let Action::Custom(custom) = &policy.action else { continue };
        let lack = match custom.authorizer.as_deref() {
            None => format!(
                "no server {} is understood in extensionProviders of ConfigMap {root}/nodemesh",
                custom.provider
            ),
            Some(authorizer) => match snapshot.service(&authorizer.service) {
                // An alias in DNS is none to the mesh.
                None => format!(
                    "there is no Service {} to be asked, or its type is ExternalName",
                    authorizer.service
                ),
                Some(record) if record.service.cluster_ips.is_empty() => {
                    format!("Service {} has no cluster IP to be asked at: it is headless", authorizer.service)
                }
                Some(record) if record.service.ports.iter().all(|port| port.port != authorizer.port) => {
                    format!("Service {} has no port {}", authorizer.service, authorizer.port)
                }
                Some(_) => continue,
            },
        };
        let reason = format!("{lack}: whatever the policy matches is refused");
        advice.push(warning(policy, "spec.provider.name".to_owned(), reason));
    }
    advice
}

/// Policies with rules about requests that select a pod with a port where nobody sees any.
fn unseen_requests(snapshot: &Snapshot) -> Vec<Advice> {
    let is_about_requests = |policy: &&Arc<AuthorizationPolicy>| {
        policy.fault.is_none() && policy.rules.iter().any(Rule::speaks_of_requests)
    };
    let mut open: BTreeMap<&NamespacedName, &AuthorizationPolicy> = snapshot
        .authorization_policies()
        .filter(is_about_requests)
        .filter(|policy| policy.action != Action::Audit)
        .map(|policy| (&policy.name, &**policy))
        .collect();
    let mut advice = Vec::new();
    let mut looks = Budget::default();
    for record in snapshot.services() {
        for (index, port) in record.service.ports.iter().enumerate() {
            if open.is_empty() || !matches!(port.protocol, Protocol::Tcp | Protocol::Tls) {
                continue;
            }
            for endpoint in record.endpoints_of(index) {
                let Some(pod) = snapshot.workload_at(endpoint.address) else { continue };
                if !looks.take(open.len()) {
                    // Which of them is about such a port was not looked at for each.
                    let first =
                        open.first_key_value().map(|(name, _)| unfinished(Kind::AuthorizationPolicy, name));
                    advice.extend(first);
                    return advice;
                }
                open.retain(|_, policy| {
                    let said = unseen(policy, record, pod, endpoint);
                    let is_open = said.is_none();
                    advice.extend(said);
                    is_open
                });
            }
        }
    }
    advice
}

fn unseen(
    policy: &AuthorizationPolicy,
    record: &ServiceRecord,
    pod: &Workload,
    endpoint: &Endpoint,
) -> Option<Advice> {
    let is_about = match &policy.scope {
        Scope::Mesh => true,
        Scope::Namespace(namespace) => *namespace == pod.name.namespace,
        Scope::Selector { .. } => policy.scope.selects(pod),
        Scope::Services(names) => names.contains(&record.service.name),
    };
    if !is_about {
        return None;
    }
    let may_be = |rule: &&(usize, &Rule)| {
        let ports = rule.1.to.iter().map(|operation| &operation.ports);
        let mut ports = ports.filter(|ports| !ports.is_empty()).peekable();
        ports.peek().is_none()
            || ports.any(|ports| {
                (ports.any_of.is_empty() || ports.any_of.contains(&endpoint.port))
                    && !ports.none_of.contains(&endpoint.port)
            })
    };
    let rules: Vec<(usize, &Rule)> = policy.rules.iter().enumerate().collect();
    let (index, _) = rules.iter().filter(|(_, rule)| rule.speaks_of_requests()).find(may_be)?;
    let what = match &policy.action {
        Action::Allow => "never matches",
        Action::Deny | Action::Custom(_) => "refuses every connection that its other parts match",
        Action::Audit => return None,
    };
    let (service, port) = (&record.service.name, endpoint.port);
    let reason = format!(
        "is about requests, and none are seen at port {port} of the pods of Service {service}, which is declared as TCP: \
         there it {what}"
    );
    Some(warning(policy, format!("spec.rules[{index}]"), reason))
}

#[cfg(test)]
mod tests {
    use super::super::documents::Reader;
    use super::super::reconciler::Reconciler;
    use super::super::store::Store;
    use super::*;

    const WORLD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, uid: db, labels: {app: db}, annotations: {nodemesh.dev/netns: /run/netns/db}}
spec: {nodeName: a, containers: [{name: db}]}
status: {podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: db}, ports: [{name: tcp-sql, port: 5432}, {name: http, port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: nodemesh, namespace: nodemesh-system}
data:
  mesh: |
    extensionProviders:
      - {name: opa, envoyExtAuthzGrpc: {service: db.shop, port: 80}}
      - {name: gone, envoyExtAuthzGrpc: {service: gone.shop, port: 80}}
      - {name: port, envoyExtAuthzGrpc: {service: db.shop, port: 81}}
      - {name: headless, envoyExtAuthzGrpc: {service: each.shop, port: 80}}
      - {name: alias, envoyExtAuthzGrpc: {service: alias.shop, port: 80}}
---
apiVersion: v1
kind: Service
metadata: {name: each, namespace: shop}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: shop}
spec: {type: ExternalName, externalName: opa.example, ports: [{name: http, port: 80}]}
---
"#;

    fn advised(spec: &str) -> Vec<String> {
        let policy = "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}";
        let text = format!("{WORLD}{policy}\nspec: {spec}\n");
        let settings = Arc::default();
        let mut store = Store::new(Reader::new(Arc::clone(&settings)));
        let file = store.reader("a.yaml").read(&text).unwrap();
        store.put(&"a.yaml".into(), file);
        let mut reconciler = Reconciler::new(settings);
        reconciler.apply(store.changes());
        let advice = policy_advice(&reconciler.snapshot());
        advice.into_iter().map(|advice| format!("{}: {}", advice.field, advice.reason)).collect()
    }

    #[test]
    fn whom_nobody_knows_is_not_asked_in_silence() {
        let found = |provider: &str| {
            advised(&format!("{{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]}}"))
        };
        assert_eq!(found("opa"), [""; 0]);
        let refused = "whatever the policy matches is refused";
        let said = |lack: &str| format!("spec.provider.name: {lack}: {refused}");
        let nobody =
            "no server nobody is understood in extensionProviders of ConfigMap nodemesh-system/nodemesh";
        assert_eq!(found("nobody"), [said(nobody)]);
        for none in ["gone", "alias"] {
            let lack = format!("there is no Service shop/{none} to be asked, or its type is ExternalName");
            assert_eq!(found(none), [said(&lack)]);
        }
        assert_eq!(
            found("headless"),
            [said("Service shop/each has no cluster IP to be asked at: it is headless")]
        );
        assert_eq!(found("port"), [said("Service shop/db has no port 81")]);
    }

    #[test]
    fn rules_about_requests_are_told_apart_from_ports_of_bytes() {
        let at = |action: &str, to: &str| {
            advised(&format!("{{action: {action}, rules: [{{to: [{{operation: {{{to}}}}}]}}]}}"))
        };
        let said = |what: &str| {
            format!(
                "spec.rules[0]: is about requests, and none are seen at port 5432 of the pods of Service shop/db, which \
                 is declared as TCP: there it {what}"
            )
        };
        assert_eq!(
            at("DENY", "methods: [GET]"),
            [said("refuses every connection that its other parts match")]
        );
        assert_eq!(at("ALLOW", "methods: [GET]"), [said("never matches")]);
        assert_eq!(at("DENY", "methods: [GET], ports: ['80']"), [""; 0]);
        assert_eq!(at("DENY", "ports: ['5432']"), [""; 0]);
        assert_eq!(at("AUDIT", "methods: [GET]"), [""; 0]);
    }
}
