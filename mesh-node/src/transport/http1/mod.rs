//! HTTP/1.1 on the engine: exchanges as streams, pooled keep-alive connections to applications.
//!
//! In: a captured connection, a stream or a plaintext connection whose course is [`Course::Http`], and the
//! conductor's decision for each request. Out: each exchange on its own upstream, an [`ExchangeOutcome`] for each.
//! What the bytes mean is [`mesh_common::http1`]'s; what is permitted is the conductor's. This module only moves
//! bytes between the two ends of a [`Relay`](mesh_common::http1::relay::Relay) and carries out its commands.
//!
//! # Where it runs
//! | client | upstream of each exchange | where |
//! |---|---|---|
//! | captured connection | a stream of a tunnel | the source |
//! | stream of kind HTTP/1.1, or opaque if policy asks for requests | a connection of the application | the destination |
//! | plaintext from outside the mesh | a connection of the application | the destination |
//! | captured connection | a connection of the application | both pods on one node |
//!
//! # Back-pressure
//! Nothing more is read from one side while the other has more than a bound to be sent. Bytes of a stream count as
//! consumed, and so give credit back, when the side that they went to has taken them.
//!
//! [`Course::Http`]: crate::transport::tunnel::Course::Http

mod applications;
mod asking;
mod commands;
mod connection;
mod ends;
mod failure;
mod pace;
mod preface;
mod settings;
mod socket;
mod turn;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh_common::http1::relay::Ending;
use mesh_common::http1::{BodyBytes, GivenAnswer, LocalAnswer};
use mesh_common::model::{DecisionId, HeadEdits, RequestId, SpiffeId, WorkloadUid};

use super::outcome::CloseReason;
use super::tunnel::Course;

pub use settings::HttpSettings;

pub(in crate::transport) use applications::Applications;
pub(in crate::transport) use connection::Http;

/// What the conductor says of a connection whose requests are to be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpCourse {
    /// What the client dialled: stands in for a Host that HTTP/1.0 may leave out.
    pub dialled: SocketAddr,
    /// Whether the client is known. One that is not may not say where its requests come from.
    pub known_client: bool,
    /// The connection carries one exchange and ends: a stream of kind HTTP/1.1.
    pub one_exchange: bool,
    /// HTTP/2 is what the port declares: a client's connection that begins otherwise is handed over to be translated. In a
    /// stream, what is no HTTP at all is a bad preface, and gets no answer.
    pub expects_http2: bool,
}

/// How one request is carried out.
#[derive(Clone, Debug)]
pub struct RequestCourse {
    /// As a stream, or over a connection to the application. Never another kind.
    pub course: Course,
    /// Whose connections to the application may serve it; `None` takes a new one and closes it afterwards.
    pub share: Option<PoolScope>,
    /// What is changed of its head.
    pub edits: Option<HeadEdits>,
    /// To the application: what it is told of the certificate that its caller showed (`x-forwarded-client-cert`).
    pub client_certificate: Option<String>,
    /// What it is called from here on, where its caller called it nothing (`x-request-id`).
    pub request_id: Option<RequestId>,
    /// What is changed of its response's head.
    pub response_edits: Option<Box<HeadEdits>>,
}

/// Why a request does not go on, so far.
#[derive(Debug)]
pub enum Instead {
    /// It is answered.
    Answer(LocalAnswer<'static>),
    /// It is answered with what somebody asked has given for it.
    Given(Box<GivenAnswer>),
    /// Somebody is asked first.
    Ask(Question),
}

impl Instead {
    /// What the refusal is called that it tells of.
    pub fn decision(&self) -> Option<DecisionId> {
        match self {
            Self::Answer(answer) => answer.decision,
            Self::Given(given) => given.decision,
            Self::Ask(_) => None,
        }
    }
}

impl From<LocalAnswer<'static>> for Instead {
    fn from(answer: LocalAnswer<'static>) -> Self {
        Self::Answer(answer)
    }
}

/// What is to be asked about a request; the conductor knows what and whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which one.
    pub id: QuestionId,
    /// With the first bytes of its body, at most so many.
    pub body: Option<usize>,
}

/// Tells a question from every other of its core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuestionId(pub u64);

/// Why nobody waits for the answer to a question any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwaited {
    /// The client is gone.
    ClientGone,
    /// The request was refused for something else, and is reported so.
    Refused,
}

/// The beginning of a request's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedBody {
    /// As many bytes as are wanted at most.
    pub bytes: Vec<u8>,
    /// Nothing follows.
    pub is_whole: bool,
}

/// Who shares pooled connections to an application: one caller, which is what the application sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolScope {
    /// The calling pod's address.
    pub caller: IpAddr,
    /// Who it proved to be, if it did.
    pub identity: Option<SpiffeId>,
    /// The called pod: an address that another pod has by now is another scope.
    pub called: WorkloadUid,
    /// The application's address.
    pub application: SocketAddr,
}

/// How an exchange went, for the access record and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeOutcome {
    /// The status that the client was given; 0 if none.
    pub status: u16,
    /// Body bytes.
    pub bytes: BodyBytes,
    /// From the head's last byte to the end of the response.
    pub duration: Duration,
    /// How it ended.
    pub ending: Ending,
    /// What failed underneath, if something did.
    pub failure: Option<CloseReason>,
}
