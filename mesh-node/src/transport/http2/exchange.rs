//! One request: into its form, before the conductor, to where its plan says, and the response back.

use std::cell::Cell;
use std::error::Error as _;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use h2::Reason;
use http::header::{CONNECTION, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::upgrade::OnUpgrade;
use mesh_common::http1::{AskedFor, CLIENT_CERTIFICATE, StripList};
use mesh_common::model::Protocol;
use mesh_common::route::Plan;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::activity::Open;
use super::answer::{Answered, Instead, OwnAnswer, is_grpc};
use super::body::{AnswerBody, Application, Held, Record};
use super::conductor::{Conductor, Ending, Exchange as _, RefusedUnseen};
use super::connect::{ConnectFailure, http1_in_the_clear, takes_websockets, tls_to};
use super::cut::{Cut, Half};
use super::pace::Wanted;
use super::peers::Peers;
use super::pool::{Caller, Connecting, Key, Pool, RefusedBy};
use super::pool_http1::IdlePool;
use super::request::{edit, edit_headers, facts, for_http1, normalise};
use super::resends::Resends;
use super::settings::Settings;
use super::sources::Sources;
use super::upload::{RequestBody, Upload};
use super::{switched, websocket};
use crate::identity::Identities;
use crate::transport::handshakes::{Handshakes, Source};
use crate::transport::http1::{AskedBody, Question};
use crate::transport::tasks;

/// How many endpoints a request may find unreachable: the first, and one elsewhere.
const MOST_ENDPOINTS: usize = 2;

/// How often a request is sent to one endpoint, where it was not looked at: a connection may end under it, and so may
/// the next one.
const MOST_SENDS: usize = 3;

/// How often somebody is asked about a request: once, and again where another pod is to serve it meanwhile.
const MOST_QUESTIONS: usize = 3;

/// What all connections of this core share.
pub(super) struct Shared {
    pub(super) settings: Rc<Settings>,
    pub(super) identities: Arc<Identities>,
    pub(super) http2: Rc<Pool>,
    pub(super) http1: Rc<IdlePool>,
    /// Who is at the other ends of our TLS.
    pub(super) peers: Rc<Peers>,
    pub(super) handshakes: Handshakes,
    /// Who has connections of our TLS open here.
    pub(super) sources: Rc<Sources>,
    pub(super) resends: Resends,
    /// How many requests' bodies are held.
    pub(super) bodies: Rc<Cell<usize>>,
}

type Answer<C> = Response<AnswerBody<<C as Conductor>::Exchange>>;
type Tried = SmallVec<[SocketAddr; MOST_ENDPOINTS]>;

/// What an answer of ours depends on.
#[derive(Clone, Copy)]
struct Asked {
    is_grpc: bool,
    /// Answered without a body (RFC 9110 section 9.3.2).
    is_head: bool,
}

/// A request that came back unsent, with why.
struct Unsent {
    request: Option<(Parts, RequestBody)>,
    failure: ConnectFailure,
}

/// Serves one request.
///
/// # Errors
/// REFUSED_STREAM for one that came too late on its connection: its caller may send it again on another one (RFC 9113
/// section 8.7), for which an honest one has a new certificate.
pub(super) async fn serve<C: Conductor>(
    shared: Rc<Shared>,
    conductor: Rc<C>,
    open: Open,
    mut request: Request<Incoming>,
) -> Result<Answer<C>, h2::Error> {
    let way = (request.method() == Method::CONNECT).then(|| hyper::upgrade::on(&mut request));
    let (mut parts, incoming) = request.into_parts();
    let is_grpc = way.is_none() && is_grpc(&parts.headers);
    let asked = Asked { is_grpc, is_head: parts.method == Method::HEAD };
    if open.is_late() {
        conductor.late(asked_for(&parts));
        return Err(Reason::REFUSED_STREAM.into());
    }
    if let Err(refusal) = normalise(&mut parts, conductor.strip(), shared.settings.max_fields) {
        let answer = own::<C>(OwnAnswer::malformed(refusal), asked, None, open);
        let response_bytes = answer.body().size_hint().exact().unwrap_or_default();
        conductor.malformed(refusal, asked_for(&parts), response_bytes);
        return Ok(answer);
    }
    let cut = Cut::default();
    let strip = StripList::of(conductor.strip());
    let wanted = Wanted::of(&shared.settings);
    let caller = (open.activity(), shared.bodies.clone());
    let upload = Upload::new(incoming, strip, cut.clone(), (wanted, !asked.is_grpc), caller);
    let body = upload.body().expect("nothing of it was read");
    let exchange = facts(&parts, |facts| conductor.begin(facts, cut.clone()));
    let mut record = Record::new(exchange, upload, cut.clone(), open.taking().clone());
    let answered = tokio::select! {
        biased;
        () = poll_fn(|context| cut.poll(Half::Response, context)) => {
            Err(OwnAnswer::denied(Ending::Cut.as_str()).into())
        }
        answered = answer(&shared, &conductor, (parts, body), &mut record, asked.is_grpc) => answered,
    };
    Ok(match answered {
        Ok(response) => upstreams::<C>(response, way, (record, cut), open, &shared.settings),
        Err(answer) => {
            let decision = answer.decision().or_else(|| record.exchange().decision());
            own::<C>(answer.about(decision), asked, Some(record), open)
        }
    })
}

fn upstreams<C: Conductor>(
    response: Response<Incoming>,
    way: Option<OnUpgrade>,
    (mut record, cut): (Record<C::Exchange>, Cut),
    open: Open,
    settings: &Settings,
) -> Answer<C> {
    let (mut head, incoming) = response.into_parts();
    remove_connection_fields(&mut head.headers);
    if let Some(edits) = record.exchange().response_edits() {
        edit_headers(&mut head.headers, &edits);
    }
    if let (Some(caller), Some(application)) = (way, head.extensions.remove::<OnUpgrade>()) {
        // As Envoy counts it, and as it is over HTTP/1.1.
        record.answered(StatusCode::SWITCHING_PROTOCOLS);
        switched::carry((caller, application), (record, cut, open.goes_on()), settings);
        let body = AnswerBody::own(None, None, &head.headers, open);
        return Response::from_parts(head, body);
    }
    record.answered(head.status);
    let body = AnswerBody::upstream(incoming, record, &head.headers, open);
    Response::from_parts(head, body)
}

fn asked_for(parts: &Parts) -> AskedFor {
    AskedFor::new(parts.method.as_str().as_bytes(), parts.uri.path().as_bytes())
}

fn own<C: Conductor>(
    answer: impl Into<Answered>,
    asked: Asked,
    mut record: Option<Record<C::Exchange>>,
    open: Open,
) -> Answer<C> {
    let (response, text) = answer.into().response(asked.is_grpc);
    let text = text.filter(|_| !asked.is_head);
    if let Some(record) = &mut record {
        record.answered(response.status());
    }
    let (head, ()) = response.into_parts();
    let body = AnswerBody::own(text, record, &head.headers, open);
    Response::from_parts(head, body)
}

/// Decides and sends; an endpoint that cannot be reached is tried once elsewhere.
async fn answer<C: Conductor>(
    shared: &Rc<Shared>,
    conductor: &Rc<C>,
    request: (Parts, RequestBody),
    record: &mut Record<C::Exchange>,
    is_grpc: bool,
) -> Result<Response<Incoming>, Answered> {
    let mut request = request;
    let is_handshake = websocket::is_handshake(&request.0);
    let mut tried = Tried::new();
    let mut plan = decide_asking(conductor, &mut request, record).await?;
    if let Some(said) = conductor.client_certificate(&plan) {
        request.0.headers.insert(CLIENT_CERTIFICATE, said);
    }
    loop {
        let edits = record.exchange().edits();
        // To be decided again a request is needed as it came.
        let came = edits.as_ref().map(|_| request.0.clone());
        if let Some(edits) = &edits {
            edit(&mut request.0, edits);
            request.1.upload().remove(&edits.removed);
        }
        let Unsent { request: unsent, failure } =
            match send(shared, conductor, (&plan, is_grpc), request, record).await {
                Ok(response) => {
                    let proper = websocket::proper(response, is_handshake);
                    return proper
                        .map_err(|failure| conductor.unreachable(record.exchange(), &failure).into());
                }
                Err(unsent) => unsent,
            };
        tried.push(plan.address());
        let other = match unsent {
            Some(unsent) if failure.is_before_request() && tried.len() < MOST_ENDPOINTS => {
                request = unsent;
                request.0 = came.unwrap_or(request.0);
                decide(conductor, &request.0, record, &tried)
            }
            _ => return Err(conductor.unreachable(record.exchange(), &failure).into()),
        };
        // Only a plan for another endpoint helps; without one, this failure is the answer.
        plan = match other {
            Ok(other) if !tried.contains(&other.address()) => other,
            _ => return Err(conductor.unreachable(record.exchange(), &failure).into()),
        };
    }
}

/// The conductor's plan, once whoever is to be asked has answered.
async fn decide_asking<C: Conductor>(
    conductor: &Rc<C>,
    (parts, body): &mut (Parts, RequestBody),
    record: &mut Record<C::Exchange>,
) -> Result<Plan, Answered> {
    for _ in 0..MOST_QUESTIONS {
        match decide(conductor, parts, record, &[]) {
            Ok(plan) => return Ok(plan),
            Err(Instead::Own(answer)) => return Err(answer.into()),
            Err(Instead::Given(given)) => return Err(Answered::Given(given)),
            Err(Instead::Ask(Question { id, body: wanted })) => {
                let asked = match wanted {
                    Some(most) => body.gather(most).await.map_err(|_| gone(body))?,
                    None => AskedBody::default(),
                };
                conductor.ask(id, asked).await;
            }
        }
    }
    Err(OwnAnswer::unavailable("asked_too_often").into())
}

/// The body broke off before anybody was asked.
fn gone(body: &RequestBody) -> Answered {
    let failure = if body.upload().is_slow() { ConnectFailure::SlowRequest } else { ConnectFailure::Closed };
    OwnAnswer::unreachable(&failure).into()
}

/// The conductor's plan; for a pod of this node, that of its inbound stages.
fn decide<C: Conductor>(
    conductor: &Rc<C>,
    parts: &Parts,
    record: &mut Record<C::Exchange>,
    tried: &[SocketAddr],
) -> Result<Plan, Instead> {
    facts(parts, |facts| match conductor.decide(record.exchange(), facts, tried)? {
        Plan::Local(local) => conductor.arrive(record.exchange(), &local, facts),
        plan => Ok(plan),
    })
}

async fn send<C: Conductor>(
    shared: &Rc<Shared>,
    conductor: &Rc<C>,
    (plan, is_grpc): (&Plan, bool),
    request: (Parts, RequestBody),
    record: &mut Record<C::Exchange>,
) -> Result<Response<Incoming>, Unsent> {
    let pod = conductor.pod();
    let key = key_of(&**conductor, plan);
    if !is_grpc && speaks_http1(plan) {
        if websocket::is_handshake(&request.0) {
            return send_upgrade(shared, conductor, plan, request).await;
        }
        return send_http1(shared, conductor, plan, key, request, record).await;
    }
    let begin = || match plan {
        Plan::Tunnel(tunnel) => {
            let place = shared.handshakes.take(Source::Pod(pod.uid.clone()));
            let place = place.ok_or(ConnectFailure::TooManyHandshakes)?;
            let tls = tls_to(&shared.identities, &pod.identity, tunnel, place)?;
            Ok(Connecting::Tls(dial(conductor, plan)?, tls))
        }
        _ => Ok(Connecting::Clear(dial(conductor, plan)?)),
    };
    send_http2((shared, conductor), &key, begin, request, record).await
}

/// Which requests share a connection with this one.
fn key_of<C: Conductor>(conductor: &C, plan: &Plan) -> Key {
    let pod = || Caller::Pod(conductor.pod().uid.clone());
    let (caller, expected, service) = match plan {
        Plan::Tunnel(tunnel) => (pod(), Some(tunnel.expected().clone()), tunnel.sni.clone()),
        Plan::Direct(_) => (pod(), None, None),
        Plan::Application(_) | Plan::Local(_) => {
            let (address, identity) = conductor.client();
            (Caller::Client(address, identity.cloned()), None, None)
        }
    };
    let called = plan.workload().map(|workload| workload.uid.clone());
    Key { caller, to: plan.address(), called, expected, service }
}

async fn send_http2<C: Conductor>(
    (shared, conductor): (&Rc<Shared>, &Rc<C>),
    key: &Key,
    begin: impl Fn() -> Result<Connecting, ConnectFailure>,
    request: (Parts, RequestBody),
    record: &mut Record<C::Exchange>,
) -> Result<Response<Incoming>, Unsent> {
    let (parts, mut body) = request;
    let upload = body.upload();
    let is_handshake = websocket::is_handshake(&parts);
    let mut refused = RefusedBy::new();
    let mut left = MOST_SENDS;
    shared.resends.asked(key);
    loop {
        let mut lease = match shared.http2.lease(key, &begin, &refused).await {
            Ok(lease) => lease,
            Err(failure) => return Err(Unsent { request: Some((parts, body)), failure }),
        };
        let connection = lease.place.connection();
        record.hold(Held::Place(lease.place));
        left -= 1;
        let mut sent = parts.clone();
        if is_handshake {
            if !takes_websockets(&lease.said, &shared.settings).await {
                return Err(Unsent { request: None, failure: ConnectFailure::NoExtendedConnect });
            }
            websocket::as_connect(&mut sent);
        }
        let request = Request::from_parts(sent, body);
        let error = match lease.sender.try_send_request(request).await {
            Ok(response) => {
                upload.seen();
                return Ok(response);
            }
            Err(error) => error,
        };
        let (was_refused, next) = unanswered((shared, conductor), key, (&parts, &upload), error, left);
        if was_refused {
            refused.push(connection);
        }
        body = next.map_err(|failure| Unsent { request: None, failure })?;
    }
}

/// Whether the connection refused a request that has no answer, and the body with which it is sent once more.
fn unanswered<C: Conductor>(
    (shared, conductor): (&Shared, &Rc<C>),
    key: &Key,
    (parts, upload): (&Parts, &Rc<Upload>),
    mut error: TrySendError<Request<RequestBody>>,
    left: usize,
) -> (bool, Result<RequestBody, ConnectFailure>) {
    let unsent = error.take_message().map(Request::into_body);
    let error = error.into_error();
    let was_refused = unsent.is_none() && (is_unseen(&error) || is_unopened(&error, parts, upload));
    let next = match unsent {
        _ if was_refused => again((shared, conductor), key, upload, left),
        // The connection closed under it: it went nowhere, and costs nobody anything.
        unsent => unsent.filter(|_| left > 0),
    };
    (was_refused, next.ok_or_else(|| broke(upload, error)))
}

/// The body of a request that was refused unseen, if it is sent once more. `left`: how many times it may be sent.
fn again<C: Conductor>(
    (shared, conductor): (&Shared, &Rc<C>),
    key: &Key,
    upload: &Rc<Upload>,
    left: usize,
) -> Option<RequestBody> {
    let (body, became) = match upload.body() {
        _ if left == 0 => (None, RefusedUnseen::TooOften),
        None => (None, RefusedUnseen::TooLarge),
        Some(body) if shared.resends.take(key, Instant::now()) => (Some(body), RefusedUnseen::SentAgain),
        Some(_) => (None, RefusedUnseen::OverBudget),
    };
    conductor.refused_unseen(became);
    body
}

/// Whether a request still waited for its stream to open (RFC 9113 section 5.1.2) when its connection ended, and may be sent
/// again. hyper says no more of it than that it was given up, and the stream may have opened in that very moment: what is
/// sent again may be done twice, or is a call of which not one message was read.
fn is_unopened(error: &hyper::Error, parts: &Parts, upload: &Upload) -> bool {
    let is_harmless = parts.method.is_idempotent() || (is_grpc(&parts.headers) && upload.is_untouched());
    error.is_user() && !upload.is_slow() && is_harmless
}

/// Why there is no answer on a connection.
fn broke(upload: &Upload, error: hyper::Error) -> ConnectFailure {
    if upload.is_slow() { ConnectFailure::SlowRequest } else { error.into() }
}

/// Whether the other side says that it did nothing about a request (RFC 9113 section 8.7): its stream was refused, or is
/// after the last one that a GOAWAY names.
fn is_unseen(error: &hyper::Error) -> bool {
    let said = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    said.is_some_and(|said| {
        said.is_remote() && (said.is_go_away() || said.reason() == Some(Reason::REFUSED_STREAM))
    })
}

async fn send_http1<C: Conductor>(
    shared: &Rc<Shared>,
    conductor: &Rc<C>,
    plan: &Plan,
    key: Key,
    request: (Parts, RequestBody),
    record: &mut Record<C::Exchange>,
) -> Result<Response<Incoming>, Unsent> {
    // An application may have acted on what it was sent: there is no other try.
    let upload = request.1.upload();
    upload.seen();
    let mut sender = match shared.http1.take(&key).await {
        Some(sender) => sender,
        None => match connect_http1(shared, conductor, plan).await {
            Ok(sender) => sender,
            Err(failure) => return Err(Unsent { request: Some(request), failure }),
        },
    };
    let mut request = for_http1(request);
    let mut is_last = false;
    loop {
        let mut error = match sender.try_send_request(request).await {
            Ok(response) => {
                let pool = shared.http1.clone();
                record.hold(Held::Application(Box::new(Application { pool, key, sender })));
                return Ok(response);
            }
            Err(error) => error,
        };
        // The application closed an idle connection under it, unsent: once more, on a fresh one.
        request = match error.take_message() {
            Some(unsent) if !is_last => unsent,
            _ => return Err(Unsent { request: None, failure: broke(&upload, error.into_error()) }),
        };
        is_last = true;
        let fresh = connect_http1(shared, conductor, plan).await;
        sender = fresh.map_err(|failure| Unsent { request: None, failure })?;
    }
}

/// A WebSocket's handshake, on a connection of its own.
async fn send_upgrade<C: Conductor>(
    shared: &Rc<Shared>,
    conductor: &Rc<C>,
    plan: &Plan,
    request: (Parts, RequestBody),
) -> Result<Response<Incoming>, Unsent> {
    request.1.upload().seen();
    let mut sender = match connect_http1(shared, conductor, plan).await {
        Ok(sender) => sender,
        Err(failure) => return Err(Unsent { request: Some(request), failure }),
    };
    let mut request = for_http1(request);
    let key = websocket::as_upgrade(request.headers_mut());
    let answered = sender.try_send_request(request).await;
    let answered = answered.map_err(|error| ConnectFailure::from(error.into_error()));
    let answered = answered.and_then(|response| websocket::switched(response, &key));
    answered.map_err(|failure| Unsent { request: None, failure })
}

async fn connect_http1<C: Conductor>(
    shared: &Rc<Shared>,
    conductor: &Rc<C>,
    plan: &Plan,
) -> Result<super::strict::Sender, ConnectFailure> {
    let begun = http1_in_the_clear(dial(conductor, plan)?, &shared.settings).await?;
    tasks::spawn(begun.work);
    let mut sender = begun.sender;
    sender.ready().await.map_err(|error| ConnectFailure::Http(Rc::new(error)))?;
    Ok(sender)
}

fn dial<C: Conductor>(conductor: &Rc<C>, plan: &Plan) -> Result<OwnedFd, ConnectFailure> {
    conductor.dial(plan).map_err(|error| ConnectFailure::Dial(Rc::new(error)))
}

/// Between agents it is HTTP/2 always; to an application what its port says. (gRPC is HTTP/2 whatever its port is
/// called.)
fn speaks_http1(plan: &Plan) -> bool {
    match plan {
        Plan::Tunnel(_) | Plan::Local(_) => false,
        Plan::Direct(direct) => direct.protocol == Protocol::Http1,
        Plan::Application(application) => application.protocol == Protocol::Http1,
    }
}

/// Fields of an application's connection end here; over HTTP/2 they would be malformed (RFC 9113 section 8.2.2).
fn remove_connection_fields(headers: &mut HeaderMap) {
    let mut named: SmallVec<[HeaderName; 2]> = SmallVec::new();
    for value in headers.get_all(CONNECTION) {
        let names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        named.extend(names.filter_map(|name| HeaderName::from_bytes(name).ok()));
    }
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
}
