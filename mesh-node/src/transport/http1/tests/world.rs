//! A conductor that knows requests, two engines in front of an application that speaks HTTP, and a client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use mesh_common::http1::{self, LocalAnswer};
use mesh_common::model::{DecisionId, Direction, RequestFacts, SpiffeId, WorkloadUid};
use mesh_common::tunnel::{Open, ResetReason, StreamKind, StreamToken};
use rustls_pki_types::CertificateDer;

use crate::identity::{Alpn, Identities, server_name};
use crate::transport::Planned;
use crate::transport::connect::Dial;
use crate::transport::handshakes::{Handshakes, Place};
use crate::transport::http1::{ExchangeOutcome, HttpCourse, Instead, PoolScope, QuestionId, RequestCourse};
use crate::transport::tunnel::tests::world::World;
use crate::transport::tunnel::{
    Accepted, Caller, Conductor, Counters, Course, Engine, FirstBytes, Handle, Identified, Inbound,
    ListenerId, LostTunnel, NewListener, Outbound, Refusal, Settings, Speaks, TunnelKey, TunnelPlan,
};
use crate::transport::{CloseReason, Outcome, TunnelLoss};

/// What every refusal is called here.
pub(super) const DECISION: &str = "4k2nd-9xq1-7h3mz0v8w5rc";

/// What a conductor was asked and told.
#[derive(Default)]
pub(super) struct Log {
    /// Method, host and path of each request that was asked about.
    pub(super) requests: Mutex<Vec<String>>,
    pub(super) exchanges: Mutex<Vec<(String, ExchangeOutcome)>>,
    pub(super) refusals: Mutex<Vec<http1::Refusal>>,
    pub(super) connections: Mutex<Vec<Outcome>>,
    /// Connections that are permitted no more, counted whenever it was said.
    pub(super) forbidden: Mutex<usize>,
    /// Clients that speak HTTP/2.
    pub(super) handed: Mutex<Vec<OwnedFd>>,
}

/// Sends every request where its fields say. `/denied` is refused on either side that is told to.
#[derive(Clone)]
pub(super) struct Judge {
    pub(super) log: Arc<Log>,
    identities: Arc<Identities>,
    own: SpiffeId,
    expected: SpiffeId,
    pub(super) to: To,
    /// Where requests for `/elsewhere` go.
    pub(super) elsewhere: Option<To>,
    /// Where a request goes whose first endpoint was not there.
    pub(super) second: Option<To>,
    pub(super) denies: bool,
    pub(super) permitted: bool,
    /// Connections are permitted no more.
    pub(super) forbids: bool,
    /// Streams are opened as opaque ones: the destination asks for requests nevertheless.
    pub(super) opaque: bool,
    token: u8,
}

#[derive(Clone, Copy)]
pub(super) enum To {
    Tunnel(SocketAddr),
    Application(SocketAddr),
}

impl Judge {
    fn course(&mut self, to: To) -> RequestCourse {
        self.token = self.token.wrapping_add(1);
        let planned = Planned::for_test();
        match to {
            To::Tunnel(destination) => {
                let source = WorkloadUid("pod-a".into());
                let open = Open {
                    token: StreamToken([self.token; 16]),
                    kind: StreamKind::Http1,
                    dialled: destination,
                    source_port: 4242,
                };
                let called = WorkloadUid("pod-b".into());
                let key = TunnelKey { source, destination, called, identity: self.expected.clone() };
                RequestCourse {
                    course: Course::Tunnel { key, open, planned },
                    share: None,
                    edits: None,
                    client_certificate: None,
                    request_id: None,
                    response_edits: None,
                }
            }
            To::Application(application) => {
                let share = PoolScope {
                    caller: [127, 0, 0, 1].into(),
                    identity: Some(self.expected.clone()),
                    called: WorkloadUid("pod-b".into()),
                    application,
                };
                let dial = Dial { destination: application, source: None, netns: None };
                RequestCourse {
                    course: Course::Direct { dial, planned },
                    share: Some(share),
                    edits: None,
                    client_certificate: None,
                    request_id: None,
                    response_edits: None,
                }
            }
        }
    }

    fn http(&self, one_exchange: bool) -> Course {
        let dialled = "10.0.0.1:8080".parse().unwrap();
        Course::Http(HttpCourse { dialled, known_client: true, one_exchange, expects_http2: false })
    }
}

impl Conductor for Judge {
    type Pod = &'static str;
    type Record = ();
    type Exchange = String;
    type Held = ();

    fn accept_outbound(&mut self, _: &Self::Pod, _: &Accepted<'_>) -> Result<Outbound<(), ()>, Refusal> {
        if self.opaque
            && let To::Tunnel(_) = self.to
        {
            let Course::Tunnel { key, open, planned } = self.course(self.to).course else { unreachable!() };
            return Ok(Outbound::Begin(
                (),
                Course::Tunnel { key, open: Open { kind: StreamKind::Opaque, ..open }, planned },
            ));
        }
        Ok(Outbound::Begin((), self.http(false)))
    }

    fn accept_inbound(&mut self, _: &Self::Pod, _: &Accepted<'_>) -> Result<Inbound<()>, Refusal> {
        Ok(Inbound::Peek)
    }

    fn accept_plaintext(
        &mut self,
        _: &Self::Pod,
        _: &Accepted<'_>,
        _: FirstBytes<'_>,
    ) -> Result<((), Course), Refusal> {
        Ok(((), self.http(false)))
    }

    fn accept_h2(&mut self, _: &Self::Pod, _: OwnedFd, _: SocketAddr, _: SocketAddr, _: Place) {}

    fn hand_over(&mut self, _: &Self::Pod, (): (), socket: OwnedFd, _: Speaks) {
        self.log.handed.lock().unwrap().push(socket);
    }

    fn plan_tunnel(&mut self, _: &Self::Pod, key: &TunnelKey, (): &()) -> Result<TunnelPlan, TunnelLoss> {
        let tls = self.identities.client(&self.own, &self.expected, Alpn::Mux1);
        Ok(TunnelPlan {
            dial: Dial { destination: key.destination, source: None, netns: None },
            tls: tls.map_err(|_| TunnelLoss::NoCertificate)?,
            name: server_name(None, key.destination.ip()),
            retire_at: None,
        })
    }

    fn serve_tunnel(&mut self, _: &Self::Pod) -> Result<Arc<rustls::ServerConfig>, TunnelLoss> {
        self.identities.server(&self.own, Alpn::Mux1).map_err(|_| TunnelLoss::NoCertificate)
    }

    fn identify(&mut self, certificates: &[CertificateDer<'_>]) -> Result<Identified, Refusal> {
        let peer = self.identities.peer(Some(certificates)).map_err(|_| Refusal(ResetReason::Denied))?;
        Ok(Identified { identity: peer.identity, certificate: peer.certificate, until: None })
    }

    fn open_stream(&mut self, _: &Self::Pod, _: &Caller, open: &Open) -> Result<((), Course), Refusal> {
        Ok(((), self.http(open.kind == StreamKind::Http1)))
    }

    fn request(
        &mut self,
        _: &Self::Pod,
        (): &mut (),
        request: &RequestFacts<'_>,
        _: Option<QuestionId>,
    ) -> Result<(String, RequestCourse), Instead> {
        let (method, host) = (String::from_utf8_lossy(request.method), String::from_utf8_lossy(request.host));
        let text = format!("{method} {host} {}", request.path.as_str());
        self.log.requests.lock().unwrap().push(text.clone());
        if self.denies && request.path.as_str() == "/denied" {
            return Err(LocalAnswer {
                status: 403,
                text: "RBAC: access denied",
                reason: "policy",
                decision: None,
            }
            .into());
        }
        let elsewhere = self.elsewhere.filter(|_| request.path.as_str() == "/elsewhere");
        Ok((text, self.course(elsewhere.unwrap_or(self.to))))
    }

    fn next_endpoint_of_request(
        &mut self,
        _: &Self::Pod,
        (): &mut (),
        _: &mut String,
        _: CloseReason,
    ) -> Option<RequestCourse> {
        let second = self.second?;
        Some(self.course(second))
    }

    fn exchange_ended(
        &mut self,
        (): &mut (),
        exchange: String,
        outcome: &ExchangeOutcome,
    ) -> Option<DecisionId> {
        self.log.exchanges.lock().unwrap().push((exchange, *outcome));
        Some(DECISION.parse().unwrap())
    }

    fn request_refused(
        &mut self,
        (): &mut (),
        refusal: http1::Refusal,
        _: http1::AskedFor,
    ) -> Option<DecisionId> {
        self.log.refusals.lock().unwrap().push(refusal);
        Some(DECISION.parse().unwrap())
    }

    fn request_still_permitted(&mut self, (): &(), _: &mut String) -> bool {
        self.permitted
    }

    fn next_endpoint(&mut self, (): &mut (), _: CloseReason) -> Option<Course> {
        None
    }

    fn closed(&mut self, (): (), outcome: &Outcome) {
        self.log.connections.lock().unwrap().push(*outcome);
    }

    fn tunnel_lost(&mut self, _: &Self::Pod, _: LostTunnel<'_>) {}

    fn still_permitted(&mut self, (): &mut ()) -> bool {
        *self.log.forbidden.lock().unwrap() += usize::from(self.forbids);
        !self.forbids
    }
}

/// An engine on a thread of its own, with one listener.
pub(super) struct Side {
    pub(super) address: SocketAddr,
    pub(super) handle: Handle<Judge>,
    pub(super) log: Arc<Log>,
    pub(super) counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Side {
    pub(super) fn start(judge: Judge, direction: Direction, settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (send, receive) = std::sync::mpsc::channel();
        let log = judge.log.clone();
        let thread = std::thread::spawn(move || {
            let mut engine = Engine::new(judge, settings, Handshakes::default()).unwrap();
            let socket = Arc::new(OwnedFd::from(listener));
            engine.listen(NewListener { id: ListenerId(1), socket, pod: "pod", direction }).unwrap();
            send.send((engine.handle(), engine.counters())).unwrap();
            engine.run().unwrap();
        });
        let (handle, counters) = receive.recv().unwrap();
        Self { address, handle, log, counters, thread: Some(thread) }
    }

    /// Waits until `count` exchanges have ended, and gives how.
    pub(super) fn exchanges(&self, count: usize) -> Vec<(String, ExchangeOutcome)> {
        eventually("exchanges to end", || {
            let exchanges = self.log.exchanges.lock().unwrap();
            (exchanges.len() >= count).then(|| exchanges.clone())
        })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.handle.send(Engine::stop);
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().unwrap();
        }
    }
}

pub(super) fn judge(world: &World, direction: Direction, to: To) -> Judge {
    let (own, expected) = match direction {
        Direction::Outbound => (&world.client, &world.server),
        Direction::Inbound => (&world.server, &world.client),
    };
    Judge {
        log: Arc::default(),
        identities: world.identities.clone(),
        own: own.clone(),
        expected: expected.clone(),
        to,
        elsewhere: None,
        second: None,
        denies: direction == Direction::Inbound,
        permitted: true,
        forbids: false,
        opaque: false,
        token: 0,
    }
}

/// Source and destination in front of `application`.
pub(super) fn pair(world: &World, application: SocketAddr) -> (Side, Side) {
    let inbound = judge(world, Direction::Inbound, To::Application(application));
    let destination = Side::start(inbound, Direction::Inbound, Settings::default());
    let outbound = judge(world, Direction::Outbound, To::Tunnel(destination.address));
    (Side::start(outbound, Direction::Outbound, Settings::default()), destination)
}

/// Reads one message with its body, if it has a length. `None` at the end of the connection.
pub(super) fn read_message(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ").map(|length| length.parse().unwrap()));
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// Sends a request and reads its answer.
pub(super) fn ask(stream: &mut TcpStream, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let (head, body) = read_message(stream).expect("there is an answer");
    (head["HTTP/1.1 ".len()..][..3].parse().unwrap(), String::from_utf8(body).unwrap())
}

pub(super) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")
}

/// Everything until the end of the connection.
pub(super) fn read_all(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

pub(super) use crate::transport::tunnel::tests::world::{application, connect, eventually, nobody};

/// An application that answers every request with its request line and the size of its body, and counts its
/// connections and requests.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) connections: Mutex<usize>,
    pub(super) heads: Mutex<Vec<String>>,
}

pub(super) fn polite(seen: &Arc<Seen>) -> SocketAddr {
    let seen = seen.clone();
    application(move |mut stream| {
        *seen.connections.lock().unwrap() += 1;
        while let Some((head, body)) = read_message(&mut stream) {
            let line = head.lines().next().unwrap().to_owned();
            seen.heads.lock().unwrap().push(head);
            let answer = format!("{line} +{}", body.len());
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
            if stream.write_all(head.as_bytes()).is_err() {
                return;
            }
        }
    })
}
