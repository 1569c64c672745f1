//! Certificates for identities: obtained at once, renewed in time, and each backed off by itself.
//!
//! Several are asked for at a time: an authority that is slow or that fails for one identity holds up no other. What was
//! asked is waited for to its end, by however many: a slow authority is not asked twice for the same.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
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
pub type Ensured = (SpiffeId, Result<(), Arc<IssueError>>);

impl Identities {
    /// Makes sure that `identity` has a certificate, now and from now on.
    ///
    /// Cancel safe: the identity stays and [`run`](Self::run) goes on with it.
    ///
    /// # Errors
    /// [`IssueError`] if the authority gave none, now or so lately that it is not asked again yet. The identity is
    /// kept, and [`run`](Self::run) tries again.
    pub async fn ensure(&self, identity: &SpiffeId) -> Result<(), Arc<IssueError>> {
        let entry = self.kept(identity);
        if entry.slot.usable().is_some() {
            return Ok(());
        }
        let result = self.obtain(&entry.slot).await;
        self.added.notify_one();
        result
    }

    /// Asks for a certificate of `identity` if it has none that is valid, or if it is to be made `anew`: at once, also where
    /// that failed lately. For who waits between its tries.
    pub(super) async fn obtain_now(
        &self,
        identity: &SpiffeId,
        anew: bool,
    ) -> Result<Arc<Slot>, Arc<IssueError>> {
        let entry = self.kept(identity);
        let slot = &entry.slot;
        let turn = slot.turn.lock().await;
        let result = if anew || slot.usable().is_none() { self.renew(slot).await } else { Ok(()) };
        drop(turn);
        self.added.notify_one();
        result.map(|()| Arc::clone(slot))
    }

    /// Ensures many, in the order in which it is known of each: at once of those that have a certificate, or whose turn it is
    /// not. [`run`](Self::run) asks. What it has no answer to `patience` after this was first wanted is
    /// [`IssueError::Late`], and is not waited for again.
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
        let awaited: FuturesUnordered<_> =
            asked.into_iter().map(|entry| async move { answer(&entry.slot, deadline).await }).collect();
        iter(told).chain(awaited)
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
                Some(identity) = renewals.next() => {
                    busy.remove(&identity);
                    // And whatever else has ended: a look at all of them is long where they are many.
                    while let Some(Some(identity)) = renewals.next().now_or_never() {
                        busy.remove(&identity);
                    }
                }
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
                Duration::ZERO => due.push(Arc::clone(entry)),
                later => wait = wait.min(later),
            }
        }
        // First those that have none. The rest when one of those before it has ended.
        due.sort_by_key(|entry| entry.slot.usable().is_some());
        due.truncate(AT_A_TIME.saturating_sub(busy.len()));
        (due, wait)
    }

    async fn renew_due(&self, entry: Arc<Entry>) -> SpiffeId {
        let slot = &entry.slot;
        let _turn = slot.turn.lock().await;
        if due_in(slot, now(&self.clock)).is_zero()
            && let Err(error) = self.renew(slot).await
        {
            debug!(identity = %slot.identity, error = %Chain(&*error), "renewal failed");
        }
        slot.identity.clone()
    }

    /// Obtains a certificate, unless somebody else did or failed while it was not our turn.
    async fn obtain(&self, slot: &Slot) -> Result<(), Arc<IssueError>> {
        let _turn = slot.turn.lock().await;
        match known(slot) {
            Some(known) => known,
            None => self.renew(slot).await,
        }
    }

    /// Obtains a certificate and notes how that went. The one before stays in use if there is no new one.
    async fn renew(&self, slot: &Slot) -> Result<(), Arc<IssueError>> {
        let result = issue(&*self.authority, &slot.identity, now(&self.clock), random_unit()).await;
        match result {
            Ok(current) => {
                debug!(identity = %slot.identity, not_after = current.life.not_after, "certificate obtained");
                self.rules.metrics.issued.inc();
                slot.replace(current);
                // Of what our clock does not take, the next one is no better until somebody sets the clock.
                let wait = if slot.usable().is_some() { SHORTEST_WAIT } else { LOOK_AGAIN };
                let next = Some(Instant::now() + wait);
                slot.set_attempts(Attempts { next, ..Attempts::default() });
                Ok(())
            }
            Err(error) => {
                self.rules.metrics.failed.inc();
                let error = Arc::new(error);
                self.put_off(slot, &error);
                Err(error)
            }
        }
    }

    fn put_off(&self, slot: &Slot, error: &Arc<IssueError>) {
        let failures = slot.attempts().failures.saturating_add(1);
        let now = now(&self.clock);
        let left =
            slot.usable().map(|current| Duration::from_secs(current.life.not_after.saturating_sub(now)));
        let wait = retry_after(failures, left, random_unit());
        if failures == 1 {
            warn!(identity = %slot.identity, error = %Chain(&**error), "no new certificate; keeping the old one if it is valid");
        }
        slot.set_attempts(Attempts {
            failures,
            next: Some(Instant::now() + wait),
            last_error: Some(Arc::clone(error)),
            awaited: None,
        });
    }
}

/// What is known of an identity without asking for a certificate; `None` if one is to be asked for.
fn known(slot: &Slot) -> Option<Result<(), Arc<IssueError>>> {
    if slot.usable().is_some() {
        return Some(Ok(()));
    }
    let Attempts { next, last_error, .. } = slot.attempts();
    // It failed so lately that it is not tried now.
    last_error.filter(|_| next.is_some_and(|next| Instant::now() < next)).map(Err)
}

/// What the authority answers to who asks now, if it does until it is late.
async fn answer(slot: &Slot, deadline: Instant) -> Ensured {
    let answered = async {
        loop {
            // Made first: what is told from here on is heard.
            let told = slot.answered.notified();
            if let Some(known) = known(slot) {
                return known;
            }
            told.await;
        }
    };
    let late = |_| Err(Arc::new(IssueError::Late { identity: slot.identity.clone() }));
    let result = timeout_at(slot.awaited(deadline), answered).await.unwrap_or_else(late);
    (slot.identity.clone(), result)
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
