//! What stands between a controller and its API server, and does to answers what trouble does to them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use mesh_node::controller::client::client;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Barrier, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// How long a watch lasts where watches are short.
const SHORT: Duration = Duration::from_secs(1);
/// How long each answer takes where answers are late: less than anybody gives up after, more than is usual.
pub const LATE: Duration = Duration::from_secs(3);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Every request is answered with 500.
    Errors,
    /// Every request is answered with 401: of a server that has lost its store, and with it all service accounts.
    Strangers,
    /// Every watch is too old at once.
    Expired,
    /// That, and every list is an empty one; of single objects nothing is said.
    EmptyLists,
    /// That, and every list breaks off in the middle.
    TruncatedLists,
    /// Every watch ends after a second.
    ShortWatches,
    /// Every answer begins [`LATE`].
    Late,
    /// Every watch that is open says nothing more and does not end; all else is answered.
    StalledWatches,
    /// Nothing comes back, neither of what is asked nor of what was asked before.
    Silence,
}

/// The way to an API server.
#[derive(Clone)]
pub struct Between(Arc<Inside>);

struct Inside {
    client: Client,
    address: SocketAddr,
    trouble: watch::Sender<Trouble>,
    /// When a request came, the oldest first.
    requests: Mutex<VecDeque<Instant>>,
    /// How many have to ask for the authority's Secret before one hears that there is none.
    race: Barrier,
    /// What was answered to those who made a Secret.
    made: Mutex<Vec<u16>>,
}

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

impl Between {
    /// Passes everything on, with the rights of a kubeconfig.
    pub async fn start(kubeconfig: &Path) -> Result<Self> {
        Self::racing(kubeconfig, 1).await
    }

    /// The same; that there is no Secret of the authority nobody hears before so many have asked.
    pub async fn racing(kubeconfig: &Path, replicas: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for a controller")?;
        let inside = Inside {
            client: client(Some(kubeconfig)).await?,
            address: listener.local_addr()?,
            trouble: watch::Sender::new(Trouble::None),
            requests: Mutex::default(),
            race: Barrier::new(replicas),
            made: Mutex::default(),
        };
        let between = Self(Arc::new(inside));
        tokio::spawn(between.clone().serve(listener));
        Ok(between)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// Has something go wrong from now on, also with what is open.
    pub fn is_in(&self, trouble: Trouble) {
        self.0.trouble.send_replace(trouble);
        self.requests().clear();
    }

    /// The status of each answer to who made a Secret.
    pub fn made(&self) -> Vec<u16> {
        self.0.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests since the trouble changed, and the most of them in one second.
    pub fn asked(&self) -> (usize, usize) {
        let requests = self.requests();
        let within = |(index, first): (usize, &Instant)| {
            requests.range(index..).take_while(|at| **at - *first < Duration::from_secs(1)).count()
        };
        (requests.len(), requests.iter().enumerate().map(within).max().unwrap_or_default())
    }

    fn requests(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.0.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let between = self.clone();
            let service = service_fn(move |request| {
                let between = between.clone();
                async move { Ok::<_, Infallible>(between.answer(request).await) }
            });
            // A connection that breaks is what this is about.
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        self.requests().push_back(Instant::now());
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let mut troubles = self.0.trouble.subscribe();
        let trouble = *troubles.borrow_and_update();
        match trouble {
            Trouble::Errors => return status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            Trouble::Strangers => return status(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Trouble::Silence => return silence(troubles).await,
            Trouble::Late => drop(timeout(LATE, troubles.changed()).await),
            // Who may not go on must list anew.
            Trouble::Expired | Trouble::EmptyLists | Trouble::TruncatedLists if is_watch => {
                let event = json!({"type": "ERROR", "object": status_value(StatusCode::GONE, "Expired")});
                return text(StatusCode::OK, format!("{event}\n"));
            }
            _ => {}
        }
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let passed = self.pass_on(request).await;
        let answered = match passed {
            Ok(answered) => answered,
            Err(error) => return text(StatusCode::BAD_GATEWAY, format!("{error:#}")),
        };
        self.race(&method, &path, answered.status()).await;
        if is_watch {
            let end = (trouble == Trouble::ShortWatches).then(|| Instant::now() + SHORT);
            return answered.map(|body| until_trouble(body, troubles, end));
        }
        let (head, body) = answered.into_parts();
        let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        if *troubles.borrow_and_update() == Trouble::Silence {
            return silence(troubles).await;
        }
        let (code, said) = changed(trouble, head.status, &bytes);
        let mut answer = text(code, said);
        if let Some(kind) = head.headers.get(http::header::CONTENT_TYPE) {
            answer.headers_mut().insert(http::header::CONTENT_TYPE, kind.clone());
        }
        answer
    }

    /// Holds who found no Secret until the others have.
    async fn race(&self, method: &Method, path: &str, status: StatusCode) {
        if method == Method::POST && path.ends_with("/secrets") {
            self.0.made.lock().unwrap_or_else(PoisonError::into_inner).push(status.as_u16());
        }
        if path.ends_with("/secrets/nodemesh-ca") && status == StatusCode::NOT_FOUND {
            self.0.race.wait().await;
        }
    }

    async fn pass_on(&self, request: Request<Incoming>) -> Result<Response<Body>> {
        let (mut head, body) = request.into_parts();
        // Whose rights count is ours to say.
        head.headers.remove(http::header::AUTHORIZATION);
        head.headers.remove(http::header::HOST);
        let body = body.collect().await?.to_bytes();
        Ok(self.0.client.send(Request::from_parts(head, Body::from(body.to_vec()))).await?)
    }
}

/// An answer that is no watch, as trouble leaves it.
fn changed(trouble: Trouble, code: StatusCode, bytes: &Bytes) -> (StatusCode, String) {
    let said = String::from_utf8_lossy(bytes).into_owned();
    let mut object: Value = serde_json::from_str(&said).unwrap_or_default();
    let is_list = object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    match trouble {
        Trouble::EmptyLists if is_list => {
            object["items"] = json!([]);
            (code, object.to_string())
        }
        Trouble::EmptyLists => {
            let error = status_value(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
        }
        Trouble::TruncatedLists if is_list => {
            (code, said[..said.floor_char_boundary(said.len() / 2)].to_owned())
        }
        _ => (code, said),
    }
}

/// What a watch says until the trouble changes: then it breaks, or says nothing more.
fn until_trouble(
    body: Body,
    troubles: watch::Receiver<Trouble>,
    end: Option<Instant>,
) -> UnsyncBoxBody<Bytes, io::Error> {
    let frames = stream::unfold(Some((body, troubles)), move |open| async move {
        let (mut body, mut troubles) = open?;
        let ended = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let frame: Option<io::Result<Frame<Bytes>>> = tokio::select! {
            frame = body.frame() => frame.map(|frame| frame.map_err(io::Error::other)),
            _ = troubles.changed() => {
                if matches!(*troubles.borrow_and_update(), Trouble::Silence | Trouble::StalledWatches) {
                    let _ = troubles.changed().await;
                }
                Some(Err(io::Error::other("the watch breaks")))
            }
            () = ended => None,
        };
        let frame = frame?;
        let open = frame.is_ok().then_some((body, troubles));
        Some((frame, open))
    });
    StreamBody::new(Box::pin(frames)).boxed_unsync()
}

/// No answer while nothing comes back; what was asked then is lost.
async fn silence(mut troubles: watch::Receiver<Trouble>) -> Answer {
    let _ = troubles.changed().await;
    status(StatusCode::BAD_GATEWAY, "BadGateway")
}

fn status(code: StatusCode, reason: &str) -> Answer {
    text(code, status_value(code, reason).to_string())
}

fn status_value(code: StatusCode, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason,
        "code": code.as_u16(),
    })
}

fn text(code: StatusCode, text: String) -> Answer {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}
