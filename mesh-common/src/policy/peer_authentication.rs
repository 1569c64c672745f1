//! Whether mutual TLS is required at a port of a workload.

use crate::model::PeerAuthentication;
use crate::model::policy::MutualTls;
use crate::snapshot::PeerAuthentications;

/// Returns what is required at a port, and the policy that says so; `None` where nobody said anything.
///
/// The first that is not UNSET: the port of the policy that selects the workload, that policy itself, the
/// namespace's, the mesh's, else PERMISSIVE.
pub(super) fn required(
    policies: PeerAuthentications<'_>,
    port: u16,
) -> (MutualTls, Option<&PeerAuthentication>) {
    let of_port =
        policies.workload.and_then(|policy| Some((policy.ports.get(&port).copied().flatten()?, policy)));
    let levels = [policies.workload, policies.namespace, policies.mesh];
    let of_level = || levels.into_iter().flatten().find_map(|policy| Some((policy.mode?, policy)));
    match of_port.or_else(of_level) {
        Some((mode, policy)) => (mode, Some(policy)),
        None => (MutualTls::Permissive, None),
    }
}
