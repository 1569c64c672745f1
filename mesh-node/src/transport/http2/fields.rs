//! How many fields of a head are named by their place in a table, told from its compressed bytes alone (RFC 7541 section 6): no
//! table, no value is looked at, so that a head which names one field thousands of times costs us no more than its bytes. A
//! field that is written out costs its sender as much as us, and is not counted.

/// Flags of HEADERS (RFC 9113 section 6.2).
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// Bytes of a stream's priority, deprecated and still sent.
const PRIORITY_BYTES: u32 = 5;

/// Counts the indexed fields of one block after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields {
    count: u32,
    state: State,
    /// Bytes of this frame that are left: padding is none of them.
    left: u32,
    is_padded: bool,
    /// Bytes before the block.
    before: u32,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// The first of a field.
    #[default]
    Start,
    /// More of an index; so many strings come after it.
    Index(u8),
    /// The first of a string's length.
    Length(u8),
    /// More of it: what it is so far, and where the next bits go.
    LengthOn(u8, u32, u32),
    /// One of so many of a string.
    Text(u8, u32),
}

impl Fields {
    /// A frame of HEADERS.
    pub(super) fn begin(&mut self, flags: u8, length: u32) {
        let before = if flags & PRIORITY != 0 { PRIORITY_BYTES } else { 0 };
        *self = Self { left: length, is_padded: flags & PADDED != 0, before, ..Self::default() };
    }

    /// A frame of CONTINUATION.
    pub(super) fn go_on(&mut self, length: u32) {
        self.left = length;
    }

    /// Takes bytes of the frame: how many indexed fields the block has so far.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> u32 {
        if self.is_padded
            && let [padding, rest @ ..] = bytes
        {
            self.is_padded = false;
            self.left = self.left.saturating_sub(1 + u32::from(*padding));
            bytes = rest;
        }
        let before = bytes.len().min(self.before as usize);
        self.before -= before as u32;
        self.left = self.left.saturating_sub(before as u32);
        let rest = &bytes[before..];
        let block = &rest[..rest.len().min(self.left as usize)];
        self.left -= block.len() as u32;
        self.walk(block);
        self.count
    }

    fn walk(&mut self, mut bytes: &[u8]) {
        while let [byte, rest @ ..] = bytes {
            bytes = rest;
            self.state = match self.state {
                State::Start => self.field(*byte),
                State::Index(strings) if *byte < 0x80 => strings_next(strings),
                State::Index(strings) => State::Index(strings),
                State::Length(strings) => match byte & 0x7f {
                    0x7f => State::LengthOn(strings, 0x7f, 0),
                    length => text(strings, length.into()),
                },
                State::LengthOn(strings, length, shift) => {
                    let more = u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(u32::MAX);
                    let length = length.saturating_add(more);
                    if *byte < 0x80 {
                        text(strings, length)
                    } else {
                        State::LengthOn(strings, length, shift.saturating_add(7))
                    }
                }
                State::Text(strings, length) => {
                    let more = rest.len().min(length as usize - 1);
                    bytes = &rest[more..];
                    text_left(strings, length - 1 - more as u32)
                }
            };
        }
    }

    /// The first byte of a field.
    fn field(&mut self, byte: u8) -> State {
        let (prefix, is_literal) = match byte {
            0x80.. => (0x7f, false),
            0x40.. => (0x3f, true),
            // A new size of the table is no field.
            0x20.. => return if byte & 0x1f == 0x1f { State::Index(0) } else { State::Start },
            _ => (0x0f, true),
        };
        self.count = self.count.saturating_add(u32::from(!is_literal));
        let strings = match (is_literal, byte & prefix) {
            (false, _) => 0,
            (true, 0) => 2,
            (true, _) => 1,
        };
        if byte & prefix == prefix { State::Index(strings) } else { strings_next(strings) }
    }
}

fn strings_next(strings: u8) -> State {
    if strings == 0 { State::Start } else { State::Length(strings) }
}

/// A string of this length, the first of so many.
fn text(strings: u8, length: u32) -> State {
    text_left(strings - 1, length)
}

/// So much is left of a string, and so many strings after it.
fn text_left(strings: u8, length: u32) -> State {
    if length == 0 { strings_next(strings) } else { State::Text(strings, length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The indexed fields of a block, in whatever pieces it comes.
    fn check(flags: u8, payload: &[u8], wanted: u32) {
        for size in 1..=payload.len() {
            let mut fields = Fields::default();
            fields.begin(flags, payload.len() as u32);
            let count = payload.chunks(size).map(|piece| fields.take(piece)).last();
            assert_eq!(count, Some(wanted), "in pieces of {size}");
        }
    }

    #[test]
    fn every_form_of_a_field_is_told() {
        // RFC 7541 appendix C.2 and C.4: literals with and without names, never indexed, indexed, Huffman coded.
        check(0, b"\x40\x0acustom-key\x0dcustom-header\x82", 1);
        check(0, b"\x04\x0c/sample/path\x82\x82", 2);
        check(0, b"\x10\x08password\x06secret", 0);
        check(0, b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\x82", 4);
        check(0, b"\x3f\xe1\x1f\x82", 1);
        check(0, &[&b"\x00\x01x\x7f\xe9\x06"[..], &[b'v'; 1000], &[0x82, 0xff, 0x80, 0x01]].concat(), 2);
        check(0, b"\x00\x00\x00\x82", 1);
    }

    #[test]
    fn padding_and_priority_are_no_fields() {
        check(PADDED, b"\x03\x82\x86\x82\x82\x82", 2);
        check(PRIORITY, b"\x82\x82\x82\x82\x82\x82", 1);
        check(PADDED | PRIORITY, b"\x01\x82\x82\x82\x82\x82\x82\x82", 1);
    }

    #[test]
    fn a_block_goes_on_in_its_continuations() {
        let mut fields = Fields::default();
        fields.begin(0, 3);
        assert_eq!(fields.take(b"\x82\x04\x0c"), 1);
        fields.go_on(14);
        assert_eq!(fields.take(b"/sample/path\x82\x82"), 3);
        fields.begin(0, 1);
        assert_eq!(fields.take(b"\x82"), 1, "the next head begins anew");
    }
}
