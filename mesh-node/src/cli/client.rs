//! Asks an agent: HTTP/1.1 over its Unix socket, one request a connection, under a deadline.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::admin::documents::Refusal;

/// For one question. An agent answers in milliseconds; one that does not is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the agent behind one socket.
pub struct Client<'a> {
    socket: &'a Path,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent answers at {socket}; see that mesh-node agent runs on this node, and give --admin-socket if it \
         has another one; on Kubernetes ask in the pod of a node's agent (kubectl -n nodemesh-system exec POD -- \
         mesh-node)"
    )]
    NoAgent {
        /// The socket.
        socket: PathBuf,
        /// What connecting said.
        #[source]
        cause: io::Error,
    },
    /// Only the agent's owner may ask.
    #[error("{socket} may be asked only by the agent's user; run this as root")]
    NotAllowed {
        /// The socket.
        socket: PathBuf,
    },
    /// The agent took too long.
    #[error("the agent at {socket} did not answer in {} s; look at its log", PATIENCE.as_secs())]
    TooSlow {
        /// The socket.
        socket: PathBuf,
    },
    /// The exchange broke.
    #[error("ask the agent for {path}")]
    Exchange {
        /// What was asked for.
        path: String,
        /// How it broke.
        #[source]
        cause: hyper::Error,
    },
    /// The agent refused.
    #[error("the agent says: {error}")]
    Refused {
        /// In its words.
        error: String,
    },
    /// The answer is none that is known here.
    #[error("the agent's answer to {path} is not understood; is it of another version than this program?")]
    Answer {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        #[source]
        cause: serde_json::Error,
    },
    /// The system refused what asking needs.
    #[error("prepare to ask the agent")]
    System(#[source] io::Error),
}

impl<'a> Client<'a> {
    /// Makes a client; connects with each question.
    pub fn new(socket: &'a Path) -> Self {
        Self { socket }
    }

    /// Asks for a document.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, Bytes::new())
    }

    /// Sends a document; returns the answer.
    pub fn put<T: DeserializeOwned>(&self, path: &str, document: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(document).expect("documents are plain data: see admin");
        self.ask(Method::PUT, path, body.into())
    }

    /// Asks with a document; returns the answer.
    pub fn post<T: DeserializeOwned>(&self, path: &str, document: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(document).expect("documents are plain data: see admin");
        self.ask(Method::POST, path, body.into())
    }

    fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ClientError::System)?;
        let (status, answer) = runtime
            .block_on(async { tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await })
            .map_err(|_elapsed| ClientError::TooSlow { socket: self.socket.to_owned() })??;
        let misunderstood = |cause| ClientError::Answer { path: path.to_owned(), cause };
        if status != StatusCode::OK {
            let refusal: Refusal = serde_json::from_slice(&answer).map_err(misunderstood)?;
            return Err(ClientError::Refused { error: refusal.error });
        }
        serde_json::from_slice(&answer).map_err(misunderstood)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let broken = |cause| ClientError::Exchange { path: path.to_owned(), cause };
        let stream = UnixStream::connect(self.socket).await.map_err(|cause| self.unreachable(cause))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "agent")
            .body(Full::new(body))
            .expect("paths and methods are literals of this module's callers");
        let ask = async {
            let response: Response<Incoming> = sender.send_request(request).await?;
            let status = response.status();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        tokio::select! {
            answer = ask => answer.map_err(broken),
            Err(cause) = connection => Err(broken(cause)),
        }
    }

    fn unreachable(&self, cause: io::Error) -> ClientError {
        let socket = self.socket.to_owned();
        match cause.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed { socket },
            _ => ClientError::NoAgent { socket, cause },
        }
    }
}
