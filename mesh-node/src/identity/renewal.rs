//! Certificates for identities: obtained at once, renewed in time, and each backed off by itself.
//!
//! Several are asked for at a time: an authority that is slow or that fails for one identity holds up no other.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _, iter};
use mesh_common::model::SpiffeId;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use super::clock::now;
use super::identities::{Identities, LOOK_AGAIN};
use super::issuer::{IssueError, issue};
use super::rotation::{Standing, retry_after};
use super::store::{Attempts, Entry, Slot};
use crate::telemetry::chain::Chain;

/// Certificates that are asked for at a time. A controller takes twice as many calls of one connection.
const AT_A_TIME: usize = 16;
/// Between two certificates of one identity at least this: one that is due as soon as it is issued must not keep the
/// control thread busy.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

/// An identity, and why it has no certificate, if it has none.
pub type Ensured = (SpiffeId, Result<(), IssueError>);

impl Identities {
    /// Makes sure that `identity` has a certificate, now and from now on.
    ///
    /// Cancel safe: the identity stays and [`run`](Self::run) goes on with it.
    ///
    /// # Errors
    /// [`IssueError`] if the authority gave none, now or so lately that it is not asked again yet. The identity is
    /// kept, and [`run`](Self::run) tries again.
    pub async fn ensure(&self, identity: &SpiffeId) -> Result<(), IssueError> {
        let entry = self.kept(identity);
        if entry.slot.usable().is_some() {
            return Ok(());
        }
        let result = self.obtain(&entry.slot).await;
        self.added.notify_one();
        result
    }

    /// The same for many, in the order in which it is known of each: at once of those that have a certificate, or whose
    /// turn it is not. What the authority has not answered after `patience` is [`IssueError::Late`].
    pub fn ensure_each(
        &self,
        identities: impl IntoIterator<Item = SpiffeId>,
        patience: Duration,
    ) -> impl Stream<Item = Ensured> {
        let (mut told, mut asked) = (Vec::new(), Vec::new());
        for identity in identities {
            let entry = self.kept(&identity);
            match known(&entry.slot) {
                Some(known) => told.push((identity, known)),
                None => asked.push(entry),
            }
        }
        // Also what is not waited for to its end is gone on with.
        self.added.notify_one();
        let deadline = Instant::now() + patience;
        let ask = move |entry: Arc<Entry>| async move {
            let slot = &entry.slot;
            let identity = slot.identity.clone();
            let late = |_| Err(IssueError::Late { identity: identity.clone() });
            let result = timeout_at(deadline, self.obtain(slot)).await.unwrap_or_else(late);
            (identity, result)
        };
        iter(told).chain(iter(asked).map(ask).buffer_unordered(AT_A_TIME))
    }

    fn kept(&self, identity: &SpiffeId) -> Arc<Entry> {
        self.store.entry_or(identity, || self.entry(identity))
    }

    /// Renews certificates when they are due, for ever.
    pub(super) async fn keep_renewed(&self) {
        let mut renewals = FuturesUnordered::new();
        let mut busy = HashSet::new();
        loop {
            let (due, wait) = self.due(&busy);
            for entry in due {
                busy.insert(entry.slot.identity.clone());
                renewals.push(self.renew_due(entry));
            }
            self.count_certificates();
            tokio::select! {
                Some(identity) = renewals.next() => drop(busy.remove(&identity)),
                () = sleep(wait) => {}
                () = self.added.notified() => {}
            }
        }
    }

    /// What is to be renewed now, besides what already is; and how long nothing else will be.
    fn due(&self, busy: &HashSet<SpiffeId>) -> (Vec<Arc<Entry>>, Duration) {
        let mut due = Vec::new();
        let mut wait = LOOK_AGAIN;
        let now = now(&self.clock);
        for entry in self.store.all().values().filter(|entry| !busy.contains(&entry.slot.identity)) {
            match due_in(&entry.slot, now) {
                Duration::ZERO if busy.len() + due.len() < AT_A_TIME => due.push(Arc::clone(entry)),
                // When one of those before it has ended.
                Duration::ZERO => {}
                later => wait = wait.min(later),
            }
        }
        (due, wait)
    }

    async fn renew_due(&self, entry: Arc<Entry>) -> SpiffeId {
        let slot = &entry.slot;
        let _turn = slot.turn.lock().await;
        if due_in(slot, now(&self.clock)).is_zero()
            && let Err(error) = self.renew(slot).await
        {
            debug!(identity = %slot.identity, error = %Chain(&error), "renewal failed");
        }
        slot.identity.clone()
    }

    /// Obtains a certificate, unless somebody else did or failed while it was not our turn.
    async fn obtain(&self, slot: &Slot) -> Result<(), IssueError> {
        let _turn = slot.turn.lock().await;
        match slot.usable() {
            Some(_) => Ok(()),
            None => match put_off(slot) {
                Some(error) => Err(error),
                None => self.renew(slot).await,
            },
        }
    }

    /// Obtains a certificate and notes how that went. The one before stays in use if there is no new one.
    async fn renew(&self, slot: &Slot) -> Result<(), IssueError> {
        let result = issue(&*self.authority, &slot.identity, now(&self.clock), random_unit()).await;
        match result {
            Ok(current) => {
                debug!(identity = %slot.identity, not_after = current.life.not_after, "certificate obtained");
                self.rules.metrics.issued.inc();
                slot.replace(current);
                let next = Some(Instant::now() + SHORTEST_WAIT);
                slot.set_attempts(Attempts { next, ..Attempts::default() });
                Ok(())
            }
            Err(error) => {
                self.rules.metrics.failed.inc();
                self.put_off(slot, &error);
                Err(error)
            }
        }
    }

    fn put_off(&self, slot: &Slot, error: &IssueError) {
        let failures = slot.attempts().failures.saturating_add(1);
        let now = now(&self.clock);
        let left =
            slot.usable().map(|current| Duration::from_secs(current.life.not_after.saturating_sub(now)));
        let wait = retry_after(failures, left, random_unit());
        let last_error = Chain(error).to_string();
        if failures == 1 {
            warn!(identity = %slot.identity, error = last_error, "no new certificate; keeping the old one if it is valid");
        }
        slot.set_attempts(Attempts {
            failures,
            next: Some(Instant::now() + wait),
            last_error: Some(last_error),
        });
    }
}

/// What is known of an identity without asking for a certificate; `None` if one is to be asked for.
fn known(slot: &Slot) -> Option<Result<(), IssueError>> {
    if slot.usable().is_some() {
        return Some(Ok(()));
    }
    match slot.turn.try_lock() {
        Ok(_) => put_off(slot).map(Err),
        // Somebody asks already, and may have for long.
        Err(_) => Some(Err(IssueError::Late { identity: slot.identity.clone() })),
    }
}

/// Why an identity is not tried now, if it failed so lately.
fn put_off(slot: &Slot) -> Option<IssueError> {
    let Attempts { next, last_error, .. } = slot.attempts();
    let reason = last_error.filter(|_| next.is_some_and(|next| Instant::now() < next))?;
    Some(IssueError::PutOff { identity: slot.identity.clone(), reason })
}

/// How long until this identity wants a certificate; zero is now.
fn due_in(slot: &Slot, now: u64) -> Duration {
    match slot.current().map(|current| current.standing(now)) {
        Some(Standing::Fresh { renew_in }) => renew_in,
        Some(Standing::Due | Standing::Unusable) | None => {
            let next = slot.attempts().next;
            next.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()))
        }
    }
}

/// A random number in `0.0..1.0`.
fn random_unit() -> f64 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}
