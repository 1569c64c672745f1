//! A request on its way to where its plan says: over which version, on which connection, and once more where that is safe.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use h2::Reason;
use http::request::Parts;
use http::{Request, Response};
use mesh_common::model::Protocol;
use mesh_common::route::Plan;
use tokio::time::Instant;

use super::answer::is_grpc;
use super::ask;
use super::body::{Application, Held, Record};
use super::conductor::{Conductor, RefusedUnseen};
use super::connect::{ConnectFailure, http1_in_the_clear, takes_websockets, tls_to};
use super::exchange::Shared;
use super::incoming::{HttpError, Incoming};
use super::pool::{Caller, Connecting, Key, RefusedBy};
use super::request::for_http1;
use super::strict::{Sender, Unanswered};
use super::upload::{RequestBody, Upload};
use super::websocket;
use crate::transport::handshakes::Source;
use crate::transport::tasks;

/// How often a request is sent to one endpoint, where it was not looked at: a connection may end under it, and so may
/// the next one.
const MOST_SENDS: usize = 3;

/// A request that came back unsent, with why.
pub(super) struct Unsent {
    pub(super) request: Option<(Parts, RequestBody)>,
    pub(super) failure: ConnectFailure,
}

/// Sends it. Without a plan that another endpoint is part of, what failed is the answer.
///
/// # Errors
/// It has no answer: with the request itself, where it may be sent elsewhere.
pub(super) async fn send<C: Conductor>(
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
            return send_upgrade(shared, conductor, plan, request, record).await;
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
            if !takes_websockets(&mut lease.sender, &shared.settings).await {
                return Err(Unsent { request: None, failure: ConnectFailure::NoExtendedConnect });
            }
            websocket::as_connect(&mut sent);
        }
        let request = Request::from_parts(sent, body);
        let error = match lease.sender.ask(request, record).await {
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
    unanswered: ask::Unanswered,
    left: usize,
) -> (bool, Result<RequestBody, ConnectFailure>) {
    let (was_refused, error) = match unanswered {
        // It went nowhere, and costs nobody anything.
        ask::Unanswered::Unsent(body, _) if left > 0 => return (false, Ok(body)),
        ask::Unanswered::Unsent(_, error) => (false, error),
        ask::Unanswered::Unopened(error) => (is_harmless(parts, upload), error),
        ask::Unanswered::Broke(error) => (is_unseen(&error), error),
        ask::Unanswered::Faulty(failure) => return (false, Err(failure)),
    };
    let next = was_refused.then(|| again((shared, conductor), key, upload, left)).flatten();
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

/// Whether a request may be sent again that still waited for its stream to open (RFC 9113 section 5.1.2) when its connection
/// ended. The stream may have opened in that very moment: what is sent again may be done twice, or is a call of which not one
/// message was read.
fn is_harmless(parts: &Parts, upload: &Upload) -> bool {
    let is_call_alone = is_grpc(&parts.headers) && upload.is_untouched();
    !upload.is_slow() && (parts.method.is_idempotent() || is_call_alone)
}

/// Why there is no answer on a connection.
fn broke(upload: &Upload, error: impl Into<ConnectFailure>) -> ConnectFailure {
    match upload.malformed() {
        Some(refusal) => ConnectFailure::BadBody(refusal),
        None if upload.is_slow() => ConnectFailure::SlowRequest,
        None => error.into(),
    }
}

/// Whether the other side says that it did nothing about a request (RFC 9113 section 8.7): its stream was refused, or is
/// after the last one that a GOAWAY names.
fn is_unseen(error: &HttpError) -> bool {
    let HttpError::Http2(said) = error else { return false };
    said.is_remote() && (said.is_go_away() || said.reason() == Some(Reason::REFUSED_STREAM))
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
        let Unanswered { unsent, error } =
            match sender.try_send_request(request, |interim| record.interim(interim)).await {
                Ok(response) => {
                    let pool = shared.http1.clone();
                    record.hold(Held::Application(Box::new(Application { pool, key, sender })));
                    return Ok(response);
                }
                Err(unanswered) => unanswered,
            };
        // The application closed an idle connection under it, unsent: once more, on a fresh one.
        request = match unsent {
            Some(unsent) if !is_last => unsent,
            _ => return Err(Unsent { request: None, failure: broke(&upload, error) }),
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
    record: &Record<C::Exchange>,
) -> Result<Response<Incoming>, Unsent> {
    request.1.upload().seen();
    let mut sender = match connect_http1(shared, conductor, plan).await {
        Ok(sender) => sender,
        Err(failure) => return Err(Unsent { request: Some(request), failure }),
    };
    let mut request = for_http1(request);
    let key = websocket::as_upgrade(request.headers_mut());
    let answered = sender.try_send_request(request, |interim| record.interim(interim)).await;
    let answered = answered.map_err(|unanswered| unanswered.error);
    let answered = answered.and_then(|response| websocket::switched(response, &key));
    answered.map_err(|failure| Unsent { request: None, failure })
}

async fn connect_http1<C: Conductor>(
    shared: &Rc<Shared>,
    conductor: &Rc<C>,
    plan: &Plan,
) -> Result<Sender, ConnectFailure> {
    let begun = http1_in_the_clear(dial(conductor, plan)?, &shared.settings).await?;
    tasks::spawn(begun.work);
    let mut sender = begun.sender;
    sender.ready().await.map_err(|error| ConnectFailure::Http(Rc::new(error.into())))?;
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
