//! Policies to messages.

use ipnet::IpNet;
use mesh_common::model::policy::{
    Action, AuthorizationPolicy, Condition, Match, Mode, MutualTls, Operation, Pattern, PeerAuthentication,
    Rule, Scope, Source,
};

use super::encode::{cidr, ports, texts};
use super::encode_external;
use super::messages;

pub(super) fn authorization_policy(policy: &AuthorizationPolicy) -> messages::AuthorizationPolicy {
    let action = match &policy.action {
        Action::Allow => messages::Action::Allow,
        Action::Deny => messages::Action::Deny,
        Action::Audit => messages::Action::Audit,
        Action::Custom(_) => messages::Action::Custom,
    };
    let mode = match policy.mode {
        Mode::Enforce => messages::Mode::Enforce,
        Mode::Audit => messages::Mode::Audit,
    };
    let fault = policy
        .fault
        .as_ref()
        .map(|fault| messages::PolicyFault { field: fault.field.clone(), reason: fault.reason.clone() });
    messages::AuthorizationPolicy {
        scope: Some(scope(&policy.scope)),
        action: action.into(),
        mode: mode.into(),
        rules: policy.rules.iter().map(rule).collect(),
        fault,
        custom: match &policy.action {
            Action::Custom(custom) => Some(encode_external::custom(custom)),
            Action::Allow | Action::Deny | Action::Audit => None,
        },
    }
}

pub(super) fn peer_authentication(policy: &PeerAuthentication) -> messages::PeerAuthentication {
    messages::PeerAuthentication {
        scope: Some(scope(&policy.scope)),
        created: policy.created,
        mode: mutual_tls(policy.mode).into(),
        ports: policy.ports.iter().map(|(port, mode)| ((*port).into(), mutual_tls(*mode).into())).collect(),
    }
}

fn mutual_tls(mode: Option<MutualTls>) -> messages::MutualTls {
    match mode {
        None => messages::MutualTls::Inherit,
        Some(MutualTls::Permissive) => messages::MutualTls::Permissive,
        Some(MutualTls::Strict) => messages::MutualTls::Strict,
    }
}

pub(super) fn scope(scope: &Scope) -> messages::Scope {
    use messages::ScopeKind as Kind;
    let kind = match scope {
        Scope::Mesh => Kind::Mesh(messages::Empty {}),
        Scope::Namespace(namespace) => Kind::Namespace(namespace.to_string()),
        Scope::Selector { namespace, labels } => Kind::Selector(messages::Selector {
            namespace: namespace.as_ref().map(ToString::to_string),
            labels: texts(labels),
        }),
        Scope::Services(names) => {
            let name = |name: &mesh_common::model::NamespacedName| messages::ServiceName {
                namespace: name.namespace.to_string(),
                name: name.name.to_string(),
            };
            Kind::Services(messages::Services { names: names.iter().map(name).collect() })
        }
    };
    messages::Scope { kind: Some(kind) }
}

fn rule(rule: &Rule) -> messages::Rule {
    messages::Rule {
        from: rule.from.iter().map(source).collect(),
        to: rule.to.iter().map(operation).collect(),
        when: rule.when.iter().map(condition).collect(),
    }
}

fn source(source: &Source) -> messages::Source {
    messages::Source {
        principals: asked(&source.principals, strings),
        namespaces: asked(&source.namespaces, strings),
        service_accounts: asked(&source.service_accounts, strings),
        ip_blocks: asked(&source.ip_blocks, cidrs),
        request_principals: asked(&source.request_principals, strings),
    }
}

fn operation(operation: &Operation) -> messages::Operation {
    messages::Operation {
        hosts: asked(&operation.hosts, strings),
        ports: asked(&operation.ports, port_match),
        methods: asked(&operation.methods, strings),
        paths: asked(&operation.paths, strings),
    }
}

fn condition(condition: &Condition) -> messages::Condition {
    use messages::Test;
    let test = match condition {
        Condition::RequestHeader { name, values } => Test::RequestHeader(messages::HeaderCondition {
            name: name.to_string(),
            values: asked(values, strings),
        }),
        Condition::SourceIp(ranges) => Test::SourceIp(cidrs(ranges)),
        Condition::SourceNamespace(values) => Test::SourceNamespace(strings(values)),
        Condition::SourcePrincipal(values) => Test::SourcePrincipal(strings(values)),
        Condition::SourceServiceAccount(values) => Test::SourceServiceAccount(strings(values)),
        Condition::DestinationIp(ranges) => Test::DestinationIp(cidrs(ranges)),
        Condition::DestinationPort(ports) => Test::DestinationPort(port_match(ports)),
        Condition::ConnectionServerName(values) => Test::ConnectionServerName(strings(values)),
        Condition::RequestPrincipal(values) => Test::RequestPrincipal(strings(values)),
        Condition::RequestAudiences(values) => Test::RequestAudiences(strings(values)),
        Condition::RequestPresenter(values) => Test::RequestPresenter(strings(values)),
        Condition::RequestClaim { path, values } => Test::RequestClaim(messages::ClaimCondition {
            path: path.iter().map(ToString::to_string).collect(),
            values: asked(values, strings),
        }),
    };
    messages::Condition { test: Some(test) }
}

/// `None` where nothing is asked for.
fn asked<T, M>(values: &Match<T>, message: impl FnOnce(&Match<T>) -> M) -> Option<M> {
    (!values.is_empty()).then(|| message(values))
}

fn strings(values: &Match<Pattern>) -> messages::StringMatch {
    messages::StringMatch {
        any_of: values.any_of.iter().map(pattern).collect(),
        none_of: values.none_of.iter().map(pattern).collect(),
    }
}

fn cidrs(ranges: &Match<IpNet>) -> messages::CidrMatch {
    messages::CidrMatch {
        any_of: ranges.any_of.iter().map(cidr).collect(),
        none_of: ranges.none_of.iter().map(cidr).collect(),
    }
}

fn port_match(matched: &Match<u16>) -> messages::PortMatch {
    messages::PortMatch { any_of: ports(&matched.any_of), none_of: ports(&matched.none_of) }
}

pub(super) fn pattern(pattern: &Pattern) -> messages::Pattern {
    use messages::PatternKind as Kind;
    let kind = match pattern {
        Pattern::Exact(text) => Kind::Exact(text.to_string()),
        Pattern::Prefix(text) => Kind::Prefix(text.to_string()),
        Pattern::Suffix(text) => Kind::Suffix(text.to_string()),
        Pattern::Present => Kind::Present(messages::Empty {}),
    };
    messages::Pattern { kind: Some(kind) }
}
