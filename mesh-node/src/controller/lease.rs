//! Which replica writes: the one that holds the Lease.
//!
//! In: the Lease `nodemesh-controller` of the root namespace. Out: whether we hold it, at this moment. Clocks of other
//! machines are not believed: a holder is gone when its record has not changed for as long as we looked. A holder that
//! slept finds its time over when it wakes, and its next write refused.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::part_of;
use crate::telemetry::chain::Chain;

/// The Lease.
pub const LEASE: &str = "nodemesh-controller";

/// How long a record counts that does not change.
const DURATION: Duration = Duration::from_secs(15);
/// How long we count on having written it: a margin before anybody else may take it.
const MARGIN: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(4);
/// For a look, which is up to two answers of the API server: less than what it gives lasts.
const PATIENCE: Duration = Duration::from_secs(8);

/// Whether we hold the Lease. A clone tells of the same one.
#[derive(Clone, Debug, Default)]
pub struct Leadership(Arc<Mutex<Option<Instant>>>);

impl Leadership {
    /// Whether we hold it now. Asked before each write.
    pub fn is_held(&self) -> bool {
        self.lock().is_some_and(|until| Instant::now() < until)
    }

    fn set(&self, until: Option<Instant>) {
        *self.lock() = until;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps asking for the Lease.
pub(super) struct Candidate {
    api: Api<Lease>,
    me: String,
    leadership: Leadership,
    /// The record as it was last, and since when it is that.
    seen: Option<(LeaseSpec, Instant)>,
    /// What this replica wrote last, if nothing says that somebody wrote it since.
    written: Option<Lease>,
}

/// PURE. What to do about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is ours: say that we live.
    Renew,
    /// It is nobody's any more.
    Take,
    /// Somebody else has it.
    Wait,
}

/// What to do about a record that has been the same for so long.
fn step(spec: &LeaseSpec, me: &str, unchanged: Duration) -> Step {
    match spec.holder_identity.as_deref() {
        Some(holder) if holder == me => Step::Renew,
        None | Some("") => Step::Take,
        Some(_) if unchanged >= DURATION => Step::Take,
        Some(_) => Step::Wait,
    }
}

impl Candidate {
    pub(super) fn new(client: Client, namespace: &str, me: String) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, me, leadership: Leadership::default(), seen: None, written: None }
    }

    pub(super) fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Holds the Lease whenever it can, until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let before = self.leadership.is_held();
            // Time that a write takes does not count for us.
            let begun = Instant::now();
            match timeout(PATIENCE, self.look()).await {
                Ok(Ok(true)) => self.leadership.set(Some(begun + MARGIN)),
                Ok(Ok(false)) => self.leadership.set(None),
                // What we hold runs out by itself.
                Ok(Err(error)) => {
                    warn!(error = %Chain(&error), lease = LEASE, "the Lease cannot be asked for")
                }
                Err(_) => warn!(lease = LEASE, "the API server does not answer about the Lease"),
            }
            let now = self.leadership.is_held();
            if now != before {
                info!(
                    lease = LEASE,
                    me = self.me,
                    "{}",
                    if now { "this replica writes status" } else { "another replica writes status" }
                );
            }
            sleep(LOOK_AGAIN.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
        }
    }

    /// Looks at the Lease, and writes it if it is ours to; says whether it is ours now.
    async fn look(&mut self) -> Result<bool, Error> {
        // One answer instead of two: where answers are late, who holds it goes on holding it.
        if let Some(lease) = self.written.take() {
            let lease = self.lease(lease.spec.unwrap_or_default(), lease.metadata);
            if self.write(lease).await? {
                return Ok(true);
            }
        }
        let Some(lease) = self.api.get_opt(LEASE).await? else {
            let lease = self.lease(LeaseSpec::default(), ObjectMeta::default());
            let made = self.api.create(&PostParams::default(), &lease).await;
            return self.take_answer(made);
        };
        let spec = lease.spec.unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => Instant::now(),
        };
        self.seen = Some((spec.clone(), since));
        if step(&spec, &self.me, since.elapsed()) == Step::Wait {
            return Ok(false);
        }
        let lease = self.lease(spec, lease.metadata);
        self.write(lease).await
    }

    /// Writes the record, with the version that it had: of two who write, one is refused. Says whether it went through.
    async fn write(&mut self, lease: Lease) -> Result<bool, Error> {
        let written = self.api.replace(LEASE, &PostParams::default(), &lease).await;
        self.take_answer(written)
    }

    /// Whether a write went through; another one that came first is no error.
    fn take_answer(&mut self, written: Result<Lease, Error>) -> Result<bool, Error> {
        match written {
            Ok(lease) => {
                self.written = Some(lease);
                Ok(true)
            }
            // Deleted, it is made anew with the next look at it.
            Err(Error::Api(status))
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The record that says that we hold it.
    fn lease(&self, before: LeaseSpec, metadata: ObjectMeta) -> Lease {
        let now = MicroTime(Timestamp::now());
        let is_ours = before.holder_identity.as_deref() == Some(&self.me);
        let transitions = before.lease_transitions.unwrap_or_default();
        let labels = metadata.labels.or_else(|| Some(part_of()));
        Lease {
            metadata: ObjectMeta { name: Some(LEASE.to_owned()), labels, ..metadata },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: if is_ours { before.acquire_time } else { Some(now.clone()) },
                lease_transitions: Some(if is_ours { transitions } else { transitions.saturating_add(1) }),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_until_it_has_not_changed_for_its_time() {
        let held =
            |holder: &str| LeaseSpec { holder_identity: Some(holder.to_owned()), ..LeaseSpec::default() };
        let soon = DURATION - Duration::from_secs(1);
        assert_eq!(step(&held("a"), "a", soon), Step::Renew);
        assert_eq!(step(&held("b"), "a", soon), Step::Wait);
        assert_eq!(step(&held("b"), "a", DURATION), Step::Take);
        assert_eq!(step(&held(""), "a", Duration::ZERO), Step::Take);
        assert_eq!(step(&LeaseSpec::default(), "a", Duration::ZERO), Step::Take);
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_runs_out_by_itself() {
        let leadership = Leadership::default();
        assert!(!leadership.is_held());
        leadership.set(Some(Instant::now() + MARGIN));
        assert!(leadership.is_held());
        tokio::time::advance(MARGIN).await;
        assert!(!leadership.is_held());
    }
}
