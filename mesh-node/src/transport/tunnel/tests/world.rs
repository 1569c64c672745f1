//! Two engines on loopback with real TLS, a conductor that does as it is told, and an application.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mesh_common::http1::{self, LocalAnswer};
use mesh_common::model::{DecisionId, Direction, RequestFacts, SpiffeId, TrustDomain, WorkloadUid};
use mesh_common::tunnel::{Open, ResetReason, StreamKind, StreamToken};
use rustls_pki_types::CertificateDer;
use socket2::{Domain, Socket, Type};

use crate::identity::{
    Alpn, Authority, AuthoritySettings, Identities, IdentityMetrics, Settings as IdentitySettings,
    server_name, system_clock,
};
use crate::transport::Planned;
use crate::transport::connect::Dial;
use crate::transport::handshakes::{Handshakes, Limits, Place};
use crate::transport::http1::{ExchangeOutcome, Instead, QuestionId, RequestCourse};
use crate::transport::tunnel::{
    Accepted, Caller, Conductor, Counters, Course, Engine, FirstBytes, Handle, Identified, Inbound,
    ListenerId, LostTunnel, NewListener, Outbound, Refusal, Settings, Speaks, TunnelKey, TunnelPlan,
};
use crate::transport::{CloseReason, Outcome, TunnelLoss};

/// Longest time that anything in these tests may take.
pub(in crate::transport) const PATIENCE: Duration = Duration::from_secs(60);

/// What a conductor was told, shared with the test.
#[derive(Default)]
pub(in crate::transport) struct Log {
    pub(in crate::transport) outcomes: Mutex<Vec<Outcome>>,
    pub(in crate::transport) losses: Mutex<Vec<TunnelLoss>>,
    pub(in crate::transport) opened: AtomicUsize,
    pub(in crate::transport) handed: Mutex<Vec<OwnedFd>>,
}

/// Does what it is told: see its fields.
#[derive(Clone)]
pub(in crate::transport) struct Script {
    pub(in crate::transport) log: Arc<Log>,
    identities: Arc<Identities>,
    own: SpiffeId,
    pub(in crate::transport) expected: SpiffeId,
    /// Where outbound connections go.
    pub(in crate::transport) outbound: Route,
    /// Where they go when that is not there.
    pub(in crate::transport) second: Option<Route>,
    /// Where the application of this side listens.
    pub(in crate::transport) application: SocketAddr,
    pub(in crate::transport) refuse_streams: Option<ResetReason>,
    pub(in crate::transport) plaintext_at_accept: bool,
    pub(in crate::transport) permitted: bool,
    /// How long a peer's certificate is believed.
    pub(in crate::transport) believed: Option<Duration>,
    pub(in crate::transport) held_back: Option<Duration>,
}

#[derive(Clone, Copy)]
pub(in crate::transport) enum Route {
    Tunnel(SocketAddr),
    Direct(SocketAddr),
}

impl Route {
    fn course(self, script: &Script) -> Course {
        match self {
            Self::Tunnel(destination) => Course::Tunnel {
                key: TunnelKey {
                    source: WorkloadUid("pod-a".into()),
                    destination,
                    called: WorkloadUid("pod-b".into()),
                    identity: script.expected.clone(),
                },
                open: Open {
                    token: StreamToken([1; 16]),
                    kind: StreamKind::Opaque,
                    dialled: destination,
                    source_port: 4242,
                },
                planned: Planned::for_test(),
            },
            Self::Direct(destination) => Course::Direct {
                dial: Dial { destination, source: None, netns: None },
                planned: Planned::for_test(),
            },
        }
    }
}

impl Conductor for Script {
    type Pod = &'static str;
    type Record = u32;
    type Exchange = ();
    type Held = ();

    fn holds_back(&mut self, _: &Self::Pod) -> Option<Duration> {
        self.held_back
    }

    fn accept_outbound(&mut self, _: &Self::Pod, _: &Accepted<'_>) -> Result<Outbound<u32, ()>, Refusal> {
        Ok(Outbound::Begin(1, self.outbound.course(self)))
    }

    fn accept_inbound(&mut self, _: &Self::Pod, _: &Accepted<'_>) -> Result<Inbound<u32>, Refusal> {
        if self.plaintext_at_accept {
            return Ok(Inbound::Plaintext(2, Route::Direct(self.application).course(self)));
        }
        Ok(Inbound::Peek)
    }

    fn accept_plaintext(
        &mut self,
        _: &Self::Pod,
        _: &Accepted<'_>,
        first: FirstBytes<'_>,
    ) -> Result<(u32, Course), Refusal> {
        match first {
            FirstBytes::Foreign(bytes) if bytes.starts_with(b"secret") => Err(Refusal(ResetReason::Denied)),
            FirstBytes::Foreign(_) => Ok((3, Route::Direct(self.application).course(self))),
            FirstBytes::Silence => Err(Refusal(ResetReason::Denied)),
        }
    }

    fn accept_h2(&mut self, _: &Self::Pod, socket: OwnedFd, _: SocketAddr, _: SocketAddr, _: Place) {
        self.log.handed.lock().unwrap().push(socket);
    }

    fn hand_over(&mut self, _: &Self::Pod, _: u32, _: OwnedFd, _: Speaks) {}

    fn plan_tunnel(&mut self, _: &Self::Pod, key: &TunnelKey, _: &u32) -> Result<TunnelPlan, TunnelLoss> {
        let tls = self.identities.client(&self.own, &self.expected, Alpn::Mux1);
        Ok(TunnelPlan {
            dial: Dial { destination: key.destination, source: None, netns: None },
            tls: tls.map_err(|_| TunnelLoss::NoCertificate)?,
            name: server_name(Some("web.shop.svc.cluster.local"), key.destination.ip()),
            retire_at: None,
        })
    }

    fn serve_tunnel(&mut self, _: &Self::Pod) -> Result<Arc<rustls::ServerConfig>, TunnelLoss> {
        self.identities.server(&self.own, Alpn::Mux1).map_err(|_| TunnelLoss::NoCertificate)
    }

    fn identify(&mut self, certificates: &[CertificateDer<'_>]) -> Result<Identified, Refusal> {
        let peer = self.identities.peer(Some(certificates)).map_err(|_| Refusal(ResetReason::Denied))?;
        Ok(Identified {
            identity: peer.identity,
            certificate: peer.certificate,
            until: self.believed.map(|believed| Instant::now() + believed),
        })
    }

    fn open_stream(&mut self, _: &Self::Pod, caller: &Caller, _: &Open) -> Result<(u32, Course), Refusal> {
        assert_eq!(caller.identity.service_account().as_ref(), "client");
        self.log.opened.fetch_add(1, Ordering::SeqCst);
        match self.refuse_streams {
            Some(reason) => Err(Refusal(reason)),
            None => Ok((4, Route::Direct(self.application).course(self))),
        }
    }

    fn request(
        &mut self,
        _: &Self::Pod,
        _: &mut u32,
        _: &RequestFacts<'_>,
        _: Option<QuestionId>,
    ) -> Result<((), RequestCourse), Instead> {
        Err(LocalAnswer {
            status: 403,
            text: "no course of this script has requests",
            reason: "script",
            decision: None,
        }
        .into())
    }

    fn next_endpoint_of_request(
        &mut self,
        _: &Self::Pod,
        _: &mut u32,
        _: &mut (),
        _: CloseReason,
    ) -> Option<RequestCourse> {
        None
    }

    fn exchange_ended(&mut self, _: &mut u32, (): (), _: &ExchangeOutcome) -> Option<DecisionId> {
        None
    }

    fn request_refused(&mut self, _: &mut u32, _: http1::Refusal, _: http1::AskedFor) -> Option<DecisionId> {
        None
    }

    fn request_still_permitted(&mut self, _: &u32, (): &mut ()) -> bool {
        self.permitted
    }

    fn next_endpoint(&mut self, _: &mut u32, _: CloseReason) -> Option<Course> {
        self.second.map(|route| route.course(self))
    }

    fn closed(&mut self, _: u32, outcome: &Outcome) {
        self.log.outcomes.lock().unwrap().push(*outcome);
    }

    fn tunnel_lost(&mut self, _: &Self::Pod, tunnel: LostTunnel<'_>) {
        self.log.losses.lock().unwrap().push(tunnel.loss);
    }

    fn still_permitted(&mut self, _: &mut u32) -> bool {
        self.permitted
    }
}

/// An engine on a thread of its own, with one listener.
pub(in crate::transport) struct Side {
    pub(in crate::transport) address: SocketAddr,
    pub(in crate::transport) handle: Handle<Script>,
    pub(in crate::transport) log: Arc<Log>,
    pub(in crate::transport) counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Side {
    pub(in crate::transport) fn start(script: Script, direction: Direction, settings: Settings) -> Self {
        Self::start_with(script, direction, settings, Limits::default())
    }

    pub(in crate::transport) fn start_with(
        script: Script,
        direction: Direction,
        settings: Settings,
        handshakes: Limits,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (send, receive) = std::sync::mpsc::channel();
        let log = script.log.clone();
        let thread = std::thread::spawn(move || {
            let mut engine = Engine::new(script, settings, Handshakes::new(handshakes)).unwrap();
            let socket = Arc::new(OwnedFd::from(listener));
            engine.listen(NewListener { id: ListenerId(1), socket, pod: "pod", direction }).unwrap();
            send.send((engine.handle(), engine.counters())).unwrap();
            engine.run().unwrap();
        });
        let (handle, counters) = receive.recv().unwrap();
        Self { address, handle, log, counters, thread: Some(thread) }
    }

    /// Waits until the side has told how `count` connections ended.
    pub(in crate::transport) fn outcomes(&self, count: usize) -> Vec<Outcome> {
        eventually("connections to end", || {
            let outcomes = self.log.outcomes.lock().unwrap();
            (outcomes.len() >= count).then(|| outcomes.clone())
        })
    }

    pub(in crate::transport) fn stop(&mut self) {
        self.handle.send(Engine::stop);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.handle.send(Engine::stop);
    }
}

/// Source, destination and the identities of both.
pub(in crate::transport) struct World {
    pub(in crate::transport) identities: Arc<Identities>,
    pub(in crate::transport) client: SpiffeId,
    pub(in crate::transport) server: SpiffeId,
    _trust: tempfile::TempDir,
}

impl World {
    pub(in crate::transport) fn new() -> Self {
        let trust = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let authority = Authority::open(
            AuthoritySettings {
                trust_dir: trust.path().to_owned(),
                trust_domain: domain.clone(),
                lifetime: Duration::from_secs(3600),
                backdate: Duration::from_secs(60),
            },
            &system_clock(),
        )
        .unwrap();
        let metrics = IdentityMetrics::new(&crate::telemetry::registry::Registry::new()).unwrap();
        let identities =
            Identities::new(Arc::new(authority), IdentitySettings::default(), system_clock(), metrics)
                .unwrap();
        let client = SpiffeId::new(&domain, "shop", "client").unwrap();
        let server = SpiffeId::new(&domain, "shop", "server").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for identity in [&client, &server] {
            runtime.block_on(identities.ensure(identity)).unwrap();
        }
        Self { identities: Arc::new(identities), client, server, _trust: trust }
    }

    pub(in crate::transport) fn script(&self, direction: Direction, to: SocketAddr) -> Script {
        let (own, expected) = match direction {
            Direction::Outbound => (&self.client, &self.server),
            Direction::Inbound => (&self.server, &self.client),
        };
        Script {
            log: Arc::default(),
            identities: self.identities.clone(),
            own: own.clone(),
            expected: expected.clone(),
            outbound: Route::Tunnel(to),
            second: None,
            application: to,
            refuse_streams: None,
            held_back: None,
            plaintext_at_accept: false,
            permitted: true,
            believed: None,
        }
    }

    pub(in crate::transport) fn destination(&self, application: SocketAddr) -> Side {
        Side::start(self.script(Direction::Inbound, application), Direction::Inbound, Settings::default())
    }

    pub(in crate::transport) fn source(&self, destination: SocketAddr) -> Side {
        Side::start(self.script(Direction::Outbound, destination), Direction::Outbound, Settings::default())
    }

    /// Source and destination in front of `application`.
    pub(in crate::transport) fn pair(&self, application: SocketAddr) -> (Side, Side) {
        let destination = self.destination(application);
        (self.source(destination.address), destination)
    }
}

/// Lets so much time pass for an engine, at once, and whatever is due by then happen.
pub(in crate::transport) fn pass<C: Conductor>(handle: &Handle<C>, time: Duration) {
    handle.send(move |engine| engine.core.ahead += time);
    // The turn that is told may answer at once, by the time from before; the next one answers before it looks at what is due;
    // the one after that has seen all of it happen.
    for _ in 0..3 {
        let (done, turned) = std::sync::mpsc::channel();
        handle.send(move |_| done.send(()).unwrap());
        turned.recv_timeout(PATIENCE).unwrap();
    }
}

/// Has `from` give to `to` what it accepts while it carries more.
pub(in crate::transport) fn share<C: Conductor>(from: &Handle<C>, to: &Handle<C>) {
    let (send, receive) = std::sync::mpsc::channel();
    to.send(move |engine| send.send(engine.neighbour()).unwrap());
    let neighbour = receive.recv_timeout(PATIENCE).unwrap();
    from.send(move |engine| engine.share_with(vec![neighbour]));
}

/// Whether a connection is open and says nothing.
pub(in crate::transport) fn is_quiet(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let quiet = stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    quiet
}

/// A listener whose every connection is served by `serve`, each on a thread of its own.
pub(in crate::transport) fn application(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Sends back what it gets, until the end.
pub(in crate::transport) fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// An address where nobody listens: bound for as long as the tests run, so that nobody else gets its port.
pub(in crate::transport) fn nobody() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

pub(in crate::transport) fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub(in crate::transport) fn ping(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

/// Waits until `look` finds something, and says what was waited for if it never does.
pub(in crate::transport) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// An address that takes no connection and refuses none: as many wait there as it lets wait.
pub(in crate::transport) fn full() -> (SocketAddr, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = vec![listener];
    for _ in 0..4 {
        let waits = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        waits.set_nonblocking(true).unwrap();
        let _ = waits.connect(&address);
        held.push(waits);
    }
    (address.as_socket().unwrap(), held)
}
