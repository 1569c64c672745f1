//! Stage 4. May it: facts and a destination become a [`Permit`] or a [`Denial`].
//!
//! In: a snapshot, what was found out about a connection or a request, and what it is for. Out: a permit, which
//! only this module can make and stage 5 takes, or a refusal that names its policy and rule. Never waits, logs or
//! reads a clock. Policies hold at the destination, on what the caller proved to be; outbound connections are
//! refused only where it cannot be said what they are for.

mod authenticate;
mod denial;
mod end_user;
mod evaluate;
mod explain;
mod header;
mod host;
mod matching;
mod peer_authentication;

#[cfg(test)]
mod law_words;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod laws_of_explaining;
#[cfg(test)]
mod tests;

pub use authenticate::{Asked, Authenticated, tokens_asked};
pub use denial::{Denial, DenialReason, ExternalDenial, PolicyKind, PolicyName};
pub use evaluate::{AuditFinding, AuditFindings, AuditVerdict, RuleMatch};
pub use explain::{Explained, Heard, Miss, Nearest, explain};

use std::sync::Arc;

use self::matching::{Layer7, Subject};
use crate::model::policy::{Action, MutualTls};
use crate::model::{
    ConnectionFacts, Direction, ExternalAuthorizer, PeerAuthentication, Protocol, RequestFacts, ServerName,
    Workload,
};
use crate::resolve::{self, Destination, Target};
use crate::snapshot::Snapshot;

/// Leave for one connection or one request to go where it was asked to go.
#[derive(Debug, PartialEq)]
#[must_use]
pub struct Permit<'a> {
    facts: &'a ConnectionFacts,
    destination: &'a Destination,
    basis: Basis<'a>,
    requests: Requests,
    findings: AuditFindings<'a>,
}

/// Why something is permitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Basis<'a> {
    /// It goes out, and is decided at the destination.
    Outbound,
    /// No ALLOW policy speaks about the workload, and no DENY matches.
    NoPolicy,
    /// A rule allows it.
    Rule(RuleMatch<'a>),
    /// Some request may be allowed: each is decided by itself.
    EachRequest,
}

/// Whether the requests of a permitted connection need a decision each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requests {
    /// No rule asks for anything that only a request has. (Over HTTP deciding each does no harm.)
    AreCovered,
    /// Rules about requests may apply: the bytes must be read as HTTP, and each request decided by
    /// [`authorize_request`]. If they turn out not to be HTTP, the connection must be decided again, with
    /// [`Destination::with_detected`] and [`Protocol::Tcp`].
    NeedDecision,
}

/// What an established connection is carried as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarriedAs {
    /// Bytes, whatever its port is declared to speak: nobody looks at requests in them.
    Bytes,
    /// Requests of this protocol, each decided by itself.
    Requests(Protocol),
}

impl<'a> Permit<'a> {
    /// What is permitted to whom.
    pub fn facts(&self) -> &'a ConnectionFacts {
        self.facts
    }

    /// Where it may go.
    pub fn destination(&self) -> &'a Destination {
        self.destination
    }

    /// Why it may.
    pub fn basis(&self) -> Basis<'a> {
        self.basis
    }

    /// Whether its requests need a decision each.
    pub fn requests(&self) -> Requests {
        self.requests
    }

    /// What policies found that refuse nothing. Those about requests speak at [`authorize_request`].
    pub fn findings(&self) -> &[AuditFinding<'a>] {
        &self.findings
    }

    fn new(facts: &'a ConnectionFacts, destination: &'a Destination, basis: Basis<'a>) -> Self {
        let (requests, findings) = (Requests::AreCovered, AuditFindings::new());
        Self { facts, destination, basis, requests, findings }
    }
}

/// Decides whether a connection may proceed.
///
/// Where the destination speaks HTTP, or may, a refusal or permission that depends on a request is left to
/// [`authorize_request`], and [`Permit::requests`] says so. Where it does not, rules about requests fail closed.
///
/// # Errors
/// A [`Denial`] that names the policy and the rule, or says what is not known.
pub fn authorize_connection<'a>(
    snapshot: &'a Snapshot,
    facts: &'a ConnectionFacts,
    destination: &'a Destination,
) -> Result<Permit<'a>, Denial> {
    authorize(snapshot, facts, destination, layer7_of(destination.protocol))
}

/// Whether nothing can be decided about a connection before its client's first bytes are seen: a rule that may match it
/// asks for the name in its ClientHello, or its port declares nothing and rules ask for requests.
pub fn waits_for_first_bytes(
    snapshot: &Snapshot,
    facts: &ConnectionFacts,
    destination: &Destination,
) -> bool {
    let (Target::Local(local), Direction::Inbound) = (&destination.target, facts.direction) else {
        return false;
    };
    if destination.protocol.is_http() || facts.server_name != ServerName::Unknown {
        return false;
    }
    let Some(sets) = snapshot.policy_sets(&local.uid, destination.address) else { return false };
    let layer7 = layer7_of(destination.protocol);
    let subject = subject_of(facts, destination, layer7);
    evaluate::depends_on_server_name(&sets, &subject)
        || destination.protocol == Protocol::Undeclared
            && authorize_connection(snapshot, facts, destination)
                .is_ok_and(|permit| permit.requests() == Requests::NeedDecision)
}

/// Decides whether a request may proceed, on a connection that was permitted.
///
/// Whoever says that it is a request: on a port that is declared not to speak HTTP, rules about requests fail closed
/// here too.
///
/// # Errors
/// A [`Denial`] that names the policy and the rule, or says what is not known.
pub fn authorize_request<'a>(
    snapshot: &'a Snapshot,
    facts: &'a ConnectionFacts,
    destination: &'a Destination,
    request: &RequestFacts<'_>,
) -> Result<Permit<'a>, Denial> {
    authorize(snapshot, facts, destination, of_request(destination.protocol, request))
}

/// Whom to ask about a request that was denied for want of asking ([`ExternalDenial::NotAsked`]). What it lets pass is to
/// be decided again, with its name in [`RequestFacts::allowed_by`]; DENY and ALLOW still speak then.
///
/// # Errors
/// The denial that stands: it is another one, or the mesh's configuration has no such server.
pub fn authorizer(snapshot: &Snapshot, denial: Denial) -> Result<&Arc<ExternalAuthorizer>, Denial> {
    let (DenialReason::External(ExternalDenial::NotAsked), Some(policy)) = (denial.reason, &denial.policy)
    else {
        return Err(denial);
    };
    let authorizer = match snapshot.authorization_policy(&policy.name).map(|policy| &policy.action) {
        Some(Action::Custom(custom)) => custom.authorizer.as_ref(),
        _ => None,
    };
    let reason = DenialReason::External(ExternalDenial::UnknownProvider);
    authorizer.ok_or(Denial { reason, ..denial })
}

/// Decides again about an established connection, on a newer snapshot.
///
/// Inbound it holds if it would be permitted now: of one that is carried as bytes no request can be decided any more,
/// so rules about requests fail closed. Outbound it holds as long as the local workload exists: a Service that lost an
/// endpoint keeps its connections, as with kube-proxy.
///
/// # Errors
/// The [`Denial`] for which the connection is to be closed.
pub fn recheck(snapshot: &Snapshot, facts: &ConnectionFacts, carried: CarriedAs) -> Result<(), Denial> {
    let destination = resolve::destination(snapshot, facts);
    match (facts.direction, &destination.target) {
        (Direction::Outbound, Target::Unknown(unknown @ resolve::UnknownTarget::LocalGone)) => {
            Err(Denial::unknown(*unknown))
        }
        (Direction::Outbound, _) => Ok(()),
        (Direction::Inbound, _) => match carried {
            CarriedAs::Bytes => match authorize_connection(snapshot, facts, &destination)?.requests() {
                Requests::AreCovered => Ok(()),
                // Refused, by the rule that would have to see a request.
                Requests::NeedDecision => authorize(snapshot, facts, &destination, Layer7::Opaque).map(drop),
            },
            CarriedAs::Requests(spoken) => {
                authorize_connection(snapshot, facts, &destination.with_detected(spoken)).map(drop)
            }
        },
    }
}

/// What is known of the requests of a connection before there are any.
fn layer7_of(protocol: Protocol) -> Layer7<'static> {
    match protocol {
        Protocol::Tcp | Protocol::Tls => Layer7::Opaque,
        Protocol::Http1 | Protocol::Http2 | Protocol::Grpc | Protocol::Undeclared => Layer7::Pending,
    }
}

/// What of a request counts at a port of this protocol.
fn of_request<'a>(protocol: Protocol, request: &'a RequestFacts<'a>) -> Layer7<'a> {
    match layer7_of(protocol) {
        Layer7::Opaque => Layer7::Opaque,
        Layer7::Pending | Layer7::Request(_) => Layer7::Request(request),
    }
}

/// What rules about a pod are compared with.
fn subject_of<'a>(facts: &'a ConnectionFacts, destination: &Destination, layer7: Layer7<'a>) -> Subject<'a> {
    let identity = facts.peer.verified();
    let server_name = match layer7 {
        // What is read as HTTP in the clear begins with no ClientHello.
        Layer7::Request(_) => &ServerName::Absent,
        _ if destination.protocol.is_http() => &ServerName::Absent,
        Layer7::Opaque | Layer7::Pending => &facts.server_name,
    };
    let (source, address) = (facts.client_ip(), destination.address);
    Subject { identity, source, destination: address, server_name, layer7 }
}

fn authorize<'a>(
    snapshot: &'a Snapshot,
    facts: &'a ConnectionFacts,
    destination: &'a Destination,
    layer7: Layer7<'_>,
) -> Result<Permit<'a>, Denial> {
    let local = match (&destination.target, facts.direction) {
        (Target::Unknown(unknown), _) => return Err(Denial::unknown(*unknown)),
        (_, Direction::Outbound) => return Ok(Permit::new(facts, destination, Basis::Outbound)),
        (Target::Local(local), Direction::Inbound) => local,
        (Target::Service(_) | Target::Workload(_) | Target::External, Direction::Inbound) => {
            return Err(Denial::unknown(resolve::UnknownTarget::NotLocalAddress));
        }
    };
    let port = destination.address.port();
    require_mutual_tls(snapshot, facts, local, port)?;
    let gone = || Denial::unknown(resolve::UnknownTarget::LocalGone);
    let sets = snapshot.policy_sets(&local.uid, destination.address).ok_or_else(gone)?;
    let allowed = evaluate::evaluate(&sets, &subject_of(facts, destination, layer7))?;
    // A token that does not hold is refused, whatever rules say: each request is looked at.
    let asks_for_tokens = matches!(layer7, Layer7::Pending)
        && snapshot
            .request_authentications(&local.uid, destination.address)
            .is_some_and(|all| !all.is_empty());
    Ok(Permit {
        facts,
        destination,
        basis: match allowed.by {
            Some(rule) => Basis::Rule(rule),
            None if allowed.depends_on_request => Basis::EachRequest,
            None => Basis::NoPolicy,
        },
        requests: if allowed.depends_on_request || asks_for_tokens {
            Requests::NeedDecision
        } else {
            Requests::AreCovered
        },
        findings: allowed.findings,
    })
}

/// What is required of callers at a port of a pod, and by whom, if anybody said so. `None` if the pod is not known.
pub fn mutual_tls_at<'a>(
    snapshot: &'a Snapshot,
    pod: &Workload,
    port: u16,
) -> Option<(MutualTls, Option<&'a PeerAuthentication>)> {
    Some(peer_authentication::required(snapshot.peer_authentications(&pod.uid)?, port))
}

fn require_mutual_tls(
    snapshot: &Snapshot,
    facts: &ConnectionFacts,
    local: &Workload,
    port: u16,
) -> Result<(), Denial> {
    if facts.peer.verified().is_some() {
        return Ok(());
    }
    let required = mutual_tls_at(snapshot, local, port);
    match required.ok_or_else(|| Denial::unknown(resolve::UnknownTarget::LocalGone))? {
        (MutualTls::Permissive, _) => Ok(()),
        (MutualTls::Strict, policy) => Err(Denial {
            reason: DenialReason::PlaintextUnderStrict,
            policy: policy
                .map(|policy| PolicyName { kind: PolicyKind::PeerAuthentication, name: policy.name.clone() }),
            rule: None,
        }),
    }
}
