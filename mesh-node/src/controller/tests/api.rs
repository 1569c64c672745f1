//! An API server in process: lists, watches and single objects, and whatever goes wrong with them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Frame;
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::service_fn;

/// How long the client waits for a byte.
const READ: Duration = Duration::from_secs(75);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    /// Every request is answered with 500.
    Errors,
    /// No request is answered.
    Silence,
    /// Every list is an empty one, and no single object is there or not there.
    EmptyLists,
    /// Every list breaks off in the middle.
    TruncatedLists,
    /// Every watch is too old at once.
    Expired,
}

/// The server.
#[derive(Clone)]
pub(super) struct Api(Arc<Inside>);

struct Inside {
    /// By their paths, as in `/api/v1/namespaces/shop/pods/web`.
    objects: Mutex<BTreeMap<String, Value>>,
    trouble: Mutex<Trouble>,
    /// Counts changes of either: a watch ends with each, and its successor finds out.
    changed: watch::Sender<u64>,
    requests: Mutex<Vec<String>>,
}

impl Api {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inside {
            objects: Mutex::default(),
            trouble: Mutex::new(Trouble::None),
            changed: watch::Sender::new(1),
            requests: Mutex::default(),
        }))
    }

    pub(super) fn client(&self) -> Client {
        let api = self.clone();
        let answer = move |request: Request<Body>| {
            let api = api.clone();
            let uri = request.uri().clone();
            async move { timeout(READ, api.answer(&uri)).await.map_err(io::Error::from) }
        };
        Client::new(service_fn(answer), "default")
    }

    /// Puts an object where `path` says; watches hear of it with their next list.
    pub(super) fn put(&self, path: &str, object: Value) {
        self.0.objects.lock().unwrap().insert(path.to_owned(), object);
    }

    pub(super) fn delete(&self, path: &str) {
        self.0.objects.lock().unwrap().remove(path).unwrap();
    }

    /// Has something go wrong from now on, also for watches that are open.
    pub(super) fn is_in(&self, trouble: Trouble) {
        *self.0.trouble.lock().unwrap() = trouble;
        self.0.changed.send_modify(|count| *count += 1);
    }

    /// How often a path was asked for.
    pub(super) fn requests(&self, path: &str) -> usize {
        self.0.requests.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }

    async fn answer(&self, uri: &Uri) -> Response<BoxBody<Bytes, Infallible>> {
        let path = uri.path().to_owned();
        self.0.requests.lock().unwrap().push(path.clone());
        let watched = uri.query().is_some_and(|query| query.contains("watch=true"));
        let trouble = *self.0.trouble.lock().unwrap();
        match trouble {
            Trouble::Errors => return status(500, "InternalError", ""),
            Trouble::Silence => std::future::pending().await,
            Trouble::Expired if watched => {
                let error = status_value(410, "Expired", "");
                let event = json!({"type": "ERROR", "object": error});
                return text(200, format!("{event}\n"));
            }
            _ if watched => return self.watch(),
            _ => {}
        }
        let objects = self.0.objects.lock().unwrap();
        if let Some(object) = objects.get(&path) {
            return match trouble {
                Trouble::EmptyLists => status(500, "InternalError", ""),
                _ => text(200, object.to_string()),
            };
        }
        if is_single(&path) {
            let name = path.rsplit('/').next().unwrap();
            return status(404, "NotFound", name);
        }
        let plural = path.rsplit('/').next().unwrap();
        let of_kind = |object: &&String| object.rsplit('/').nth(1) == Some(plural);
        let items: Vec<&Value> =
            objects.iter().filter(|(path, _)| of_kind(path)).map(|(_, object)| object).collect();
        let items = if trouble == Trouble::EmptyLists { Vec::new() } else { items };
        let version = self.0.changed.borrow().to_string();
        let mut list = json!({"metadata": {"resourceVersion": version}, "items": items}).to_string();
        if trouble == Trouble::TruncatedLists {
            list.truncate(list.len() / 2);
        }
        text(200, list)
    }

    /// A watch that says nothing until something changes, and is then too old.
    fn watch(&self) -> Response<BoxBody<Bytes, Infallible>> {
        let mut changed = self.0.changed.subscribe();
        changed.mark_unchanged();
        let ends = Box::pin(async move { drop(changed.changed().await) });
        Response::new(BoxBody::new(Silent(ends)))
    }
}

/// A body without a byte.
struct Silent(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl http_body::Body for Silent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.as_mut().poll(context).map(|()| None)
    }
}

/// Whether a path names one object.
fn is_single(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    // Behind api/v1 or apis/GROUP/VERSION.
    let rest = &parts[if parts[0] == "api" { 2 } else { 3 }..];
    matches!((rest.first(), rest.len()), (Some(&"namespaces"), 4) | (Some(_), 2))
}

fn status(code: u16, reason: &str, name: &str) -> Response<BoxBody<Bytes, Infallible>> {
    text(code, status_value(code, reason, name).to_string())
}

fn status_value(code: u16, reason: &str, name: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason,
        "code": code, "details": {"name": name},
    })
}

fn text(code: u16, text: String) -> Response<BoxBody<Bytes, Infallible>> {
    let body = http_body_util::Full::new(Bytes::from(text)).boxed();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}
