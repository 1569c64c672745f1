//! The conductor of these tests: the real stages, and what they decided kept for looking at.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use mesh_common::http1::{AskedFor, IDENTITY_FIELDS, Refusal};
use mesh_common::model::*;
use mesh_common::policy;
use mesh_common::resolve;
use mesh_common::route::{self, Choice, Load, Local, Plan};
use tokio::sync::Notify;

use super::world::{Recorded, World};
use crate::transport::connect::{self, Dial};
use crate::transport::http2::{Conductor, Cut, End, Ending, Exchange, Instead, OwnAnswer, RefusedUnseen};

/// What every refusal is called here.
pub(super) const DECISION: &str = "4k2nd-9xq1-7h3mz0v8w5rc";

/// The conductor of one connection, with the real stages.
pub(super) struct Deciding {
    pub(super) facts: ConnectionFacts,
    pub(super) leave: Rc<Notify>,
    pub(super) world: Rc<World>,
}

pub(super) struct Record {
    recorded: Recorded,
    world: Rc<World>,
}

struct Idle;

impl Load for Idle {
    fn connections(&self, _: SocketAddr) -> u32 {
        0
    }
    fn requests(&self, _: SocketAddr) -> u32 {
        0
    }
}

impl Exchange for Record {
    fn edits(&mut self) -> Option<HeadEdits> {
        self.world.edits.borrow().clone()
    }

    fn answered(&mut self, status: StatusCode) {
        self.recorded.status = Some(status);
        self.world.answered.borrow_mut().push(status);
    }

    fn messages(&mut self, passed: [u64; 2]) {
        assert_ne!(passed, [0, 0], "there is nothing to say");
        let mut all = self.world.messages.get();
        for (all, (said, more)) in all.iter_mut().zip(self.recorded.messages.iter_mut().zip(passed)) {
            *said += more;
            *all += more;
        }
        self.world.messages.set(all);
    }

    fn ended(&mut self, end: &End) {
        self.recorded.end = end.clone();
        self.world.records.borrow_mut().push(self.recorded.clone());
    }
}

impl Deciding {
    fn plan(
        &self,
        facts: &ConnectionFacts,
        request: &RequestFacts<'_>,
        tried: &[SocketAddr],
    ) -> Result<Plan, OwnAnswer> {
        let snapshot = self.world.snapshot.borrow().clone();
        let destination = resolve::destination(&snapshot, facts).with_detected(Protocol::Http2);
        let permit = policy::authorize_request(&snapshot, facts, &destination, request)
            .map_err(|denial| OwnAnswer::denied(denial.reason.code()))?;
        route::plan_request(&snapshot, permit, &Choice { random: 0, load: &Idle, tried })
            .map_err(|unroutable| OwnAnswer::unavailable(unroutable.code()))
    }
}

impl Conductor for Deciding {
    type Exchange = Record;

    fn pod(&self) -> &Arc<Workload> {
        &self.facts.local
    }

    fn client(&self) -> (IpAddr, Option<&SpiffeId>) {
        (self.facts.client_ip(), self.facts.peer.verified())
    }

    fn leave(&self) -> &Notify {
        &self.leave
    }

    fn strip(&self) -> &'static [&'static str] {
        IDENTITY_FIELDS
    }

    fn refused_unseen(&self, became: RefusedUnseen) {
        self.world.refused.borrow_mut().push(became);
    }

    fn late(&self, _: AskedFor) {
        self.world.late.set(self.world.late.get() + 1);
    }

    fn malformed(&self, refusal: Refusal, _: AskedFor, _: u64) -> DecisionId {
        self.world.malformed.borrow_mut().push(refusal);
        DECISION.parse().unwrap()
    }

    fn begin(self: &Rc<Self>, request: &RequestFacts<'_>, cut: Cut) -> Record {
        self.world.cuts.borrow_mut().push(cut);
        let caller = match self.facts.direction {
            Direction::Inbound => self.facts.peer.verified().map(ToString::to_string),
            Direction::Outbound => None,
        };
        let end = End { request_bytes: 0, response_bytes: 0, grpc_status: None, ending: Ending::CallerGone };
        let path = request.path.as_str().to_owned();
        Record {
            recorded: Recorded { caller, path, status: None, messages: [0; 2], end },
            world: self.world.clone(),
        }
    }

    fn decide(
        &self,
        _: &mut Record,
        request: &RequestFacts<'_>,
        tried: &[SocketAddr],
    ) -> Result<Plan, Instead> {
        Ok(self.plan(&self.facts, request, tried)?)
    }

    fn arrive(&self, _: &mut Record, local: &Local, request: &RequestFacts<'_>) -> Result<Plan, Instead> {
        let facts = ConnectionFacts {
            direction: Direction::Inbound,
            original_dst: local.endpoint,
            local: local.workload.clone(),
            ..self.facts.clone()
        };
        Ok(self.plan(&facts, request, &[])?)
    }

    fn client_certificate(&self, _: &Plan) -> Option<HeaderValue> {
        None
    }

    fn dial(&self, plan: &Plan) -> io::Result<OwnedFd> {
        self.world.dials.set(self.world.dials.get() + 1);
        let to = match plan {
            Plan::Application(_) => self.world.application.get(),
            plan => plan.address(),
        };
        connect::start(&Dial { destination: to, source: None, netns: None })
    }
}
