//! The certificate in use of each identity. Readers never wait; one task writes.
//!
//! Handshakes ask at the moment that they need a certificate, so a TLS configuration outlives any number of
//! renewals. A certificate outside its validity is not shown to anyone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use mesh_common::model::SpiffeId;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::clock::{Clock, now};
use super::issuer::IssueError;
use super::rotation::{Life, Standing, standing};

/// A certificate with its key, in use.
pub(super) struct Current {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) life: Life,
    /// In `0.0..1.0`, drawn when it was issued: when its renewal is due stays the same however often one asks.
    pub(super) jitter: f64,
}

/// Where one identity's certificate is kept.
pub(super) struct Slot {
    pub(super) identity: SpiffeId,
    clock: Clock,
    current: ArcSwapOption<Current>,
    attempts: Mutex<Attempts>,
    /// Held by who obtains a certificate for it: one at a time.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Told when the authority was asked, however that went.
    pub(super) answered: Notify,
}

/// How renewing went; read and written by the control task alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Attempts {
    /// Failed tries in a row.
    pub(super) failures: u32,
    /// Not before this.
    pub(super) next: Option<Instant>,
    /// The last failure.
    pub(super) last_error: Option<Arc<IssueError>>,
    /// Until when the answer is waited for; then it is late until it comes.
    pub(super) awaited: Option<Instant>,
}

/// An identity's slot with the configurations made for it.
pub(super) struct Entry {
    pub(super) slot: Arc<Slot>,
    /// By [`Alpn::index`](super::tls::Alpn::index).
    pub(super) servers: [Arc<ServerConfig>; 2],
    /// By [`Alpn::index`](super::tls::Alpn::index).
    pub(super) clients: [ClientConfig; 2],
}

/// All identities of this node.
#[derive(Default)]
pub(super) struct Store {
    entries: ArcSwap<HashMap<SpiffeId, Arc<Entry>>>,
    /// Held to replace the map; readers do not take it.
    writing: Mutex<()>,
}

impl Store {
    pub(super) fn entry(&self, identity: &SpiffeId) -> Option<Arc<Entry>> {
        self.entries.load().get(identity).cloned()
    }

    pub(super) fn all(&self) -> Arc<HashMap<SpiffeId, Arc<Entry>>> {
        self.entries.load_full()
    }

    /// The entry of `identity`, made by `make` if there is none.
    pub(super) fn entry_or(&self, identity: &SpiffeId, make: impl FnOnce() -> Entry) -> Arc<Entry> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = self.entries.load();
        if let Some(entry) = entries.get(identity) {
            return entry.clone();
        }
        let entry = Arc::new(make());
        let mut entries = HashMap::clone(&entries);
        entries.insert(identity.clone(), entry.clone());
        self.entries.store(Arc::new(entries));
        entry
    }

    /// Keeps only the identities that `wanted` says.
    pub(super) fn retain(&self, wanted: impl Fn(&SpiffeId) -> bool) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = self.entries.load();
        if entries.keys().all(&wanted) {
            return;
        }
        let mut entries = HashMap::clone(&entries);
        entries.retain(|identity, _| wanted(identity));
        self.entries.store(Arc::new(entries));
    }
}

impl Slot {
    pub(super) fn new(identity: SpiffeId, clock: Clock) -> Arc<Self> {
        let (current, attempts, turn, answered) = Default::default();
        Arc::new(Self { identity, clock, current, attempts, turn, answered })
    }

    /// The certificate, if it may be used now.
    pub(super) fn usable(&self) -> Option<Arc<Current>> {
        let current = self.current.load_full()?;
        match current.standing(now(&self.clock)) {
            Standing::Unusable => None,
            Standing::Fresh { .. } | Standing::Due => Some(current),
        }
    }

    /// The certificate, usable or not.
    pub(super) fn current(&self) -> Option<Arc<Current>> {
        self.current.load_full()
    }

    pub(super) fn replace(&self, current: Current) {
        self.current.store(Some(Arc::new(current)));
    }

    pub(super) fn attempts(&self) -> Attempts {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how it went, for those too who wait for it.
    pub(super) fn set_attempts(&self, attempts: Attempts) {
        *self.attempts.lock().unwrap_or_else(PoisonError::into_inner) = attempts;
        self.answered.notify_waiters();
    }

    /// Until when the answer is waited for: `otherwise`, if nobody waits for it yet.
    pub(super) fn awaited(&self, otherwise: Instant) -> Instant {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        *attempts.awaited.get_or_insert(otherwise)
    }

    fn certified_key(&self) -> Option<Arc<CertifiedKey>> {
        Some(self.usable()?.key.clone())
    }
}

impl Current {
    pub(super) fn standing(&self, now: u64) -> Standing {
        standing(self.life, now, self.jitter)
    }
}

impl std::fmt::Debug for Slot {
    /// The name only: the rest holds a key.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Slot").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Slot {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified_key()
    }
}

impl ResolvesClientCert for Slot {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.certified_key()
    }

    fn has_certs(&self) -> bool {
        self.usable().is_some()
    }
}
