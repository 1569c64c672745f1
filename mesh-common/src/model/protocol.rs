//! What is spoken on a port: as declared, or as found in the first bytes.

/// The application protocol of a Service port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Declared opaque (`tcp`, `redis`, `mysql`, ...): carried as bytes, never looked at.
    Tcp,
    /// `http`: HTTP/1.1.
    Http1,
    /// `http2`, `h2c`, `kubernetes.io/h2c`: HTTP/2 without TLS.
    Http2,
    /// `grpc`: HTTP/2 that carries gRPC.
    Grpc,
    /// `https`, `tls`: the application's own TLS, carried as bytes.
    Tls,
    /// Nothing declared: detected from the first bytes, without delaying the connection.
    #[default]
    Undeclared,
}

/// The protocols that istio_requests_total and policy on requests speak of.
impl Protocol {
    /// Whether requests can be told apart, so that L7 rules can be applied.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http1) || self.is_http2()
    }

    /// Whether it is declared to be HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
}

/// What the first bytes of a connection show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// This is spoken; [`Protocol::Tcp`] if it is nothing that is known.
    Protocol(Protocol),
    /// It may still be any of those that begin so.
    NeedMore,
}

/// The preface of an HTTP/2 client (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods that begin an HTTP/1.1 request: RFC 9110 section 9, RFC 5789, and WebDAV's (RFC 4918, 3253, 5323).
const METHODS: [&[u8]; 24] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"LOCK ",
    b"UNLOCK ",
    b"REPORT ",
    b"CHECKOUT ",
    b"CHECKIN ",
    b"MERGE ",
    b"SEARCH ",
    b"QUERY ",
    b"PURGE ",
    b"MKACTIVITY ",
];

/// Tells what is spoken from the first bytes that a client sent. Looks at 24 bytes at most.
///
/// A ClientHello begins with a handshake record (RFC 8446 section 5.1): type 22, version 3.x, and after the length
/// the message type 1.
pub fn sniff(bytes: &[u8]) -> Sniffed {
    if bytes.is_empty() {
        return Sniffed::NeedMore;
    }
    match begins_with(bytes, HTTP2_PREFACE) {
        Begins::Wholly => return Sniffed::Protocol(Protocol::Http2),
        Begins::SoFar => return Sniffed::NeedMore,
        Begins::Otherwise => {}
    }
    if let [22, rest @ ..] = bytes {
        return match rest {
            [] | [3] | [3, _] | [3, _, _] | [3, _, _, _] => Sniffed::NeedMore,
            [3, _, _, _, 1, ..] => Sniffed::Protocol(Protocol::Tls),
            _ => Sniffed::Protocol(Protocol::Tcp),
        };
    }
    let mut methods = METHODS.iter().map(|method| begins_with(bytes, method));
    if methods.clone().any(|begins| begins == Begins::Wholly) {
        return Sniffed::Protocol(Protocol::Http1);
    }
    if methods.any(|begins| begins == Begins::SoFar) {
        return Sniffed::NeedMore;
    }
    Sniffed::Protocol(Protocol::Tcp)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Begins {
    Wholly,
    SoFar,
    Otherwise,
}

fn begins_with(bytes: &[u8], text: &[u8]) -> Begins {
    if bytes.starts_with(text) {
        Begins::Wholly
    } else if text.starts_with(bytes) {
        Begins::SoFar
    } else {
        Begins::Otherwise
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        for (bytes, protocol) in [
            (&b"GET / HTTP/1.1\r\n"[..], Protocol::Http1),
            (b"PROPFIND /dav", Protocol::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Protocol::Http2),
            (b"\x16\x03\x01\x02\x00\x01\x00", Protocol::Tls),
            (b"\x16\x03\x01\x02\x00\x02\x00", Protocol::Tcp),
            (b"EHLO mail.example\r\n", Protocol::Tcp),
            (b"*1\r\n$4\r\nPING\r\n", Protocol::Tcp),
            (b"get / HTTP/1.1\r\n", Protocol::Tcp),
            (b"PRI * HTTP/1.1\r\n", Protocol::Tcp),
            (b"\0", Protocol::Tcp),
        ] {
            assert_eq!(sniff(bytes), Sniffed::Protocol(protocol), "{:?}", bytes.escape_ascii().to_string());
        }
    }

    proptest! {
        /// However the bytes are cut, an early answer is the last one too.
        #[test]
        fn more_bytes_never_change_an_answer(
            start in prop::sample::select(vec![&b""[..], b"GE", b"PRI * HTTP/2.0\r\n\r\n", b"\x16\x03\x01", b"PRO"]),
            rest in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let bytes = [start, &rest].concat();
            let answers: Vec<_> = (0..=bytes.len()).map(|end| sniff(&bytes[..end])).collect();
            let first = answers.iter().find(|answer| **answer != Sniffed::NeedMore);
            if let Some(first) = first {
                prop_assert_eq!(answers.last(), Some(first));
            }
            prop_assert!(bytes.len() < 24 || sniff(&bytes) != Sniffed::NeedMore);
        }
    }
}
