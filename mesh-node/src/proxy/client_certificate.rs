//! What an application is told of its caller: `x-forwarded-client-cert`, as Envoy writes it.
//!
//! ```text
//! By=spiffe://cluster.local/ns/shop/sa/server;Hash=9f86...0a08;URI=spiffe://cluster.local/ns/shop/sa/client
//! ```
//!
//! `By` is the called pod's identity, `Hash` the SHA-256 of the caller's certificate (DER, hexadecimal), `URI` its
//! identity. There is one element, for one hop. A SPIFFE id has none of the characters that would need quotes. Between
//! pods of one agent no certificate is shown, so there is no `Hash`.

use std::sync::Arc;

use mesh_common::model::{CertificateHash, ConnectionFacts, SpiffeId};

/// What the pod `called` is told; `None` of a caller that proved nothing.
pub(super) fn client_certificate(facts: &ConnectionFacts, called: &SpiffeId) -> Option<Arc<str>> {
    let caller = facts.peer.verified()?;
    let mut text = format!("By={called};");
    if let Some(certificate) = &facts.certificate {
        push_hash(&mut text, certificate);
    }
    text.push_str("URI=");
    text.push_str(&caller.to_string());
    Some(text.into())
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
