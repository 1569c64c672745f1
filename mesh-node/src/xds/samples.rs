//! Generated values of the model, for the laws.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mesh_common::model::endpoint::{Endpoint, EndpointSlice, EndpointState, SlicePort};
use mesh_common::model::policy::{
    Action, AuthorizationPolicy, Condition, Match, Mode, MutualTls, Operation, Pattern, PeerAuthentication,
    PolicyFault, Rule, Scope, Source,
};
use mesh_common::model::request_authentication::{
    ClaimHeader, JwtRule, RequestAuthentication, TokenLocation,
};
use mesh_common::model::service::{
    InternalTrafficPolicy, Service, ServicePort, TargetPort, TrafficDistribution,
};
use mesh_common::model::workload::{CanonicalNames, Exclusions, PodDetails, Workload, WorkloadUid};
use mesh_common::model::{
    AuthorizerProtocol, Custom, Enrolment, ExternalAuthorizer, HttpCheck, IncludedBody, MeshSettings,
    NamespacedName, Node, Protocol, SpiffeId, Text, TrustDomain,
};
use mesh_common::snapshot::Delta;
use mesh_common::token::KeySet;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = Text> {
    "[a-z][a-z0-9-]{0,8}".prop_map(Text::from)
}

/// Anything that a label's value or a pattern may be, also nothing.
fn text() -> impl Strategy<Value = Text> {
    "\\PC{0,12}".prop_map(Text::from)
}

fn named() -> impl Strategy<Value = NamespacedName> {
    (name(), name()).prop_map(|(namespace, name)| NamespacedName { namespace, name })
}

fn labels() -> impl Strategy<Value = BTreeMap<Text, Text>> {
    btree_map(text(), text(), 0..4)
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn few<T>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>>
where
    T: std::fmt::Debug,
{
    vec(of, 0..3)
}

fn range() -> impl Strategy<Value = IpNet> {
    (address(), 0_u8..=128).prop_map(|(address, length)| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, length.min(longest)).unwrap()
    })
}

fn identity() -> impl Strategy<Value = SpiffeId> {
    (name(), name(), name()).prop_map(|(domain, namespace, account)| {
        SpiffeId::new(&TrustDomain::parse(&domain).unwrap(), &namespace, &account).unwrap()
    })
}

fn settings() -> impl Strategy<Value = MeshSettings> {
    (name(), name(), name(), few(range())).prop_map(|(root_namespace, domain, cluster_domain, mesh_cidrs)| {
        let trust_domain = TrustDomain::parse(&domain).unwrap();
        MeshSettings { root_namespace, trust_domain, cluster_domain, mesh_cidrs }
    })
}

fn node() -> impl Strategy<Value = Node> {
    (name(), text(), few(address()), few(range())).prop_map(|(name, zone, addresses, pod_cidrs)| Node {
        name,
        zone,
        addresses: addresses.into(),
        pod_cidrs: pod_cidrs.into(),
    })
}

fn exclusions() -> impl Strategy<Value = Exclusions> {
    (few(any::<u16>()), few(range()), few(any::<u16>())).prop_map(|(outbound, outbound_cidrs, inbound)| {
        Exclusions { outbound_ports: outbound.into(), outbound_cidrs, inbound_ports: inbound.into() }
    })
}

fn canonical_names() -> impl Strategy<Value = CanonicalNames> {
    [text(), text(), text(), text(), text()].prop_map(|[workload, service, revision, app, version]| {
        CanonicalNames { workload, service, revision, app, version }
    })
}

prop_compose! {
    pub(super) fn workload()(
        (uid, name, node, identity) in (name(), named(), text(), identity()),
        (addresses, labels) in (few(address()), labels()),
        netns in option::of("/run/netns/[a-z]{1,8}"),
        [enrolled, host_network, ready, terminating] in any::<[bool; 4]>(),
        exclusions in exclusions(),
        (probe_ports, named_ports) in (few(any::<u16>()), few((text(), any::<u16>()))),
        (static_uid, labels_for_metrics) in (option::of(name()), canonical_names()),
    ) -> Workload {
        Workload {
            uid: WorkloadUid(uid), name, node, identity, host_network, ready, terminating,
            addresses: addresses.into(),
            enrolment: if enrolled { Enrolment::Enabled } else { Enrolment::Disabled },
            details: Arc::new(PodDetails {
                labels,
                netns: netns.map(Into::into),
                exclusions,
                probe_ports: probe_ports.into(),
                named_ports: named_ports.into(),
                static_uid: static_uid.map(WorkloadUid),
            }),
            labels_for_metrics: Arc::new(labels_for_metrics),
        }
    }
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    let target_port =
        prop_oneof![any::<u16>().prop_map(TargetPort::Number), text().prop_map(TargetPort::Named)];
    let protocol = prop::sample::select(vec![
        Protocol::Tcp,
        Protocol::Http1,
        Protocol::Http2,
        Protocol::Grpc,
        Protocol::Tls,
        Protocol::Undeclared,
    ]);
    (text(), any::<u16>(), target_port, option::of(any::<u16>()), protocol).prop_map(
        |(name, port, target_port, node_port, protocol)| ServicePort {
            name,
            port,
            target_port,
            node_port,
            protocol,
        },
    )
}

prop_compose! {
    fn service()(
        (name, host) in (named(), text()),
        (cluster_ips, external_addresses) in (few(address()), few(address())),
        (selector, ports) in (labels(), few(service_port())),
        affinity in option::of(any::<u32>()),
        internal_traffic_policy in
            prop::sample::select(vec![InternalTrafficPolicy::Cluster, InternalTrafficPolicy::Local]),
        traffic_distribution in prop::sample::select(vec![
            TrafficDistribution::Any,
            TrafficDistribution::PreferSameZone,
            TrafficDistribution::PreferSameNode,
        ]),
        publish_not_ready in any::<bool>(),
    ) -> Service {
        Service {
            name, host, selector, ports, internal_traffic_policy, traffic_distribution, publish_not_ready,
            cluster_ips: cluster_ips.into(),
            external_addresses: external_addresses.into(),
            client_ip_affinity: affinity.map(|seconds| Duration::from_secs(seconds.into())),
        }
    }
}

prop_compose! {
    fn endpoint()(
        (address, port, workload) in (address(), any::<u16>(), option::of(text())),
        state in prop::sample::select(vec![
            EndpointState::Ready,
            EndpointState::ServingTerminating,
            EndpointState::NotReady,
        ]),
        (node, zone, hint_zones, hint_nodes) in (text(), text(), few(text()), few(text())),
    ) -> Endpoint {
        Endpoint {
            address, port, state, node, zone,
            workload: workload.map(WorkloadUid),
            hint_zones: hint_zones.into(),
            hint_nodes: hint_nodes.into(),
        }
    }
}

fn endpoint_slice() -> impl Strategy<Value = EndpointSlice> {
    let port = (text(), few(endpoint()))
        .prop_map(|(name, endpoints)| SlicePort { name, endpoints: endpoints.into() });
    (named(), name(), few(port)).prop_map(|(name, service, ports)| {
        let service = NamespacedName { namespace: name.namespace.clone(), name: service };
        EndpointSlice { name, service, ports }
    })
}

fn scope(with_services: bool) -> impl Strategy<Value = Scope> {
    let services = few(named()).prop_map(Scope::Services);
    prop_oneof![
        Just(Scope::Mesh),
        name().prop_map(Scope::Namespace),
        (option::of(name()), labels()).prop_map(|(namespace, labels)| Scope::Selector { namespace, labels }),
        services.prop_map(move |services| if with_services { services } else { Scope::Mesh }),
    ]
}

fn pattern() -> impl Strategy<Value = Pattern> {
    prop_oneof![
        text().prop_map(Pattern::Exact),
        text().prop_map(Pattern::Prefix),
        text().prop_map(Pattern::Suffix),
        Just(Pattern::Present),
    ]
}

fn matching<T: std::fmt::Debug, S: Strategy<Value = T>>(of: fn() -> S) -> impl Strategy<Value = Match<T>> {
    (few(of()), few(of())).prop_map(|(any_of, none_of)| Match { any_of, none_of })
}

fn port() -> impl Strategy<Value = u16> {
    any::<u16>()
}

fn source() -> impl Strategy<Value = Source> {
    let strings = || matching(pattern);
    (strings(), strings(), strings(), matching(range), strings()).prop_map(
        |(principals, namespaces, service_accounts, ip_blocks, request_principals)| Source {
            request_principals,
            principals,
            namespaces,
            service_accounts,
            ip_blocks,
        },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    let strings = || matching(pattern);
    (strings(), matching(port), strings(), strings()).prop_map(|(hosts, ports, methods, paths)| Operation {
        hosts,
        ports,
        methods,
        paths,
    })
}

fn condition() -> impl Strategy<Value = Condition> {
    let strings = || matching(pattern);
    prop_oneof![
        (text(), strings()).prop_map(|(name, values)| Condition::RequestHeader { name, values }),
        matching(range).prop_map(Condition::SourceIp),
        strings().prop_map(Condition::SourceNamespace),
        strings().prop_map(Condition::SourcePrincipal),
        strings().prop_map(Condition::SourceServiceAccount),
        matching(range).prop_map(Condition::DestinationIp),
        matching(port).prop_map(Condition::DestinationPort),
        strings().prop_map(Condition::ConnectionServerName),
        strings().prop_map(Condition::RequestPrincipal),
        strings().prop_map(Condition::RequestAudiences),
        strings().prop_map(Condition::RequestPresenter),
        (vec(text(), 1..4), strings()).prop_map(|(path, values)| Condition::RequestClaim { path, values }),
    ]
}

prop_compose! {
    pub(super) fn authorization_policy()(
        (name, scope) in (named(), scope(true)),
        action in action(),
        mode in prop::sample::select(vec![Mode::Enforce, Mode::Audit]),
        rules in few((few(source()), few(operation()), few(condition()))),
        fault in option::of(("\\PC{0,12}", "\\PC{0,12}")),
    ) -> AuthorizationPolicy {
        let rules = rules.into_iter().map(|(from, to, when)| Rule { from, to, when }).collect();
        let fault = fault.map(|(field, reason)| PolicyFault { field, reason }.into());
        AuthorizationPolicy { name, scope, action, mode, rules, fault }
    }
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        prop::sample::select(vec![Action::Allow, Action::Deny, Action::Audit]),
        (name(), option::of(authorizer())).prop_map(|(provider, authorizer)| {
            let named =
                |authorizer: ExternalAuthorizer| ExternalAuthorizer { name: provider.clone(), ..authorizer };
            let authorizer = authorizer.map(named).map(Arc::new);
            Action::Custom(Arc::new(Custom { provider: provider.clone(), authorizer }))
        }),
    ]
}

fn authorizer() -> impl Strategy<Value = ExternalAuthorizer> {
    let headers = || few(pattern());
    let http = (text(), headers(), few((name(), text())), headers(), headers(), headers());
    let http = http.prop_map(|(path_prefix, include_headers, additional_headers, up, deny, allow)| {
        AuthorizerProtocol::Http(HttpCheck {
            path_prefix,
            include_headers,
            additional_headers,
            to_upstream_on_allow: up,
            to_downstream_on_deny: deny,
            to_downstream_on_allow: allow,
        })
    });
    let body = (1u32..=1 << 20, any::<bool>(), any::<bool>()).prop_map(
        |(max_bytes, allow_partial, pack_as_bytes)| IncludedBody { max_bytes, allow_partial, pack_as_bytes },
    );
    let protocol = prop_oneof![Just(AuthorizerProtocol::Grpc), http];
    (protocol, named(), 1u16.., 1u64..600_000, any::<bool>(), 400u16..600, option::of(body)).prop_map(
        |(protocol, service, port, timeout, fail_open, status_on_error, body)| ExternalAuthorizer {
            name: "set by who uses it".into(),
            protocol,
            service,
            port,
            timeout: Duration::from_millis(timeout),
            fail_open,
            status_on_error,
            body,
        },
    )
}

fn mutual_tls() -> impl Strategy<Value = Option<MutualTls>> {
    prop::sample::select(vec![None, Some(MutualTls::Permissive), Some(MutualTls::Strict)])
}

pub(super) fn peer_authentication() -> impl Strategy<Value = PeerAuthentication> {
    let ports = btree_map(any::<u16>(), mutual_tls(), 0..4);
    (named(), scope(false), any::<u64>(), mutual_tls(), ports).prop_map(
        |(name, scope, created, mode, ports)| PeerAuthentication { name, scope, created, mode, ports },
    )
}

fn location() -> impl Strategy<Value = TokenLocation> {
    prop_oneof![
        (text(), text()).prop_map(|(name, prefix)| TokenLocation::Header { name, prefix }),
        text().prop_map(TokenLocation::Parameter),
        text().prop_map(TokenLocation::Cookie),
    ]
}

fn jwt_rule() -> impl Strategy<Value = JwtRule> {
    let keys = prop::sample::select(vec![None, Some(r#"{"keys":[]}"#), Some(r#"{"keys":[{"kty":"x"}]}"#)]);
    let claim = (name(), vec(text(), 1..4)).prop_map(|(header, claim)| ClaimHeader { header, claim });
    let output = (option::of(name()), few(claim), few(text()));
    let keys = (keys, option::of(name()));
    (name(), few(text()), keys, vec(location(), 1..3), any::<bool>(), output).prop_map(
        |(issuer, audiences, keys, locations, forward_original, (payload_header, claim_headers, spaced))| {
            let (keys, keys_uri) = keys;
            JwtRule {
                issuer,
                audiences,
                keys: keys.map(|text| KeySet::parse(text).unwrap().into()),
                keys_uri,
                locations,
                forward_original,
                payload_header,
                claim_headers,
                space_delimited: spaced.into(),
            }
        },
    )
}

pub(super) fn request_authentication() -> impl Strategy<Value = RequestAuthentication> {
    let fault = option::of(("\\PC{0,12}", "\\PC{0,12}"));
    (named(), scope(true), few(jwt_rule()), fault).prop_map(|(name, scope, rules, fault)| {
        let fault = fault.map(|(field, reason)| PolicyFault { field, reason }.into());
        RequestAuthentication { name, scope, rules, fault }
    })
}

pub(super) fn delta() -> impl Strategy<Value = Delta> {
    prop_oneof![
        settings().prop_map(|settings| Delta::Settings(settings.into())),
        workload().prop_map(|workload| Delta::UpsertWorkload(workload.into())),
        name().prop_map(|uid| Delta::RemoveWorkload(WorkloadUid(uid))),
        service().prop_map(|service| Delta::UpsertService(service.into())),
        named().prop_map(Delta::RemoveService),
        endpoint_slice().prop_map(|slice| Delta::UpsertEndpointSlice(slice.into())),
        named().prop_map(Delta::RemoveEndpointSlice),
        authorization_policy().prop_map(|policy| Delta::UpsertAuthorizationPolicy(policy.into())),
        named().prop_map(Delta::RemoveAuthorizationPolicy),
        peer_authentication().prop_map(|policy| Delta::UpsertPeerAuthentication(policy.into())),
        named().prop_map(Delta::RemovePeerAuthentication),
        request_authentication().prop_map(|policy| Delta::UpsertRequestAuthentication(policy.into())),
        named().prop_map(Delta::RemoveRequestAuthentication),
        node().prop_map(|node| Delta::UpsertNode(node.into())),
        name().prop_map(Delta::RemoveNode),
    ]
}
