//! What admin asks of the agent: the only way in.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_common::model::DecisionId;
use mesh_common::snapshot::Snapshot;

use super::documents::{
    BeingRead, Capability, Check, Connection, DetectedPort, NotCaptured, Problem, UntoldPod,
};
use crate::identity::CertificateSummary;
use crate::kernel::{Feature, KernelReport};
use crate::proxy::Refused;
use crate::telemetry::logging::LogFilter;

/// A running agent, as admin sees it. Every answer is a copy; none may take long.
pub trait Agent: Send + Sync + 'static {
    /// What is known now.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// Who the agent is and how it stands.
    fn overview(&self) -> Overview;

    /// The certificates of this node, without their keys.
    fn certificates(&self) -> Vec<CertificateSummary>;

    /// What changes the log.
    fn log_filter(&self) -> &LogFilter;

    /// Every metric, as Prometheus text.
    fn metrics(&self) -> impl Future<Output = String> + Send;

    /// What keeps the agent from being ready, for people; nothing if it is. Proved by effect where it can be.
    fn unmet(&self) -> impl Future<Output = Vec<String>> + Send;

    /// What keeps the agent from doing its work for good, so that it should be started anew; nothing if it lives.
    fn stuck(&self) -> impl Future<Output = Vec<String>> + Send;

    /// Checks of this agent's own, beside those that admin makes.
    fn checks(&self) -> impl Future<Output = Vec<Check>> + Send;

    /// Whether it is told of every pod which policies are about it: else only of those of its own node.
    fn knows_all(&self) -> bool;

    /// Whether an id of a refusal is of this run of this agent.
    fn gave(&self, id: &DecisionId) -> bool;

    /// A refusal that is still kept.
    fn refusal(&self, id: DecisionId) -> impl Future<Output = Option<Refused>> + Send;

    /// Open connections of every core.
    fn connections(&self) -> impl Future<Output = Vec<Connection>> + Send;
}

/// Who the agent is and how it stands.
#[derive(Clone, Debug)]
pub struct Overview {
    /// As pods have it in `spec.nodeName`.
    pub node: String,
    /// When it started.
    pub started: SystemTime,
    /// Cores that carry traffic.
    pub workers: usize,
    /// What was found out about the kernel.
    pub kernel: Vec<Capability>,
    /// TCP connections that captured pods had before, and that go on outside the mesh.
    pub connections_outside: usize,
    /// Pods that are held because it is in doubt where they are.
    pub in_doubt: Vec<String>,
    /// Pods that nobody has told of.
    pub untold: Vec<UntoldPod>,
    /// Files that changed and are being read.
    pub being_read: Option<BeingRead>,
    /// Pods that are not captured, those too.
    pub not_captured: Vec<NotCaptured>,
    /// Ports that declare nothing, with what they turned out to speak.
    pub detected: Vec<DetectedPort>,
    /// All objects that are not in force as they are written, those that deny first.
    pub problems: Vec<Problem>,
}

/// What was found out about the kernel, for [`Overview::kernel`].
pub fn capabilities(report: &KernelReport) -> Vec<Capability> {
    let describe = |feature: &Feature| Capability {
        name: feature.name.to_owned(),
        present: feature.present,
        detail: format!("{}, since Linux {}; here {}", feature.purpose, feature.since, report.release),
    };
    report.needed.iter().map(describe).collect()
}
