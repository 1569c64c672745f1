//! Small objects for the tests of the pure stages: every field that a test does not speak of has a plain value.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::smallvec;

use super::policy::{Action, AuthorizationPolicy, Match, Mode, Pattern, Rule, Scope, Source};
use super::service::{InternalTrafficPolicy, TrafficDistribution};
use super::*;

/// `10.0.0.7` as `ip("10.0.0.7")`.
pub(crate) fn ip(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

/// `10.0.0.7:80` as `at("10.0.0.7:80")`.
pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A ready, enrolled pod `shop/NAME` of service account NAME with label `app=NAME`; its uid is its name.
pub(crate) fn pod(name: &str, node: &str, address: &str) -> Workload {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let identity = SpiffeId::new(&domain, "shop", name).unwrap();
    Workload {
        addresses: smallvec![ip(address)],
        details: Arc::new(PodDetails {
            labels: BTreeMap::from([("app".into(), name.into())]),
            named_ports: smallvec![("http".into(), 8080)],
            ..PodDetails::default()
        }),
        ..Workload::new(NamespacedName::new("shop", name), node, identity)
    }
}

/// A Service `shop/NAME` that selects `app=NAME`, with port 80 to 8080 over HTTP/1.1.
pub(crate) fn service(name: &str, cluster_ip: &str) -> Service {
    Service {
        name: NamespacedName::new("shop", name),
        host: format!("{name}.shop.svc.cluster.local").into(),
        cluster_ips: smallvec![ip(cluster_ip)],
        external_addresses: smallvec![],
        selector: BTreeMap::from([("app".into(), name.into())]),
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            target_port: TargetPort::Number(8080),
            node_port: None,
            protocol: Protocol::Http1,
        }],
        client_ip_affinity: None,
        internal_traffic_policy: InternalTrafficPolicy::Cluster,
        traffic_distribution: TrafficDistribution::Any,
        publish_not_ready: false,
    }
}

/// A policy of namespace `shop` about the pods of label `app=APP`; an empty APP means the whole namespace.
pub(crate) fn policy(name: &str, action: Action, app: &str, rules: Vec<Rule>) -> AuthorizationPolicy {
    let scope = match app {
        "" => Scope::Namespace("shop".into()),
        app => Scope::Selector {
            namespace: Some("shop".into()),
            labels: BTreeMap::from([("app".into(), app.into())]),
        },
    };
    AuthorizationPolicy {
        name: NamespacedName::new("shop", name),
        scope,
        action,
        mode: Mode::Enforce,
        rules,
        fault: None,
    }
}

/// `*`, `abc*`, `*abc` or `abc`.
pub(crate) fn pattern(text: &str) -> Pattern {
    match (text, text.strip_suffix('*'), text.strip_prefix('*')) {
        ("*", ..) => Pattern::Present,
        (_, Some(prefix), _) => Pattern::Prefix(prefix.into()),
        (_, _, Some(suffix)) => Pattern::Suffix(suffix.into()),
        _ => Pattern::Exact(text.into()),
    }
}

/// Any of these; with `!` in front none of these.
pub(crate) fn matching(texts: &[&str]) -> Match<Pattern> {
    let (not, of): (Vec<&str>, Vec<&str>) = texts.iter().copied().partition(|text| text.starts_with('!'));
    Match {
        any_of: of.iter().map(|text| pattern(text)).collect(),
        none_of: not.iter().map(|text| pattern(&text[1..])).collect(),
    }
}

/// A rule about callers of these principals.
pub(crate) fn from_principals(principals: &[&str]) -> Rule {
    let source = Source { principals: matching(principals), ..Source::default() };
    Rule { from: vec![source], ..Rule::default() }
}

/// A connection out of a pod.
pub(crate) fn outbound(local: &Arc<Workload>, dialled: &str) -> ConnectionFacts {
    ConnectionFacts {
        direction: Direction::Outbound,
        client: SocketAddr::new(local.addresses[0], 40000),
        original_dst: at(dialled),
        local: Arc::clone(local),
        peer: PeerIdentity::Verified(local.identity.clone()),
        certificate: None,
        claimed_dst: None,
        server_name: ServerName::Unknown,
    }
}

/// A connection to a pod, from one that proved who it is.
pub(crate) fn inbound(local: &Arc<Workload>, port: u16, caller: &Workload) -> ConnectionFacts {
    ConnectionFacts {
        direction: Direction::Inbound,
        client: SocketAddr::new(caller.addresses[0], 40000),
        original_dst: SocketAddr::new(local.addresses[0], port),
        local: Arc::clone(local),
        peer: PeerIdentity::Verified(caller.identity.clone()),
        certificate: None,
        claimed_dst: None,
        server_name: ServerName::Unknown,
    }
}
