//! A request that is not over, kept so that it can be decided again when policy changes.

use mesh_common::model::{ConnectionFacts, DecisionId, Direction, RequestCopy, RequestFacts};
use mesh_common::policy::{CarriedAs, Denial};
use mesh_common::snapshot::Snapshot;
use mesh_common::{policy, resolve};

use super::Core;
use super::inbound::caller_pod;
use super::record::{HttpConnection, Subject};
use super::request::{described, given_id};
use super::response::Rejection;
use crate::telemetry::access_log::Request;

/// A request that policy of this agent let through.
#[derive(Debug)]
pub(super) struct UnderWay {
    request: RequestCopy,
    /// Between pods of this agent: what the called side knows.
    called: Option<Box<ConnectionFacts>>,
}

impl UnderWay {
    /// Keeps a request if its destination is decided here: inbound, or `called` on this agent.
    pub(super) fn keep(
        http: &HttpConnection,
        called: Option<ConnectionFacts>,
        request: &RequestFacts<'_>,
    ) -> Option<Self> {
        let is_ours = http.facts.direction == Direction::Inbound || called.is_some();
        is_ours.then(|| Self { request: RequestCopy::of(request), called: called.map(Box::new) })
    }

    /// What the side knows where it is decided.
    pub(super) fn facts<'a>(&'a self, http: &'a HttpConnection) -> &'a ConnectionFacts {
        self.called.as_deref().unwrap_or(&http.facts)
    }

    /// What is said of it.
    pub(super) fn described(&self) -> Request {
        self.request.show(|request| described(request, given_id(request)))
    }

    fn still_permitted(&self, snapshot: &Snapshot, http: &HttpConnection) -> Result<(), Denial> {
        let facts = self.facts(http);
        let destination = resolve::destination(snapshot, facts).with_detected(http.spoken);
        self.request
            .show(|request| policy::authorize_request(snapshot, facts, &destination, request).map(drop))
    }
}

/// Whether a request, `kept` if it is decided here, would be let through now, and so would its connection.
pub(super) fn still_permitted(
    snapshot: &Snapshot,
    http: &HttpConnection,
    kept: Option<&UnderWay>,
) -> Result<(), Denial> {
    policy::recheck(snapshot, &http.facts, CarriedAs::Requests(http.spoken))?;
    kept.map_or(Ok(()), |kept| kept.still_permitted(snapshot, http))
}

impl Core {
    /// Names what cuts off a request that was permitted once, `kept` if it is decided here.
    pub(super) fn name_cut(
        &self,
        http: &HttpConnection,
        kept: Option<&UnderWay>,
        rejection: &Rejection,
    ) -> DecisionId {
        let snapshot = self.snapshot();
        let facts = kept.map_or(&http.facts, |kept| kept.facts(http));
        let destination = resolve::destination(&snapshot, facts).with_detected(http.spoken);
        let caller = caller_pod(&snapshot, facts);
        let subject = Subject { facts, destination: &destination, caller };
        self.name_refusal(subject, rejection, kept.map(UnderWay::described).as_ref())
    }
}
