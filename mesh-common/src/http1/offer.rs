//! Changes of protocol (RFC 9110 section 7.8): a WebSocket passes, every other offer ends here.
//!
//! Upgrade is a field of one hop: an intermediary that does not know a protocol leaves it out, and the request is served
//! in HTTP/1.1, as every application must be able to. Of what is offered as `websocket` nothing is left to doubt: it is a
//! handshake as RFC 6455 section 4.2.1 wants it, or it is refused.

use super::field::is_token_byte;
use super::{Field, Refusal};

/// What the sender of a request offers to go on in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/1.1 alone, or `h2c`: its sender waits for the answer before it speaks that.
    #[default]
    None,
    /// WebSocket, by a valid handshake.
    WebSocket,
    /// Something else, left out. Its sender may believe it taken and go on in it: the connection ends with the answer.
    Unknown,
}

/// The only version of the protocol (RFC 6455 section 4.1).
pub const WEBSOCKET_VERSION: &str = "13";
/// The field that says it.
pub const WEBSOCKET_VERSION_FIELD: &str = "sec-websocket-version";
/// The field that carries a handshake's challenge.
pub const WEBSOCKET_KEY_FIELD: &str = "sec-websocket-key";
/// The name among protocols, here and as the `:protocol` of HTTP/2 (RFC 8441).
pub const WEBSOCKET: &str = "websocket";

/// More protocols than any honest Upgrade field names.
const MAX_PROTOCOLS: u8 = 32;

/// What the Upgrade fields of a head name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Protocols {
    count: u8,
    has_websocket: bool,
    has_unknown: bool,
}

impl Protocols {
    /// Takes one Upgrade field: `name[/version]`, a list.
    pub(super) fn take(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for protocol in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let is_plain = protocol.iter().all(|byte| is_token_byte(*byte) || *byte == b'/');
            if protocol.is_empty() || !is_plain || self.count >= MAX_PROTOCOLS {
                return Err(Refusal::Upgrade);
            }
            self.count += 1;
            if protocol.eq_ignore_ascii_case(WEBSOCKET.as_bytes()) {
                self.has_websocket = true;
            } else if !protocol.eq_ignore_ascii_case(b"h2c") {
                self.has_unknown = true;
            }
        }
        Ok(())
    }

    /// What they come to in a request.
    pub(super) fn offer(self) -> Offer {
        match (self.has_websocket, self.has_unknown) {
            (true, _) => Offer::WebSocket,
            (false, true) => Offer::Unknown,
            (false, false) => Offer::None,
        }
    }

    /// Whether a response names WebSocket, once, and nothing else.
    pub(super) fn is_websocket_alone(self) -> bool {
        self.has_websocket && self.count == 1
    }
}

/// Checks what RFC 6455 section 4.2.1 asks of a handshake, version, Host and Connection apart, which are read before.
pub(super) fn check_handshake(method: &[u8], has_body: bool, fields: &[Field<'_>]) -> Result<(), Refusal> {
    if method != b"GET" || has_body {
        return Err(Refusal::WebSocketRequest);
    }
    let only = |name: &str| {
        let mut values = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name.as_bytes()));
        let first = values.next().map(|field| field.value);
        first.filter(|_| values.next().is_none())
    };
    if only(WEBSOCKET_VERSION_FIELD) != Some(WEBSOCKET_VERSION.as_bytes()) {
        return Err(Refusal::WebSocketVersion);
    }
    if !only(WEBSOCKET_KEY_FIELD).is_some_and(is_key) {
        return Err(Refusal::WebSocketKey);
    }
    Ok(())
}

/// Whether these are 16 bytes in base64.
fn is_key(value: &[u8]) -> bool {
    let digits = value.strip_suffix(b"==").unwrap_or_default();
    digits.len() == 22 && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte))
}
