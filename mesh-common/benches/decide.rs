//! What one decision costs in a big mesh: 10,000 Services, 100,000 endpoints, 10,000 policy rules.
//!
//! Figures to reach: deciding one connection at most 2 us (issue 3, DESIGN section 10).

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mesh_common::model::policy::{Action, Condition, Match, Mode, Operation, Pattern, Rule, Scope, Source};
use mesh_common::model::service::{InternalTrafficPolicy, TrafficDistribution};
use mesh_common::model::{
    AuthorizationPolicy, ConnectionFacts, Direction, NamespacedName, PeerIdentity, PodDetails, Protocol,
    RequestFacts, RequestTarget, ServerName, Service, ServicePort, SpiffeId, TargetPort, TrustDomain,
    Workload, WorkloadUid,
};
use mesh_common::route::{Choice, Load};
use mesh_common::snapshot::{Delta, Snapshot, Tables};
use mesh_common::{policy, resolve, route};
use smallvec::smallvec;

const SERVICES: u32 = 10_000;
const PODS_OF_A_SERVICE: u32 = 10;
const RULES: u32 = 10_000;

struct Idle;

impl Load for Idle {
    fn connections(&self, _: SocketAddr) -> u32 {
        0
    }
    fn requests(&self, _: SocketAddr) -> u32 {
        0
    }
}

fn identity(number: u32) -> SpiffeId {
    let domain = TrustDomain::parse("cluster.local").expect("a trust domain");
    SpiffeId::new(&domain, &namespace(number), &format!("app-{number}")).expect("plain names")
}

fn namespace(number: u32) -> String {
    format!("team-{}", number % 100)
}

fn pod(service: u32, replica: u32) -> Workload {
    let number = service * PODS_OF_A_SERVICE + replica;
    let app: Arc<str> = format!("app-{service}").into();
    let name = NamespacedName::new(namespace(service), format!("app-{service}-{replica}"));
    Workload {
        uid: WorkloadUid(format!("uid-{number}").into()),
        addresses: smallvec![pod_address(service, replica)],
        details: Arc::new(PodDetails {
            labels: BTreeMap::from([("app".into(), app)]),
            ..PodDetails::default()
        }),
        ..Workload::new(name, format!("node-{}", number % 1000), identity(service))
    }
}

fn pod_address(service: u32, replica: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + service * PODS_OF_A_SERVICE + replica).into()
}

fn cluster_ip(service: u32) -> IpAddr {
    Ipv4Addr::from(0x0b00_0000 + service).into()
}

fn service(number: u32, protocol: Protocol) -> Service {
    let app: Arc<str> = format!("app-{number}").into();
    Service {
        name: NamespacedName::new(namespace(number), Arc::clone(&app)),
        host: format!("{app}.{}.svc.cluster.local", namespace(number)).into(),
        cluster_ips: smallvec![cluster_ip(number)],
        external_addresses: smallvec![],
        selector: BTreeMap::from([("app".into(), app)]),
        ports: vec![ServicePort {
            name: "main".into(),
            port: 80,
            target_port: TargetPort::Number(8080),
            node_port: None,
            protocol,
        }],
        client_ip_affinity: None,
        internal_traffic_policy: InternalTrafficPolicy::Cluster,
        traffic_distribution: TrafficDistribution::Any,
        publish_not_ready: false,
    }
}

/// Where the policy rules stand, all of them about pods of Service 0, whose namespace is team-0.
#[derive(Clone, Copy, Debug)]
enum Policies {
    /// One ALLOW with a rule for each principal.
    OneForEachPrincipal,
    /// 10,000 ALLOW policies of the namespace, each for one service account.
    ManyOfTheNamespace,
    /// One ALLOW for the caller, 10,000 DENY rules of the mesh about paths.
    DenyPaths,
    /// One ALLOW with 10,000 ranges of addresses.
    OneForEachRange,
    /// 10,000 rules for the caller, each about another path.
    PathsOfOneCaller,
    /// 10,000 ALLOW rules, each for a value of a field.
    OneForEachHeader,
    /// 10,000 DENY rules that rule out and ask for nothing, so that the index has no value to find them by.
    Unindexed,
}

const ALL: [Policies; 7] = [
    Policies::OneForEachPrincipal,
    Policies::ManyOfTheNamespace,
    Policies::DenyPaths,
    Policies::OneForEachRange,
    Policies::PathsOfOneCaller,
    Policies::OneForEachHeader,
    Policies::Unindexed,
];

fn exact(text: impl Into<Arc<str>>) -> Match<Pattern> {
    Match { any_of: vec![Pattern::Exact(text.into())], none_of: vec![] }
}

fn from(source: Source) -> Rule {
    Rule { from: vec![source], ..Rule::default() }
}

fn to(operation: Operation) -> Rule {
    Rule { to: vec![operation], ..Rule::default() }
}

fn principal(number: u32) -> Match<Pattern> {
    exact(identity(number).principal().clone())
}

impl Policies {
    fn policies(self) -> Vec<AuthorizationPolicy> {
        let numbers = 0..RULES;
        let in_namespace = |name: String, action, rules| AuthorizationPolicy {
            name: NamespacedName::new("team-0", name),
            scope: Scope::Namespace("team-0".into()),
            action,
            mode: Mode::Enforce,
            rules,
            fault: None,
        };
        let allow = |rules| in_namespace("allow".into(), Action::Allow, rules);
        let deny = |rules| in_namespace("deny".into(), Action::Deny, rules);
        let caller = || from(Source { principals: principal(RULES - 1), ..Source::default() });
        match self {
            Self::OneForEachPrincipal => {
                let rule = |number| from(Source { principals: principal(number), ..Source::default() });
                vec![allow(numbers.map(rule).collect())]
            }
            Self::ManyOfTheNamespace => {
                let account = |number| exact(identity(number).qualified_account().clone());
                let rule = |number| from(Source { service_accounts: account(number), ..Source::default() });
                let policy =
                    |number| in_namespace(format!("allow-{number}"), Action::Allow, vec![rule(number)]);
                numbers.map(policy).collect()
            }
            Self::DenyPaths => {
                let prefix = |number| Pattern::Prefix(format!("/admin/{number}/").into());
                let paths = |number| Match { any_of: vec![prefix(number)], none_of: vec![] };
                let rule = |number| to(Operation { paths: paths(number), ..Operation::default() });
                vec![deny(numbers.map(rule).collect()), allow(vec![caller()])]
            }
            Self::OneForEachRange => {
                let range = |number| format!("10.{}.{}.0/24", number / 256, number % 256);
                let blocks =
                    |number| Match { any_of: vec![range(number).parse().expect("a range")], none_of: vec![] };
                let rule = |number| from(Source { ip_blocks: blocks(number), ..Source::default() });
                vec![allow(numbers.map(rule).collect())]
            }
            Self::PathsOfOneCaller => {
                let paths = |number| exact(format!("/items/{number}"));
                let operation = |number| Operation { paths: paths(number), ..Operation::default() };
                let rule = |number| Rule { to: vec![operation(number)], ..caller() };
                vec![allow(numbers.map(rule).collect())]
            }
            Self::OneForEachHeader => {
                let condition = |number| Condition::RequestHeader {
                    name: "x-tenant".into(),
                    values: exact(format!("tenant-{number}")),
                };
                let rule = |number| Rule { when: vec![condition(number)], ..Rule::default() };
                vec![allow(numbers.map(rule).collect())]
            }
            Self::Unindexed => {
                let principals = |number| Match {
                    any_of: vec![],
                    none_of: vec![Pattern::Exact(format!("td/ns/x/sa/{number}").into()), Pattern::Present],
                };
                let rule = |number| from(Source { principals: principals(number), ..Source::default() });
                vec![deny(numbers.map(rule).collect()), allow(vec![caller()])]
            }
        }
    }
}

fn tables(protocol: Protocol) -> Tables {
    tables_of(SERVICES, protocol)
}

fn tables_of(services: u32, protocol: Protocol) -> Tables {
    let mut tables = Tables::default();
    for number in 0..services {
        tables.apply(Delta::UpsertService(Arc::new(service(number, protocol))));
        for replica in 0..PODS_OF_A_SERVICE {
            tables.apply(Delta::UpsertWorkload(Arc::new(pod(number, replica))));
        }
    }
    tables
}

fn outbound() -> ConnectionFacts {
    let local = Arc::new(pod(RULES - 1, 0));
    ConnectionFacts {
        direction: Direction::Outbound,
        client: SocketAddr::new(local.addresses[0], 40_000),
        original_dst: SocketAddr::new(cluster_ip(0), 80),
        peer: PeerIdentity::Verified(local.identity.clone()),
        certificate: None,
        local,
        claimed_dst: None,
        server_name: ServerName::Unknown,
    }
}

fn inbound() -> ConnectionFacts {
    let (local, caller) = (Arc::new(pod(0, 0)), pod(RULES - 1, 0));
    ConnectionFacts {
        direction: Direction::Inbound,
        client: SocketAddr::new(caller.addresses[0], 40_000),
        original_dst: SocketAddr::new(local.addresses[0], 8080),
        local,
        peer: PeerIdentity::Verified(caller.identity),
        certificate: None,
        claimed_dst: Some(SocketAddr::new(cluster_ip(0), 80)),
        server_name: ServerName::Unknown,
    }
}

fn choice() -> Choice<'static> {
    Choice { random: 0x9e37_79b9_7f4a_7c15, load: &Idle, tried: &[] }
}

fn decide(snapshot: &Snapshot, facts: &ConnectionFacts) -> bool {
    let destination = resolve::destination(snapshot, facts);
    let permit = policy::authorize_connection(snapshot, facts, &destination);
    permit.is_ok_and(|permit| route::plan_connection(snapshot, permit, &choice()).is_ok())
}

fn resolution(criterion: &mut Criterion) {
    let snapshot = tables(Protocol::Http1).snapshot();
    let facts = outbound();
    let dialled = |address: IpAddr, port| ConnectionFacts {
        original_dst: SocketAddr::new(address, port),
        ..facts.clone()
    };
    let mut group = criterion.benchmark_group("resolve, 10,000 Services, 100,000 endpoints");
    for (name, facts) in [
        ("a cluster IP", dialled(cluster_ip(7), 80)),
        ("a pod IP", dialled(pod_address(7, 3), 8080)),
        ("outside the mesh", dialled(Ipv4Addr::new(1, 1, 1, 1).into(), 443)),
    ] {
        group.bench_function(name, |bench| bench.iter(|| resolve::destination(&snapshot, black_box(&facts))));
    }
    group.finish();
}

fn decision(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide a connection, 10,000 Services, 100,000 endpoints");
    let mut tables = tables(Protocol::Tcp);
    let snapshot = tables.snapshot();
    let facts = outbound();
    assert!(decide(&snapshot, &facts), "outbound is permitted");
    group.bench_function("outbound, to a cluster IP", |bench| {
        bench.iter(|| decide(&snapshot, black_box(&facts)));
    });
    let facts = inbound();
    assert!(decide(&snapshot, &facts), "inbound is permitted");
    group.bench_function("inbound, no policies", |bench| bench.iter(|| decide(&snapshot, black_box(&facts))));
    for policies in ALL {
        let objects = policies.policies();
        for policy in &objects {
            tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(policy.clone())));
        }
        let snapshot = tables.snapshot();
        let id = BenchmarkId::new("inbound, 10,000 rules", format!("{policies:?}"));
        group.bench_function(id, |bench| bench.iter(|| decide(&snapshot, black_box(&facts))));
        for policy in objects {
            tables.apply(Delta::RemoveAuthorizationPolicy(policy.name));
        }
    }
    group.finish();
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide a request, 10,000 rules");
    let mut tables = tables(Protocol::Http1);
    let facts = inbound();
    let target = RequestTarget::parse(b"/items/9999?page=2").expect("a normal path");
    let headers: [(&[u8], &[u8]); 7] = [
        (b"host", b"app-0.team-0.svc.cluster.local"),
        (b"user-agent", b"curl/8"),
        (b"accept", b"*/*"),
        (b"content-type", b"application/json"),
        (b"x-request-id", b"0123456789abcdef"),
        (b"x-tenant", b"tenant-9999"),
        (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let request = RequestFacts {
        method: b"GET",
        host: headers[0].1,
        path: &target.path,
        query: None,
        headers: &headers,
        end_user: None,
        allowed_by: None,
    };
    for policies in ALL {
        let objects = policies.policies();
        for policy in &objects {
            tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(policy.clone())));
        }
        let snapshot = tables.snapshot();
        let destination = resolve::destination(&snapshot, &facts);
        group.bench_function(format!("{policies:?}"), |bench| {
            bench.iter(|| {
                policy::authorize_request(&snapshot, &facts, &destination, black_box(&request)).is_ok()
            });
        });
        for policy in objects {
            tables.apply(Delta::RemoveAuthorizationPolicy(policy.name));
        }
    }
    group.bench_function("normalise a path that is normal", |bench| {
        bench.iter(|| RequestTarget::parse(black_box(b"/api/v1/projects/42/items?page=2")).is_ok());
    });
    group.bench_function("normalise a path that is not", |bench| {
        bench.iter(|| RequestTarget::parse(black_box(b"/api/./v1//projects/%34%32/items?page=2")).is_ok());
    });
    group.finish();
}

fn publication(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish after one change, 10,000 Services, 100,000 endpoints");
    group.sample_size(20);
    let mut tables = tables(Protocol::Http1);
    let mut published = tables.snapshot();
    let mut ready = false;
    group.bench_function("one pod changes its readiness", |bench| {
        bench.iter(|| {
            tables.apply(Delta::UpsertWorkload(Arc::new(Workload { ready, ..pod(7, 3) })));
            ready = !ready;
            published = tables.snapshot();
        });
    });
    for policies in [Policies::OneForEachPrincipal, Policies::DenyPaths] {
        let objects = policies.policies();
        group.bench_function(format!("10,000 rules come and go, {policies:?}"), |bench| {
            bench.iter(|| {
                for policy in &objects {
                    tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(policy.clone())));
                }
                published = tables.snapshot();
                for policy in &objects {
                    tables.apply(Delta::RemoveAuthorizationPolicy(policy.name.clone()));
                }
            });
        });
    }
    group.sample_size(10);
    group.bench_function("a tenth of it from nothing", |bench| {
        bench.iter(|| tables_of(SERVICES / 10, Protocol::Http1).snapshot());
    });
    group.finish();
}

criterion_group!(benches, resolution, decision, requests, publication);
criterion_main!(benches);
