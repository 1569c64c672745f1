//! Which agent calls: the seam between the services that agents call and the way in which one proves itself.
//!
//! In: the bearer token of a call, and whom the connection's certificate names. Out: an [`AgentCaller`], whose node was
//! proved, or why there is none.

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
    /// Whether its pod says that it shows a certificate on its streams: it has the label [`AGENT_CERTIFICATE`]. Agents of
    /// before there were such certificates have neither.
    pub has_certificate: bool,
}

/// What the pods of agents are labelled with whose streams are not served without a certificate.
pub const AGENT_CERTIFICATE: (&str, &str) = ("nodemesh.dev/agent-certificate", "required");

impl AgentCaller {
    /// Whether the certificate of the connection, where one was shown, is of whom the token is of.
    ///
    /// # Errors
    /// [`Refused::Forbidden`].
    pub fn is_shown_by(&self, certificate: Option<&SpiffeId>) -> Result<(), Refused> {
        match certificate {
            Some(shown) if *shown != self.identity => Err(Refused::Forbidden(format!(
                "the connection's certificate is of {shown}, and the token of {}",
                self.identity
            ))),
            _ => Ok(()),
        }
    }

    /// The same for a stream, which has to be on a connection that shows one; says whether it does.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn may_follow(&self, certificate: Option<&SpiffeId>) -> Result<bool, Refused> {
        self.is_shown_by(certificate)?;
        if certificate.is_none() && self.has_certificate {
            let (label, value) = AGENT_CERTIFICATE;
            return Err(Refused::Unauthenticated(format!(
                "no certificate: the connection showed none, and the agent's pod has the label {label}: {value}; obtain one \
                 for {} by the token, and begin the stream on a connection that shows it",
                self.identity
            )));
        }
        Ok(certificate.is_some())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: &str = "spiffe://cluster.local/ns/nodemesh-system/sa/nodemesh-agent";

    fn caller(has_certificate: bool) -> AgentCaller {
        AgentCaller {
            node: "a".into(),
            pod_uid: "7".into(),
            identity: AGENT.parse().unwrap(),
            has_certificate,
        }
    }

    #[test]
    fn a_stream_is_served_by_the_agents_own_certificate_and_no_other() {
        let own: SpiffeId = AGENT.parse().unwrap();
        for has_certificate in [true, false] {
            let caller = caller(has_certificate);
            assert_eq!((caller.is_shown_by(Some(&own)), caller.may_follow(Some(&own))), (Ok(()), Ok(true)));
            for other in [
                "spiffe://cluster.local/ns/shop/sa/web",
                "spiffe://cluster.local/ns/shop/sa/nodemesh-agent",
                "spiffe://cluster.local/ns/nodemesh-system/sa/nodemesh-controller",
                "spiffe://other.example/ns/nodemesh-system/sa/nodemesh-agent",
            ] {
                let other: SpiffeId = other.parse().unwrap();
                let refused = caller.may_follow(Some(&other)).unwrap_err();
                assert_eq!(caller.is_shown_by(Some(&other)), Err(refused.clone()));
                assert!(
                    matches!(&refused, Refused::Forbidden(why) if why.contains(&other.to_string())),
                    "{refused}"
                );
            }
        }
    }

    #[test]
    fn without_a_certificate_only_an_agent_of_before_is_served() {
        assert_eq!(caller(false).may_follow(None), Ok(false));
        let refused = caller(true).may_follow(None).unwrap_err();
        assert!(
            matches!(&refused, Refused::Unauthenticated(why) if why.contains("no certificate")),
            "{refused}"
        );
        assert_eq!(caller(true).is_shown_by(None), Ok(()), "to obtain one it needs none");
    }
}
