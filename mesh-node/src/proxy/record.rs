//! What the conductor keeps with a connection: its place, its sides, and what is said of it at its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::model::{
    AuthorizationPolicy, ConnectionFacts, DecisionId, Direction, Found, PeerIdentity, Protocol, Service,
    SpiffeId, Workload,
};
use mesh_common::policy::{
    AuditFinding, AuditVerdict, Basis, CarriedAs, Denial, Permit, PolicyKind, PolicyName, RuleMatch,
};
use mesh_common::resolve::Destination;
use mesh_common::route::Plan;
use smallvec::SmallVec;

use super::limits::Place;
use super::load::BusyGuard;
use super::response::{Rejection, flags_of};
use super::{Core, ProxyMetrics};
use crate::telemetry::access_log::{AccessLog, Audited, DecidedBy, OpenRecord, Record as AccessRecord};
use crate::telemetry::labels::{AuditEffect, RecordedProtocol, Reporter, SecurityPolicy, Verdict};
use crate::telemetry::traffic::{OpenConnection, Parties};
use crate::transport::tunnel::Refusal;
use crate::transport::{CloseReason, Outcome};

/// Findings of one connection or request that its record names; of more it says how many.
const NAMED_FINDINGS: usize = 4;

/// What is kept with a connection, from its decision to its end.
#[derive(Debug)]
pub struct Record(Box<Kept>);

#[derive(Debug)]
struct Kept {
    /// Given back at the end.
    place: Option<Place>,
    /// The endpoint that it makes busy.
    busy: Option<BusyGuard>,
    what: Carried,
}

/// What a connection is reported as.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "boxed as a whole; another box would cost every connection of bytes"
)]
enum Carried {
    /// Bytes. One side; two between pods of this agent: the caller's, then the called pod's.
    Bytes(SmallVec<[Side; 1]>),
    /// Requests, each with a record of its own.
    Requests(HttpConnection),
    /// Nothing so far: its first bytes are waited for.
    Undecided(Undecided),
}

/// A connection that is decided once its first bytes are seen.
#[derive(Debug)]
pub(super) struct Undecided {
    pub(super) facts: ConnectionFacts,
    pub(super) destination: Destination,
    /// Inbound: the caller's pod, if it is known.
    pub(super) caller: Option<Arc<Workload>>,
}

/// A connection whose requests are decided one by one.
#[derive(Debug)]
pub(super) struct HttpConnection {
    pub(super) facts: ConnectionFacts,
    pub(super) destination: Destination,
    /// What its bytes are.
    pub(super) spoken: Protocol,
    /// Inbound: the caller's pod, if it is known.
    pub(super) caller: Option<Arc<Workload>>,
    /// Of the snapshot that `destination` and `caller` come from.
    pub(super) generation: u64,
}

/// What is said of a permit once it is spent.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) verdict: Verdict,
    pub(super) policy: Option<Box<DecidedBy>>,
    pub(super) audit: Option<Box<Audited>>,
}

/// One reporter's view of a connection.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) facts: ConnectionFacts,
    /// What its bytes are known to be.
    pub(super) spoken: Protocol,
    log: OpenRecord,
    counted: OpenConnection,
}

/// What is known of a connection when it is reported.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) facts: &'a ConnectionFacts,
    pub(super) destination: &'a Destination,
    /// Inbound: the caller's pod, if the table has one at its address with the identity that it proved.
    pub(super) caller: Option<&'a Arc<Workload>>,
}

impl Record {
    pub(super) fn new(place: Place, busy: Option<BusyGuard>, side: Side) -> Self {
        Self::carrying(place, busy, Carried::Bytes(SmallVec::from_buf([side])))
    }

    pub(super) fn of_requests(place: Place, http: HttpConnection) -> Self {
        Self::carrying(place, None, Carried::Requests(http))
    }

    pub(super) fn undecided(place: Place, undecided: Undecided) -> Self {
        Self::carrying(place, None, Carried::Undecided(undecided))
    }

    fn carrying(place: Place, busy: Option<BusyGuard>, what: Carried) -> Self {
        Self(Box::new(Kept { place: Some(place), busy, what }))
    }

    /// What is to be decided now, with its place; nothing if it was.
    pub(super) fn take_undecided(&mut self) -> Option<(Place, Undecided)> {
        let Carried::Undecided(_) = &self.0.what else { return None };
        let place = self.0.place.take()?;
        let what = std::mem::replace(&mut self.0.what, Carried::Bytes(SmallVec::new()));
        let Carried::Undecided(undecided) = what else { return None };
        Some((place, undecided))
    }

    /// Whether it is of interest what its bytes are, and not known.
    pub(super) fn is_to_be_watched(&self) -> bool {
        let Carried::Bytes(sides) = &self.0.what else { return false };
        sides.iter().any(|side| {
            let record = &side.log.record;
            record.detected.is_none() && matches!(side.spoken, Protocol::Undeclared | Protocol::Tls)
        })
    }

    /// Its bytes turned out to be this.
    pub(super) fn turned_out(&mut self, found: &Found) {
        if let Carried::Bytes(sides) = &mut self.0.what {
            sides.iter_mut().for_each(|side| side.turned_out(found));
        }
    }

    /// The called pod of this agent reports too.
    pub(super) fn add_called(&mut self, side: Side) {
        if let Carried::Bytes(sides) = &mut self.0.what {
            sides.push(side);
        }
    }

    /// What is known of the connection, from the side that began it: the caller's if its pod is of this agent.
    pub fn facts(&self) -> &ConnectionFacts {
        match &self.0.what {
            Carried::Bytes(sides) => &sides[0].facts,
            Carried::Requests(http) => &http.facts,
            Carried::Undecided(undecided) => &undecided.facts,
        }
    }

    /// The Service that was dialled, if one was.
    pub fn service(&self) -> Option<&Arc<Service>> {
        match &self.0.what {
            Carried::Bytes(sides) => sides[0].log.record.service.as_ref(),
            Carried::Requests(HttpConnection { destination, .. })
            | Carried::Undecided(Undecided { destination, .. }) => {
                destination.service.as_ref().map(|called| &called.service)
            }
        }
    }

    /// The other pod: inbound the caller's, outbound the called one, as far as it is known.
    pub fn other(&self) -> Option<&Arc<Workload>> {
        match (&self.0.what, self.facts().direction) {
            (Carried::Bytes(sides), Direction::Inbound) => sides[0].log.record.source.as_ref(),
            (Carried::Bytes(sides), Direction::Outbound) => sides[0].log.record.destination.as_ref(),
            (Carried::Requests(http), Direction::Inbound) => http.caller.as_ref(),
            (Carried::Requests(http), Direction::Outbound) => http.destination.workload(),
            (Carried::Undecided(undecided), Direction::Inbound) => undecided.caller.as_ref(),
            (Carried::Undecided(undecided), Direction::Outbound) => undecided.destination.workload(),
        }
    }

    /// Policy and rule that let the connection through.
    pub fn policy(&self) -> Option<&DecidedBy> {
        match &self.0.what {
            Carried::Bytes(sides) => sides[0].log.record.policy.as_deref(),
            Carried::Requests(_) | Carried::Undecided(_) => None,
        }
    }

    /// What is spoken.
    pub fn protocol(&self) -> RecordedProtocol {
        match &self.0.what {
            Carried::Bytes(sides) => recorded(sides[0].spoken),
            Carried::Requests(http) => recorded(http.spoken),
            Carried::Undecided(_) => RecordedProtocol::Tcp,
        }
    }

    /// Every side with what it is carried as.
    pub(super) fn sides(&self) -> impl Iterator<Item = (&ConnectionFacts, CarriedAs)> {
        let (sides, http) = match &self.0.what {
            Carried::Bytes(sides) => (&sides[..], None),
            Carried::Requests(http) => (&[][..], Some((&http.facts, CarriedAs::Requests(http.spoken)))),
            // It is decided on what is known then.
            Carried::Undecided(_) => (&[][..], None),
        };
        sides.iter().map(|side| (&side.facts, CarriedAs::Bytes)).chain(http)
    }

    /// Whom the application of this node is to see, if this connection leads to one.
    pub(super) fn caller(&self) -> Option<SocketAddr> {
        match &self.0.what {
            Carried::Bytes(sides) => {
                let called = sides.iter().find(|side| side.facts.direction == Direction::Inbound);
                called.map(|side| side.facts.client)
            }
            Carried::Requests(http) => Some(http.facts.client),
            Carried::Undecided(_) => None,
        }
    }

    pub(super) fn http(&mut self) -> Option<&mut HttpConnection> {
        match &mut self.0.what {
            Carried::Bytes(_) | Carried::Undecided(_) => None,
            Carried::Requests(http) => Some(http),
        }
    }

    pub(super) fn as_http(&self) -> Option<&HttpConnection> {
        match &self.0.what {
            Carried::Bytes(_) | Carried::Undecided(_) => None,
            Carried::Requests(http) => Some(http),
        }
    }

    /// Lets go of the endpoint that was not there, and of what it had to say.
    pub(super) fn give_up(&mut self) {
        self.0.busy = None;
        if let Carried::Bytes(sides) = &mut self.0.what {
            sides.truncate(1);
        }
    }

    /// The endpoint that is tried now.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.0.busy.as_ref().map(BusyGuard::endpoint)
    }

    pub(super) fn set_busy(&mut self, busy: BusyGuard) {
        self.0.busy = Some(busy);
    }

    /// DNS name of the Service that was dialled, if one was.
    pub(super) fn dialled_host(&self) -> Option<&str> {
        self.service().map(|service| &*service.host)
    }

    /// Counts on every side what was carried since this was said last. Requests are not counted in bytes.
    pub(super) fn carried(&mut self, to_server: u64, to_client: u64) {
        if let Carried::Bytes(sides) = &mut self.0.what {
            sides.iter_mut().for_each(|side| side.carried(to_server, to_client));
        }
    }

    /// Says what forbids a connection that was permitted once.
    pub(super) fn denied(&mut self, rejection: &Rejection, decision: Option<DecisionId>) {
        if let Carried::Bytes(sides) = &mut self.0.what {
            sides.iter_mut().for_each(|side| describe_rejection(&mut side.log.record, rejection, decision));
        }
    }

    /// Of a connection of bytes that nothing else refused: who called whom, as its first side knows it.
    pub(super) fn carried_facts(&self) -> Option<&ConnectionFacts> {
        let Carried::Bytes(sides) = &self.0.what else { return None };
        sides.first().filter(|side| side.log.record.decision.is_none()).map(|side| &side.facts)
    }

    /// What the refusal is called that it ends by.
    pub(super) fn lost_as(&mut self, decision: DecisionId) {
        if let Carried::Bytes(sides) = &mut self.0.what {
            sides.iter_mut().for_each(|side| side.log.record.decision = Some(decision));
        }
    }

    /// Ends it as one that the called pod of this agent refused, in the words for a pod of another.
    pub(super) fn refused_by_called(self, Refusal(reason): Refusal) {
        let reason = CloseReason::PeerReset(reason);
        self.end(&Outcome { to_server: 0, to_client: 0, duration: Duration::ZERO, reason });
    }

    /// What is known of it, if nothing was decided.
    pub(super) fn as_undecided(&self) -> Option<Subject<'_>> {
        let Carried::Undecided(Undecided { facts, destination, caller }) = &self.0.what else { return None };
        Some(Subject { facts, destination, caller: caller.as_ref() })
    }

    /// Says on every side how it ended. Requests have said so themselves.
    pub(super) fn end(mut self, outcome: &Outcome) {
        if let Carried::Bytes(sides) = &mut self.0.what {
            for side in sides {
                side.end(outcome);
            }
        }
    }
}

impl Decided {
    pub(super) fn by(permit: &Permit<'_>) -> Self {
        let verdict = if permit.findings().is_empty() { Verdict::Allowed } else { Verdict::Audited };
        let policy = match permit.basis() {
            Basis::Rule(RuleMatch { policy, rule }) => Some(Box::new(decided_by(policy, Some(rule)))),
            Basis::Outbound | Basis::NoPolicy | Basis::EachRequest => None,
        };
        Self { verdict, policy, audit: audited(permit.findings()) }
    }

    /// Says it in the record of what was permitted, and counts what only such records tell.
    pub(super) fn report(&self, record: &mut AccessRecord, metrics: &ProxyMetrics) {
        record.verdict = self.verdict;
        record.policy.clone_from(&self.policy);
        record.audit.clone_from(&self.audit);
        if let Some(audit) = &self.audit {
            metrics.audited(audit);
        }
    }
}

impl Side {
    /// Begins to report a permitted connection.
    pub(super) fn open(core: &Core, subject: Subject<'_>, decided: &Decided, plan: &Plan) -> Self {
        let mut open = begin(&core.shared.access_log, subject, Some(plan));
        decided.report(&mut open.record, &core.shared.metrics);
        let counted = core.traffic.connection_opened(&parties(subject, Some(plan)));
        Self { facts: subject.facts.clone(), spoken: subject.destination.protocol, log: open, counted }
    }

    /// Counts what is new. What the log will say serves as the memory of what was counted.
    fn carried(&mut self, to_server: u64, to_client: u64) {
        let record = &mut self.log.record;
        self.counted.carried_to_destination(to_server.saturating_sub(record.bytes_received));
        self.counted.carried_to_source(to_client.saturating_sub(record.bytes_sent));
        record.bytes_received = to_server;
        record.bytes_sent = to_client;
    }

    /// Found out while it passes, or before it was let through: said in the record, and decided with from now on.
    pub(super) fn turned_out(&mut self, found: &Found) {
        self.facts.server_name = found.server_name.clone();
        self.log.record.detected = Some(found.spoken);
        self.log.record.server_name = found.server_name.name().cloned();
    }

    fn end(&mut self, outcome: &Outcome) {
        self.carried(outcome.to_server, outcome.to_client);
        self.counted.ended_with(flags_of(outcome.reason));
        self.log.record.reason = outcome.reason.reason();
    }
}

/// Reports a connection that was not carried.
pub(super) fn reject(core: &Core, subject: Subject<'_>, rejection: &Rejection) {
    core.traffic.connection_failed(&parties(subject, None), rejection.flags());
    let mut open = begin(&core.shared.access_log, subject, None);
    open.record.reason = rejection.reason();
    let decision = core.name_refusal(subject, rejection, None);
    describe_rejection(&mut open.record, rejection, Some(decision));
}

/// Says what policy said, and which, and by what name that can be asked for.
pub(super) fn describe_rejection(
    record: &mut AccessRecord,
    rejection: &Rejection,
    decision: Option<DecisionId>,
) {
    record.verdict = rejection.verdict();
    record.decision = decision;
    if let Rejection::Denied(denial) | Rejection::Unanswered(denial, _) = rejection {
        record.policy = named(denial);
        record.error = Some(denial.to_string().into());
    }
}

fn decided_by(policy: &AuthorizationPolicy, rule: Option<usize>) -> DecidedBy {
    let kind = PolicyKind::AuthorizationPolicy;
    DecidedBy { policy: PolicyName { kind, name: policy.name.clone() }, rule }
}

fn audited(findings: &[AuditFinding<'_>]) -> Option<Box<Audited>> {
    let effect = |finding: &AuditFinding<'_>| match finding.verdict {
        AuditVerdict::WouldDeny(_) => AuditEffect::WouldDeny,
        AuditVerdict::Audited => AuditEffect::Matched,
    };
    let named = |finding: &AuditFinding<'_>| (decided_by(finding.policy, finding.rule), effect(finding));
    let would_deny = findings.iter().filter(|finding| effect(finding) == AuditEffect::WouldDeny).count();
    (!findings.is_empty()).then(|| {
        Box::new(Audited {
            first: findings.iter().take(NAMED_FINDINGS).map(named).collect(),
            would_deny,
            matched: findings.len() - would_deny,
        })
    })
}

/// Policy and rule of a denial, as the access record has them.
fn named(denial: &Denial) -> Option<Box<DecidedBy>> {
    denial.policy.clone().map(|policy| Box::new(DecidedBy { policy, rule: denial.rule }))
}

pub(super) fn begin(log: &AccessLog, subject: Subject<'_>, plan: Option<&Plan>) -> OpenRecord {
    let Subject { facts, destination, caller } = subject;
    let mut open = log.begin(facts.direction, facts.client, facts.original_dst);
    let record = &mut open.record;
    record.protocol = recorded(destination.protocol);
    record.server_name = facts.server_name.name().cloned();
    record.service = destination.service.as_ref().map(|called| called.service.clone());
    record.source_identity = facts.peer.verified().map(|identity| identity.principal().clone());
    match facts.direction {
        Direction::Outbound => record.source = Some(facts.local.clone()),
        Direction::Inbound => record.source = caller.cloned(),
    }
    describe_called(record, subject, plan);
    open
}

/// Says who is called, as far as that is known.
pub(super) fn describe_called(record: &mut AccessRecord, subject: Subject<'_>, plan: Option<&Plan>) {
    let Subject { facts, destination, .. } = subject;
    match facts.direction {
        Direction::Outbound => {
            record.destination = plan.and_then(Plan::workload).or(destination.workload()).cloned();
            record.destination_identity = expected(plan).map(|identity| identity.principal().clone());
        }
        Direction::Inbound => {
            record.destination = Some(facts.local.clone());
            let proved = matches!(facts.peer, PeerIdentity::Verified(_));
            record.destination_identity = proved.then(|| facts.local.identity.principal().clone());
        }
    }
}

/// Whom a plan leads to, where it must prove that.
fn expected(plan: Option<&Plan>) -> Option<&SpiffeId> {
    match plan? {
        Plan::Tunnel(tunnel) => Some(tunnel.expected()),
        Plan::Local(local) => Some(&local.workload.identity),
        Plan::Direct(_) | Plan::Application(_) => None,
    }
}

pub(super) fn parties<'a>(subject: Subject<'a>, plan: Option<&'a Plan>) -> Parties<'a> {
    let Subject { facts, destination, caller } = subject;
    let service = destination.service.as_ref().map(|called| &called.service);
    match facts.direction {
        Direction::Outbound => Parties {
            reporter: Reporter::Source,
            security: match plan {
                Some(Plan::Tunnel(_) | Plan::Local(_)) => SecurityPolicy::MutualTls,
                Some(Plan::Direct(_) | Plan::Application(_)) | None => SecurityPolicy::Unknown,
            },
            source: Some(&facts.local),
            source_identity: facts.peer.verified(),
            destination: plan.and_then(Plan::workload).or(destination.workload()),
            service,
        },
        Direction::Inbound => Parties {
            reporter: Reporter::Destination,
            security: match facts.peer {
                PeerIdentity::Verified(_) => SecurityPolicy::MutualTls,
                PeerIdentity::None => SecurityPolicy::None,
            },
            source: caller,
            source_identity: facts.peer.verified(),
            destination: Some(&facts.local),
            service,
        },
    }
}

pub(super) fn recorded(protocol: Protocol) -> RecordedProtocol {
    match protocol {
        Protocol::Http1 => RecordedProtocol::Http1,
        Protocol::Http2 => RecordedProtocol::Http2,
        Protocol::Grpc => RecordedProtocol::Grpc,
        Protocol::Tcp | Protocol::Tls | Protocol::Undeclared => RecordedProtocol::Tcp,
    }
}
