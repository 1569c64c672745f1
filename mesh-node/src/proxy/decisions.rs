//! Refusals of late, by their ids: what a core keeps so that each can be told.
//!
//! In: a refusal, with what was known of it. Out: its id, and later the same facts for whoever asks. Each core
//! keeps so many and forgets the oldest, so a flood of refusals takes a bounded memory and no lock. Never: a query, a
//! field of a request or a token, which may be credentials.

use std::cell::RefCell;
use std::fmt;
use std::time::SystemTime;

use mesh_common::http1;
use mesh_common::model::{ConnectionFacts, DecisionId, Direction, NamespacedName, NodeMark, Protocol, Text};
use mesh_common::policy::Denial;
use mesh_common::resolve;
use mesh_common::route::Unroutable;
use mesh_common::snapshot::Snapshot;
use mesh_common::tunnel::ResetReason;

use super::Core;
use super::inbound::caller_pod;
use super::record::{Record, Subject};
use super::response::Rejection;
use crate::telemetry::access_log::Request;
use crate::transport::{CloseReason, TunnelLoss};

/// Refusals by policy that an agent keeps, of all its cores together.
pub const KEPT: usize = 4096;
/// Other refusals that it keeps: of limits, of what cannot be read, of what is not there. They are kept apart, for anybody
/// may cause many of them.
pub const KEPT_OTHERS: usize = 1024;
/// The fewest of one core, of either.
const KEPT_PER_CORE: usize = 64;

/// The longest texts that are kept of a request, in bytes.
const MAX_METHOD: usize = 32;
const MAX_HOST: usize = 256;
const MAX_PATH: usize = 512;
/// Ends what was shortened.
const MORE: &str = "...";

/// One side does not take the other for who it must be, or says nothing.
pub(super) const NOT_MUTUAL: &str =
    "mutual TLS did not come about: a certificate is missing, is of somebody else, or nobody vouches for it";
/// Nobody signs for the pod.
pub(super) const NO_CERTIFICATE: &str = "this node has no certificate for its pod";

/// What the ids of one run of an agent have in common.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    node: NodeMark,
    run: u32,
    cores: usize,
}

/// What is known of a refusal.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Its name.
    pub id: DecisionId,
    /// When.
    pub when: SystemTime,
    /// Of the tables by which it was decided.
    pub generation: u64,
    /// Who called whom.
    pub facts: ConnectionFacts,
    /// The caller's pod, as far as it was known.
    pub caller: Option<NamespacedName>,
    /// Host name of the Service that was called.
    pub service: Option<Text>,
    /// What was spoken, as far as it was known.
    pub protocol: Protocol,
    /// The request, if it was one.
    pub request: Option<RefusedRequest>,
    /// The code, as in the access record.
    pub reason: &'static str,
    /// Who or what refused.
    pub cause: Cause,
}

/// Who or what refuses.
#[derive(Clone, Debug)]
pub enum Cause {
    /// Policy, or nothing is known of what was asked for.
    Policy(Denial),
    /// Policy would have to see a request, and the bytes are none.
    NotHttp,
    /// The request cannot be understood.
    Malformed(http1::Refusal),
    /// The client did not send the rest of its request in time.
    Slow,
    /// The caller's certificate has ended since it was shown.
    Late,
    /// There is no endpoint.
    NoEndpoint(Unroutable),
    /// A limit, or the pod that was called is not to be reached that way: why.
    Carrying(&'static str),
}

/// The line of a refused request, shortened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRequest {
    /// Its method.
    pub method: Box<str>,
    /// The host that it names.
    pub host: Box<str>,
    /// Its path, without the query.
    pub path: Box<str>,
    /// Whom its token speaks of.
    pub end_user: Option<Text>,
}

/// What one core keeps.
#[derive(Debug)]
pub(super) struct Decisions {
    origin: Origin,
    kept: RefCell<Kept>,
}

#[derive(Debug)]
struct Kept {
    by_policy: Ring<Refused>,
    others: Ring<Refused>,
}

/// The last so many of something.
#[derive(Debug)]
struct Ring<T> {
    places: usize,
    /// Where the next one goes, once all places are taken.
    next: usize,
    all: Vec<T>,
}

impl Origin {
    /// A new run of the agent of a node, with so many cores.
    pub fn new(node: &str, cores: usize) -> Self {
        Self { node: NodeMark::of(node), run: fastrand::u32(..), cores: cores.max(1) }
    }

    /// Whether an id is of this run.
    pub fn gave(&self, id: &DecisionId) -> bool {
        id.is_of_run(&DecisionId::new(self.node, self.run, 0))
    }

    /// Places of one core, of so many of all.
    fn places(self, of_all: usize) -> usize {
        (of_all / self.cores).max(KEPT_PER_CORE)
    }

    fn next(self) -> DecisionId {
        DecisionId::new(self.node, self.run, fastrand::u64(..))
    }
}

impl Decisions {
    pub(super) fn new(origin: Origin) -> Self {
        let ring = |of_all| Ring { places: origin.places(of_all), next: 0, all: Vec::new() };
        Self { origin, kept: RefCell::new(Kept { by_policy: ring(KEPT), others: ring(KEPT_OTHERS) }) }
    }
}

impl<T> Ring<T> {
    fn put(&mut self, one: T) {
        if self.all.len() < self.places {
            return self.all.push(one);
        }
        self.all[self.next] = one;
        self.next = (self.next + 1) % self.places;
    }
}

impl Core {
    /// Names a refusal, and keeps what is known of it.
    pub(super) fn name_refusal(
        &self,
        subject: Subject<'_>,
        rejection: &Rejection,
        request: Option<&Request>,
    ) -> DecisionId {
        self.name(subject, (rejection.cause(), rejection.reason()), request)
    }

    /// Names what was refused for a cause and its code.
    pub(super) fn name(
        &self,
        subject: Subject<'_>,
        (cause, reason): (Cause, &'static str),
        request: Option<&Request>,
    ) -> DecisionId {
        let Subject { facts, destination, caller } = subject;
        let id = self.decisions.origin.next();
        let mut kept = self.decisions.kept.borrow_mut();
        let ring = if cause.is_of_policy() { &mut kept.by_policy } else { &mut kept.others };
        ring.put(Refused {
            id,
            when: SystemTime::now(),
            generation: self.snapshot().generation(),
            facts: facts.clone(),
            caller: caller.map(|caller| caller.name.clone()),
            service: destination.service.as_ref().map(|called| called.service.host.clone()),
            protocol: destination.protocol,
            request: request.map(RefusedRequest::of),
            reason,
            cause,
        });
        id
    }

    /// Names what closes a connection that was permitted once.
    pub(super) fn name_closing(
        &self,
        snapshot: &Snapshot,
        facts: &ConnectionFacts,
        rejection: &Rejection,
    ) -> DecisionId {
        let destination = resolve::destination(snapshot, facts);
        let caller = caller_pod(snapshot, facts);
        self.name_refusal(Subject { facts, destination: &destination, caller }, rejection, None)
    }

    /// Names what ended a connection of bytes that policy had permitted, where that is a refusal. Each side has it in its record.
    pub(super) fn name_lost(&self, record: &mut Record, reason: CloseReason) {
        let Some(cause) = Cause::of(reason) else { return };
        let Some(facts) = record.carried_facts().cloned() else { return };
        let snapshot = self.snapshot();
        let destination = resolve::destination(&snapshot, &facts);
        let caller = caller_pod(&snapshot, &facts).filter(|_| facts.direction == Direction::Inbound);
        let subject = Subject { facts: &facts, destination: &destination, caller };
        record.lost_as(self.name(subject, (cause, reason.reason()), None));
    }

    /// A refusal that is still kept.
    pub fn refusal(&self, id: &DecisionId) -> Option<Refused> {
        let kept = self.decisions.kept.borrow();
        let mut all = kept.by_policy.all.iter().chain(&kept.others.all);
        all.find(|refused| refused.id == *id).cloned()
    }
}

impl Cause {
    /// Whether policy was asked: it may say something else by now.
    pub fn is_of_policy(&self) -> bool {
        matches!(self, Self::Policy(_) | Self::NotHttp)
    }

    /// What refused that which ended so, if it was refused: the called pod's node, proof of who is who, or a limit.
    pub(super) fn of(reason: CloseReason) -> Option<Self> {
        let why = match reason {
            CloseReason::PeerReset(ResetReason::Denied) => {
                "the called pod's node refuses it: that agent's record of the connection has an id of its own"
            }
            CloseReason::PeerReset(ResetReason::Overloaded) => {
                "the called pod's node takes no more: a limit of its connections is reached"
            }
            CloseReason::TunnelLost(TunnelLoss::Handshake | TunnelLoss::HandshakeTimedOut) => NOT_MUTUAL,
            CloseReason::TunnelLost(TunnelLoss::NoCertificate) => NO_CERTIFICATE,
            CloseReason::TunnelLost(TunnelLoss::NotTrusted) => {
                "nobody vouches any more for the other side's certificate"
            }
            CloseReason::TunnelLost(TunnelLoss::TooMany) => {
                "the caller's address has as many connections to this node as it may"
            }
            CloseReason::Overloaded | CloseReason::NoDescriptors => "a limit of this node is reached",
            _ => return None,
        };
        Some(Self::Carrying(why))
    }

    /// What policy said, if it said something.
    pub fn denial(&self) -> Option<&Denial> {
        match self {
            Self::Policy(denial) => Some(denial),
            _ => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(denial) => write!(formatter, "{denial}"),
            Self::NotHttp => formatter.write_str("rules ask about requests, and the bytes are not HTTP"),
            Self::Malformed(refusal) => {
                write!(
                    formatter,
                    "the request cannot be understood, and was answered {}: {refusal}",
                    refusal.status()
                )
            }
            Self::Slow => {
                formatter.write_str("the rest of the request did not come in time, and it was answered 408")
            }
            Self::Late => formatter.write_str("the caller's certificate has ended since it was shown"),
            Self::NoEndpoint(unroutable) => write!(formatter, "{unroutable}"),
            Self::Carrying(why) => formatter.write_str(why),
        }
    }
}

impl RefusedRequest {
    /// Whether not all of it is kept.
    pub fn is_shortened(&self) -> bool {
        [&self.method, &self.host, &self.path].iter().any(|text| text.ends_with(MORE))
    }

    fn of(request: &Request) -> Self {
        Self {
            method: shortened(&request.method, MAX_METHOD),
            host: shortened(&request.host, MAX_HOST),
            path: shortened(&request.path, MAX_PATH),
            end_user: request.end_user.clone(),
        }
    }
}

/// The text, or as much of its beginning as may be kept.
fn shortened(text: &str, most: usize) -> Box<str> {
    if text.len() <= most {
        return text.into();
    }
    format!("{}{MORE}", &text[..text.floor_char_boundary(most)]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_and_no_more() {
        let mut ring = Ring { places: 3, next: 0, all: Vec::new() };
        (0..10).for_each(|number| ring.put(number));
        ring.all.sort_unstable();
        assert_eq!(ring.all, [7, 8, 9]);
    }

    #[test]
    fn a_run_knows_its_ids_and_all_its_cores_share_the_places() {
        let (run, another) = (Origin::new("a", 2), Origin::new("a", 2));
        assert!(run.gave(&run.next()) && run.next() != run.next());
        assert_eq!(run.run == another.run, another.gave(&run.next()));
        assert_eq!((run.places(KEPT), Origin::new("a", 1000).places(KEPT)), (KEPT / 2, KEPT_PER_CORE));
    }

    #[test]
    fn a_long_request_is_shortened_between_characters() {
        assert_eq!(&*shortened("abc", 3), "abc");
        assert_eq!(&*shortened("abéd", 3), "ab...");
    }
}
