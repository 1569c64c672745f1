//! What the controller's stream costs: resources of each type written and read, and a whole world of 10,000 Services,
//! 100,000 endpoints and as many pods told to a new agent, over gRPC in memory. Prints one line for each.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use mesh_common::model::endpoint::{Endpoint, EndpointSlice, EndpointState, SlicePort};
use mesh_common::model::policy::{Action, AuthorizationPolicy, Match, Mode, Pattern, Rule, Scope, Source};
use mesh_common::model::service::{Service, ServicePort, TargetPort};
use mesh_common::model::workload::{Workload, WorkloadUid};
use mesh_common::model::{NamespacedName, PodDetails, Protocol};
use mesh_common::snapshot::{Delta, Tables};
use mesh_node::controller::agents::{AgentCaller, Authenticate, Authenticating};
use mesh_node::controller::discovery::{Discovery, DiscoverySettings};
use mesh_node::xds::{Key, Outgoing, Reading, Resource, ResourceType, Shared, Update, encode, read};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tonic::codegen::Service as TowerService;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint as Target, Uri};
use tonic::{Request, Streaming};

const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 10;
const POLICIES: usize = 1_000;
const NODES: usize = 1_000;
/// Resources of a type that are written and read.
const SAMPLE: usize = 10_000;

fn main() {
    let workloads: Vec<Delta> = (0..SERVICES * ENDPOINTS).map(workload).collect();
    let services: Vec<Delta> = (0..SERVICES).map(service).collect();
    let slices: Vec<Delta> = (0..SERVICES).map(slice).collect();
    let policies: Vec<Delta> = (0..POLICIES).map(policy).collect();
    for (what, deltas) in [
        ("Workload", &workloads),
        ("Service", &services),
        ("EndpointSlice of 10", &slices),
        ("AuthorizationPolicy of 2 rules", &policies),
    ] {
        costs(what, &deltas[..deltas.len().min(SAMPLE)]);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(sync([policies, services, slices, workloads].concat()));
}

fn costs(what: &str, deltas: &[Delta]) {
    let started = Instant::now();
    let resources: Vec<Resource> = deltas.iter().map(written).collect();
    let writing = started.elapsed();
    let (started, mut shared) = (Instant::now(), Shared::default());
    for resource in &resources {
        let reading = read(&resource.key, &resource.value, "root", &mut shared);
        assert!(matches!(reading, Reading::Understood(_)));
    }
    let reading = started.elapsed();
    let bytes: usize = resources.iter().map(|resource| resource.value.len()).sum();
    let each = |time: Duration| time.as_nanos() / deltas.len() as u128;
    println!(
        "{what}: {} bytes; written in {} ns with its version, read in {} ns",
        bytes / deltas.len(),
        each(writing),
        each(reading)
    );
}

fn written(delta: &Delta) -> Resource {
    match encode(delta) {
        Outgoing::Upsert(resource) => resource,
        Outgoing::Remove(key) => panic!("{key} is removed"),
    }
}

async fn sync(deltas: Vec<Delta>) {
    let discovery = Arc::new(Discovery::new(DiscoverySettings::default()));
    let started = Instant::now();
    discovery.publish(&deltas);
    println!("taken in by the controller, {} resources: {:?}", deltas.len(), started.elapsed());
    discovery.begin();
    let (mut agent, started) = (Agent::connect(&discovery).await, Instant::now());
    let told = agent.round().await;
    println!("told to a new agent and in its tables, {told} resources: {:?}", started.elapsed());
    let started = Instant::now();
    agent.tables.snapshot();
    println!("its snapshot: {:?}", started.elapsed());
    for round in 0..3 {
        let started = Instant::now();
        discovery.publish(&[slice_at(7, 9000 + round)]);
        let told = agent.round().await;
        agent.tables.snapshot();
        println!("a changed EndpointSlice in its snapshot, {told} resources: {:?}", started.elapsed());
    }
}

struct Agent {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    tables: Tables,
    missing: Vec<ResourceType>,
    shared: Shared,
}

impl Agent {
    async fn connect(discovery: &Arc<Discovery>) -> Self {
        let (near, far) = duplex(1 << 20);
        let service = TowerToHyperService::new(Arc::clone(discovery).service(Arc::new(Anybody)));
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(builder.serve_connection(TokioIo::new(far), service));
        let target = Target::from_static("http://controller");
        let channel = target.connect_with_connector(Once(Some(near))).await.expect("a connection");
        let (requests, stream) = mpsc::channel(64);
        for kind in ResourceType::OF_EVERYBODY {
            let request =
                DeltaDiscoveryRequest { type_url: kind.type_url(), ..DeltaDiscoveryRequest::default() };
            requests.send(request).await.expect("room");
        }
        let mut request = Request::new(ReceiverStream::new(stream));
        request.metadata_mut().insert("authorization", "Bearer x".parse().expect("a header"));
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.delta_aggregated_resources(request).await.expect("a stream").into_inner();
        Self {
            requests,
            responses,
            tables: Tables::default(),
            missing: ResourceType::OF_EVERYBODY.to_vec(),
            shared: Shared::default(),
        }
    }

    /// Takes all up to the end of a round: how many resources.
    async fn round(&mut self) -> usize {
        let mut told = 0;
        loop {
            let response = self.responses.message().await.expect("a response").expect("a stream");
            let kind = ResourceType::of_url(&response.type_url).expect("a known type");
            self.missing.retain(|missing| *missing != kind);
            told += response.resources.len();
            for resource in response.resources {
                let key = Key { kind, name: resource.name.into() };
                let value = resource.resource.expect("a content").value;
                let reading = read(&key, &value, "root", &mut self.shared);
                if let Reading::Understood(Update::Delta(delta)) = reading {
                    self.tables.apply(delta);
                }
            }
            let answer = DeltaDiscoveryRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                ..DeltaDiscoveryRequest::default()
            };
            self.requests.send(answer).await.expect("room");
            if self.missing.is_empty() && !response.system_version_info.ends_with('+') {
                return told;
            }
        }
    }
}

struct Anybody;

impl Authenticate for Anybody {
    fn authenticate<'a>(&'a self, _bearer: &'a str) -> Authenticating<'a> {
        let identity = "spiffe://cluster.local/ns/nodemesh-system/sa/nodemesh-agent".parse().expect("an id");
        let caller =
            AgentCaller { node: "node-7".into(), pod_uid: "agent".into(), identity, has_certificate: false };
        Box::pin(std::future::ready(Ok(caller)))
    }
}

/// Connects once, to a stream that is there already.
struct Once(Option<DuplexStream>);

impl TowerService<Uri> for Once {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let stream = self.0.take().ok_or_else(|| io::Error::other("connected once already"));
        Box::pin(async { stream.map(TokioIo::new) })
    }
}

fn uid(number: usize) -> WorkloadUid {
    WorkloadUid(format!("3f0c1f6e-0d4e-4a7b-9a53-{number:012}").into())
}

fn address(number: usize) -> std::net::IpAddr {
    let [_, a, b, c] = u32::try_from(number).expect("a small number").to_be_bytes();
    [10, a, b, c].into()
}

fn workload(number: usize) -> Delta {
    let name = format!("service-{}", number / ENDPOINTS);
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().expect("an id");
    let pod = NamespacedName::new("shop", format!("{name}-7c9f8d6b5-{number:05}"));
    Delta::UpsertWorkload(Arc::new(Workload {
        uid: uid(number),
        addresses: [address(number)].into_iter().collect(),
        details: Arc::new(PodDetails {
            labels: [
                ("app".into(), name.as_str().into()),
                ("app.kubernetes.io/name".into(), name.as_str().into()),
                ("pod-template-hash".into(), "7c9f8d6b5".into()),
            ]
            .into(),
            probe_ports: [8080].into_iter().collect(),
            named_ports: [("http".into(), 8080)].into_iter().collect(),
            ..PodDetails::default()
        }),
        ..Workload::new(pod, format!("node-{}", number % NODES), identity)
    }))
}

fn service(number: usize) -> Delta {
    let name = format!("service-{number}");
    Delta::UpsertService(Arc::new(Service {
        host: format!("{name}.shop.svc.cluster.local").into(),
        selector: [("app".into(), name.as_str().into())].into(),
        name: NamespacedName::new("shop", name),
        cluster_ips: [address(0x60_0000 + number)].into_iter().collect(),
        external_addresses: [].into_iter().collect(),
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            target_port: TargetPort::Number(8080),
            node_port: None,
            protocol: Protocol::Http1,
        }],
        client_ip_affinity: None,
        internal_traffic_policy: Default::default(),
        traffic_distribution: Default::default(),
        publish_not_ready: false,
    }))
}

fn slice(service: usize) -> Delta {
    slice_at(service, 8080)
}

fn slice_at(service: usize, port: u16) -> Delta {
    let endpoint = |number: usize| Endpoint {
        address: address(number),
        port,
        workload: Some(uid(number)),
        state: EndpointState::Ready,
        node: format!("node-{}", number % NODES).into(),
        zone: "zone-1".into(),
        hint_zones: [].into_iter().collect(),
        hint_nodes: [].into_iter().collect(),
    };
    let endpoints = (service * ENDPOINTS..(service + 1) * ENDPOINTS).map(endpoint).collect();
    Delta::UpsertEndpointSlice(Arc::new(EndpointSlice {
        name: NamespacedName::new("shop", format!("service-{service}-x7k2p")),
        service: NamespacedName::new("shop", format!("service-{service}")),
        ports: vec![SlicePort { name: "http".into(), endpoints }],
    }))
}

fn policy(number: usize) -> Delta {
    let principal = |caller: usize| {
        let caller = format!("cluster.local/ns/shop/sa/service-{caller}");
        let principals = Match { any_of: vec![Pattern::Exact(caller.into())], none_of: Vec::new() };
        Rule { from: vec![Source { principals, ..Source::default() }], ..Rule::default() }
    };
    let labels = [("app".into(), format!("service-{number}").into())].into();
    Delta::UpsertAuthorizationPolicy(Arc::new(AuthorizationPolicy {
        name: NamespacedName::new("shop", format!("policy-{number}")),
        scope: Scope::Selector { namespace: Some("shop".into()), labels },
        action: Action::Allow,
        mode: Mode::Enforce,
        rules: vec![principal(number), principal(number + 1)],
        fault: None,
    }))
}
