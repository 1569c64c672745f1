//! The identities of this node, from outside: certificates kept current, configurations to speak as one of them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mesh_common::model::SpiffeId;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tracing::{info, warn};

use super::authority::{AuthorityError, CertificateAuthority};
use super::clock::{Clock, now};
use super::metrics::IdentityMetrics;
use super::reason::Reason;
use super::store::{Entry, Slot, Store};
use super::tls::{Alpn, client_config, client_template, controller_server, server_config};
use super::trust::Trust;
use super::verify::{ClientVerifier, Peer, Rules, ServerVerifier, peer_of};
use crate::telemetry::chain::Chain;
use crate::telemetry::seldom::Seldom;

/// How often trust and standing are looked at again though nothing is due: a wall clock may jump, and a root may be
/// added to the bundle.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How identities are kept and peers judged.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How much later or earlier than ours a peer's authority may think it is.
    pub clock_skew: Duration,
}

impl Default for Settings {
    /// 20 seconds, as Linkerd allows; certificates are backdated besides.
    fn default() -> Self {
        Self { clock_skew: Duration::from_secs(20) }
    }
}

/// An identity cannot be used now: it was never ensured, or its certificate is outside its validity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{identity} has no valid certificate on this node")]
pub struct Unavailable {
    /// Whose.
    pub identity: SpiffeId,
}

/// One certificate, without its key, for `dump certificates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    /// Whose.
    pub identity: SpiffeId,
    /// Serial number in lower-case hex; `None` before the first certificate.
    pub serial: Option<String>,
    /// First valid second, UTC since the epoch.
    pub not_before: Option<u64>,
    /// Last valid second, UTC since the epoch.
    pub not_after: Option<u64>,
    /// Whether it would be shown to a peer now.
    pub usable: bool,
    /// Failed renewals since the last good one.
    pub failures: u32,
    /// What the last failed one said.
    pub last_error: Option<String>,
    /// Whether that was the authority's refusal of this identity alone.
    pub refused: bool,
}

/// All identities of this node. Shared by reference; readers on the data path never wait.
pub struct Identities {
    pub(super) store: Store,
    pub(super) rules: Arc<Rules>,
    pub(super) authority: Arc<dyn CertificateAuthority>,
    pub(super) clock: Clock,
    /// Told when an identity was added, so that [`run`](Self::run) plans its renewal.
    pub(super) added: Notify,
    /// Told when the authority's roots may have changed.
    roots_changed: Notify,
    /// The generation of the trust bundle, for those who must look at peers again.
    trusted: watch::Sender<u64>,
    /// The agent's own, once it was asked for.
    pub(super) own: OnceLock<SpiffeId>,
}

impl Identities {
    /// Begins with the authority's roots and no identity.
    ///
    /// # Errors
    /// [`AuthorityError`] if the roots cannot be read: without them no peer could be verified.
    pub fn new(
        authority: Arc<dyn CertificateAuthority>,
        settings: Settings,
        clock: Clock,
        metrics: IdentityMetrics,
    ) -> Result<Self, AuthorityError> {
        let trust = Trust::new(authority.bundle()?);
        metrics.generation.set(1);
        let rules =
            Arc::new(Rules { trust, clock_skew: settings.clock_skew, metrics, said: Seldom::default() });
        let trusted = watch::Sender::new(rules.trust.load().generation);
        let (store, added, roots_changed) = (Store::default(), Notify::new(), Notify::new());
        let own = OnceLock::new();
        Ok(Self { store, rules, authority, clock, added, roots_changed, trusted, own })
    }

    /// Forgets an identity; its key is gone when the last handshake that uses it is over.
    pub fn forget(&self, identity: &SpiffeId) {
        self.retain(|known| known != identity);
    }

    /// Forgets every identity for which `wanted` is false, but for the agent's [own](Self::own).
    pub fn retain(&self, wanted: impl Fn(&SpiffeId) -> bool) {
        let own = self.own.get();
        self.store.retain(|identity| own == Some(identity) || wanted(identity));
        self.count_certificates();
    }

    /// A configuration to dial as `local` and to accept nobody but `expected`. Meant for one connection or for
    /// several; it keeps up with renewals by itself.
    ///
    /// # Errors
    /// [`Unavailable`] if `local` has no valid certificate.
    pub fn client(
        &self,
        local: &SpiffeId,
        expected: &SpiffeId,
        alpn: Alpn,
    ) -> Result<Arc<ClientConfig>, Unavailable> {
        let entry = self.usable_entry(local)?;
        let verifier = ServerVerifier { rules: self.rules.clone(), expected: expected.clone() };
        Ok(client_config(&entry.clients[alpn.index()], Arc::new(verifier)))
    }

    /// A configuration to accept connections with as `local`. It keeps up with renewals by itself.
    ///
    /// # Errors
    /// [`Unavailable`] if `local` has no valid certificate.
    pub fn server(&self, local: &SpiffeId, alpn: Alpn) -> Result<Arc<ServerConfig>, Unavailable> {
        Ok(self.usable_entry(local)?.servers[alpn.index()].clone())
    }

    /// A configuration to serve agents with as `local`: it asks them for a certificate, refuses a bad one, and lets in who
    /// has none, as [`peer`](Self::peer) says. It keeps up with renewals by itself.
    ///
    /// # Errors
    /// [`Unavailable`] if `local` has no valid certificate.
    pub fn controller(&self, local: &SpiffeId) -> Result<Arc<ServerConfig>, Unavailable> {
        let verifier = ClientVerifier { rules: self.rules.clone(), is_mandatory: false };
        Ok(controller_server(&self.usable_entry(local)?.slot, Arc::new(verifier), &self.clock))
    }

    /// Has [`run`](Self::run) look at the authority's roots now.
    pub fn look_again(&self) {
        self.roots_changed.notify_one();
    }

    /// Who the peer of a finished handshake is, by its certificates (`peer_certificates()` of the connection).
    ///
    /// # Errors
    /// [`Reason`] if the handshake verified nobody.
    pub fn peer(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<Peer, Reason> {
        peer_of(chain.unwrap_or_default())
    }

    /// Whether a peer that was verified before is still vouched for, now that the trust bundle has changed.
    ///
    /// # Errors
    /// [`Reason`] for which its connection must end; it is counted.
    pub fn still_trusted(&self, chain: &[CertificateDer<'_>]) -> Result<(), Reason> {
        self.rules.still_holds(chain).inspect_err(|reason| self.rules.metrics.refused(*reason))
    }

    /// Ends when a peer that was verified is vouched for no more: its certificate is over, revoked, or its root is gone.
    pub async fn until_over(&self, chain: &[CertificateDer<'_>]) -> Reason {
        let mut changes = self.trust_changes();
        let not_after = match self.peer(Some(chain)) {
            Ok(peer) => self.rules.tolerated_until(peer.not_after),
            Err(reason) => return reason,
        };
        loop {
            if let Err(reason) = self.still_trusted(chain) {
                return reason;
            }
            let left = self.time_left(not_after);
            if left.is_zero() {
                return Reason::Expired;
            }
            tokio::select! {
                // A wall clock may jump.
                () = sleep(left.min(LOOK_AGAIN)) => {}
                // Its sender is ours.
                _ = changes.changed() => {}
            }
        }
    }

    /// The last valid second of `local`'s certificate, UTC since the epoch: a tunnel is re-made before.
    pub fn not_after(&self, local: &SpiffeId) -> Option<u64> {
        Some(self.store.entry(local)?.slot.usable()?.life.not_after)
    }

    /// How long until `not_after` (UTC seconds since the epoch) is over, by this stage's clock.
    pub fn time_left(&self, not_after: u64) -> Duration {
        Duration::from_secs(not_after.saturating_add(1).saturating_sub(now(&self.clock)))
    }

    /// Counts the trust bundles in force so far. A connection verified under an older one may have a peer whose
    /// root is gone.
    pub fn generation(&self) -> u64 {
        self.rules.trust.load().generation
    }

    /// Changes with [`generation`](Self::generation).
    pub fn trust_changes(&self) -> watch::Receiver<u64> {
        self.trusted.subscribe()
    }

    /// Every certificate, without keys, ordered by identity.
    pub fn certificates(&self) -> Vec<CertificateSummary> {
        let mut summaries: Vec<_> = self.store.all().values().map(|entry| summary_of(&entry.slot)).collect();
        summaries.sort_by(|a, b| a.identity.cmp(&b.identity));
        summaries
    }

    /// Renews certificates and takes over changed roots until it is dropped. For the control runtime.
    pub async fn run(&self) {
        tokio::join!(self.keep_renewed(), self.follow_roots());
    }

    async fn follow_roots(&self) {
        loop {
            self.refresh_trust();
            tokio::select! {
                () = sleep(LOOK_AGAIN) => {}
                () = self.roots_changed.notified() => {}
            }
        }
    }

    fn usable_entry(&self, local: &SpiffeId) -> Result<Arc<Entry>, Unavailable> {
        self.store
            .entry(local)
            .filter(|entry| entry.slot.usable().is_some())
            .ok_or_else(|| Unavailable { identity: local.clone() })
    }

    pub(super) fn entry(&self, identity: &SpiffeId) -> Entry {
        let slot = Slot::new(identity.clone(), self.clock.clone());
        let accepts = Arc::new(ClientVerifier { rules: self.rules.clone(), is_mandatory: true });
        // Replaced for each connection; by itself it accepts the identity's own peers only.
        let expects = Arc::new(ServerVerifier { rules: self.rules.clone(), expected: identity.clone() });
        let servers = Alpn::ALL.map(|alpn| server_config(&slot, accepts.clone(), &self.clock, alpn));
        let clients = Alpn::ALL.map(|alpn| client_template(&slot, expects.clone(), &self.clock, alpn));
        Entry { slot, servers, clients }
    }

    /// Takes the authority's roots over if they changed; keeps the ones before if they cannot be read.
    fn refresh_trust(&self) {
        match self.authority.bundle() {
            Ok(bundle) => {
                if self.rules.trust.replace(bundle) {
                    let generation = self.generation();
                    self.rules.metrics.generation.set(generation.cast_signed());
                    info!(generation, "trust bundle changed");
                    self.trusted.send_replace(generation);
                }
            }
            Err(error) => warn!(error = %Chain(&error), "roots cannot be read; keeping the ones before"),
        }
    }

    pub(super) fn count_certificates(&self) {
        let entries = self.store.all();
        let usable: Vec<u64> =
            entries.values().filter_map(|entry| Some(entry.slot.usable()?.life.not_after)).collect();
        let metrics = &self.rules.metrics;
        metrics.usable.set(i64::try_from(usable.len()).unwrap_or(i64::MAX));
        metrics.earliest_expiry.set(usable.iter().min().map_or(0, |time| time.cast_signed()));
    }
}

fn summary_of(slot: &Slot) -> CertificateSummary {
    let current = slot.current();
    let attempts = slot.attempts();
    CertificateSummary {
        identity: slot.identity.clone(),
        serial: current.as_ref().and_then(|current| super::verify::serial_of(&current.key.cert)),
        not_before: current.as_ref().map(|current| current.life.not_before),
        not_after: current.as_ref().map(|current| current.life.not_after),
        usable: slot.usable().is_some(),
        failures: attempts.failures,
        refused: attempts.last_error.as_ref().is_some_and(|error| error.is_of_the_identity()),
        last_error: attempts.last_error.map(|error| Chain(&*error).to_string()),
    }
}
