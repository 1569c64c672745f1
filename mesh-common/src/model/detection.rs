//! What is spoken on a connection of which nothing is declared: told by who speaks first, and how.
//!
//! In: bytes as they pass, or as they wait. Out: a [`Found`], once, as soon as it is certain. Never holds anything up,
//! and keeps bytes only of what may still become a ClientHello, up to its bound.

use super::client_hello::{ClientHello, NoHello, ServerName};
use super::protocol::{Protocol, Sniffed, sniff};

/// What a connection turned out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Spoken {
    /// A request of HTTP/1.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// A ClientHello.
    Tls,
    /// The server spoke first, as with SMTP, SSH and MySQL.
    ServerFirst,
    /// The client spoke first, and nothing of the above.
    ClientFirst,
}

impl Spoken {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Http1, Self::Http2, Self::Tls, Self::ServerFirst, Self::ClientFirst];

    /// As logs, metrics and `status` have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
            Self::Tls => "tls",
            Self::ServerFirst => "server-first",
            Self::ClientFirst => "client-first",
        }
    }

    /// The protocol that is decided with. What cannot be told apart in requests is carried as bytes.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Http1 => Protocol::Http1,
            Self::Http2 => Protocol::Http2,
            Self::Tls => Protocol::Tls,
            Self::ServerFirst | Self::ClientFirst => Protocol::Tcp,
        }
    }
}

/// What the beginning of a connection told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What is spoken.
    pub spoken: Spoken,
    /// The name that the client asks for.
    pub server_name: ServerName,
}

impl Found {
    /// The server spoke before its client.
    pub const SERVER_FIRST: Self = Self::without_tls(Spoken::ServerFirst);

    const fn without_tls(spoken: Spoken) -> Self {
        Self { spoken, server_name: ServerName::Absent }
    }

    /// Tells from all that a client has sent so far; `None` while that may become one thing or another.
    pub fn in_bytes(bytes: &[u8]) -> Option<Self> {
        let spoken = match sniff(bytes) {
            Sniffed::NeedMore => return None,
            Sniffed::Protocol(Protocol::Tls) => return Self::in_hello(bytes),
            Sniffed::Protocol(Protocol::Http1) => Spoken::Http1,
            Sniffed::Protocol(Protocol::Http2 | Protocol::Grpc) => Spoken::Http2,
            Sniffed::Protocol(Protocol::Tcp | Protocol::Undeclared) => Spoken::ClientFirst,
        };
        Some(Self::without_tls(spoken))
    }

    /// Tells from all that a client sends before it waits: what is not complete is taken for what it is.
    pub fn in_all(bytes: &[u8]) -> Self {
        Self::in_bytes(bytes).unwrap_or_else(|| match sniff(bytes) {
            Sniffed::Protocol(Protocol::Tls) => {
                Self { spoken: Spoken::Tls, server_name: ServerName::Unknown }
            }
            // It may be the beginning of a ClientHello: then nothing is known of its name.
            _ if bytes.first() == Some(&22) => {
                Self { spoken: Spoken::ClientFirst, server_name: ServerName::Unknown }
            }
            _ => Self::without_tls(Spoken::ClientFirst),
        })
    }

    fn in_hello(bytes: &[u8]) -> Option<Self> {
        let server_name = match ClientHello::read(bytes) {
            Ok(hello) => hello.server_name(),
            Err(NoHello::Incomplete) => return None,
            Err(NoHello::Malformed | NoHello::Foreign) => ServerName::Unknown,
        };
        Some(Self { spoken: Spoken::Tls, server_name })
    }
}

/// Bytes that are looked at in all, however often a client adds one: a ClientHello of 1,400 bytes one by one.
const MAX_WORK: usize = 1 << 20;

/// Looks on while the first bytes of a connection pass.
#[derive(Debug, Default)]
pub struct Detector {
    /// What the client has said, while that is not enough.
    said: Vec<u8>,
    /// Bytes that were looked at.
    work: usize,
}

impl Detector {
    /// The client said this. Nothing is to be shown any more once there is an answer.
    pub fn client_said(&mut self, bytes: &[u8]) -> Option<Found> {
        if bytes.is_empty() {
            return None;
        }
        if self.said.is_empty()
            && let Some(found) = Found::in_bytes(bytes)
        {
            return Some(found);
        }
        self.said.extend_from_slice(bytes);
        self.work += self.said.len();
        if self.work > MAX_WORK {
            return Some(Found::in_all(&self.said));
        }
        Found::in_bytes(&self.said)
    }

    /// What the client has said so far, if that is not enough.
    pub fn into_said(self) -> Vec<u8> {
        self.said
    }

    /// The server said something.
    pub fn server_said(&mut self) -> Found {
        if self.said.is_empty() { Found::SERVER_FIRST } else { Found::in_all(&self.said) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::client_hello::tests::asking_for;

    #[test]
    fn who_speaks_first_and_how_tells_what_is_spoken() {
        for (bytes, spoken) in [
            (&b"GET / HTTP/1.1\r\n"[..], Spoken::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Spoken::Http2),
            (b"*1\r\n$4\r\nPING\r\n", Spoken::ClientFirst),
            // PostgreSQL asks in its own protocol whether it may speak TLS.
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Spoken::ClientFirst),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Spoken::ClientFirst),
        ] {
            let found = Detector::default().client_said(bytes);
            assert_eq!(found, Some(Found { spoken, server_name: ServerName::Absent }));
        }
        assert_eq!(Detector::default().server_said(), Found::SERVER_FIRST);
    }

    #[test]
    fn a_name_is_found_however_the_hello_is_cut() {
        let hello = asking_for(b"API.shop");
        let expected = Found { spoken: Spoken::Tls, server_name: ServerName::Name("api.shop".into()) };
        for size in [1, 2, 7, hello.len()] {
            let mut detector = Detector::default();
            let mut answers: Vec<_> = hello.chunks(size).map(|piece| detector.client_said(piece)).collect();
            assert_eq!(answers.pop().unwrap().as_ref(), Some(&expected));
            assert!(answers.iter().all(Option::is_none));
        }
    }

    #[test]
    fn a_server_that_speaks_into_an_unfinished_hello_leaves_its_name_unknown() {
        let hello = asking_for(b"api.shop");
        for length in [1, 5, 6, hello.len() - 1] {
            let mut detector = Detector::default();
            assert_eq!(detector.client_said(&hello[..length]), None);
            assert_eq!(detector.server_said().server_name, ServerName::Unknown, "after {length} bytes");
        }
    }

    #[test]
    fn a_client_that_adds_byte_by_byte_is_not_looked_at_for_ever() {
        let endless = [&[22, 3, 1, 0x3f, 0, 1, 0, 0x3e, 0xf0][..], &[0; 16_000]].concat();
        let mut detector = Detector::default();
        let found = endless.chunks(1).position(|byte| detector.client_said(byte).is_some());
        assert!(found.is_some_and(|length| length < 1_500), "{found:?}");
    }

    #[test]
    fn a_hello_that_is_too_long_is_tls_with_an_unknown_name() {
        let endless = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 16_380]].concat();
        let expected = Found { spoken: Spoken::Tls, server_name: ServerName::Unknown };
        assert_eq!(Detector::default().client_said(&endless), Some(expected));
    }

    proptest! {
        /// However bytes are cut, the answer is the same, and what is kept is bounded.
        #[test]
        fn cuts_change_nothing(
            hello in any::<bool>(),
            noise in prop::collection::vec(any::<u8>(), 1..80),
            cuts in prop::collection::vec(1usize..40, 1..40),
        ) {
            let bytes = if hello { [asking_for(b"a.example"), noise].concat() } else { noise };
            let mut detector = Detector::default();
            let (mut rest, mut found) = (&bytes[..], None);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() || found.is_some() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                found = detector.client_said(piece);
                rest = after;
            }
            prop_assert_eq!(found, Found::in_bytes(&bytes));
        }
    }
}
