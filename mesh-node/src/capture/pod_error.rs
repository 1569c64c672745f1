//! Why a pod is not captured, and whose fault that is.

use std::io;

use rustix::io::Errno;

use super::listener::ListenError;
use super::namespace::NamespaceError;
use crate::kernel::KernelError;

/// Why a pod is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// Nothing says where the pod is.
    #[error(
        "the pod is enrolled, and no cgroup below --cgroup-root is named for its UID; where no kubelet runs it, set the \
         annotation nodemesh.dev/netns"
    )]
    NoNamespace,
    /// Nothing says where any pod is.
    #[error(
        "the pod is enrolled, and no pod at all has a cgroup below --cgroup-root; see that it is the pods' cgroup; where no \
         kubelet runs them, set the annotation nodemesh.dev/netns"
    )]
    NoPods,
    /// It cannot be told which namespace is the pod's. The pod's own doing, or its runtime's: nothing is wrong with the
    /// node.
    #[error(
        "it is in doubt where the pod is: not exactly one network namespace of its processes has an address of the pod, or \
         is owned nearer to the host than the others; end the processes that made namespaces of their own"
    )]
    InDoubt,
    /// The pod's processes cannot be looked at.
    #[error(
        "the pod's processes are not in the agent's PID namespace; run the agent in that of the host, in its own pod by \
         hostPID: true"
    )]
    OtherPidNamespace,
    /// Another pod is there: one of the two would speak for the other.
    #[error(
        "the pod is said to be in the network namespace of {other}; correct the annotation of the two that is wrong \
         (nodemesh.dev/netns, or kubernetes.io/config.hash of a static pod)"
    )]
    Taken {
        /// The pod that was there first.
        other: String,
    },
    /// The namespace cannot be entered.
    #[error("enter the pod's network namespace")]
    Namespace(#[from] NamespaceError),
    /// A listener cannot be made.
    #[error("listen inside the pod")]
    Listen(#[from] ListenError),
    /// The kernel's side fails.
    #[error("tell the kernel about the pod")]
    Kernel(#[from] KernelError),
}

impl PodError {
    /// Whether the pod is the cause, or what is said of it, and not this node.
    pub fn is_of_the_pod(&self) -> bool {
        match self {
            Self::NoNamespace | Self::InDoubt | Self::Taken { .. } => true,
            Self::NoPods | Self::OtherPidNamespace | Self::Kernel(_) => false,
            Self::Namespace(NamespaceError::Open { source, .. } | NamespaceError::Enter { source, .. })
            | Self::Listen(ListenError::Kernel { source, .. }) => !is_of_the_agent(source),
            Self::Listen(ListenError::NoPort { .. }) => true,
        }
    }
}

/// Whether a call in a pod's namespace failed for what the agent has no more of, or may not do.
fn is_of_the_agent(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        code,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::PERM | Errno::ACCESS)
    )
}
