//! Two agents, callers and applications on loopback. Pod `web` is on node `a`, pod `api` on node `b`.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_common::http1::Refusal;
use mesh_common::model::service::{InternalTrafficPolicy, TrafficDistribution};
use mesh_common::model::*;
use mesh_common::snapshot::{Delta, Snapshot, Tables};
use smallvec::smallvec;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::LocalSet;

pub(super) use super::applications::server_of;
use super::conductor::Deciding;
use crate::identity::{self, Authority, AuthoritySettings, Identities, IdentityMetrics, Peer, system_clock};
use crate::telemetry::registry::Registry;
use crate::transport::handshakes::{Handshakes, Source};
use crate::transport::http2::runtime::OnThisCore;
use crate::transport::http2::{Cut, End, Http2, RefusedUnseen, Settings};
use crate::transport::tunnel::Speaks;

pub(super) const SERVICE: &str = "10.96.0.10:80";
pub(super) type TestBody = UnsyncBoxBody<Bytes, io::Error>;

/// What was recorded of one request, at either agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) caller: Option<String>,
    pub(super) path: String,
    pub(super) status: Option<StatusCode>,
    /// Messages of a call: the caller's, the application's.
    pub(super) messages: [u64; 2],
    pub(super) end: End,
}

/// Everything that a test looks at or turns.
pub(super) struct World {
    pub(super) tables: RefCell<Tables>,
    pub(super) snapshot: RefCell<Rc<Snapshot>>,
    pub(super) records: RefCell<Vec<Recorded>>,
    pub(super) malformed: RefCell<Vec<Refusal>>,
    /// What rules change of each request's head.
    pub(super) edits: RefCell<Option<HeadEdits>>,
    /// What was answered so far, at either agent.
    pub(super) answered: RefCell<Vec<StatusCode>>,
    /// Where agent B listens.
    pub(super) agent: SocketAddr,
    /// Why agent B served callers no longer, or not at all.
    pub(super) ended: RefCell<Vec<&'static str>>,
    /// Connections in the clear that are over: of those that ended in error, whether their client broke a rule.
    pub(super) served: RefCell<Vec<Option<bool>>>,
    /// What became of requests that were refused unseen.
    pub(super) refused: RefCell<Vec<RefusedUnseen>>,
    /// Messages of calls that were told so far, at both agents.
    pub(super) messages: Cell<[u64; 2]>,
    /// Requests after their caller's certificate had ended.
    pub(super) late: Cell<usize>,
    pub(super) application: Cell<SocketAddr>,
    /// Where agent B listens.
    destination_address: SocketAddr,
    /// How to end each request that began, at either agent.
    pub(super) cuts: RefCell<Vec<Cut>>,
    /// Dials to applications and to agents.
    pub(super) dials: Cell<usize>,
    pub(super) source: Http2,
    pub(super) destination: Http2,
    /// Of both agents.
    pub(super) handshakes: Handshakes,
    pub(super) identities: Arc<Identities>,
    pub(super) folder: TempDir,
}

/// Runs a test on one core, bounded.
pub(super) fn on_one_core(test: impl Future<Output = ()>) {
    on_one_core_for(Duration::from_secs(60), test);
}

/// The same, with a bound of its own.
pub(super) fn on_one_core_for(most: Duration, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bounded = async { tokio::time::timeout(most, test).await };
    let ended = LocalSet::new().block_on(&runtime, bounded);
    ended.unwrap_or_else(|_| panic!("the test did not end in {most:?}"));
}

/// Waits until `holds`, at most 5 seconds.
pub(super) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        // Between two looks of a bounded wait: what is looked at tells nobody that it changed.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 5 s: {what}");
}

pub(super) fn id(name: &str) -> SpiffeId {
    SpiffeId::new(&TrustDomain::parse("cluster.local").unwrap(), "shop", name).unwrap()
}

pub(super) fn pod(name: &str, account: &str, node: &str, address: &str) -> Arc<Workload> {
    Arc::new(Workload {
        addresses: smallvec![address.parse().unwrap()],
        details: Arc::new(PodDetails {
            labels: [("app".into(), account.into())].into(),
            ..PodDetails::default()
        }),
        ..Workload::new(NamespacedName::new("shop", name), node, id(account))
    })
}

fn service(port: u16, protocol: Protocol) -> Service {
    let dialled: SocketAddr = SERVICE.parse().unwrap();
    Service {
        name: NamespacedName::new("shop", "api"),
        host: "api.shop.svc.cluster.local".into(),
        cluster_ips: smallvec![dialled.ip()],
        external_addresses: smallvec![],
        selector: [("app".into(), "api".into())].into(),
        ports: vec![ServicePort {
            name: "grpc".into(),
            port: dialled.port(),
            target_port: TargetPort::Number(port),
            node_port: None,
            protocol,
        }],
        client_ip_affinity: None,
        internal_traffic_policy: InternalTrafficPolicy::Cluster,
        traffic_distribution: TrafficDistribution::Any,
        publish_not_ready: false,
    }
}

fn authority(lifetime: Duration) -> (Arc<Identities>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let clock = system_clock();
    let settings = AuthoritySettings {
        trust_dir: folder.path().to_owned(),
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        lifetime,
        backdate: Duration::from_secs(60),
    };
    let authority = Arc::new(Authority::open(settings, &clock).unwrap());
    let metrics = IdentityMetrics::new(&Registry::new()).unwrap();
    let identities = Identities::new(authority, identity::Settings::default(), clock, metrics).unwrap();
    (Arc::new(identities), folder)
}

impl World {
    /// Starts agent B's listener on 127.0.0.2, and an application that speaks `protocol` behind it.
    pub(super) async fn start(protocol: Protocol) -> Rc<Self> {
        Self::start_with(protocol, Settings::default()).await
    }

    pub(super) async fn start_with(protocol: Protocol, settings: Settings) -> Rc<Self> {
        Self::start_for(protocol, settings, Duration::from_secs(3600)).await
    }

    /// With certificates of this lifetime.
    pub(super) async fn start_for(protocol: Protocol, settings: Settings, lifetime: Duration) -> Rc<Self> {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (identities, folder) = authority(lifetime);
        for name in ["web", "api"] {
            identities.ensure(&id(name)).await.unwrap();
        }
        let mut tables = Tables::default();
        tables.apply(Delta::UpsertWorkload(pod("web", "web", "a", "127.0.0.1")));
        tables.apply(Delta::UpsertWorkload(pod("api", "api", "b", "127.0.0.2")));
        tables.apply(Delta::UpsertService(Arc::new(service(port, protocol))));
        let snapshot = tables.snapshot();
        let application = application(protocol).await;
        let handshakes = Handshakes::default();
        let world = Rc::new(Self {
            tables: RefCell::new(tables),
            snapshot: RefCell::new(Rc::new(snapshot)),
            records: RefCell::default(),
            malformed: RefCell::default(),
            edits: RefCell::default(),
            answered: RefCell::default(),
            agent: listener.local_addr().unwrap(),
            ended: RefCell::default(),
            served: RefCell::default(),
            refused: RefCell::default(),
            messages: Cell::default(),
            late: Cell::default(),
            cuts: RefCell::default(),
            application: Cell::new(application),
            destination_address: listener.local_addr().unwrap(),
            dials: Cell::new(0),
            source: Http2::new(identities.clone(), settings.clone(), handshakes.clone()),
            destination: Http2::new(identities.clone(), settings, handshakes.clone()),
            handshakes,
            identities,
            folder,
        });
        world.clone().accept_as("api", listener, Rc::default());
        world
    }

    pub(super) fn destination_address(&self) -> SocketAddr {
        self.destination_address
    }

    pub(super) fn apply(&self, delta: Delta) {
        let mut tables = self.tables.borrow_mut();
        tables.apply(delta);
        *self.snapshot.borrow_mut() = Rc::new(tables.snapshot());
    }

    /// The Service's endpoints listen on this port from now on.
    pub(super) fn move_service(&self, port: u16, protocol: Protocol) {
        self.apply(Delta::UpsertService(Arc::new(service(port, protocol))));
    }

    /// Agent B: accepts our TLS with the certificate of `account`. Waiters of `leave` are the connections, which
    /// then tell their callers to go away.
    pub(super) fn accept_as(self: Rc<Self>, account: &'static str, listener: TcpListener, leave: Rc<Notify>) {
        tokio::task::spawn_local(async move {
            loop {
                let (socket, client) = listener.accept().await.unwrap();
                let original_dst = socket.local_addr().unwrap();
                let (world, leave) = (self.clone(), leave.clone());
                tokio::task::spawn_local(async move {
                    let begin = |peer: Peer, service: Option<&str>| {
                        assert_eq!(service, Some("api.shop.svc.cluster.local"));
                        let facts = ConnectionFacts {
                            direction: Direction::Inbound,
                            client,
                            original_dst,
                            local: pod("api", "api", "b", "127.0.0.2"),
                            peer: PeerIdentity::Verified(peer.identity),
                            certificate: None,
                            claimed_dst: None,
                            server_name: ServerName::Unknown,
                        };
                        Some(Rc::new(Deciding { facts, leave, world: world.clone() }))
                    };
                    let place = world.handshakes.take(Source::Address(client.ip())).unwrap();
                    let served = world
                        .destination
                        .serve_tls((fd(socket), client.ip()), &id(account), place, begin)
                        .await;
                    world.ended.borrow_mut().extend(served.err().map(|error| error.reason()));
                });
            }
        });
    }

    /// An application of `web`: a connection that agent A captured on its way to the Service.
    pub(super) async fn raw_caller(self: &Rc<Self>) -> TcpStream {
        self.raw_caller_that(Speaks::Http2).await
    }

    /// The same; `speaks` what its bytes begin with.
    pub(super) async fn raw_caller_that(self: &Rc<Self>, speaks: Speaks) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (captured, client) = listener.accept().await.unwrap();
        // As those that are captured.
        captured.set_nodelay(true).unwrap();
        let local = pod("web", "web", "a", "127.0.0.1");
        let facts = ConnectionFacts {
            direction: Direction::Outbound,
            client,
            original_dst: SERVICE.parse().unwrap(),
            peer: PeerIdentity::Verified(local.identity.clone()),
            certificate: None,
            local,
            claimed_dst: None,
            server_name: ServerName::Unknown,
        };
        let deciding = Rc::new(Deciding { facts, leave: Rc::default(), world: self.clone() });
        let source = self.source.clone();
        tokio::task::spawn_local(async move {
            let world = deciding.world.clone();
            let served = match speaks {
                Speaks::Http2 => source.serve(fd(captured), deciding).await,
                Speaks::Http1 => source.serve_http1(fd(captured), SERVICE.parse().unwrap(), deciding).await,
            };
            world.served.borrow_mut().push(served.err().map(|error| error.is_violation()));
        });
        stream
    }

    /// A caller of agent B that shows the certificate of `web` and speaks as it likes.
    pub(super) async fn raw_peer(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let config = self.identities.client(&id("web"), &id("api"), identity::Alpn::H2).unwrap();
        let stream = TcpStream::connect(self.agent).await.unwrap();
        let name = "api.shop.svc.cluster.local".try_into().unwrap();
        tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap()
    }

    /// The same as [`Self::raw_caller`], with HTTP/2 on it.
    pub(super) async fn caller(self: &Rc<Self>) -> Caller {
        self.caller_with_window(1 << 20).await
    }

    /// One that takes no more than so many bytes of an answer that nobody reads.
    pub(super) async fn caller_with_window(self: &Rc<Self>, bytes: u32) -> Caller {
        let stream = self.raw_caller().await;
        let mut builder = hyper::client::conn::http2::Builder::new(OnThisCore);
        builder.initial_stream_window_size(bytes);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::task::spawn_local(async move {
            let _: Result<(), hyper::Error> = connection.await;
        });
        Caller(sender)
    }

    /// What the agent recorded that `caller` names: `None` at the source.
    pub(super) fn recorded(&self, caller: Option<&str>) -> Vec<Recorded> {
        let is_it = |record: &&Recorded| record.caller.as_deref() == caller;
        self.records.borrow().iter().filter(is_it).cloned().collect()
    }
}

pub(super) fn fd(stream: TcpStream) -> OwnedFd {
    stream.into_std().unwrap().into()
}

/// An application's HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Caller(pub(super) hyper::client::conn::http2::SendRequest<TestBody>);

/// A response, whole.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

pub(super) fn body(text: &'static str) -> TestBody {
    body_of(Bytes::from_static(text.as_bytes()))
}

fn body_of(bytes: Bytes) -> TestBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body of what a channel brings.
pub(super) fn channel_body(receiver: tokio::sync::mpsc::Receiver<Bytes>) -> TestBody {
    struct Messages(tokio::sync::mpsc::Receiver<Bytes>);
    impl Body for Messages {
        type Data = Bytes;
        type Error = io::Error;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            self.0.poll_recv(context).map(|message| message.map(|message| Ok(Frame::data(message))))
        }
    }
    Messages(receiver).boxed_unsync()
}

/// A gRPC request to `api`.
pub(super) fn grpc(path: &str, text: &'static str) -> Request<TestBody> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://api.shop:80{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    request.body(body(text)).unwrap()
}

pub(super) fn get(path: &str) -> Request<TestBody> {
    Request::get(format!("http://api.shop{path}")).body(body("")).unwrap()
}

impl Caller {
    pub(super) async fn ask(&self, request: Request<TestBody>) -> Result<Seen, hyper::Error> {
        let response = self.0.clone().send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        Ok(Seen { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
    }
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.as_ref()?.get(name)?.to_str().ok()
    }
}

/// Starts the application: it says what it saw, and echoes bodies frame by frame.
pub(super) async fn application(protocol: Protocol) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(async move {
                let (io, service) = (TokioIo::new(stream), service_fn(echo));
                let _ = match protocol {
                    Protocol::Http1 => {
                        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                    }
                    _ => server_of(OnThisCore, &Settings::default()).serve_connection(io, service).await,
                };
            });
        }
    });
    address
}

async fn echo(request: Request<Incoming>) -> Result<Response<TestBody>, Infallible> {
    let (head, body) = request.into_parts();
    let seen: Vec<String> = head
        .headers
        .iter()
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap_or("?")))
        .collect();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("x-checksum", "7".parse().unwrap());
    trailers.insert("content-length", "99".parse().unwrap());
    let is_grpc = head.headers.contains_key("te");
    // The call of a client that streams: answered once all of it is there.
    let body = match head.uri.path() {
        "/e/Collect" => body_of(body.collect().await.unwrap().to_bytes()),
        _ => body.map_err(io::Error::other).boxed_unsync(),
    };
    let body = match is_grpc {
        true => body.with_trailers(async { Some(Ok(trailers)) }).boxed_unsync(),
        false => body,
    };
    let response = Response::builder()
        .header("x-seen-uri", head.uri.to_string())
        .header("x-seen-version", format!("{:?}", head.version))
        .header("x-seen-fields", seen.join("|"))
        .header("keep-alive", "timeout=5");
    let response = match head.version {
        http::Version::HTTP_2 => {
            let mut response = response;
            response.headers_mut().unwrap().remove("keep-alive");
            response
        }
        _ => response,
    };
    Ok(response.body(body).unwrap())
}

/// A policy of `shop` about pods `app=api`.
pub(super) fn deny_path(path: &str) -> Delta {
    use mesh_common::model::policy::*;
    let operation = Operation {
        paths: Match { any_of: vec![Pattern::Exact(path.into())], ..Match::default() },
        ..Operation::default()
    };
    let policy = AuthorizationPolicy {
        name: NamespacedName::new("shop", "deny-path"),
        scope: Scope::Selector {
            namespace: Some("shop".into()),
            labels: [("app".into(), "api".into())].into(),
        },
        action: Action::Deny,
        mode: Mode::Enforce,
        rules: vec![Rule { to: vec![operation], ..Rule::default() }],
        fault: None,
    };
    Delta::UpsertAuthorizationPolicy(Arc::new(policy))
}
