//! Peers of open TLS connections, to be looked at again when the trust bundle changes.

use std::cell::RefCell;
use std::rc::Rc;

use rustls_pki_types::CertificateDer;
use slab::Slab;
use tokio::sync::Notify;

use crate::identity::Identities;

/// The peers of this core's connections.
#[derive(Default)]
pub(super) struct Peers(RefCell<Slab<Watched>>);

struct Watched {
    chain: Vec<CertificateDer<'static>>,
    distrusted: Rc<Notify>,
}

/// One peer, as long as its connection is open.
pub(super) struct WatchedPeer {
    peers: Rc<Peers>,
    key: usize,
    distrusted: Rc<Notify>,
}

impl Peers {
    /// Keeps what a peer proved itself with.
    pub(super) fn watch(self: &Rc<Self>, chain: Option<&[CertificateDer<'_>]>) -> WatchedPeer {
        let chain = chain.unwrap_or_default().iter().map(|certificate| certificate.clone().into_owned());
        let distrusted = Rc::new(Notify::new());
        let watched = Watched { chain: chain.collect(), distrusted: distrusted.clone() };
        let key = self.0.borrow_mut().insert(watched);
        WatchedPeer { peers: self.clone(), key, distrusted }
    }

    /// Ends the connections of peers that are no longer vouched for.
    pub(super) fn recheck(&self, identities: &Identities) {
        for (_, watched) in self.0.borrow().iter() {
            if identities.still_trusted(&watched.chain).is_err() {
                watched.distrusted.notify_one();
            }
        }
    }
}

impl WatchedPeer {
    /// Ends when the peer is no longer vouched for.
    pub(super) async fn distrusted(&self) {
        self.distrusted.notified().await;
    }
}

impl Drop for WatchedPeer {
    fn drop(&mut self) {
        self.peers.0.borrow_mut().remove(self.key);
    }
}
