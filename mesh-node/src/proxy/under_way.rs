//! A request that is not over, kept so that it can be decided again when policy changes.

use mesh_common::model::{ConnectionFacts, Direction, RequestCopy, RequestFacts};
use mesh_common::policy::{CarriedAs, Denial};
use mesh_common::snapshot::Snapshot;
use mesh_common::{policy, resolve};

use super::record::HttpConnection;

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

    fn still_permitted(&self, snapshot: &Snapshot, http: &HttpConnection) -> Result<(), Denial> {
        let facts = self.called.as_deref().unwrap_or(&http.facts);
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
