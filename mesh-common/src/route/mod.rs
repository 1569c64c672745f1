//! Stage 5. Where exactly: a `Permit` becomes a [`Plan`].
//!
//! In: a snapshot, the permit, and a [`Choice`] with all that chance and load have to say. Out: what transport is
//! to do, or why there is nowhere to go. Never runs without a permit, never waits, logs or draws a number itself.

mod balance;
mod eligible;
mod plan;

#[cfg(test)]
mod tests;

pub use balance::{Choice, Load};
pub use plan::{Application, Direct, Local, Plan, Tunnel};

use self::balance::Balance;
use self::eligible::Eligible;
use self::plan::Way;
use crate::policy::Permit;
use crate::resolve::Target;
use crate::snapshot::{ServicePortRecord, Snapshot};

/// Why there is nowhere to go: HTTP answers 503, TCP is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unroutable {
    /// The Service has no endpoints in the family that was dialled.
    #[error("the Service has no endpoints")]
    NoEndpoints,
    /// None of them takes connections.
    #[error("the Service has no endpoint that is ready")]
    NoneReady,
    /// `internalTrafficPolicy: Local`, and none on this node takes connections.
    #[error("the Service has no endpoint that is ready on this node, and its traffic stays there")]
    NoneOnThisNode,
    /// All were tried.
    #[error("every endpoint of the Service was tried")]
    AllTried,
    /// Of those that take connections it cannot be said whose address they have.
    #[error("the endpoints of the Service are pods that are not known, or not any more")]
    EndpointsNotKnown,
    /// The permit is for nothing that is known.
    #[error("the destination is not known")]
    UnknownDestination,
}

impl Unroutable {
    /// The stable code for logs, metrics and responses.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoEndpoints => "no_endpoints",
            Self::NoneReady => "no_ready_endpoint",
            Self::NoneOnThisNode => "no_ready_endpoint_on_node",
            Self::AllTried => "all_endpoints_tried",
            Self::EndpointsNotKnown => "endpoints_not_known",
            Self::UnknownDestination => "unknown_destination",
        }
    }
}

/// Returns what to do with a connection. Among several endpoints it takes the one with the fewest connections.
///
/// # Errors
/// [`Unroutable`] if a Service has no endpoint to offer.
pub fn plan_connection<'a>(
    snapshot: &'a Snapshot,
    permit: Permit<'a>,
    choice: &Choice<'a>,
) -> Result<Plan, Unroutable> {
    plan(snapshot, &permit, choice, Balance::LeastConnections)
}

/// Returns what to do with an HTTP request. Among several endpoints it takes the one with fewer outstanding
/// requests of two that chance names.
///
/// # Errors
/// [`Unroutable`] if a Service has no endpoint to offer.
pub fn plan_request<'a>(
    snapshot: &'a Snapshot,
    permit: Permit<'a>,
    choice: &Choice<'a>,
) -> Result<Plan, Unroutable> {
    plan(snapshot, &permit, choice, Balance::LeastRequestOfTwo)
}

fn plan<'a>(
    snapshot: &'a Snapshot,
    permit: &Permit<'a>,
    choice: &Choice<'a>,
    balance: Balance,
) -> Result<Plan, Unroutable> {
    let destination = permit.destination();
    let way = match &destination.target {
        Target::Service(port) => to_service(snapshot, permit, port, choice, balance)?,
        Target::Workload(workload) => plan::to_workload(&permit.facts().local, destination.address, workload),
        Target::Local(workload) => Way::Application(destination.address, workload),
        Target::External => Way::Direct(destination.address, None),
        Target::Unknown(_) => return Err(Unroutable::UnknownDestination),
    };
    Ok(way.with(destination))
}

fn to_service<'a>(
    snapshot: &'a Snapshot,
    permit: &Permit<'a>,
    port: &'a ServicePortRecord,
    choice: &Choice<'a>,
    balance: Balance,
) -> Result<Way<'a>, Unroutable> {
    let facts = permit.facts();
    let family = permit.destination().address.ip();
    let eligible = Eligible::new(snapshot, port, &facts.local.node, family, choice.tried)?;
    let chosen = match port.service().client_ip_affinity {
        Some(_) => balance::by_client(eligible.iter(), facts.client_ip()),
        None => balance.choose(&eligible, choice),
    };
    let way = |endpoint| plan::to_endpoint(snapshot, &facts.local, endpoint);
    // An endpoint whose pod is gone, or whose address another pod has by now, is passed over.
    chosen.and_then(way).or_else(|| eligible.iter().find_map(way)).ok_or(Unroutable::EndpointsNotKnown)
}
