//! The streams: authentication, deadlines, debounce. One task each.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming, async_trait};
use tracing::{debug, info, warn};

use super::agents::Place;
use super::session::{Session, Violation};
use super::turns::Turn;
use super::view::TooFarBehind;
use super::{Discovery, DiscoverySettings};
use crate::controller::agents::{AgentCaller, Authenticate, Refused};

/// How long it may take to find out who calls.
const AUTHENTICATION: Duration = Duration::from_secs(15);
/// Questions of one agent are answered no more often: agents gather theirs as long, and one that does not costs no more.
const QUESTIONS: Duration = Duration::from_millis(10);
const OLD: &str = "this stream is old: begin a new one";
const NEWER: &str = "the agent has a newer stream";

/// What runs behind the generated server.
pub struct DiscoveryService {
    discovery: Arc<Discovery>,
    authenticate: Arc<dyn Authenticate>,
}

/// What a stream sends.
type Outgoing = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

/// One stream at work.
struct Stream<'a> {
    discovery: &'a Discovery,
    caller: &'a AgentCaller,
    place: Place<'a>,
    session: Session,
    out: &'a Outgoing,
    /// Since when the agent owes an answer.
    waiting: Option<Instant>,
    /// Until it was told all.
    turn: Option<Turn>,
    /// When it last asked, once it was told all.
    asked: Option<Instant>,
}

impl DiscoveryService {
    pub(super) fn new(discovery: Arc<Discovery>, authenticate: Arc<dyn Authenticate>) -> Self {
        Self { discovery, authenticate }
    }

    async fn caller(&self, metadata: &MetadataMap) -> Result<AgentCaller, Status> {
        let bearer = bearer(metadata)?;
        let found = timeout(AUTHENTICATION, self.authenticate.authenticate(bearer)).await;
        let late = || Refused::Unavailable("the API server did not say in time whose token it is".to_owned());
        found.unwrap_or_else(|_| Err(late())).map_err(|refused| Status::from(&refused))
    }
}

/// The token of a call.
fn bearer(metadata: &MetadataMap) -> Result<&str, Status> {
    let value = metadata.get("authorization").and_then(|value| value.to_str().ok());
    value.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(|| {
        Status::unauthenticated("no token: send the agent's own as \"authorization: Bearer TOKEN\"")
    })
}

#[async_trait]
impl AggregatedDiscoveryService for DiscoveryService {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("only DeltaAggregatedResources is served here"))
    }

    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let caller = self.caller(request.metadata()).await?;
        // One response waits to be written; the next is made when there is room.
        let (out, responses) = mpsc::channel(1);
        tokio::spawn(serve(Arc::clone(&self.discovery), caller, request.into_inner(), out));
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

async fn serve(
    discovery: Arc<Discovery>,
    caller: AgentCaller,
    requests: Streaming<DeltaDiscoveryRequest>,
    out: Outgoing,
) {
    let Some((place, ended)) = discovery.agents.enter(&caller, discovery.settings.max_agents) else {
        let full = Status::resource_exhausted("as many agents are connected as may be");
        let _ = out.try_send(Err(full));
        return;
    };
    info!(node = %caller.node, identity = %caller.identity, "agent connected");
    let session = Session::new(caller.node.clone());
    let stream = Stream {
        discovery: &discovery,
        caller: &caller,
        place,
        session,
        out: &out,
        waiting: None,
        turn: None,
        asked: None,
    };
    match stream.run(requests, ended).await {
        Ok(()) => info!(node = %caller.node, "agent gone"),
        Err(status) => {
            info!(node = %caller.node, reason = status.message(), "agent's stream ended");
            // If it cannot be told, it sees the stream end.
            let _ = timeout(discovery.settings.answer_timeout, out.send(Err(status))).await;
        }
    }
}

impl Stream<'_> {
    /// Serves until the agent goes, or breaks the rules.
    async fn run(
        mut self,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        mut ended: oneshot::Receiver<()>,
    ) -> Result<(), Status> {
        let mut published = self.discovery.published.subscribe();
        let DiscoverySettings { answer_timeout, max_stream_age, .. } = self.discovery.settings;
        let mut old = pin!(sleep_until(Instant::now() + shortened(max_stream_age)));
        tokio::select! {
            turn = self.begin(&mut published) => self.turn = Some(turn),
            () = self.out.closed() => return Ok(()),
            () = &mut old => return Err(Status::unavailable(OLD)),
            _ = &mut ended => return Err(Status::aborted(NEWER)),
        }
        loop {
            let late = self.waiting.map(|since| since + answer_timeout);
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => {
                        self.pace(&request).await;
                        self.take(request)?;
                    }
                    Ok(None) => return Ok(()),
                    Err(status) => {
                        debug!(node = %self.caller.node, %status, "agent's stream broke");
                        return Ok(());
                    }
                },
                _ = published.changed() => self.gather(&mut published).await,
                () = due(late) => return Err(Status::deadline_exceeded("a response was not answered in time")),
                () = &mut old => return Err(Status::unavailable(OLD)),
                _ = &mut ended => return Err(Status::aborted(NEWER)),
            }
            if published.borrow().is_some() {
                tokio::select! {
                    responded = self.respond() => responded?,
                    // An agent that reads nothing and comes again has one turn to begin, not many.
                    _ = &mut ended => return Err(Status::aborted(NEWER)),
                }
            }
            if self.session.is_told() {
                self.turn = None;
            }
        }
    }

    /// Waits until there is something to tell and it is this agent's turn. What it says it has is not read before.
    async fn begin(&self, published: &mut watch::Receiver<Option<u64>>) -> Turn {
        // The sender is the discovery's own.
        let _ = published.wait_for(Option::is_some).await;
        self.discovery.turns.next().await
    }

    /// Lets more changes come: a rollout is not to be a round for each of its pods, and nothing says that it is over.
    async fn gather(&self, published: &mut watch::Receiver<Option<u64>>) {
        tokio::time::sleep(self.discovery.settings.debounce).await;
        published.mark_unchanged();
    }

    /// Lets who asks again and again wait.
    async fn pace(&mut self, request: &DeltaDiscoveryRequest) {
        let asks = request.resource_names_subscribe.len() + request.resource_names_unsubscribe.len() > 0;
        if asks && self.session.is_told() {
            if let Some(before) = self.asked {
                sleep_until(before + QUESTIONS).await;
            }
            self.asked = Some(Instant::now());
        }
    }

    fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        let before = self.session.refused().len();
        self.session.request(request, &self.caller.node).map_err(|violation| {
            let reason = violation.to_string();
            match violation {
                Violation::Node { .. } => Status::permission_denied(reason),
                Violation::Questions => Status::resource_exhausted(reason),
                Violation::Type(_)
                | Violation::Unexpected(_)
                | Violation::Question(_)
                | Violation::Version { .. } => Status::invalid_argument(reason),
            }
        })?;
        let refused = self.session.refused();
        if refused.len() > before
            && let Some((key, refusal)) = refused.first_key_value()
        {
            let count = refused.len();
            let (field, reason) = (&*refusal.field, &*refusal.reason);
            warn!(node = %self.caller.node, resource = %key, field, reason, count, "agent refuses resources");
        }
        // From one answer to the next.
        self.waiting = self.session.is_waiting().then(Instant::now);
        self.note();
        Ok(())
    }

    /// Sends what may be sent now.
    async fn respond(&mut self) -> Result<(), Status> {
        loop {
            let response = self.session.respond(&self.discovery.read());
            let too_far = |TooFarBehind| Status::aborted("too much was removed since: begin a new stream");
            let Some(response) = response.map_err(too_far)? else { break };
            debug!(node = %self.caller.node, type_url = response.type_url,
                generation = response.system_version_info, resources = response.resources.len(),
                removed = response.removed_resources.len(), "sent");
            self.waiting.get_or_insert_with(Instant::now);
            let sent = timeout(self.discovery.settings.answer_timeout, self.out.send(Ok(response))).await;
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Status::cancelled("the agent is gone")),
                Err(_) => return Err(Status::deadline_exceeded("a response was not read in time")),
            }
        }
        self.note();
        Ok(())
    }

    fn note(&self) {
        self.place.note(self.session.answered(), self.session.refused());
    }
}

async fn due(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Up to a tenth less, so that agents that came together do not come again together.
fn shortened(age: Duration) -> Duration {
    age.mul_f64(1.0 - fastrand::f64() / 10.0)
}
