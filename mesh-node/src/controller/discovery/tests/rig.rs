//! A controller in memory, and agents that speak the protocol by hand.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::rpc::Status as Detail;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use mesh_common::model::endpoint::{Endpoint, EndpointSlice, EndpointState, SlicePort};
use mesh_common::model::policy::{Action, AuthorizationPolicy, Mode, Scope};
use mesh_common::model::service::{Service, ServicePort, TargetPort};
use mesh_common::model::workload::{Workload, WorkloadUid};
use mesh_common::model::{NamespacedName, PodDetails, Protocol, SpiffeId};
use mesh_common::snapshot::Delta;
use prost::Message;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::codegen::Service as TowerService;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint as Target, Uri};
use tonic::{Request, Status, Streaming};

use crate::controller::agents::{AgentCaller, Authenticate, Authenticating, Refused};
use crate::controller::discovery::{Discovery, DiscoverySettings};
use crate::xds::refusal::{Refusal, error_detail};
use crate::xds::{EVERYTHING, Key, Outgoing, ResourceType, encode, messages};

/// Longer than anything takes that is expected.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is not expected has not come by then.
const QUIET: Duration = Duration::from_millis(100);
const CONTROLLER: &str = "http://controller";

pub(super) struct Rig {
    pub(super) discovery: Arc<Discovery>,
}

/// Knows `token-NODE`.
struct TableOfTokens;

impl Authenticate for TableOfTokens {
    fn authenticate<'a>(&'a self, bearer: &'a str) -> Authenticating<'a> {
        Box::pin(async move {
            let unknown = || Refused::Unauthenticated("nobody's token".to_owned());
            let node = bearer.strip_prefix("token-").ok_or_else(unknown)?;
            let identity = "spiffe://cluster.local/ns/nodemesh-system/sa/nodemesh-agent".parse().unwrap();
            let pod_uid = format!("agent-{node}").into();
            Ok(AgentCaller { node: node.into(), pod_uid, identity, has_certificate: false })
        })
    }
}

pub(super) fn settings() -> DiscoverySettings {
    DiscoverySettings { debounce: Duration::from_millis(1), ..DiscoverySettings::default() }
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(settings())
    }

    pub(super) fn with(settings: DiscoverySettings) -> Self {
        let rig = Self { discovery: Arc::new(Discovery::new(settings)) };
        rig.discovery.begin();
        rig
    }

    pub(super) fn unbegun() -> Self {
        Self { discovery: Arc::new(Discovery::new(settings())) }
    }

    pub(super) fn publish(&self, deltas: &[Delta]) {
        self.discovery.publish(deltas);
    }

    /// A new agent of a node, which asks for every type.
    pub(super) async fn agent(&self, node: &str) -> Agent {
        Agent::open(self, Some(&format!("token-{node}")), node, &[]).await.unwrap()
    }

    pub(super) async fn until(&self, holds: impl Fn(&Discovery) -> bool) {
        let mut changes = self.discovery.agent_changes();
        let wait = async {
            while !holds(&self.discovery) {
                changes.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, wait).await.expect("the agents' standing came to be what was waited for");
    }
}

/// Connects once, to a stream that is there already.
struct Once(Option<DuplexStream>);

impl TowerService<Uri> for Once {
    type Response = TokioIo<DuplexStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let stream = self.0.take().ok_or_else(|| std::io::Error::other("connected once already"));
        Box::pin(async { stream.map(TokioIo::new) })
    }
}

#[derive(Debug)]
pub(super) struct Agent {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// Types whose first response has not come.
    missing: Vec<ResourceType>,
    refusals: VecDeque<(ResourceType, Vec<Refusal>)>,
    pub(super) detail: Option<(ResourceType, Detail)>,
    pub(super) acknowledges: bool,
}

/// What one round said; until the first response of every type came, several rounds.
#[derive(Debug, Default)]
pub(super) struct Told {
    upserts: BTreeMap<Key, (String, Vec<u8>)>,
    pub(super) removed: Vec<String>,
    pub(super) responses: usize,
    pub(super) largest: usize,
}

fn first_request(kind: ResourceType, node: &str, had: &[(Key, String)]) -> DeltaDiscoveryRequest {
    let of_kind = had.iter().filter(|(key, _)| key.kind == kind);
    let node = WireNode { id: node.to_owned(), ..WireNode::default() };
    DeltaDiscoveryRequest {
        node: (kind == ResourceType::Mesh).then_some(node),
        type_url: kind.type_url(),
        initial_resource_versions: of_kind
            .map(|(key, version)| (key.name.to_string(), version.clone()))
            .collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

impl Agent {
    pub(super) async fn open(
        rig: &Rig,
        token: Option<&str>,
        node: &str,
        had: &[(Key, String)],
    ) -> Result<Self, Status> {
        let requests = ResourceType::OF_EVERYBODY.map(|kind| first_request(kind, node, had));
        Self::open_from(Target::from_static(CONTROLLER), rig, token, requests.into()).await
    }

    /// One that is told only what it needs, and asks about something at once.
    pub(super) async fn asking(rig: &Rig, node: &str, had: &[(Key, String)], questions: &[&str]) -> Self {
        let requests = ResourceType::ALL.map(|kind| {
            let request = first_request(kind, node, had);
            if !kind.is_on_demand() && kind != ResourceType::Address {
                return request;
            }
            let everything = [EVERYTHING.to_owned()];
            let asked = questions.iter().filter(|_| kind == ResourceType::Address);
            DeltaDiscoveryRequest {
                resource_names_subscribe: everything
                    .iter()
                    .cloned()
                    .chain(asked.map(ToString::to_string))
                    .collect(),
                resource_names_unsubscribe: everything.into(),
                ..request
            }
        });
        let target = Target::from_static(CONTROLLER);
        Self::open_from(target, rig, Some(&format!("token-{node}")), requests.into()).await.unwrap()
    }

    /// One to whom a few bytes can be sent, and no more until it reads them.
    pub(super) async fn deaf(rig: &Rig, node: &str) -> Result<Self, Status> {
        let target = Target::from_static(CONTROLLER).initial_stream_window_size(16);
        let requests = ResourceType::OF_EVERYBODY.map(|kind| first_request(kind, node, &[]));
        Self::open_from(target, rig, Some(&format!("token-{node}")), requests.into()).await
    }

    async fn open_from(
        target: Target,
        rig: &Rig,
        token: Option<&str>,
        first: Vec<DeltaDiscoveryRequest>,
    ) -> Result<Self, Status> {
        let (near, far) = duplex(1 << 20);
        let service = Arc::clone(&rig.discovery).service(Arc::new(TableOfTokens));
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(far), TowerToHyperService::new(service)),
        );
        let channel = target.connect_with_connector(Once(Some(near))).await.unwrap();
        let (requests, stream) = mpsc::channel(64);
        let missing = first.iter().filter_map(|request| ResourceType::of_url(&request.type_url)).collect();
        for request in first {
            requests.send(request).await.unwrap();
        }
        let mut request = Request::new(ReceiverStream::new(stream));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.delta_aggregated_resources(request).await?.into_inner();
        Ok(Self { requests, responses, missing, refusals: VecDeque::new(), detail: None, acknowledges: true })
    }

    pub(super) fn refuse_next(&mut self, kind: ResourceType, refusals: Vec<Refusal>) {
        self.refusals.push_back((kind, refusals));
    }

    pub(super) async fn send_type(&mut self, type_url: &str) {
        let type_url = type_url.to_owned();
        let request = DeltaDiscoveryRequest { type_url, ..DeltaDiscoveryRequest::default() };
        self.requests.send(request).await.unwrap();
    }

    /// Takes questions back, and asks others.
    pub(super) async fn ask(&mut self, taken_back: &[&str], asked: &[&str]) {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let request = DeltaDiscoveryRequest {
            type_url: ResourceType::Address.type_url(),
            resource_names_subscribe: names(asked),
            resource_names_unsubscribe: names(taken_back),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    pub(super) async fn next(&mut self) -> DeltaDiscoveryResponse {
        let next = timeout(PATIENCE, self.responses.message()).await.expect("a response in time");
        let next = next.unwrap().expect("the stream goes on");
        self.missing.retain(|missing| missing.type_url() != next.type_url);
        next
    }

    pub(super) async fn hears_nothing(&mut self) {
        let heard = timeout(QUIET, self.responses.message()).await;
        assert!(heard.is_err(), "heard {heard:?}");
    }

    /// How the stream ends; what comes before is skipped.
    pub(super) async fn end(&mut self) -> Status {
        loop {
            match timeout(PATIENCE, self.responses.message()).await.expect("an end in time") {
                Ok(Some(response)) if self.acknowledges => self.acknowledge(&response).await,
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended in good order"),
                Err(status) => return status,
            }
        }
    }

    pub(super) async fn acknowledge(&mut self, response: &DeltaDiscoveryResponse) {
        let kind = ResourceType::of_url(&response.type_url).unwrap();
        let is_meant = !response.resources.is_empty();
        let mut detail = None;
        if is_meant && self.refusals.front().is_some_and(|(refused, _)| *refused == kind) {
            detail = self.refusals.pop_front().and_then(|(kind, list)| error_detail(kind, list));
        }
        if is_meant && self.detail.as_ref().is_some_and(|(refused, _)| *refused == kind) {
            detail = self.detail.take().map(|(_, meant)| meant);
        }
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: detail,
            ..DeltaDiscoveryRequest::default()
        };
        // A stream that ended takes no answer.
        let _ = self.requests.send(request).await;
    }

    /// All up to the end of a round in which every type was answered.
    pub(super) async fn round(&mut self) -> Told {
        let mut told = Told::default();
        loop {
            let response = self.next().await;
            self.acknowledge(&response).await;
            told.largest = told.largest.max(response.encoded_len());
            told.responses += 1;
            let kind = ResourceType::of_url(&response.type_url).unwrap();
            let is_last = !response.system_version_info.ends_with('+');
            for resource in response.resources {
                let key = Key { kind, name: resource.name.into() };
                told.upserts.insert(key, (resource.version, resource.resource.unwrap().value));
            }
            told.removed.extend(response.removed_resources.iter().map(|name| format!("{kind} {name}")));
            if is_last && self.missing.is_empty() {
                told.removed.sort();
                return told;
            }
        }
    }
}

impl Told {
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.upserts.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    pub(super) fn names_of(&self, kind: ResourceType) -> Vec<&str> {
        self.upserts.keys().filter(|key| key.kind == kind).map(|key| &*key.name).collect()
    }

    pub(super) fn versions(&self) -> Vec<(Key, String)> {
        self.upserts.iter().map(|(key, (version, _))| (key.clone(), version.clone())).collect()
    }

    pub(super) fn workload(&self, uid: &str) -> messages::Workload {
        message(&self.upserts[&Key { kind: ResourceType::Workload, name: uid.into() }].1)
    }

    pub(super) fn service_port(&self, name: &str) -> Option<u32> {
        let key = Key { kind: ResourceType::Service, name: format!("shop/{name}").into() };
        let service: messages::Service = message(&self.upserts.get(&key)?.1);
        Some(service.ports[0].port)
    }
}

pub(super) fn message<M: Message + Default>(value: &[u8]) -> M {
    M::decode(value).unwrap()
}

pub(super) fn named(name: &str) -> NamespacedName {
    NamespacedName::new("shop", name)
}

pub(super) fn uid(name: &str) -> WorkloadUid {
    WorkloadUid(name.into())
}

pub(super) fn labelled(name: &str, node: &str, colour: &str) -> Delta {
    let identity: SpiffeId = format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap();
    Delta::UpsertWorkload(Arc::new(Workload {
        addresses: [[10, 0, 0, 7].into()].into_iter().collect(),
        details: Arc::new(PodDetails {
            labels: [("app".into(), name.into()), ("colour".into(), colour.into())].into(),
            netns: Some("/run/netns/pod".into()),
            probe_ports: [8080].into_iter().collect(),
            named_ports: [("http".into(), 8080)].into_iter().collect(),
            ..PodDetails::default()
        }),
        ..Workload::new(named(name), node, identity)
    }))
}

pub(super) fn pod(name: &str, node: &str) -> Delta {
    labelled(name, node, "red")
}

/// The message of [`pod`].
pub(super) fn full(name: &str, node: &str) -> messages::Workload {
    match encode(&pod(name, node)) {
        Outgoing::Upsert(resource) => message(&resource.value),
        Outgoing::Remove(key) => panic!("{key} was removed"),
    }
}

pub(super) fn service(name: &str) -> Delta {
    service_on(name, 80)
}

pub(super) fn service_on(name: &str, port: u16) -> Delta {
    Delta::UpsertService(Arc::new(Service {
        name: named(name),
        host: format!("{name}.shop.svc.cluster.local").into(),
        cluster_ips: [[10, 96, 0, 7].into()].into_iter().collect(),
        external_addresses: [].into_iter().collect(),
        selector: [("app".into(), name.into())].into(),
        ports: vec![ServicePort {
            name: "http".into(),
            port,
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

/// An EndpointSlice with ten endpoints.
pub(super) fn slice(service: &str) -> Delta {
    let endpoint = |number: u8| Endpoint {
        address: [10, 0, 1, number].into(),
        port: 8080,
        workload: Some(WorkloadUid(format!("00000000-0000-0000-0000-0000000000{number:02}").into())),
        state: EndpointState::Ready,
        node: "a".into(),
        zone: "zone-1".into(),
        hint_zones: [].into_iter().collect(),
        hint_nodes: [].into_iter().collect(),
    };
    Delta::UpsertEndpointSlice(Arc::new(EndpointSlice {
        name: named(&format!("{service}-1")),
        service: named(service),
        ports: vec![SlicePort { name: "http".into(), endpoints: (0..10).map(endpoint).collect() }],
    }))
}

/// About the pods of `app`, or of the whole namespace.
pub(super) fn policy(name: &str, action: Action, app: &str) -> Delta {
    let scope = match app {
        "" => Scope::Namespace("shop".into()),
        app => {
            let labels = [("app".into(), app.into())].into();
            Scope::Selector { namespace: Some("shop".into()), labels }
        }
    };
    Delta::UpsertAuthorizationPolicy(Arc::new(AuthorizationPolicy {
        name: named(name),
        scope,
        action,
        mode: Mode::Enforce,
        rules: Vec::new(),
        fault: None,
    }))
}
