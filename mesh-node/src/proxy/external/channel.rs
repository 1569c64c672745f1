//! The way to authorization servers: as the called pod, by the same outbound stages as its application's connections, so
//! that identity, mutual TLS, balancing, policy of the server's own and records are those of any other call.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use mesh_common::model::{
    AuthorizerProtocol, ConnectionFacts, Direction, HttpCheck, PeerIdentity, Protocol, ServerName, Text,
    WorkloadUid,
};
use mesh_common::policy::ExternalDenial;
use mesh_common::resolve::{self, Target};
use prost::Message as _;

use super::word::{self, MAX_BODY, Word};
use super::{About, AskedBody, Proxy};
use crate::proxy::record::{HttpConnection, Record};
use crate::transport::http2::{OwnClient, own_client};
use crate::transport::tunnel::Speaks;

/// Most questions of one pod to one server that have no answer, on one core.
const MOST_WAITING: usize = 1024;
/// The method of the server.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// In answers of our own daemons: it was not the server who spoke.
const REASON: &str = "x-nodemesh-reason";

/// Connections to authorization servers of one core, by pod and server.
#[derive(Default)]
pub(super) struct Clients(RefCell<HashMap<(WorkloadUid, Text), Client>>);

#[derive(Clone)]
struct Client {
    to: SocketAddr,
    sender: OwnClient,
    waiting: Rc<Cell<usize>>,
}

/// One more that waits, until it is dropped.
struct Waiting(Rc<Cell<usize>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Clients {
    pub(super) fn forget(&self, called: &WorkloadUid) {
        self.0.borrow_mut().retain(|(uid, _), _| uid != called);
    }
}

type Answer = Result<Response<Incoming>, ExternalDenial>;

impl Proxy {
    /// Asks the server, and reads what it says.
    pub(super) async fn converse(&self, about: &About, body: &AskedBody) -> Result<Word, ExternalDenial> {
        match &about.authorizer.protocol {
            AuthorizerProtocol::Grpc => of_grpc(self.send(about, grpc(about, body)?).await?).await,
            AuthorizerProtocol::Http(check) => {
                of_http(check, self.send(about, http(check, about, body)?).await?).await
            }
        }
    }

    /// Sends a request; once more on a fresh connection, where the one that was kept had ended.
    async fn send(&self, about: &About, request: Request<Full<Bytes>>) -> Answer {
        let mut request = request;
        for _ in 0..2 {
            let mut client = self.client(about).await?;
            if client.waiting.get() >= MOST_WAITING {
                return Err(ExternalDenial::Overloaded);
            }
            client.waiting.set(client.waiting.get() + 1);
            let _waiting = Waiting(client.waiting.clone());
            match client.sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    // Reset, or a head that is too large.
                    None => return Err(ExternalDenial::BadAnswer),
                },
            }
        }
        Err(ExternalDenial::Unreachable)
    }

    async fn client(&self, about: &About) -> Result<Client, ExternalDenial> {
        let key = (about.facts.local.uid.clone(), about.authorizer.name.clone());
        let to = self.address(about).ok_or(ExternalDenial::Unreachable)?;
        let kept = self.questions.clients.0.borrow().get(&key).cloned();
        if let Some(client) = kept.filter(|client| client.to == to && !client.sender.is_closed()) {
            return Ok(client);
        }
        let (pod, record) = self.leave_to_ask(about, to)?;
        let begun = own_client(|socket| self.serve_http2(&pod, record, socket, Speaks::Http2)).await;
        let sender = begun.map_err(|_| ExternalDenial::Unreachable)?;
        let client = Client { to, sender, waiting: Rc::default() };
        self.questions.clients.0.borrow_mut().insert(key, client.clone());
        Ok(client)
    }

    /// Where the server is dialled.
    fn address(&self, about: &About) -> Option<SocketAddr> {
        let snapshot = self.snapshot();
        let record = snapshot.service(&about.authorizer.service)?;
        let of_family = |address: &&std::net::IpAddr| address.is_ipv4() == about.facts.original_dst.is_ipv4();
        let addresses = &record.service.cluster_ips;
        let address = addresses.iter().find(of_family).or(addresses.first())?;
        Some(SocketAddr::new(*address, about.authorizer.port))
    }

    /// A connection of the called pod to the server, as one of its application's.
    fn leave_to_ask(
        &self,
        about: &About,
        to: SocketAddr,
    ) -> Result<(super::super::PodHandle, Record), ExternalDenial> {
        let snapshot = self.snapshot();
        let uid = &about.facts.local.uid;
        let pod = self.pod(uid).ok_or(ExternalDenial::Unreachable)?;
        let local = snapshot.workload(uid).cloned().ok_or(ExternalDenial::Unreachable)?;
        let own = super::super::of_family(&local.addresses, to).ok_or(ExternalDenial::Unreachable)?;
        let facts = ConnectionFacts {
            direction: Direction::Outbound,
            client: SocketAddr::new(own, 0),
            original_dst: to,
            peer: PeerIdentity::Verified(local.identity.clone()),
            local,
            certificate: None,
            claimed_dst: None,
            server_name: ServerName::Absent,
        };
        let destination = resolve::destination(&snapshot, &facts).with_detected(Protocol::Http2);
        if matches!(destination.target, Target::Unknown(_)) {
            return Err(ExternalDenial::Unreachable);
        }
        let place = pod.places().take().map_err(|_| ExternalDenial::Overloaded)?;
        let place = place.using(self.in_use(&facts));
        Ok((pod, Record::of_requests(place, HttpConnection::new(&snapshot, facts, destination))))
    }
}

fn grpc(about: &About, body: &AskedBody) -> Result<Request<Full<Bytes>>, ExternalDenial> {
    let id = uuid(&about.asked);
    let message = about.asked.check_request(id, about.authorizer.body.map(|included| (body, included)));
    let length = u32::try_from(message.encoded_len()).map_err(|_| ExternalDenial::BadAnswer)?;
    let mut framed = BytesMut::with_capacity(length as usize + 5);
    framed.put_u8(0);
    framed.put_u32(length);
    message.encode(&mut framed).map_err(|_| ExternalDenial::BadAnswer)?;
    let service = &about.authorizer.service;
    let uri = format!("http://{}.{}:{}{CHECK}", service.name, service.namespace, about.authorizer.port);
    let request = Request::builder().method(Method::POST).uri(uri).header(CONTENT_TYPE, "application/grpc");
    let request = request
        .header(TE, "trailers")
        .header("grpc-timeout", format!("{}m", about.authorizer.timeout.as_millis()));
    request.body(Full::new(framed.freeze())).map_err(|_| ExternalDenial::BadAnswer)
}

fn http(check: &HttpCheck, about: &About, body: &AskedBody) -> Result<Request<Full<Bytes>>, ExternalDenial> {
    let asked = &about.asked;
    let included = about.authorizer.body.map(|_| body);
    let uri = format!("http://{}{}", asked.host(), asked.target(check));
    let mut request = Request::builder().method(asked.method()).uri(uri);
    for (name, value) in asked.headers(check, included) {
        let name = HeaderName::try_from(name).map_err(|_| ExternalDenial::BadAnswer)?;
        let value = HeaderValue::from_bytes(&value).map_err(|_| ExternalDenial::BadAnswer)?;
        request = request.header(name, value);
    }
    let shown = included.map_or_else(Bytes::new, |body| Bytes::copy_from_slice(&body.bytes));
    request.body(Full::new(shown)).map_err(|_| ExternalDenial::BadAnswer)
}

async fn of_grpc(response: Response<Incoming>) -> Result<Word, ExternalDenial> {
    let (head, body) = response.into_parts();
    let status =
        |headers: &http::HeaderMap| headers.get("grpc-status").map(|status| status.as_bytes().to_vec());
    if head.status != StatusCode::OK || head.headers.contains_key(REASON) {
        return Err(ExternalDenial::Unreachable);
    }
    let said = status(&head.headers);
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|_| ExternalDenial::BadAnswer)?;
    let said = said.or_else(|| body.trailers().and_then(status));
    match said.as_deref() {
        Some(b"0") => {}
        // Its UNAVAILABLE.
        Some(b"14") => return Err(ExternalDenial::Unreachable),
        _ => return Err(ExternalDenial::BadAnswer),
    }
    let framed = body.to_bytes();
    let message = framed.get(5..).filter(|message| {
        framed[0] == 0 && framed[1..5] == u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes()
    });
    let message = message.ok_or(ExternalDenial::BadAnswer)?;
    CheckResponse::decode(message).map(word::of_check).map_err(|_| ExternalDenial::BadAnswer)
}

async fn of_http(check: &HttpCheck, response: Response<Incoming>) -> Result<Word, ExternalDenial> {
    let (head, body) = response.into_parts();
    if head.headers.contains_key(REASON) {
        return Err(ExternalDenial::Unreachable);
    }
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|_| ExternalDenial::BadAnswer)?;
    let headers =
        head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    Ok(word::of_http(check, head.status.as_u16(), headers.collect(), body.to_bytes().to_vec()))
}

/// What tells the request from others: its own `x-request-id`, or a number made for it.
fn uuid(asked: &super::check::Asked) -> String {
    asked.request_id().unwrap_or_else(|| format!("{:032x}", fastrand::u128(..)))
}
