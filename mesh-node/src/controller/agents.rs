//! Which agent calls: the seam between the services that agents call and the way in which one proves itself.
//!
//! In: the bearer token of a call. Out: an [`AgentCaller`], whose node was proved, or why there is none.

use std::pin::Pin;

use mesh_common::model::{SpiffeId, Text};
use tonic::Status;

/// An agent that has proved on which node it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCaller {
    /// Its node, as pods have it in `spec.nodeName`.
    pub node: Text,
    /// Its own pod.
    pub pod_uid: Text,
    /// Its own identity.
    pub identity: SpiffeId,
}

/// Why a call is refused. The text is for the agent's log; a person reads it there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The token proves nothing: it is missing, bad, over, or meant for somebody else. A newer one may do.
    #[error("{0}")]
    Unauthenticated(String),
    /// The caller is known, and is none that may call.
    #[error("{0}")]
    Forbidden(String),
    /// It could not be found out now. The same token may do later.
    #[error("{0}")]
    Unavailable(String),
}

impl From<&Refused> for Status {
    fn from(refused: &Refused) -> Self {
        match refused {
            Refused::Unauthenticated(reason) => Self::unauthenticated(reason),
            Refused::Forbidden(reason) => Self::permission_denied(reason),
            Refused::Unavailable(reason) => Self::unavailable(reason),
        }
    }
}

/// What [`Authenticate::authenticate`] gives.
pub type Authenticating<'a> = Pin<Box<dyn Future<Output = Result<AgentCaller, Refused>> + Send + 'a>>;

/// Something that knows agents by their tokens.
pub trait Authenticate: Send + Sync {
    /// Says whose token this is. Bounded in time.
    fn authenticate<'a>(&'a self, bearer: &'a str) -> Authenticating<'a>;
}
