//! HTTP/2 frames by hand (RFC 9113), so that what no library would send can be sent.

/// The types of frames (RFC 9113 section 6).
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// PRIORITY.
pub const PRIORITY: u8 = 2;
/// RST_STREAM.
pub const RESET: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// WINDOW_UPDATE.
pub const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;

/// Flag of DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// Flag of SETTINGS and PING.
pub const ACK: u8 = 1;
/// Flag of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;

/// What a client says first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's header.
const HEADER: usize = 9;

/// A frame.
///
/// # Panics
/// The payload has 2^24 bytes or more.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a payload of an attack is small").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A SETTINGS frame with one parameter.
pub fn setting(name: u16, value: u32) -> Vec<u8> {
    let mut payload = name.to_be_bytes().to_vec();
    payload.extend(value.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

/// Whether a request has a body, in the fields of the static table (RFC 7541 appendix A).
#[derive(Clone, Copy, Debug)]
pub enum Method {
    /// GET.
    Get,
    /// POST.
    Post,
}

/// The fields of a request for `/` of `server.shop`, compressed without the dynamic table.
pub fn head(method: Method) -> Vec<u8> {
    let method = match method {
        Method::Get => 0x82,
        Method::Post => 0x83,
    };
    let mut block = vec![method, 0x86, 0x84];
    block.extend(literal_at(1, b"server.shop"));
    block
}

/// A field whose name is in the static table, with a value that enters no table.
fn literal_at(index: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![index];
    bytes.extend(integer(7, 0, value.len()));
    bytes.extend(value);
    bytes
}

/// A field by its name and value that enters no table, or that becomes number 62 of the dynamic one.
pub fn literal(name: &[u8], value: &[u8], is_indexed: bool) -> Vec<u8> {
    let mut bytes = vec![if is_indexed { 0x40 } else { 0x00 }];
    for text in [name, value] {
        bytes.extend(integer(7, 0, text.len()));
        bytes.extend(text);
    }
    bytes
}

/// The newest field of the dynamic table.
pub const NEWEST: u8 = 0x80 | 62;

/// An integer behind a prefix of `bits` (RFC 7541 section 5.1).
fn integer(bits: u8, first: u8, value: usize) -> Vec<u8> {
    let most = (1_usize << bits) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let mut bytes = vec![first | most as u8];
    let mut rest = value - most;
    while rest >= 128 {
        bytes.push(128 | (rest % 128) as u8);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

/// What came from the other side, in frames.
#[derive(Clone, Debug, Default)]
pub struct Incoming {
    /// What is no whole frame yet.
    rest: Vec<u8>,
    /// Responses that ended well.
    pub ends: u64,
    /// PINGs that were answered.
    pub acks: u64,
    /// Streams that were reset.
    pub resets: u64,
    /// The code of the last GOAWAY (RFC 9113 section 7).
    pub goaway: Option<u32>,
}

impl Incoming {
    /// Takes what came.
    pub fn take(&mut self, bytes: &[u8]) {
        if self.rest.is_empty() {
            let taken = self.take_whole(bytes);
            self.rest.extend_from_slice(&bytes[taken..]);
        } else {
            self.rest.extend_from_slice(bytes);
            let all = std::mem::take(&mut self.rest);
            let taken = self.take_whole(&all);
            self.rest.extend_from_slice(&all[taken..]);
        }
    }

    /// Takes whole frames: how many bytes they were.
    fn take_whole(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(header) = bytes.get(at..at + HEADER) {
            let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
            let Some(payload) = bytes.get(at + HEADER..at + HEADER + length) else { break };
            self.note(header[3], header[4], payload);
            at += HEADER + length;
        }
        at
    }

    fn note(&mut self, kind: u8, flags: u8, payload: &[u8]) {
        match kind {
            DATA | HEADERS if flags & END_STREAM != 0 => self.ends += 1,
            PING if flags & ACK != 0 => self.acks += 1,
            RESET => self.resets += 1,
            GOAWAY => {
                let code = payload.get(4..8).and_then(|code| code.try_into().ok());
                self.goaway = code.map(u32::from_be_bytes);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_seen_in_whatever_pieces_they_come() {
        let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 11]);
        let bytes = [frame(PING, ACK, 0, &[0; 8]), frame(DATA, END_STREAM, 1, b"x"), goaway].concat();
        for size in 1..=bytes.len() {
            let mut incoming = Incoming::default();
            bytes.chunks(size).for_each(|piece| incoming.take(piece));
            let seen = (incoming.acks, incoming.ends, incoming.goaway);
            assert_eq!(seen, (1, 1, Some(11)), "in pieces of {size}");
        }
    }

    #[test]
    fn a_long_literal_has_its_length_in_several_bytes() {
        assert_eq!(literal(b"x", &[b'v'; 1000], false)[..6], [0, 1, b'x', 0x7f, 0xe9, 0x06]);
    }
}
