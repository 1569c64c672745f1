//! Which HTTP a client speaks, from its first bytes: HTTP/2 begins with a preface of its own.
//!
//! The bytes are looked at and left in the socket, so that whoever serves HTTP/2 finds all of them.

use super::connection::Client;
use crate::transport::tunnel::{Conductor, Connection, Engine, Key, Kind, Speaks};

/// The preface of an HTTP/2 client (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// The preface.
    Http2,
    /// The preface as far as it goes, or nothing yet.
    Incomplete,
    /// Anything else, for the codec to judge.
    Other,
}

/// Compares first bytes with the preface.
pub(super) fn opening(bytes: &[u8]) -> Opening {
    if bytes.starts_with(PREFACE) {
        Opening::Http2
    } else if PREFACE.starts_with(bytes) {
        Opening::Incomplete
    } else {
        Opening::Other
    }
}

impl<C: Conductor> Engine<C> {
    /// Looks at a client that has said nothing so far. True: its bytes may be read here.
    pub(super) fn http_may_read(&mut self, key: Key) -> bool {
        let Some(Connection { kind: Kind::Http(http), .. }) = self.connections.get_mut(key) else {
            return false;
        };
        let Client::Socket(socket) = &mut http.client else { return true };
        if !http.is_new {
            return true;
        }
        let mut first = [0; PREFACE.len()];
        match socket.peek(&mut first) {
            Some(length) => match opening(&first[..length]) {
                Opening::Http2 => {
                    self.http_hand_over(key, Speaks::Http2);
                    false
                }
                Opening::Other if http.expects_http2 => {
                    self.http_hand_over(key, Speaks::Http1);
                    false
                }
                Opening::Incomplete if length > 0 && !socket.is_hung_up() => {
                    // The next bytes make a new edge.
                    socket.wait_for_more();
                    if !std::mem::replace(&mut http.preface_began, true) {
                        http.since = self.core.now;
                        self.rearm(key);
                    }
                    false
                }
                Opening::Incomplete | Opening::Other => {
                    http.is_new = false;
                    true
                }
            },
            None => false,
        }
    }

    /// Gives a connection to whoever serves HTTP/2, or translates to it.
    fn http_hand_over(&mut self, key: Key, speaks: Speaks) {
        let Some(Connection { pod, record, kind: Kind::Http(http), .. }) = self.connections.remove(key)
        else {
            return;
        };
        self.core.counters.connections.subtract(1);
        if let Client::Socket(socket) = http.client {
            self.core.reactor.remove(&socket.descriptor);
            self.conductor.hand_over(&pod, record, socket.descriptor.into_framed(), speaks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_preface_is_http_2() {
        for length in 0..PREFACE.len() {
            assert_eq!(opening(&PREFACE[..length]), Opening::Incomplete);
        }
        assert_eq!(opening(PREFACE), Opening::Http2);
        assert_eq!(opening(&[PREFACE, b"\0\0"].concat()), Opening::Http2);
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/1.1\r\n", b"POST", b"\x16\x03"] {
            assert_eq!(opening(other), Opening::Other);
        }
    }
}
