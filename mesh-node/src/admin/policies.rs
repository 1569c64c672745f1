//! Policies as documents, with Istio's field names.

use std::collections::BTreeSet;

use mesh_common::model::policy::{
    Action, AuthorizationPolicy, Condition, Match, Mode, MutualTls, Operation, PeerAuthentication,
    PolicyFault, Rule, Scope, Source,
};
use mesh_common::model::request_authentication::{
    ClaimHeader, JwtRule, RequestAuthentication, TokenLocation,
};
use mesh_common::snapshot::Snapshot;
use serde_json::{Map, Value, json};

use super::documents::Policy;

/// All policies of every kind, by kind, namespace and name.
pub fn policies(snapshot: &Snapshot) -> Vec<Policy> {
    let authorization = snapshot.authorization_policies().map(|policy| authorization(snapshot, policy));
    let peer = snapshot.all_peer_authentications().map(|policy| peer_authentication(snapshot, policy));
    let request =
        snapshot.all_request_authentications().map(|policy| request_authentication(snapshot, policy));
    let mut policies: Vec<Policy> = authorization.chain(peer).chain(request).collect();
    policies.sort_by(|a, b| (&a.kind, &a.namespace, &a.name).cmp(&(&b.kind, &b.namespace, &b.name)));
    policies
}

fn authorization(snapshot: &Snapshot, policy: &AuthorizationPolicy) -> Policy {
    Policy {
        kind: "AuthorizationPolicy".to_owned(),
        namespace: policy.name.namespace.to_string(),
        name: policy.name.name.to_string(),
        scope: scope(&policy.scope),
        pods: pods(snapshot, &policy.scope),
        action: match &policy.action {
            Action::Allow => "ALLOW",
            Action::Deny => "DENY",
            Action::Audit => "AUDIT",
            Action::Custom(_) => "CUSTOM",
        }
        .to_owned(),
        mode: match policy.mode {
            Mode::Enforce => "Enforce",
            Mode::Audit => "Audit",
        }
        .to_owned(),
        rules: policy.rules.iter().map(rule).collect(),
        fault: policy.fault.as_deref().map(fault),
    }
}

/// What of a policy is not understood: field and reason.
pub(super) fn fault(fault: &PolicyFault) -> String {
    match &*fault.field {
        "" => fault.reason.clone(),
        field => format!("{field}: {}", fault.reason),
    }
}

fn request_authentication(snapshot: &Snapshot, policy: &RequestAuthentication) -> Policy {
    Policy {
        kind: "RequestAuthentication".to_owned(),
        namespace: policy.name.namespace.to_string(),
        name: policy.name.name.to_string(),
        scope: scope(&policy.scope),
        pods: pods(snapshot, &policy.scope),
        action: "AUTHENTICATE".to_owned(),
        mode: "Enforce".to_owned(),
        rules: policy.rules.iter().map(jwt_rule).collect(),
        fault: policy.fault.as_deref().map(fault),
    }
}

/// Without the keys themselves: how many there are.
fn jwt_rule(rule: &JwtRule) -> Value {
    let mut fields = Map::new();
    fields.insert("issuer".to_owned(), (*rule.issuer).into());
    fields.insert("keys".to_owned(), rule.keys.as_ref().map_or(0, |keys| keys.len()).into());
    fields.insert("forwardOriginalToken".to_owned(), rule.forward_original.into());
    put(&mut fields, "audiences", rule.audiences.iter().map(|text| (**text).into()).collect());
    let at = |location: &TokenLocation| match location {
        TokenLocation::Header { name, prefix } => format!("header {name}: {prefix}"),
        TokenLocation::Parameter(name) => format!("parameter {name}"),
        TokenLocation::Cookie(name) => format!("cookie {name}"),
    };
    put(&mut fields, "locations", rule.locations.iter().map(|location| at(location).into()).collect());
    if let Some(header) = &rule.payload_header {
        fields.insert("outputPayloadToHeader".to_owned(), (**header).into());
    }
    let written =
        |written: &ClaimHeader| json!({ "header": *written.header, "claim": written.claim.join(".") });
    put(&mut fields, "outputClaimToHeaders", rule.claim_headers.iter().map(written).collect());
    fields.into()
}

fn peer_authentication(snapshot: &Snapshot, policy: &PeerAuthentication) -> Policy {
    let ports: Map<String, Value> =
        policy.ports.iter().map(|(port, mode)| (port.to_string(), mutual_tls(*mode).into())).collect();
    Policy {
        kind: "PeerAuthentication".to_owned(),
        namespace: policy.name.namespace.to_string(),
        name: policy.name.name.to_string(),
        scope: scope(&policy.scope),
        pods: pods(snapshot, &policy.scope),
        action: mutual_tls(policy.mode).to_owned(),
        mode: "Enforce".to_owned(),
        rules: if ports.is_empty() { Vec::new() } else { vec![json!({ "portLevelMtls": ports })] },
        fault: None,
    }
}

fn mutual_tls(mode: Option<MutualTls>) -> &'static str {
    match mode {
        Some(MutualTls::Strict) => "STRICT",
        Some(MutualTls::Permissive) => "PERMISSIVE",
        None => "UNSET",
    }
}

fn scope(scope: &Scope) -> String {
    match scope {
        Scope::Mesh => "mesh".to_owned(),
        Scope::Namespace(namespace) => format!("namespace {namespace}"),
        Scope::Selector { namespace, labels } => {
            let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let place =
                namespace.as_ref().map_or_else(|| "mesh".to_owned(), |name| format!("namespace {name}"));
            format!("pods {} in {place}", labels.join(","))
        }
        Scope::Services(services) => {
            let names: Vec<String> = services.iter().map(ToString::to_string).collect();
            format!("services {}", names.join(","))
        }
    }
}

fn pods(snapshot: &Snapshot, scope: &Scope) -> usize {
    match scope {
        Scope::Mesh => snapshot.workloads().count(),
        Scope::Namespace(namespace) => {
            snapshot.workloads().filter(|pod| pod.name.namespace == *namespace).count()
        }
        Scope::Selector { .. } => snapshot.workloads().filter(|pod| scope.selects(pod)).count(),
        Scope::Services(services) => {
            let records = services.iter().filter_map(|service| snapshot.service(service));
            let endpoints = records.flat_map(|record| {
                (0..record.service.ports.len()).flat_map(move |port| record.endpoints_of(port))
            });
            endpoints.filter_map(|endpoint| endpoint.workload.as_ref()).collect::<BTreeSet<_>>().len()
        }
    }
}

/// One rule, with Istio's field names.
pub(super) fn rule(rule: &Rule) -> Value {
    let mut fields = Map::new();
    put(&mut fields, "from", rule.from.iter().map(|from| json!({ "source": source(from) })).collect());
    put(&mut fields, "to", rule.to.iter().map(|to| json!({ "operation": operation(to) })).collect());
    put(&mut fields, "when", rule.when.iter().map(condition).collect());
    fields.into()
}

fn source(source: &Source) -> Value {
    let mut fields = Map::new();
    put_match(&mut fields, ["principals", "notPrincipals"], &source.principals, ToString::to_string);
    put_match(&mut fields, ["namespaces", "notNamespaces"], &source.namespaces, ToString::to_string);
    put_match(
        &mut fields,
        ["serviceAccounts", "notServiceAccounts"],
        &source.service_accounts,
        ToString::to_string,
    );
    put_match(&mut fields, ["ipBlocks", "notIpBlocks"], &source.ip_blocks, ToString::to_string);
    let names = ["requestPrincipals", "notRequestPrincipals"];
    put_match(&mut fields, names, &source.request_principals, ToString::to_string);
    fields.into()
}

fn operation(operation: &Operation) -> Value {
    let mut fields = Map::new();
    put_match(&mut fields, ["hosts", "notHosts"], &operation.hosts, ToString::to_string);
    put_match(&mut fields, ["ports", "notPorts"], &operation.ports, ToString::to_string);
    put_match(&mut fields, ["methods", "notMethods"], &operation.methods, ToString::to_string);
    put_match(&mut fields, ["paths", "notPaths"], &operation.paths, ToString::to_string);
    fields.into()
}

fn condition(condition: &Condition) -> Value {
    let mut fields = Map::new();
    fields.insert("key".to_owned(), condition.key().into());
    let names = ["values", "notValues"];
    match condition {
        Condition::RequestHeader { values, .. }
        | Condition::RequestClaim { values, .. }
        | Condition::RequestPrincipal(values)
        | Condition::RequestAudiences(values)
        | Condition::RequestPresenter(values)
        | Condition::ConnectionServerName(values)
        | Condition::SourceNamespace(values)
        | Condition::SourcePrincipal(values)
        | Condition::SourceServiceAccount(values) => {
            put_match(&mut fields, names, values, ToString::to_string)
        }
        Condition::SourceIp(values) | Condition::DestinationIp(values) => {
            put_match(&mut fields, names, values, ToString::to_string);
        }
        Condition::DestinationPort(values) => put_match(&mut fields, names, values, ToString::to_string),
    }
    fields.into()
}

fn put_match<T>(
    fields: &mut Map<String, Value>,
    names: [&str; 2],
    values: &Match<T>,
    text: impl Fn(&T) -> String,
) {
    put(fields, names[0], values.any_of.iter().map(|value| text(value).into()).collect());
    put(fields, names[1], values.none_of.iter().map(|value| text(value).into()).collect());
}

fn put(fields: &mut Map<String, Value>, name: &str, values: Vec<Value>) {
    if !values.is_empty() {
        fields.insert(name.to_owned(), values.into());
    }
}
