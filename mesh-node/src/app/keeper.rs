//! Keeps the node's pods what the objects say, and looks after what nobody tells of.
//!
//! One task. It wakes when objects or trust change, when somebody removes a program's pin, when it is asked, and by the
//! clock: every second while something is amiss or expected to change, else rarely.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::field::display;
use tracing::{info, warn};

use super::agent::{Question, Standing};
use super::not_captured::{Cause, Synced};
use super::pods::Pods;
use super::proof::{self, Proof};
use super::{AppError, footprint};
use crate::capture::Arrivals;
use crate::proxy::Shared;
use crate::system::{Stop, system};
use crate::telemetry::chain::Chain;

/// How often is looked while pods fail, old connections end, capture is not proved, or the kernel refuses something.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// How often otherwise: for links that were detached and left pinned, for pods in another sandbox, and for the first
/// refusal.
const LOOK_RARELY: Duration = Duration::from_secs(5);
/// How soon is looked for a pod after something of it came, and how many times, each after twice the time before: its
/// processes follow in tens of milliseconds.
const LOOK_AT_ONCE: Duration = Duration::from_millis(5);
const LOOKS: u32 = 10;
/// Connections outside the mesh that are looked at again per look, at most about: 2 us each.
const OUTSIDE: usize = 4096;
/// Refusals of the kernel that are logged per look, at most.
const REFUSALS: usize = 64;

/// The task's state.
pub(super) struct Keeper {
    pods: Pods,
    shared: Arc<Shared>,
    standing: Arc<Standing>,
    cgroup_root: PathBuf,
    /// Readable when the pin of a program was removed.
    pins: AsyncFd<OwnedFd>,
    /// Readable when a pod comes.
    arrivals: AsyncFd<Arrivals>,
    /// When is looked next for a pod that came, and how often that was done.
    expected: Option<(Instant, u32)>,
    synced: bool,
    /// What the last look at all pods left to be done.
    last: Synced,
    /// Whether the last look found refusals of the kernel.
    refused: bool,
    /// Whether pods are held that nobody told of.
    holds_untold: bool,
    /// Whether it was said that some are.
    is_untold_said: bool,
}

impl Keeper {
    pub(super) fn new(
        mut pods: Pods,
        shared: Arc<Shared>,
        standing: Arc<Standing>,
        cgroup_root: PathBuf,
        holds_untold: bool,
    ) -> io::Result<Self> {
        let pins = pods.kernel().watch_pins()?;
        // SAFETY: the descriptor is owned by what tokio gets, which keeps it open and never changes it.
        let pins = unsafe { AsyncFd::register_with_interest(pins, Interest::READABLE) }?;
        let arrivals = Arrivals::watch(&cgroup_root)?;
        // SAFETY: as above.
        let arrivals = unsafe { AsyncFd::register_with_interest(arrivals, Interest::READABLE) }?;
        Ok(Self {
            pods,
            shared,
            standing,
            cgroup_root,
            pins,
            arrivals,
            expected: None,
            synced: false,
            last: Synced::default(),
            refused: false,
            holds_untold,
            is_untold_said: false,
        })
    }

    /// Makes the node's pods what the objects say, until the agent is told to stop.
    pub(super) async fn run(
        mut self,
        mut stop: Stop,
        mut changed: watch::Receiver<Option<u64>>,
        mut questions: mpsc::Receiver<Question>,
    ) -> Result<Pods, AppError> {
        let mut trusted = self.shared.identities.trust_changes();
        let mut looked = Instant::now();
        self.pods.pass_controllers();
        loop {
            tokio::select! {
                biased;
                () = stop.told() => return Ok(self.pods),
                news = changed.changed() => {
                    if news.is_err() {
                        return Ok(self.pods);
                    }
                    self.follow().await;
                }
                Ok(()) = trusted.changed() => self.pods.cores().recheck_peers(),
                removed = self.pin_removed() => {
                    removed.map_err(system("watch the pins of the programs"))?;
                    self.look_at_programs().await;
                }
                came = self.something_came() => {
                    came.map_err(system("watch the pods' cgroups"))?;
                    if self.arrivals.get_mut().take() {
                        self.expected = Some((Instant::now() + LOOK_AT_ONCE, 0));
                    }
                }
                () = self.expects() => self.look_for_pods().await,
                Some(question) = questions.recv() => self.answer(question).await,
                () = sleep_until(looked + self.rest()) => {
                    self.look().await;
                    looked = Instant::now();
                }
            }
        }
    }

    /// Takes what the objects say now.
    async fn follow(&mut self) {
        // First what is open: a pod's certificate may take its time, and a permit ends at once.
        self.pods.cores().recheck();
        self.sync().await;
        // And what was decided while a pod of before was still served.
        self.pods.cores().recheck();
        if !self.standing.is_proved() {
            self.prove().await;
        }
    }

    /// Cancel safe: what came is read by who hears of it.
    async fn something_came(&self) -> io::Result<()> {
        self.arrivals.readable().await?.clear_ready();
        Ok(())
    }

    async fn expects(&self) {
        match self.expected {
            Some((next, _)) => sleep_until(next).await,
            None => std::future::pending().await,
        }
    }

    /// Looks for a pod that is about to come, or gives it up until more comes of it.
    async fn look_for_pods(&mut self) {
        let done = self.expected.map_or(LOOKS, |(_, done)| done + 1);
        self.expected = (done < LOOKS).then(|| (Instant::now() + LOOK_AT_ONCE * 2_u32.pow(done), done));
        // First who tells of the others.
        self.pods.pass_controllers();
        if self.synced && self.pods.has_news() {
            self.sync().await;
        }
    }

    fn rest(&self) -> Duration {
        let is_proved = !self.synced || self.standing.is_proved();
        // Of pods that keep themselves from being captured, few looks: they may be many, and like it.
        let is_done = self.last.unreleased == 0 && self.last.of(Cause::Agent).next().is_none();
        let is_settled = is_done && !self.pods.has_untold();
        let is_quiet = is_settled && self.pods.connections_outside() == 0 && !self.refused;
        if is_proved && is_quiet { LOOK_RARELY } else { LOOK_SOON }
    }

    async fn sync(&mut self) {
        let snapshot = self.shared.snapshots.load_full();
        let synced = self.pods.sync(&snapshot).await;
        let generation = snapshot.generation();
        info!(generation, captured = synced.captured, refused = synced.refused.len(), "synced");
        self.synced = true;
        self.standing.is_synced(&synced);
        self.last = synced;
        self.standing.has_outside(self.pods.connections_outside());
        if self.pods.awaits() {
            self.expected.get_or_insert((Instant::now() + LOOK_AT_ONCE, 0));
        }
    }

    /// Cancel safe: what is not returned is found again.
    async fn pin_removed(&self) -> io::Result<()> {
        let mut ready = self.pins.readable().await?;
        let mut told = [0; 4096];
        // What exactly was removed is looked at.
        while rustix::io::read(&self.pins, &mut told).is_ok() {}
        ready.clear_ready();
        Ok(())
    }

    async fn look(&mut self) {
        self.pods.pass_controllers();
        if self.last.refused.len() + self.last.unreleased > 0 || self.pods.has_news() {
            self.sync().await;
        }
        self.look_for_untold();
        self.look_at_programs().await;
        self.log_refusals();
        if self.pods.connections_outside() > 0 {
            self.pods.look_outside(OUTSIDE);
            self.standing.has_outside(self.pods.connections_outside());
        }
        if self.synced && !self.standing.is_proved() {
            self.prove().await;
        }
    }

    /// Pods that nobody tells of are said once, until there are none.
    fn look_for_untold(&mut self) {
        if !self.holds_untold {
            return;
        }
        let untold = self.pods.look_for_untold();
        if let (Some(first), false) = (untold.first(), self.is_untold_said) {
            let (pod, pods) = (first.name.as_deref().unwrap_or(&first.uid.0), untold.len());
            warn!(
                pods,
                pod,
                "nobody has said who these pods are; their connections are refused until a controller does"
            );
        }
        self.is_untold_said = !untold.is_empty();
        self.standing.has_untold(untold);
    }

    /// Attaches again what somebody detached.
    async fn look_at_programs(&mut self) {
        let kernel = self.pods.kernel();
        let detached = kernel.detached();
        if detached.is_empty() {
            return self.standing.has_detached(&detached);
        }
        warn!(?detached, "programs were detached; attaching them again");
        if let Err(error) = kernel.repair() {
            warn!(error = %Chain(&error), "cannot attach the programs again");
        }
        if let Err(error) = kernel.watch_pins_again(self.pins.as_fd()) {
            warn!(%error, "cannot watch the pins of the programs; they are looked at now and then");
        }
        self.standing.has_detached(&kernel.detached());
        self.prove().await;
    }

    fn log_refusals(&mut self) {
        let refusals = self.pods.kernel().refusals(REFUSALS);
        self.refused = !refusals.is_empty();
        for refusal in refusals {
            let (source, destination) = (refusal.source.map(display), refusal.destination.map(display));
            info!(
                src.addr = source,
                dst.addr = destination,
                reason = refusal.reason,
                "refused by the kernel"
            );
        }
    }

    /// Tries out whether connections are captured.
    async fn prove(&mut self) {
        let was_proved = self.standing.is_proved();
        let proof = Proof::find(&mut self.pods, &self.cgroup_root).await;
        for unmet in proof.unmet() {
            warn!(reason = unmet, "not ready; mesh-node check says what to do");
        }
        self.standing.has_proof(proof);
        if !was_proved && self.standing.is_proved() {
            footprint::give_text_back();
        }
    }

    async fn answer(&mut self, question: Question) {
        self.look_at_programs().await;
        self.prove().await;
        let mut checks = vec![proof::programs(&self.pods.kernel().detached())];
        checks.extend(self.standing.proof().iter().flat_map(|proof| proof.checks(&self.cgroup_root)));
        checks.push(proof::pods(self.pods.captured(), &self.last));
        checks.push(proof::untold(&self.standing.untold()));
        // Nobody listens any more: the question timed out.
        let _ = question.send(checks);
    }
}
