//! HTTP/2 without TLS: a server that reports what it sees and echoes, and a client of its gRPC calls.
//!
//! The server answers a request of gRPC with the same messages and `grpc-status: 0` in trailers, as they come; any
//! other with a description. `/status/N` answers with a status.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::pin::{Pin, pin};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_test_harness::PLAINTEXT_MARKER;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::connection::Connect;
use crate::hold::{stop_at_end_of_input, unix_millis};
use crate::report::event;

type AnyBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// Runs hyper's tasks on this thread.
#[derive(Clone)]
struct Here;

impl<F: Future + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Serves one connection until it ends.
pub(crate) fn serve(number: u64, stream: &TcpStream) -> io::Result<u64> {
    let stream = stream.try_clone()?;
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let io = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
        let service = service_fn(move |request| answer(number, request));
        let server = hyper::server::conn::http2::Builder::new(Here);
        server.serve_connection(io, service).await.map_err(io::Error::other)
    })?;
    Ok(0)
}

async fn answer(number: u64, request: Request<Incoming>) -> Result<Response<AnyBody>, Infallible> {
    let (head, body) = request.into_parts();
    let headers: Value = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), json!(String::from_utf8_lossy(value.as_bytes()))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let seen = json!({
        "event": "request", "connection": number, "method": head.method.as_str(), "uri": head.uri.to_string(),
        "path": head.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str), "headers": headers,
    });
    event(&seen);
    let is_grpc = headers["content-type"].as_str().is_some_and(|kind| kind.starts_with("application/grpc"));
    let mut response = Response::builder().header("x-marker", PLAINTEXT_MARKER);
    let body = if is_grpc {
        response = response.header("content-type", "application/grpc");
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]);
        body.with_trailers(async { Some(Ok(trailers)) }).boxed_unsync()
    } else {
        if let Some(status) = head.uri.path().strip_prefix("/status/") {
            response = response.status(status);
        }
        let text = if head.method == http::Method::HEAD {
            // hyper leaves it to the application.
            String::new()
        } else {
            format!("{PLAINTEXT_MARKER} {seen}")
        };
        Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
    };
    Ok(response.body(body).expect("the head is well formed but for a status that a test names"))
}

/// A connection for gRPC calls one after the other.
pub(crate) struct Calls {
    runtime: tokio::runtime::Runtime,
    tasks: LocalSet,
    sender: SendRequest<Full<Bytes>>,
}

impl Calls {
    /// Opens one.
    pub(crate) fn open(connect: &Connect) -> io::Result<Self> {
        let stream = connect.open()?;
        stream.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tasks = LocalSet::new();
        let sender = tasks.block_on(&runtime, async {
            let io = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
            let handshake = hyper::client::conn::http2::handshake(Here, io);
            let (sender, connection) = handshake.await.map_err(described)?;
            tokio::task::spawn_local(async move {
                // How it ended is what its calls say.
                let _ = connection.await;
            });
            io::Result::Ok(sender)
        })?;
        Ok(Self { runtime, tasks, sender })
    }

    /// Reads what has come meanwhile: whether another call may begin.
    pub(crate) fn is_open(&self) -> bool {
        let Self { runtime, tasks, sender } = self;
        tasks.block_on(runtime, async {
            // The connection's task has its turn before this one goes on.
            tokio::task::yield_now().await;
            !sender.is_closed()
        })
    }

    /// Makes a call: its HTTP status, if gRPC's is OK.
    pub(crate) fn call(&mut self, path: &str) -> io::Result<u16> {
        let Self { runtime, tasks, sender } = self;
        let request = Request::post(format!("http://server.shop{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(message()))
            .map_err(io::Error::other)?;
        tasks.block_on(runtime, async {
            let response = sender.send_request(request).await.map_err(described)?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(described)?;
            let status = body.trailers().unwrap_or(&head.headers);
            match text(status, "grpc-status").as_deref() {
                Some("0") => Ok(head.status.as_u16()),
                other => {
                    Err(io::Error::other(format!("status {} grpc-status {other:?}", head.status.as_u16())))
                }
            }
        })
    }
}

fn described(error: hyper::Error) -> io::Error {
    io::Error::other(error_text(&error))
}

/// Flags of `call`.
#[derive(Args)]
pub(crate) struct Call {
    #[command(flatten)]
    connect: Connect,
    /// Path of the method
    #[arg(long, default_value = "/echo.Echo/Unary")]
    path: String,
    /// Goes on with messages both ways until standard input ends
    #[arg(long)]
    hold: bool,
    /// Calls one after the other on the one connection
    #[arg(long, default_value = "1")]
    calls: u32,
    /// What each says of how long it may take (grpc-timeout); this client itself keeps no time
    #[arg(long)]
    grpc_timeout: Option<String>,
}

/// Messages as they are put into the channel.
struct Messages(mpsc::Receiver<Bytes>);

impl Body for Messages {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.poll_recv(context).map(|message| message.map(|message| Ok(Frame::data(message))))
    }
}

impl Call {
    /// Calls, and reports how each call ended.
    pub(crate) fn run(&self) -> Result<()> {
        let stream = match self.connect.open() {
            Ok(stream) => stream,
            Err(error) => {
                event(&json!({ "event": "called", "ended": crate::report::how(&error) }));
                return Ok(());
            }
        };
        stream.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            let io = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
            let (sender, connection) =
                hyper::client::conn::http2::handshake::<_, _, Messages>(Here, io).await.context("HTTP/2")?;
            tokio::task::spawn_local(async move {
                // How it ended is what its calls say.
                let _ = connection.await;
            });
            for _ in 0..self.calls {
                let mut report = self.call(sender.clone()).await;
                report["event"] = "called".into();
                report["at_ms"] = unix_millis().into();
                event(&report);
            }
            Ok(())
        })
    }

    async fn call(&self, mut sender: SendRequest<Messages>) -> Value {
        let (messages, body) = mpsc::channel(4);
        let mut request = Request::post(format!("http://server.shop{}", self.path))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(within) = &self.grpc_timeout {
            request = request.header("grpc-timeout", within);
        }
        let Ok(request) = request.body(Messages(body)) else { return json!({ "ended": "no such path" }) };
        // The first message goes with the head: a server may wait for it.
        let _ = messages.send(message()).await;
        let response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => return json!({ "ended": error_text(&error) }),
        };
        let status = response.status().as_u16();
        let in_head = text(response.headers(), "grpc-status");
        let (rounds, trailers, ended) = self.converse(messages, response.into_body()).await;
        json!({
            "status": status, "rounds": rounds, "ended": ended,
            "grpc_status": trailers.as_ref().and_then(|trailers| text(trailers, "grpc-status")).or(in_head),
        })
    }

    /// Sends a message for each that comes back.
    async fn converse(
        &self,
        messages: mpsc::Sender<Bytes>,
        body: Incoming,
    ) -> (u64, Option<HeaderMap>, String) {
        let stop = stop_at_end_of_input();
        let mut messages = Some(messages).filter(|_| self.hold);
        let (mut rounds, mut trailers) = (0, None);
        let mut body = pin!(body);
        loop {
            let frame = match poll_fn(|context| body.as_mut().poll_frame(context)).await {
                None => return (rounds, trailers, "eof".to_owned()),
                Some(Err(error)) => return (rounds, trailers, error_text(&error)),
                Some(Ok(frame)) => frame,
            };
            if frame.is_data() {
                rounds += 1;
                if rounds == 1 {
                    event(&json!({ "event": "held" }));
                }
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    messages = None;
                }
                // The pace of the load, not a wait for something.
                tokio::time::sleep(Duration::from_millis(10)).await;
                if let Some(messages) = &messages {
                    // A caller that is gone shows in what comes back.
                    let _ = messages.send(message()).await;
                }
            } else if let Ok(last) = frame.into_trailers() {
                trailers = Some(last);
            }
        }
    }
}

/// A gRPC message that holds the marker (gRPC over HTTP/2, Length-Prefixed-Message).
fn message() -> Bytes {
    let length = u8::try_from(PLAINTEXT_MARKER.len()).expect("the marker is short");
    [&[0, 0, 0, 0, length], PLAINTEXT_MARKER.as_bytes()].concat().into()
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn error_text(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
