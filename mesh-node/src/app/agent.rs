//! The running agent, as admin sees it.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use mesh_common::model::{Direction, Workload};
use mesh_common::snapshot::Snapshot;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::cores::Cores;
use crate::admin::documents::{Capability, Check, Connection, Problem as ShownProblem};
use crate::admin::{Agent, Overview, capabilities};
use crate::capture::CaptureMetrics;
use crate::config::Config;
use crate::control::documents::Problem;
use crate::identity::CertificateSummary;
use crate::kernel::{KernelReport, VerdictCount};
use crate::proxy::{Proxy, Record, Shared};
use crate::telemetry::logging::LogFilter;
use crate::telemetry::registry::Registry;
use crate::transport::tunnel::{Counters, Handle};

/// How long a core may take to tell of its connections: it turns thousands of times in this.
const ANSWER: Duration = Duration::from_secs(2);

/// How the agent stands, as far as the control thread finds out.
#[derive(Debug)]
pub(super) struct Standing {
    synced: AtomicBool,
    draining: AtomicBool,
    /// What keeps it from being ready.
    unmet: ArcSwap<Vec<String>>,
    verdicts: ArcSwap<Vec<VerdictCount>>,
    detached: ArcSwap<Vec<&'static str>>,
    capture: CaptureMetrics,
}

/// What admin may ask for.
pub(super) struct AgentState {
    node: String,
    workers: usize,
    started: SystemTime,
    kernel: Vec<Capability>,
    shared: Arc<Shared>,
    registry: Registry,
    filter: LogFilter,
    problems: Arc<ArcSwap<Vec<Problem>>>,
    cores: Vec<Handle<Proxy>>,
    counters: Vec<Arc<Counters>>,
    standing: Arc<Standing>,
}

impl Standing {
    pub(super) fn new(capture: CaptureMetrics) -> Self {
        Self {
            synced: AtomicBool::default(),
            draining: AtomicBool::default(),
            unmet: ArcSwap::default(),
            verdicts: ArcSwap::default(),
            detached: ArcSwap::default(),
            capture,
        }
    }

    pub(super) fn has_outside(&self, connections: usize) {
        self.capture.connections_outside.set(i64::try_from(connections).unwrap_or(i64::MAX));
    }

    pub(super) fn is_synced(&self, failed: usize) {
        let unmet = match failed {
            0 => Vec::new(),
            _ => vec![format!("{failed} pods of this node are enrolled and not captured; see the log")],
        };
        self.unmet.store(Arc::new(unmet));
        self.synced.store(true, Ordering::Release);
    }

    pub(super) fn is_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(super) fn has_kernel(&self, detached: &[&'static str], verdicts: &[VerdictCount]) {
        self.detached.store(Arc::new(detached.to_vec()));
        self.verdicts.store(Arc::new(verdicts.to_vec()));
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
        self.unmet.load().iter().cloned().chain(detached).collect()
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
        problems: Arc<ArcSwap<Vec<Problem>>>,
        cores: &Cores,
        standing: &Arc<Standing>,
    ) -> Self {
        Self {
            node: config.node.name.to_string(),
            workers: config.node.workers,
            started: SystemTime::now(),
            kernel: capabilities(report),
            shared: Arc::clone(shared),
            registry,
            filter,
            problems,
            cores: cores.handles(),
            counters: cores.counters(),
            standing: Arc::clone(standing),
        }
    }

    /// What each core's engine counts, summed, and what the kernel programs count.
    fn write_own(&self, text: &mut String) {
        let mut totals: Vec<(&'static str, u64)> = Vec::new();
        for counters in &self.counters {
            for (name, value) in counters.all() {
                match totals.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, total)) => *total += value,
                    None => totals.push((name, value)),
                }
            }
        }
        push(text, "nodemesh_transport_events", "Events and levels of the engines, summed over the cores.");
        for (name, value) in totals {
            let _ = writeln!(text, "nodemesh_transport_events{{event=\"{name}\"}} {value}");
        }
        push(
            text,
            "nodemesh_kernel_verdicts",
            "Verdicts of the kernel programs, counted when they are reached.",
        );
        for counted in self.standing.verdicts.load().iter() {
            let reason = counted.verdict.reason();
            let _ = writeln!(text, "nodemesh_kernel_verdicts{{reason=\"{reason}\"}} {}", counted.count);
        }
    }
}

fn push(text: &mut String, name: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
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
            problems: self.problems.load().iter().map(shown).collect(),
        }
    }

    fn certificates(&self) -> Vec<CertificateSummary> {
        self.shared.identities.certificates()
    }

    fn log_filter(&self) -> &LogFilter {
        &self.filter
    }

    fn metrics(&self) -> String {
        let mut text = self.registry.render().unwrap_or_else(|error| format!("# {error}\n"));
        self.shared.traffic.render(&mut text);
        self.write_own(&mut text);
        text
    }

    async fn unmet(&self) -> Vec<String> {
        self.standing.unmet()
    }

    async fn stuck(&self) -> Vec<String> {
        let answers = self.cores.iter().enumerate().map(|(number, core)| async move {
            let (answer, answered) = oneshot::channel();
            // Nobody listens any more: the question timed out.
            let asked = core.send(move |_| answer.send(()).unwrap_or_default());
            let lives = asked && timeout(ANSWER, answered).await.is_ok_and(|answer| answer.is_ok());
            (!lives).then(|| format!("core {number} does not answer"))
        });
        let mut stuck = Vec::new();
        for answer in answers {
            stuck.extend(answer.await);
        }
        stuck
    }

    async fn checks(&self) -> Vec<Check> {
        Vec::new()
    }

    async fn connections(&self) -> Vec<Connection> {
        let mut all = Vec::new();
        for (number, core) in self.cores.iter().enumerate() {
            let (answer, answered) = oneshot::channel();
            core.send(move |engine| {
                let mut shown: Vec<Connection> =
                    engine.live().map(|live| connection(number, live.record, live.age)).collect();
                engine.conductor().each_http2(|record, age| shown.push(connection(number, record, age)));
                // Nobody listens any more: the question timed out.
                let _ = answer.send(shown);
            });
            if let Ok(Ok(connections)) = timeout(ANSWER, answered).await {
                all.extend(connections);
            }
        }
        all
    }
}

fn connection(core: usize, record: &Record, age: Duration) -> Connection {
    let facts = record.facts();
    let name = |workload: &Arc<Workload>| workload.name.to_string();
    let (source, destination) = match facts.direction {
        Direction::Inbound => (record.other().map(name), Some(name(&facts.local))),
        Direction::Outbound => (Some(name(&facts.local)), record.other().map(name)),
    };
    Connection {
        core,
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

fn shown(problem: &Problem) -> ShownProblem {
    let complaint = &problem.complaint;
    ShownProblem {
        file: problem.place.file.to_string(),
        document: problem.place.document,
        object: complaint.object.as_ref().map(ToString::to_string),
        field: complaint.field.clone().unwrap_or_default(),
        reason: complaint.reason.clone(),
        effect: complaint.effect.code().to_owned(),
    }
}
