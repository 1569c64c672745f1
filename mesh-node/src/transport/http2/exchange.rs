//! One request: into its form, before the conductor, on its way (send.rs), and the response back.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use h2::Reason;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::upgrade::OnUpgrade;
use mesh_common::http1::{AskedFor, CLIENT_CERTIFICATE, Refusal, StripList};
use mesh_common::model::REQUEST_ID;
use mesh_common::route::Plan;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::activity::Open;
use super::answer::{Answered, Instead, OwnAnswer, is_grpc};
use super::body::{AnswerBody, Record};
use super::conductor::{Conductor, Ending, Exchange};
use super::connect::ConnectFailure;
use super::cut::{Cut, Half, Why};
use super::incoming::Incoming;
use super::limit::Limit;
use super::pace::Wanted;
use super::peers::Peers;
use super::pool::Pool;
use super::pool_http1::IdlePool;
use super::request::{edit, edit_headers, facts, normalise, remove_connection_fields};
use super::resends::Resends;
use super::send::{Unsent, send};
use super::settings::Settings;
use super::sources::Sources;
use super::switched::{self, Application};
use super::upload::{RequestBody, Upload};
use super::way::Way;
use super::websocket;
use crate::identity::Identities;
use crate::transport::handshakes::Handshakes;
use crate::transport::http1::{AskedBody, Question};

/// How many endpoints a request may find unreachable: the first, and one elsewhere.
const MOST_ENDPOINTS: usize = 2;

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

/// Serves one request. `way` brings the caller's side where the request may change the protocol.
///
/// # Errors
/// REFUSED_STREAM for one that came too late on its connection: its caller may send it again on another one (RFC 9113
/// section 8.7), for which an honest one has a new certificate.
pub(super) async fn serve<C: Conductor>(
    shared: Rc<Shared>,
    conductor: Rc<C>,
    open: Open,
    (request, way): (Request<Incoming>, Option<oneshot::Receiver<Way>>),
) -> Result<Answer<C>, Reason> {
    let (mut parts, incoming) = request.into_parts();
    let is_grpc = way.is_none() && is_grpc(&parts.headers);
    let asked = Asked { is_grpc, is_head: parts.method == Method::HEAD };
    if open.is_late() {
        conductor.late(asked_for(&parts));
        return Err(Reason::REFUSED_STREAM);
    }
    let settings = &*shared.settings;
    let limit = normalise(&mut parts, conductor.strip(), settings.max_fields).and_then(|()| {
        Limit::of(&parts.headers, is_grpc, way.is_some() || incoming.is_end_stream(), settings)
    });
    let limit = match limit {
        Ok(limit) => limit,
        Err(refusal) => return Ok(malformed(&*conductor, refusal, &parts, asked, open)),
    };
    let cut = Cut::default();
    open.taking().is_of(&cut);
    let strip = StripList::of(conductor.strip());
    let wanted = Wanted::of(&shared.settings);
    let caller = (open.activity(), shared.bodies.clone());
    let upload = Upload::new(incoming, strip, cut.clone(), (wanted, !asked.is_grpc), caller);
    let body = upload.body().expect("nothing of it was read");
    if let Some(limit) = limit {
        open.taking().bounds().set(limit, &cut, &upload);
    }
    if is_grpc {
        upload.count_messages();
    }
    let exchange = facts(&parts, |facts| conductor.begin(facts, cut.clone()));
    let mut record = Record::new(exchange, upload, cut.clone(), open.taking().clone());
    let answered = tokio::select! {
        biased;
        () = poll_fn(|context| cut.poll(Half::Response, context)) => None,
        answered = answer(&shared, &conductor, (parts, body), &mut record, asked.is_grpc) => Some(answered),
    };
    let answered = answered.unwrap_or_else(|| Err(cut_off(&*conductor, &mut record, &cut).into()));
    Ok(match answered {
        Ok(response) => upstreams::<C>(response, way, (record, cut), open, &shared.settings),
        Err(answer) => {
            let decision = answer.decision().or_else(|| record.exchange().decision());
            own::<C>(answer.about(decision), asked, Some(record), open)
        }
    })
}

/// The answer to a request that HTTP itself, or its size, forbids to go on.
fn malformed<C: Conductor>(
    conductor: &C,
    refusal: Refusal,
    parts: &Parts,
    asked: Asked,
    open: Open,
) -> Answer<C> {
    let answer = OwnAnswer::malformed(refusal);
    let response_bytes = if asked.is_grpc || asked.is_head { 0 } else { answer.text.len() as u64 };
    let decision = conductor.malformed(refusal, asked_for(parts), response_bytes);
    own::<C>(answer.about(Some(decision)), asked, None, open)
}

/// What the caller is told of a request that was ended before it was answered.
fn cut_off<C: Conductor>(conductor: &C, record: &mut Record<C::Exchange>, cut: &Cut) -> OwnAnswer {
    match cut.why() {
        Some(Why::RequestTimeout) => conductor.unreachable(record.exchange(), &ConnectFailure::SlowRequest),
        Some(Why::DeadlineExceeded) => {
            conductor.unreachable(record.exchange(), &ConnectFailure::DeadlineExceeded)
        }
        Some(Why::IdleTimedOut) => conductor.unreachable(record.exchange(), &ConnectFailure::IdleTimedOut),
        Some(Why::NotPermitted) | None => OwnAnswer::denied(Ending::Cut.as_str()),
    }
}

fn upstreams<C: Conductor>(
    response: Response<Incoming>,
    way: Option<oneshot::Receiver<Way>>,
    (mut record, cut): (Record<C::Exchange>, Cut),
    open: Open,
    settings: &Settings,
) -> Answer<C> {
    let (mut head, mut incoming) = response.into_parts();
    remove_connection_fields(&mut head.headers);
    if let Some(edits) = record.exchange().response_edits() {
        edit_headers(&mut head.headers, &edits);
    }
    let application = match incoming.take_way() {
        Some(way) => Some(Application::Stream(way)),
        None => head.extensions.remove::<OnUpgrade>().map(Application::Connection),
    };
    if let (Some(caller), Some(application)) = (way, application) {
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
    if let Some(id) = record.exchange().request_id() {
        request.0.headers.insert(REQUEST_ID, id);
    }
    loop {
        let came = edited(&mut request, record);
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

/// Edits a request as its rules say. Returns its head as it came, if that changed: to be decided again it is needed so.
fn edited<E: Exchange>((parts, body): &mut (Parts, RequestBody), record: &mut Record<E>) -> Option<Parts> {
    let edits = record.exchange().edits()?;
    let came = parts.clone();
    edit(parts, &edits);
    body.upload().remove(&edits.removed);
    Some(came)
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
                    Some(most) => body.gather(most).await.map_err(|_| gone(&**conductor, body, record))?,
                    None => AskedBody::default(),
                };
                conductor.ask(id, asked).await;
            }
        }
    }
    Err(OwnAnswer::unavailable("asked_too_often").into())
}

/// The body broke off before anybody was asked.
fn gone<C: Conductor>(conductor: &C, body: &RequestBody, record: &mut Record<C::Exchange>) -> Answered {
    let failure = if body.upload().is_slow() { ConnectFailure::SlowRequest } else { ConnectFailure::Closed };
    conductor.unreachable(record.exchange(), &failure).into()
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
