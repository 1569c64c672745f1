//! Tokens whose signature was found good, so that it is verified once and not with every request.

use std::mem;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use hashbrown::HashMap;

use super::{Claims, KeySet, TokenFault};

/// The most claims that are kept, in bytes of their base64url.
const CAPACITY: usize = 1 << 20;

/// A digest that nobody can aim at, whatever they send.
type Fingerprint = [u8; 32];

/// Verified tokens of one core. What is kept is the signature's verdict, bound to the keys that gave it: issuer,
/// audience and times are compared each time. Half of what is kept, the longest unused, goes when it is full.
#[derive(Debug, Default)]
pub struct TokenCache {
    young: HashMap<Fingerprint, Entry>,
    old: HashMap<Fingerprint, Entry>,
    /// Bytes of `young`.
    held: usize,
}

#[derive(Debug)]
struct Entry {
    claims: Arc<Claims>,
    /// Held, so that another set cannot come to stand at its address.
    keys: Arc<KeySet>,
}

impl TokenCache {
    /// The claims of a token that `keys` have signed; asks `verify` where that is not known.
    pub(super) fn signed(
        &mut self,
        token: &[u8],
        keys: &Arc<KeySet>,
        verify: impl FnOnce() -> Result<Claims, TokenFault>,
    ) -> Result<Arc<Claims>, TokenFault> {
        let fingerprint = fingerprint(token);
        let known = |entry: &&Entry| Arc::ptr_eq(&entry.keys, keys);
        if let Some(entry) = self.young.get(&fingerprint).filter(known) {
            return Ok(Arc::clone(&entry.claims));
        }
        let aged = self.old.remove(&fingerprint).filter(|entry| known(&entry)).map(|entry| entry.claims);
        let claims = aged.map_or_else(|| verify().map(Arc::new), Ok)?;
        self.insert(fingerprint, Entry { claims: Arc::clone(&claims), keys: Arc::clone(keys) });
        Ok(claims)
    }

    /// How much it holds, in bytes of base64url.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.young.values().chain(self.old.values()).map(|entry| entry.claims.encoded().len()).sum()
    }

    fn insert(&mut self, fingerprint: Fingerprint, entry: Entry) {
        self.held += entry.claims.encoded().len();
        if self.held > CAPACITY / 2 {
            self.held = entry.claims.encoded().len();
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(fingerprint, entry);
    }
}

fn fingerprint(token: &[u8]) -> Fingerprint {
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(digest(&SHA256, token).as_ref());
    fingerprint
}
