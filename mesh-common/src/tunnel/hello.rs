//! Tells by the first bytes of a connection whether they are a ClientHello of ours.
//!
//! In: the first bytes, as many as have arrived, before any TLS state exists. Out: what they offer by ALPN, or that
//! more are needed.

use crate::model::client_hello::{ClientHello, NoHello};

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// It may still become any of the others.
    Incomplete,
    /// A ClientHello that offers `nodemesh/mux1`.
    Tunnel,
    /// A ClientHello that offers `nodemesh/h2`.
    Http2,
    /// Anything else: plaintext, or the application's own TLS.
    Foreign,
}

/// ALPN of HTTP/2 between daemons.
const HTTP2: &[u8] = b"nodemesh/h2";

/// Judges the first bytes of a connection.
pub fn hello(bytes: &[u8]) -> Hello {
    let hello = match ClientHello::read(bytes) {
        Ok(hello) => hello,
        Err(NoHello::Incomplete) => return Hello::Incomplete,
        Err(NoHello::Malformed | NoHello::Foreign) => return Hello::Foreign,
    };
    let ours = hello.protocols().find_map(|name| match name {
        name if name == super::ALPN => Some(Hello::Tunnel),
        HTTP2 => Some(Hello::Http2),
        _ => None,
    });
    ours.unwrap_or(Hello::Foreign)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::client_hello::tests::{alpn, message, records};

    fn client_hello(names: &[&[u8]]) -> Vec<u8> {
        message(&[vec![0, 43, 0, 3, 2, 3, 4], alpn(names)])
    }

    #[test]
    fn our_protocols_are_told_from_others() {
        for (names, expected) in [
            (&[&b"nodemesh/mux1"[..]][..], Hello::Tunnel),
            (&[b"nodemesh/h2"], Hello::Http2),
            (&[b"h2", b"http/1.1"], Hello::Foreign),
            (&[b"nodemesh/mux2"], Hello::Foreign),
            (&[], Hello::Foreign),
        ] {
            assert_eq!(hello(&records(&client_hello(names), 4096)), expected, "{names:?}");
        }
    }

    #[test]
    fn any_cut_into_segments_and_records_waits_for_the_rest() {
        let message = client_hello(&[b"nodemesh/mux1"]);
        for size in [1, 2, 3, 50, 4096] {
            let bytes = records(&message, size);
            for end in 0..bytes.len() {
                assert_eq!(hello(&bytes[..end]), Hello::Incomplete, "{end} bytes, records of {size}");
            }
            assert_eq!(hello(&bytes), Hello::Tunnel);
        }
    }

    #[test]
    fn plaintext_is_told_by_its_first_byte() {
        assert_eq!(hello(b"G"), Hello::Foreign);
        assert_eq!(hello(b"\x16\x02"), Hello::Foreign);
        assert_eq!(hello(b""), Hello::Incomplete);
    }

    #[test]
    fn a_hello_that_never_ends_is_not_ours() {
        let endless = records(&[&[1, 0, 0xff, 0xff][..], &[0; 20_000]].concat(), 16_384);
        assert_eq!(hello(&endless), Hello::Foreign);
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), as_hello in any::<bool>()) {
            if as_hello && bytes.len() > 9 {
                bytes[..6].copy_from_slice(&[22, 3, 1, 1, 0, 1]);
            }
            let _ = hello(&bytes);
        }
    }
}
