//! The running agent, as admin sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use mesh_common::model::{DecisionId, Direction, Workload};
use mesh_common::snapshot::Snapshot;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::cores::Cores;
use super::not_captured::{Cause, Refused, Synced};
use super::proof::{self, Proof};
use crate::admin::documents::{
    BeingRead as ShownBeingRead, Capability, Check, Connection, DetectedPort, NotCaptured,
    Problem as ShownProblem, UntoldPod as ShownUntoldPod,
};
use crate::admin::{Agent, Overview, capabilities};
use crate::capture::{CaptureMetrics, CausedBy, UntoldPod};
use crate::config::{Config, SourceConfig};
use crate::control::documents::Problem;
use crate::control::publication::{BeingRead, Publication};
use crate::control::translate::Effect;
use crate::identity::CertificateSummary;
use crate::kernel::KernelReport;
use crate::proxy::{LearnedPort, Proxy, Record, Refused as RefusedByPolicy, Shared};
use crate::telemetry::logging::LogFilter;
use crate::telemetry::registry::Registry;
use crate::transport::tunnel::{Engine, Handle};

/// How long a core may take to tell of its connections: it turns thousands of times in this.
const ANSWER: Duration = Duration::from_secs(2);

/// How long trials of capture may take that somebody asked for.
const TRIAL: Duration = Duration::from_secs(5);

/// Files that are named of those for which nothing is in force; mesh-node status names all.
const MAX_WITHHELD: usize = 3;

/// Asks the task that keeps the pods for what it can prove.
pub(super) type Question = oneshot::Sender<Vec<Check>>;

/// How the agent stands, as far as the control thread finds out.
#[derive(Debug)]
pub(super) struct Standing {
    synced: AtomicBool,
    draining: AtomicBool,
    /// What became of the pods at the last look at all of them.
    pods: ArcSwap<Synced>,
    /// Pods that nobody has told of.
    untold: ArcSwap<Vec<UntoldPod>>,
    detached: ArcSwap<Vec<&'static str>>,
    /// What the last trial of capture showed.
    proof: ArcSwapOption<Proof>,
    capture: CaptureMetrics,
}

/// What admin may ask for.
pub(super) struct AgentState {
    node: String,
    workers: usize,
    /// With folders: nothing is left out that is about pods of other nodes.
    knows_all: bool,
    started: SystemTime,
    kernel: Vec<Capability>,
    shared: Arc<Shared>,
    registry: Registry,
    filter: LogFilter,
    publication: Arc<Publication>,
    cores: Vec<Handle<Proxy>>,
    standing: Arc<Standing>,
    asked: mpsc::Sender<Question>,
}

impl Standing {
    pub(super) fn new(capture: CaptureMetrics) -> Self {
        Self {
            synced: AtomicBool::default(),
            draining: AtomicBool::default(),
            pods: ArcSwap::default(),
            untold: ArcSwap::default(),
            detached: ArcSwap::default(),
            proof: ArcSwapOption::default(),
            capture,
        }
    }

    pub(super) fn has_outside(&self, connections: usize) {
        self.capture.connections_outside.set(i64::try_from(connections).unwrap_or(i64::MAX));
    }

    /// Takes what became of the pods.
    pub(super) fn is_synced(&self, synced: &Synced) {
        let count = |cause| i64::try_from(synced.of(cause).count()).unwrap_or(i64::MAX);
        let (agent, pod, doubt) = (count(Cause::Agent), count(Cause::Pod), count(Cause::Doubt));
        self.capture.pods_in_doubt.set(doubt);
        self.capture.not_captured(CausedBy::Agent).set(agent);
        self.capture.not_captured(CausedBy::Pod).set(pod + doubt);
        self.pods.store(Arc::new(synced.clone()));
        self.synced.store(true, Ordering::Release);
    }

    /// Takes which pods nobody has told of.
    pub(super) fn has_untold(&self, untold: Vec<UntoldPod>) {
        self.capture.pods_untold.set(i64::try_from(untold.len()).unwrap_or(i64::MAX));
        self.untold.store(Arc::new(untold));
    }

    pub(super) fn untold(&self) -> Arc<Vec<UntoldPod>> {
        self.untold.load_full()
    }

    pub(super) fn is_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(super) fn has_detached(&self, programs: &[&'static str]) {
        self.detached.store(Arc::new(programs.to_vec()));
    }

    /// Takes what a trial showed.
    pub(super) fn has_proof(&self, proof: Proof) {
        self.proof.store(Some(Arc::new(proof)));
    }

    pub(super) fn proof(&self) -> Option<Arc<Proof>> {
        self.proof.load_full()
    }

    pub(super) fn is_proved(&self) -> bool {
        self.proof.load().as_ref().is_some_and(|proof| proof.holds())
    }

    fn unmet(&self) -> Vec<String> {
        if self.draining.load(Ordering::Acquire) {
            return vec!["the agent is stopping".to_owned()];
        }
        if !self.synced.load(Ordering::Acquire) {
            return vec!["the objects have not been read yet".to_owned()];
        }
        let detached = self.detached.load();
        let detached = detached.iter().map(|program| format!("the kernel program {program} is not attached"));
        let proof = match &*self.proof.load() {
            Some(proof) => proof.unmet(),
            None => vec!["capture has not been tried out yet".to_owned()],
        };
        uncaptured(&self.pods.load()).into_iter().chain(detached).chain(proof).collect()
    }
}

impl AgentState {
    #[expect(clippy::too_many_arguments, reason = "the composition root hands every part over once")]
    pub(super) fn new(
        config: &Config,
        report: &KernelReport,
        shared: &Arc<Shared>,
        registry: Registry,
        filter: LogFilter,
        publication: Arc<Publication>,
        cores: &Cores,
        standing: &Arc<Standing>,
        asked: mpsc::Sender<Question>,
    ) -> Self {
        Self {
            node: config.node.name.to_string(),
            workers: config.node.workers,
            knows_all: matches!(config.source, SourceConfig::Folders(_)),
            started: SystemTime::now(),
            kernel: capabilities(report),
            shared: Arc::clone(shared),
            registry,
            filter,
            publication,
            cores: cores.handles(),
            standing: Arc::clone(standing),
            asked,
        }
    }
}

impl AgentState {
    /// Asks every core something, all at once; nothing from one that does not answer in time.
    async fn ask_each<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Engine<Proxy>) -> T + Clone + Send + 'static,
    ) -> Vec<Option<T>> {
        let ask = |core: &Handle<Proxy>| {
            let (answer, answered) = oneshot::channel();
            let question = question.clone();
            // Nobody listens any more: the question timed out.
            core.send(move |engine| drop(answer.send(question(engine))));
            answered
        };
        let asked: Vec<_> = self.cores.iter().map(ask).collect();
        let deadline = Instant::now() + ANSWER;
        let mut answers = Vec::with_capacity(asked.len());
        for answered in asked {
            answers.push(timeout_at(deadline, answered).await.ok().and_then(Result::ok));
        }
        answers
    }
}

impl Agent for AgentState {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshots.load_full()
    }

    fn overview(&self) -> Overview {
        Overview {
            node: self.node.clone(),
            started: self.started,
            workers: self.workers,
            kernel: self.kernel.clone(),
            connections_outside: usize::try_from(self.standing.capture.connections_outside.get())
                .unwrap_or_default(),
            in_doubt: self.standing.pods.load().in_doubt(),
            untold: self.standing.untold.load().iter().map(untold).collect(),
            not_captured: self.standing.pods.load().refused.iter().map(not_captured).collect(),
            detected: self.shared.learned.ports(&self.shared.snapshots.load()).iter().map(detected).collect(),
            being_read: self.publication.being_read().as_deref().map(being_read),
            problems: self.publication.problems().load().iter().map(shown).collect(),
        }
    }

    fn certificates(&self) -> Vec<CertificateSummary> {
        self.shared.identities.certificates()
    }

    fn log_filter(&self) -> &LogFilter {
        &self.filter
    }

    async fn metrics(&self) -> String {
        // Long connections are counted while they last: up to this moment.
        self.ask_each(Engine::report).await;
        let mut text = self.registry.render().unwrap_or_else(|error| format!("# {error}\n"));
        self.shared.traffic.render(&mut text);
        text
    }

    async fn unmet(&self) -> Vec<String> {
        let mut unmet = self.standing.unmet();
        unmet.extend(withheld(&self.publication.problems().load()));
        unmet.extend(self.stuck().await);
        unmet
    }

    async fn stuck(&self) -> Vec<String> {
        let answers = self.ask_each(|_| ()).await.into_iter().enumerate();
        let stuck = answers.filter(|(_, answer)| answer.is_none());
        stuck.map(|(number, _)| format!("core {number} does not answer")).collect()
    }

    async fn checks(&self) -> Vec<Check> {
        let (answer, answered) = oneshot::channel();
        let asked = self.asked.send(answer).await.is_ok();
        let mut checks = match timeout(TRIAL, answered).await {
            Ok(Ok(checks)) if asked => checks,
            _ => vec![proof::stopping()],
        };
        checks.push(proof::cores(self.cores.len(), &self.stuck().await));
        checks
    }

    fn knows_all(&self) -> bool {
        self.knows_all
    }

    fn gave(&self, id: &DecisionId) -> bool {
        self.shared.origin.gave(id)
    }

    async fn refusal(&self, id: DecisionId) -> Option<RefusedByPolicy> {
        let found = self.ask_each(move |engine| engine.conductor().refusal(&id)).await;
        found.into_iter().flatten().flatten().next()
    }

    async fn connections(&self) -> Vec<Connection> {
        let shown = self.ask_each(|engine| {
            let mut shown: Vec<Connection> =
                engine.live().map(|live| connection(live.record, live.age)).collect();
            engine.conductor().each_http2(|record, age| shown.push(connection(record, age)));
            shown
        });
        let with_core = |(core, connections): (usize, Option<Vec<Connection>>)| {
            connections.into_iter().flatten().map(move |connection| Connection { core, ..connection })
        };
        shown.await.into_iter().enumerate().flat_map(with_core).collect()
    }
}

/// A connection, but for its core.
fn connection(record: &Record, age: Duration) -> Connection {
    let facts = record.facts();
    let name = |workload: &Arc<Workload>| workload.name.to_string();
    let (source, destination) = match facts.direction {
        Direction::Inbound => (record.other().map(name), Some(name(&facts.local))),
        Direction::Outbound => (Some(name(&facts.local)), record.other().map(name)),
    };
    Connection {
        core: 0,
        direction: match facts.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
        .to_owned(),
        protocol: record.protocol().as_str().to_owned(),
        source: facts.client.to_string(),
        source_workload: source,
        source_identity: facts.peer.verified().map(ToString::to_string),
        destination: facts.original_dst.to_string(),
        destination_workload: destination,
        service: record.service().map(|service| service.host.to_string()),
        policy: record.policy().map(ToString::to_string),
        age_seconds: age.as_secs(),
    }
}

/// Whether pods keep the agent from being ready: those do not that keep themselves from being captured.
fn uncaptured(synced: &Synced) -> Option<String> {
    let (first, count) = (synced.of(Cause::Agent).next()?, synced.of(Cause::Agent).count());
    Some(format!(
        "{count} pods of this node are not captured, or not let go, as {}: {}",
        first.pod, first.reason
    ))
}

fn not_captured(refused: &Refused) -> NotCaptured {
    NotCaptured {
        pod: refused.pod.clone(),
        reason: refused.reason.clone(),
        keeps_unready: refused.cause == Cause::Agent,
    }
}

fn untold(pod: &UntoldPod) -> ShownUntoldPod {
    ShownUntoldPod {
        uid: pod.uid.0.to_string(),
        pod: pod.name.clone(),
        seconds: pod.since.elapsed().as_secs(),
    }
}

/// The first files for which nothing is in force.
fn withheld(problems: &[Problem]) -> impl Iterator<Item = String> {
    let withholds = |problem: &&Problem| problem.complaint.effect == Effect::NothingInForce;
    problems.iter().filter(withholds).take(MAX_WITHHELD).map(ToString::to_string)
}

fn detected(port: &LearnedPort) -> DetectedPort {
    let connections = port.connections.iter().map(|(spoken, count)| (spoken.as_str().to_owned(), *count));
    DetectedPort { service: port.service.to_string(), port: port.port, connections: connections.collect() }
}

fn being_read(BeingRead { files, since }: &BeingRead) -> ShownBeingRead {
    ShownBeingRead {
        files: files.iter().map(ToString::to_string).collect(),
        seconds: since.elapsed().as_secs(),
    }
}

fn shown(problem: &Problem) -> ShownProblem {
    let complaint = &problem.complaint;
    ShownProblem {
        file: problem.place.file.to_string(),
        line: problem.line,
        document: problem.place.document,
        object: complaint.object.as_ref().map(ToString::to_string),
        field: complaint.field.clone().unwrap_or_default(),
        reason: complaint.reason.clone(),
        effect: complaint.effect.code().to_owned(),
    }
}
