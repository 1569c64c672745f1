//! Pods that are not as they should be: why, whose cause it is, and so whether the agent is ready all the same.
//!
//! A pod that keeps itself from being captured is refused its connections, is named, and is tried again; the agent has done
//! its part. It has not where its own maps, descriptors or authority fail, or where it has not been answered yet.

use std::mem::{Discriminant, discriminant};
use std::sync::Arc;

use mesh_common::model::Workload;

use crate::capture::PodError;
use crate::identity::{AuthorityError, IssueError};
use crate::kernel::KernelError;
use crate::telemetry::chain::Chain;

/// What became of one look at all pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Synced {
    pub(super) captured: usize,
    /// Pods that are not as they should be; each is closed, and tried again.
    pub(super) refused: Vec<Refused>,
    /// Namespaces that no pod is in any more, and that are not let go.
    pub(super) unreleased: usize,
}

/// A pod that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Namespace and name.
    pub(super) pod: String,
    pub(super) cause: Cause,
    /// For people.
    pub(super) reason: String,
}

/// Who is to mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// This node, or what the agent depends on.
    Agent,
    /// The pod, or what is said of it.
    Pod,
    /// The pod: it may be in several network namespaces.
    Doubt,
}

/// Why a pod is not captured.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotCaptured {
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error("obtain its certificate")]
    Certificate(#[source] Arc<IssueError>),
}

/// Failures that are the same to a person who reads of them, whatever numbers and paths are in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Pod(Discriminant<PodError>),
    Kernel(Discriminant<KernelError>),
    Certificate(Discriminant<IssueError>),
    Authority(Discriminant<AuthorityError>),
}

impl Synced {
    pub(super) fn of(&self, cause: Cause) -> impl Iterator<Item = &Refused> {
        self.refused.iter().filter(move |refused| refused.cause == cause)
    }

    pub(super) fn in_doubt(&self) -> Vec<String> {
        self.of(Cause::Doubt).map(|refused| refused.pod.clone()).collect()
    }

    pub(super) fn refuses(&mut self, workload: &Workload, error: &NotCaptured) {
        let (pod, reason) = (workload.name.to_string(), Chain(error).to_string());
        self.refused.push(Refused { pod, cause: error.cause(), reason });
    }
}

impl NotCaptured {
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Pod(PodError::InDoubt) => Cause::Doubt,
            Self::Pod(error) if error.is_of_the_pod() => Cause::Pod,
            Self::Certificate(error) if error.is_of_the_identity() => Cause::Pod,
            Self::Pod(_) | Self::Certificate(_) => Cause::Agent,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Pod(PodError::Kernel(error)) => Kind::Kernel(discriminant(error)),
            Self::Pod(error) => Kind::Pod(discriminant(error)),
            Self::Certificate(error) => match &**error {
                IssueError::Authority { source, .. } => Kind::Authority(discriminant(source)),
                error => Kind::Certificate(discriminant(error)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(source: AuthorityError) -> NotCaptured {
        let identity = "spiffe://cluster.local/ns/shop/sa/a".parse().unwrap();
        NotCaptured::Certificate(Arc::new(IssueError::Authority { identity, source }))
    }

    #[test]
    fn a_failure_is_of_another_kind_by_what_fails_and_not_by_its_text() {
        let taken = |other: &str| NotCaptured::from(PodError::Taken { other: other.to_owned() });
        assert_eq!(taken("shop/a").kind(), taken("shop/b").kind());
        assert_ne!(taken("shop/a").kind(), NotCaptured::from(PodError::NoNamespace).kind());
        let expired = |now| certificate(AuthorityError::Expired { not_before: 1, not_after: 2, now });
        assert_eq!(expired(3).kind(), expired(4).kind());
        assert_ne!(expired(3).kind(), certificate(AuthorityError::BadRequest).kind());
    }

    #[test]
    fn only_what_is_of_the_agent_is_its_cause() {
        let identity: mesh_common::model::SpiffeId = "spiffe://cluster.local/ns/shop/sa/a".parse().unwrap();
        let refused =
            AuthorityError::Refused { identity: identity.clone(), reason: "there is no account".to_owned() };
        let late = NotCaptured::Certificate(Arc::new(IssueError::Late { identity }));
        for (error, cause) in [
            (PodError::InDoubt.into(), Cause::Doubt),
            (PodError::NoNamespace.into(), Cause::Pod),
            (PodError::Taken { other: "shop/a".to_owned() }.into(), Cause::Pod),
            (certificate(refused), Cause::Pod),
            (PodError::NoPods.into(), Cause::Agent),
            (PodError::OtherPidNamespace.into(), Cause::Agent),
            (certificate(AuthorityError::Away { what: "silent".to_owned() }), Cause::Agent),
            (certificate(AuthorityError::Stranger { reason: "it is over".to_owned() }), Cause::Agent),
            (late, Cause::Agent),
        ] {
            assert_eq!(NotCaptured::cause(&error), cause, "{error}");
        }
    }
}
