//! What an application is told of its caller: `x-forwarded-client-cert`, as Envoy writes it.
//!
//! ```text
//! By=spiffe://cluster.local/ns/shop/sa/server;Hash=9f86...0a08;URI=spiffe://cluster.local/ns/shop/sa/client
//! ```
//!
//! `By` is the called pod's identity, `Hash` the SHA-256 of the caller's certificate (DER, hexadecimal), `URI` its
//! identity. There is one element, for one hop. A SPIFFE id has none of the characters that would need quotes. Between
//! pods of one agent no certificate is shown, so there is no `Hash`.

use mesh_common::model::{CertificateHash, ConnectionFacts, SpiffeId};

/// What the pod `called` is told; `None` of a caller that proved nothing. One allocation: HTTP/1.1 asks per request.
pub(super) fn client_certificate(facts: &ConnectionFacts, called: &SpiffeId) -> Option<String> {
    const SCHEME: &str = "spiffe://";
    let caller = facts.peer.verified()?;
    let hash = facts.certificate.as_deref();
    let ids = 2 * SCHEME.len() + called.principal().len() + caller.principal().len();
    let hash_length = hash.map_or(0, |_| "Hash=;".len() + 64);
    let mut text = String::with_capacity("By=;URI=".len() + ids + hash_length);
    for part in ["By=", SCHEME, called.principal(), ";"] {
        text.push_str(part);
    }
    if let Some(hash) = hash {
        push_hash(&mut text, hash);
    }
    for part in ["URI=", SCHEME, caller.principal()] {
        text.push_str(part);
    }
    Some(text)
}

fn push_hash(text: &mut String, CertificateHash(hash): &CertificateHash) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.push_str("Hash=");
    for byte in hash {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text.push(';');
}
