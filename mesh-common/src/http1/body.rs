//! Reads and writes bodies: by length, in chunks, or until the connection closes.

use super::field::is_trailer_allowed;
use super::{BodyFraming, Field, HeadScan, Limits, MAX_FIELDS, ReadRules, Refusal, Trailers};

/// Follows a body through its input. Holds no byte of it.
#[derive(Clone, Debug)]
pub struct BodyReader {
    state: State,
    /// Bytes of chunk extensions seen so far in this message.
    extensions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes to come.
    Length(u64),
    UntilClose,
    /// In the size line of a chunk.
    Size {
        value: u64,
        digits: u8,
        part: SizePart,
    },
    /// So many bytes of a chunk to come.
    Chunk(u64),
    /// After a chunk's data: CR, then LF.
    ChunkCr,
    ChunkLf,
    Trailers(HeadScan),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SizePart {
    Digits,
    Extension,
    Feed,
}

/// How far one call came.
#[derive(Debug)]
pub struct BodyStep<'a> {
    /// Bytes of the input that are done with, those of `part` included.
    pub consumed: usize,
    /// What they were.
    pub part: BodyPart<'a>,
}

/// What comes next in a body.
#[derive(Debug)]
pub enum BodyPart<'a> {
    /// Nothing yet: call again with more input after what was not consumed.
    Pending,
    /// Bytes of the body.
    Bytes(&'a [u8]),
    /// The end, with the trailer fields that may pass. What follows in the input is the next message.
    End(Trailers<'a>),
}

impl BodyReader {
    /// Starts at the first byte after a head.
    pub fn new(framing: BodyFraming) -> Self {
        let state = match framing {
            BodyFraming::None => State::Length(0),
            BodyFraming::Length(length) => State::Length(length),
            BodyFraming::Chunked => State::SIZE,
            BodyFraming::UntilClose => State::UntilClose,
        };
        Self { state, extensions: 0 }
    }

    /// Whether the end was reported.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads on. After [`BodyPart::End`] it must not be called again.
    ///
    /// # Errors
    /// Malformed chunks or trailers; the message and its connection are then lost.
    pub fn read<'a>(&mut self, input: &'a [u8], rules: &ReadRules<'_>) -> Result<BodyStep<'a>, Refusal> {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            match self.state {
                State::Length(0) => {
                    self.state = State::Done;
                    return Ok(BodyStep { consumed, part: BodyPart::End(Trailers::new()) });
                }
                State::Length(left) => return Ok(self.take_bytes(consumed, rest, left, State::Length)),
                State::Chunk(0) => self.state = State::ChunkCr,
                State::Chunk(left) => return Ok(self.take_bytes(consumed, rest, left, State::Chunk)),
                State::UntilClose if rest.is_empty() => return Ok(pending(consumed)),
                State::UntilClose => {
                    return Ok(BodyStep { consumed: input.len(), part: BodyPart::Bytes(rest) });
                }
                State::Trailers(scan) => return self.take_trailers(consumed, rest, scan, rules),
                State::Done => return Ok(pending(consumed)),
                State::Size { .. } | State::ChunkCr | State::ChunkLf => {
                    let Some(byte) = rest.first() else {
                        return Ok(pending(consumed));
                    };
                    self.state = self.take_framing_byte(*byte, &rules.limits)?;
                    consumed += 1;
                }
            }
        }
    }

    /// The peer will send no more. Only a body that runs until then is complete.
    ///
    /// # Errors
    /// [`Refusal::Truncated`] in the middle of any other body.
    pub fn close(&mut self) -> Result<(), Refusal> {
        match self.state {
            State::UntilClose | State::Length(0) | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(Refusal::Truncated),
        }
    }

    fn take_bytes<'a>(
        &mut self,
        consumed: usize,
        rest: &'a [u8],
        left: u64,
        state: fn(u64) -> State,
    ) -> BodyStep<'a> {
        let taken = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        if taken == 0 {
            return pending(consumed);
        }
        self.state = state(left - taken as u64);
        BodyStep { consumed: consumed + taken, part: BodyPart::Bytes(&rest[..taken]) }
    }

    /// One byte of a chunk's size line or of the CRLF after its data (RFC 9112 section 7.1). No white space, sign
    /// or prefix; an extension is skipped, not read.
    fn take_framing_byte(&mut self, byte: u8, limits: &Limits) -> Result<State, Refusal> {
        match (self.state, byte) {
            (State::Size { value, digits, part: SizePart::Digits }, _) => take_size_byte(value, digits, byte),
            (State::Size { value, digits, part: SizePart::Extension }, _) => {
                self.extensions += 1;
                if self.extensions > limits.chunk_extensions {
                    return Err(Refusal::ChunkExtensions);
                }
                match byte {
                    b'\r' => Ok(State::Size { value, digits, part: SizePart::Feed }),
                    b'\t' | b' '..=0x7e => Ok(self.state),
                    _ => Err(Refusal::ChunkSize),
                }
            }
            (State::Size { value: 0, part: SizePart::Feed, .. }, b'\n') => {
                Ok(State::Trailers(HeadScan::default()))
            }
            (State::Size { value, part: SizePart::Feed, .. }, b'\n') => Ok(State::Chunk(value)),
            (State::Size { .. }, _) => Err(Refusal::ChunkSize),
            (State::ChunkCr, b'\r') => Ok(State::ChunkLf),
            (State::ChunkLf, b'\n') => Ok(State::SIZE),
            _ => Err(Refusal::ChunkEnd),
        }
    }

    fn take_trailers<'a>(
        &mut self,
        consumed: usize,
        rest: &'a [u8],
        mut scan: HeadScan,
        rules: &ReadRules<'_>,
    ) -> Result<BodyStep<'a>, Refusal> {
        let end = scan.trailers(rest, &rules.limits)?;
        let Some(end) = end else {
            self.state = State::Trailers(scan);
            return Ok(pending(consumed));
        };
        self.state = State::Done;
        let fields = trailer_fields(&rest[..end], rules)?;
        Ok(BodyStep { consumed: consumed + end, part: BodyPart::End(fields) })
    }
}

impl State {
    const SIZE: Self = Self::Size { value: 0, digits: 0, part: SizePart::Digits };
}

fn pending<'a>(consumed: usize) -> BodyStep<'a> {
    BodyStep { consumed, part: BodyPart::Pending }
}

fn take_size_byte(value: u64, digits: u8, byte: u8) -> Result<State, Refusal> {
    let part = match byte {
        b'\r' if digits > 0 => SizePart::Feed,
        b';' if digits > 0 => SizePart::Extension,
        // 15 digits are 2^60 bytes.
        _ if digits < 15 => {
            let digit = char::from(byte).to_digit(16).ok_or(Refusal::ChunkSize)?;
            return Ok(State::Size {
                value: value << 4 | u64::from(digit),
                digits: digits + 1,
                part: SizePart::Digits,
            });
        }
        _ => return Err(Refusal::ChunkSize),
    };
    Ok(State::Size { value, digits, part })
}

fn trailer_fields<'a>(section: &'a [u8], rules: &ReadRules<'_>) -> Result<Trailers<'a>, Refusal> {
    if section == b"\r\n" {
        return Ok(Trailers::new());
    }
    let mut storage = [const { httparse::EMPTY_HEADER }; MAX_FIELDS];
    let allowed = rules.limits.fields.min(MAX_FIELDS);
    match httparse::parse_headers(section, &mut storage[..allowed]) {
        Ok(httparse::Status::Complete((length, headers))) if length == section.len() => Ok(headers
            .iter()
            .map(|header| Field { name: header.name.as_bytes(), value: header.value })
            .filter(|field| is_trailer_allowed(field.name) && !rules.strip.covers(field.name))
            .collect()),
        Err(httparse::Error::TooManyHeaders) => Err(Refusal::TrailersTooLarge),
        _ => Err(Refusal::Trailers),
    }
}

/// Writes a body in the framing of the connection that it goes out on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyWriter {
    framing: BodyFraming,
}

/// A body had more or fewer bytes than its head announced: the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("body does not have the length that its head announced")]
pub struct UnevenBody;

impl BodyWriter {
    /// Starts after a head that was written with `framing`.
    pub fn new(framing: BodyFraming) -> Self {
        Self { framing }
    }

    /// Appends `bytes` of the body.
    ///
    /// # Errors
    /// [`UnevenBody`] if they are more than the head announced.
    pub fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), UnevenBody> {
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            BodyFraming::None => return Err(UnevenBody),
            BodyFraming::Length(left) => {
                *left = left.checked_sub(bytes.len() as u64).ok_or(UnevenBody)?;
                out.extend_from_slice(bytes);
            }
            BodyFraming::UntilClose => out.extend_from_slice(bytes),
            BodyFraming::Chunked => {
                write_hex(bytes.len(), out);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Ends the body. Trailers go out only in chunks; elsewhere there is no place for them.
    ///
    /// # Errors
    /// [`UnevenBody`] if fewer bytes were written than the head announced.
    pub fn finish(self, trailers: &[Field<'_>], out: &mut Vec<u8>) -> Result<(), UnevenBody> {
        match self.framing {
            BodyFraming::Length(1..) => Err(UnevenBody),
            BodyFraming::None | BodyFraming::Length(0) | BodyFraming::UntilClose => Ok(()),
            BodyFraming::Chunked => {
                out.extend_from_slice(b"0\r\n");
                super::write::write_fields(trailers, out);
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

fn write_hex(value: usize, out: &mut Vec<u8>) {
    let digits = (usize::BITS - value.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = (value >> (4 * place)) & 0xf;
        out.push(b"0123456789abcdef"[digit]);
    }
}
