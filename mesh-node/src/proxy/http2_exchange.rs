//! One request over HTTP/2, from its head to its end: what cuts it off, and what is reported of it.

use std::rc::Rc;
use std::time::Instant;

use http::{HeaderValue, StatusCode};
use mesh_common::model::{DecisionId, HeadEdits, Protocol, RequestFacts};
use mesh_common::policy::Denial;
use mesh_common::route::Plan;

use super::Core;
use super::external::{Allowance, Said, Unplanned};
use super::http2::Http2Connection;
use super::limits::Place;
use super::load::BusyGuard;
use super::record::Subject;
use super::request::{Reported, RequestSides, described, given_id};
use super::response::Rejection;
use super::under_way::UnderWay;
use crate::telemetry::labels::{RecordedProtocol, ResponseFlags, Verdict};
use crate::transport::http1::QuestionId;
use crate::transport::http2::{ConnectFailure, Cut, End, Ending, Exchange, Instead, OwnAnswer};

/// A request that is not over.
pub(super) struct Open {
    pub(super) under_way: Option<UnderWay>,
    pub(super) cut: Cut,
    /// What forbids it by now.
    pub(super) denied: Option<Rejection>,
    /// What that is called.
    pub(super) decision: Option<DecisionId>,
}

/// What is kept with a request, from its head to its end.
pub(super) struct Http2Exchange {
    pub(super) connection: Rc<Http2Connection>,
    /// Its place among the connection's exchanges.
    pub(super) key: usize,
    pub(super) began: Instant,
    pub(super) is_grpc: bool,
    pub(super) status: u16,
    /// The endpoint that it makes busy.
    pub(super) busy: Option<BusyGuard>,
    /// Of the connection that it has to itself.
    pub(super) place: Option<Place>,
    pub(super) sides: RequestSides,
    /// Why it was answered by us.
    pub(super) answered: Option<(ResponseFlags, &'static str)>,
    /// What is changed of its head before it is sent.
    pub(super) edits: Option<HeadEdits>,
    /// And of its response's.
    pub(super) response_edits: Option<Box<HeadEdits>>,
    /// What is asked about it.
    pub(super) question: Option<QuestionId>,
    /// What was said of it: it is asked about once.
    pub(super) said: Option<Said>,
}

impl Open {
    /// Cuts it off for what forbids it by now. Returns whether it was not cut before: where its caller takes nothing, it
    /// stays for a while.
    pub(super) fn deny(
        &mut self,
        denial: Denial,
        name: impl FnOnce(Option<&UnderWay>, &Rejection) -> DecisionId,
    ) -> bool {
        let is_first = self.denied.is_none();
        if is_first {
            let rejection = self.denied.insert(Rejection::Denied(denial));
            self.decision = Some(name(self.under_way.as_ref(), rejection));
            self.cut.now();
        }
        is_first
    }
}

impl Http2Exchange {
    /// Over HTTP/1.1 a request has a connection to itself: it counts as one, as those of the engine do.
    pub(super) fn take_place(&mut self, core: &Core, plan: &Plan) -> Result<(), Rejection> {
        let (protocol, pod) = match plan {
            Plan::Application(application) => (application.protocol, core.pod(&application.workload.uid)),
            Plan::Direct(direct) => (direct.protocol, Some(self.connection.pod.clone())),
            Plan::Tunnel(_) | Plan::Local(_) => return Ok(()),
        };
        if protocol == Protocol::Http1 && !self.is_grpc {
            let pod = pod.ok_or(Rejection::PodGone)?;
            self.place = Some(pod.places().take().map_err(Rejection::Limited)?);
        }
        Ok(())
    }

    pub(super) fn reject(
        &mut self,
        core: &Core,
        subject: Subject<'_>,
        rejection: &Rejection,
        request: &RequestFacts<'_>,
    ) -> OwnAnswer {
        let side = core.reject_request(subject, rejection, request);
        let decision = side.decision();
        self.sides.push(side);
        self.answer(rejection, decision)
    }

    /// Refuses a request that was permitted once and is reported already.
    pub(super) fn reject_after_all(
        &mut self,
        core: &Core,
        subject: Subject<'_>,
        rejection: &Rejection,
        request: &RequestFacts<'_>,
    ) -> OwnAnswer {
        let decision = core.name_refusal(subject, rejection, Some(&described(request, given_id(request))));
        self.answer(rejection, Some(decision))
    }

    /// A request that has no plan is answered, or asked about first.
    pub(super) fn unplanned(
        &mut self,
        core: &Core,
        subject: Subject<'_>,
        unplanned: Unplanned,
        request: &RequestFacts<'_>,
    ) -> Instead {
        match unplanned {
            Unplanned::Rejected(rejection) => self.reject(core, subject, &rejection, request).into(),
            Unplanned::Refused(rejection, mut given) => {
                given.decision = self.reject(core, subject, &rejection, request).decision;
                Instead::Given(given)
            }
            Unplanned::Ask(question) => {
                self.question = Some(question.id);
                Instead::Ask(question)
            }
        }
    }

    /// What is changed of it: by its token, then by what an authorization server lets it pass with.
    pub(super) fn change(&mut self, first: Option<HeadEdits>, allowance: Option<&Allowance>) {
        let some = |edits: &HeadEdits| (!edits.is_empty()).then(|| edits.clone());
        let later = allowance.and_then(|allowance| some(&allowance.request));
        self.edits = match (first, later) {
            (Some(first), Some(later)) => Some(first.then(later)),
            (first, later) => first.or(later),
        };
        self.response_edits = allowance.and_then(|allowance| some(&allowance.response)).map(Box::new);
    }

    /// It waited for an answer, and may not any longer.
    pub(super) fn question_was_late(&mut self) {
        let late = self.question.take().and_then(|question| self.connection.late_side(question));
        let Some(side) = late else { return };
        let decision = side.decision();
        self.sides.push(side);
        self.sides.iter_mut().for_each(|side| side.refused_as(decision));
    }

    fn answer(&mut self, rejection: &Rejection, decision: Option<DecisionId>) -> OwnAnswer {
        self.answered = Some((rejection.flags(), rejection.reason()));
        self.sides.iter_mut().for_each(|side| side.refused_as(decision));
        let answer = match (rejection, rejection.verdict()) {
            (Rejection::Unanswered(_, status), _) => OwnAnswer::unanswered(*status, rejection.reason()),
            (_, Verdict::Denied) => match rejection.token_fault() {
                Some(fault) => OwnAnswer::unauthenticated(fault.as_str(), fault.code()),
                None => OwnAnswer::denied(rejection.reason()),
            },
            (_, Verdict::Allowed | Verdict::Audited | Verdict::Undecided) => {
                OwnAnswer::unavailable(rejection.reason())
            }
        };
        answer.about(decision)
    }
}

impl Exchange for Http2Exchange {
    fn edits(&mut self) -> Option<HeadEdits> {
        self.edits.take()
    }

    fn request_id(&self) -> Option<HeaderValue> {
        let id = self.sides.first()?.made_id()?;
        let mut value = HeaderValue::from_str(id.as_str()).expect("an id is visible ASCII");
        // None is like another: in the table of fields that both sides keep it would push out what comes again.
        value.set_sensitive(true);
        Some(value)
    }

    fn decision(&self) -> Option<DecisionId> {
        self.connection.exchanges.borrow().get(self.key)?.decision
    }

    fn response_edits(&mut self) -> Option<Box<HeadEdits>> {
        self.response_edits.take()
    }

    fn answered(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    fn messages(&mut self, passed: [u64; 2]) {
        self.sides.iter().for_each(|side| side.messages(passed));
    }

    fn ended(&mut self, end: &End) {
        self.busy = None;
        self.place = None;
        match end.ending {
            Ending::DeadlineExceeded | Ending::IdleTimedOut => self.question_was_late(),
            _ => {
                if let Some(question) = self.question.take() {
                    self.connection.forget_question(question);
                }
            }
        }
        let (flags, reason) = told(end.ending, self.answered);
        if end.ending == Ending::NotTaken {
            self.connection.count_untaken();
        }
        let reported = Reported {
            protocol: if self.is_grpc { RecordedProtocol::Grpc } else { RecordedProtocol::Http2 },
            code: self.status,
            grpc_status: end.grpc_status,
            flags,
            reason,
            request_bytes: end.request_bytes,
            response_bytes: end.response_bytes,
            duration: self.began.elapsed(),
        };
        let open = self.connection.exchanges.borrow();
        let denied = open.get(self.key).and_then(|open| Some((open.denied.as_ref()?, open.decision)));
        let denied = denied.filter(|_| reason == Ending::Cut.as_str());
        for mut side in self.sides.drain(..) {
            if let Some((rejection, decision)) = denied {
                side.denied(rejection, decision);
            }
            side.ended(&reported);
        }
    }
}

impl Drop for Http2Exchange {
    fn drop(&mut self) {
        self.connection.exchanges.borrow_mut().remove(self.key);
    }
}

/// How an ending is recorded; `answered` is what was answered in the application's place.
fn told(ending: Ending, answered: Option<(ResponseFlags, &'static str)>) -> (ResponseFlags, &'static str) {
    match (ending, answered) {
        (Ending::OwnAnswer, Some(answered)) => answered,
        (Ending::Complete, _) => (ResponseFlags::None, "completed"),
        (Ending::CallerGone | Ending::NotTaken, _) => (ResponseFlags::DownstreamDisconnect, ending.as_str()),
        (Ending::UpstreamBroke, _) => (ResponseFlags::UpstreamFailure, ending.as_str()),
        (Ending::IdleTimedOut | Ending::DeadlineExceeded, _) => {
            (ResponseFlags::UpstreamTimeout, ending.as_str())
        }
        (Ending::Cut | Ending::OwnAnswer, _) => (ResponseFlags::Denied, Ending::Cut.as_str()),
    }
}

pub(super) fn flags_of_failure(failure: &ConnectFailure) -> ResponseFlags {
    match failure {
        ConnectFailure::Connect(_) | ConnectFailure::Dial(_) => ResponseFlags::ConnectFailure,
        ConnectFailure::ConnectTimeout
        | ConnectFailure::HandshakeTimeout
        | ConnectFailure::SlowRequest
        | ConnectFailure::DeadlineExceeded
        | ConnectFailure::IdleTimedOut => ResponseFlags::UpstreamTimeout,
        ConnectFailure::BadBody(_) => ResponseFlags::DownstreamProtocolError,
        ConnectFailure::Handshake(_) => ResponseFlags::TlsFailure,
        ConnectFailure::NoIdentity(_) => ResponseFlags::IdentityError,
        ConnectFailure::TooManyHandshakes => ResponseFlags::UpstreamOverflow,
        ConnectFailure::Closed
        | ConnectFailure::NoExtendedConnect
        | ConnectFailure::NoSwitch
        | ConnectFailure::Malformed(_)
        | ConnectFailure::Http(_) => ResponseFlags::UpstreamFailure,
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::policy::DenialReason;

    use super::*;

    #[test]
    fn a_request_that_is_cut_off_is_so_once() {
        let cut = Cut::default();
        let mut open = Open { under_way: None, cut, denied: None, decision: None };
        let denial = || Denial { reason: DenialReason::NoRuleAllows, policy: None, rule: None };
        let id = "4k2nd-9xq1-7h3mz0v8w5rc".parse().unwrap();
        assert!(open.deny(denial(), |_, _| id));
        assert!(
            !open.deny(denial(), |_, _| unreachable!("it has a name")),
            "still there at the next snapshot"
        );
    }
}
