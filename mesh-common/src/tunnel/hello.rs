//! Tells by the first bytes of a connection whether they are a ClientHello of ours.
//!
//! In: the first bytes, as many as have arrived, before any TLS state exists. Out: what they offer by ALPN, or that
//! more are needed. RFC 8446 sections 4.1.2 and 5.1, RFC 7301 section 3.1.

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

/// The longest ClientHello that is looked at, with its record headers: what is longer is not ours.
pub const MAX_HELLO: usize = 16 * 1024;

/// ALPN of HTTP/2 between daemons.
const HTTP2: &[u8] = b"nodemesh/h2";

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_ALPN: u16 = 16;

/// Judges the first bytes of a connection.
pub fn hello(bytes: &[u8]) -> Hello {
    match body(bytes) {
        Ok(body) => match offers(&body) {
            Some(hello) => hello,
            None => Hello::Foreign,
        },
        Err(NotYet::Incomplete) if bytes.len() < MAX_HELLO => Hello::Incomplete,
        Err(_) => Hello::Foreign,
    }
}

enum NotYet {
    Incomplete,
    Foreign,
}

/// The body of the ClientHello, put together from as many records as it takes.
fn body(mut bytes: &[u8]) -> Result<Vec<u8>, NotYet> {
    let mut message = Vec::new();
    loop {
        let prefix = [HANDSHAKE, 3];
        if bytes.iter().zip(prefix).any(|(byte, expected)| *byte != expected) {
            return Err(NotYet::Foreign);
        }
        let Some((&[_, _, minor, l0, l1], rest)) = bytes.split_first_chunk::<5>() else {
            return Err(NotYet::Incomplete);
        };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        // The versions that a first record may name; an empty handshake record is not allowed.
        if minor > 4 || length == 0 || length > 16_384 {
            return Err(NotYet::Foreign);
        }
        message.extend_from_slice(&rest[..length.min(rest.len())]);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(NotYet::Foreign);
        }
        if let Some((&[_, m0, m1, m2], rest)) = message.split_first_chunk::<4>() {
            let expected = u32::from_be_bytes([0, m0, m1, m2]) as usize;
            if expected > MAX_HELLO {
                return Err(NotYet::Foreign);
            }
            if rest.len() >= expected {
                return Ok(rest[..expected].to_vec());
            }
        }
        if rest.len() < length {
            return Err(NotYet::Incomplete);
        }
        bytes = &rest[length..];
    }
}

/// What the ALPN extension offers; `None` where there is none of ours or the message is not well formed.
fn offers(body: &[u8]) -> Option<Hello> {
    let mut rest = body.get(2 + 32..)?;
    vector::<1>(&mut rest)?;
    vector::<2>(&mut rest)?;
    vector::<1>(&mut rest)?;
    let mut extensions = vector::<2>(&mut rest)?;
    while !extensions.is_empty() {
        let (&[t0, t1], after) = extensions.split_first_chunk::<2>()?;
        extensions = after;
        let mut value = vector::<2>(&mut extensions)?;
        if u16::from_be_bytes([t0, t1]) != EXTENSION_ALPN {
            continue;
        }
        let mut names = vector::<2>(&mut value)?;
        while !names.is_empty() {
            match vector::<1>(&mut names)? {
                name if name == super::ALPN => return Some(Hello::Tunnel),
                HTTP2 => return Some(Hello::Http2),
                _ => {}
            }
        }
        return None;
    }
    None
}

/// Takes a vector with a length of `N` bytes off the front.
fn vector<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<N>()?;
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (value, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_length<const N: usize>(value: &[u8]) -> Vec<u8> {
        let length = (value.len() as u64).to_be_bytes();
        [&length[8 - N..], value].concat()
    }

    fn client_hello(names: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> = names.iter().flat_map(|name| with_length::<1>(name)).collect();
        let alpn = [&16u16.to_be_bytes()[..], &with_length::<2>(&with_length::<2>(&list))].concat();
        let other = [&43u16.to_be_bytes()[..], &with_length::<2>(&[2, 3, 4])].concat();
        let body = [
            &[3, 3][..],
            &[7; 32],
            &with_length::<1>(&[9; 32]),
            &with_length::<2>(&[0x13, 1]),
            &with_length::<1>(&[0]),
            &with_length::<2>(&[other, alpn].concat()),
        ]
        .concat();
        [&[1][..], &with_length::<3>(&body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &with_length::<2>(part)].concat()).collect()
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
        let long = records(&[&[1, 0, 0x3f, 0xff][..], &[0; 16_000]].concat(), 1);
        assert_eq!(hello(&long[..MAX_HELLO]), Hello::Foreign);
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
