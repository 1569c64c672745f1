//! The frames and their 8-byte header (`docs/wire.md` section 2).
//!
//! In: the plaintext of one TLS record. Out: its frames, borrowed. A frame never spans a record, so there is no
//! state between records and nothing to reassemble.

use super::open::{Open, OpenError};
use super::reason::{GoAwayReason, ResetReason};

/// Bytes of a frame's header: stream (4), type (1), payload length (3), big-endian.
pub const HEADER: usize = 8;
/// The longest plaintext of a TLS 1.3 record (RFC 8446 section 5.1).
pub const MAX_RECORD: usize = 16_384;
/// The longest payload of a frame: a frame and its header fit into one record.
pub const MAX_PAYLOAD: usize = MAX_RECORD - HEADER;

/// The number of a stream within its tunnel: 1, 2, 3, ... in the order of OPEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Opens a stream; only the TLS client sends it.
    Open(StreamId, Open),
    /// The payload of OPEN could not be read: the stream is refused, the tunnel goes on.
    BadOpen(StreamId, OpenError),
    /// Bytes of the stream.
    Data(StreamId, &'a [u8]),
    /// The sender's direction of the stream is complete.
    Fin(StreamId),
    /// The stream is over in both directions; whatever is not delivered is dropped.
    Reset(StreamId, ResetReason),
    /// How far the sender has consumed, and how much further it takes.
    Credit {
        /// The stream whose other direction is meant.
        stream: StreamId,
        /// Bytes consumed since the stream's start.
        acknowledged: u64,
        /// Bytes that may follow after `acknowledged`.
        window: u32,
    },
    /// Asks for a PONG with the same 8 bytes.
    Ping(u64),
    /// Answers a PING.
    Pong(u64),
    /// The sender takes no stream after `last`.
    GoAway {
        /// The last stream that the sender has or will have looked at; 0 for none.
        last: u32,
        /// Why.
        reason: GoAwayReason,
    },
    /// A type from 128 on that this version does not know: skipped.
    Ignored(u8),
}

/// What makes a record unreadable. All of them end the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The record ends inside a frame.
    #[error("record ends inside a frame: got {got} bytes, expected {expected}")]
    CutShort {
        /// Bytes left in the record.
        got: usize,
        /// Bytes that the frame needs.
        expected: usize,
    },
    /// A type below 128 that this version does not know.
    #[error("frame type {kind} is not known")]
    UnknownType {
        /// The type.
        kind: u8,
    },
    /// A frame of fixed size with another size.
    #[error("frame type {kind} has {got} bytes of payload, expected {expected}")]
    PayloadSize {
        /// The type.
        kind: u8,
        /// Bytes found.
        got: usize,
        /// Bytes that the type has.
        expected: usize,
    },
    /// A frame about a stream on stream 0, or one about the tunnel on another.
    #[error("frame type {kind} does not belong on stream {stream}")]
    WrongStream {
        /// The type.
        kind: u8,
        /// The stream.
        stream: u32,
    },
}

/// Frame types. From 128 on a receiver skips what it does not know.
pub mod kind {
    /// Opens a stream.
    pub const OPEN: u8 = 1;
    /// Carries bytes.
    pub const DATA: u8 = 2;
    /// Ends one direction.
    pub const FIN: u8 = 3;
    /// Ends both directions.
    pub const RESET: u8 = 4;
    /// Acknowledges and grants.
    pub const CREDIT: u8 = 5;
    /// Asks whether the peer lives.
    pub const PING: u8 = 6;
    /// Says that it does.
    pub const PONG: u8 = 7;
    /// Announces the end of the tunnel.
    pub const GOAWAY: u8 = 8;
    /// The first type that may be skipped.
    pub const FIRST_IGNORED: u8 = 128;
}

/// Reads the frames of one record. After an error there is nothing more.
pub fn frames(record: &[u8]) -> Frames<'_> {
    Frames { rest: record }
}

/// The frames of one record; see [`frames`].
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.rest = &[];
        }
        Some(read)
    }
}

impl<'a> Frames<'a> {
    fn read(&mut self) -> Result<Frame<'a>, FrameError> {
        let got = self.rest.len();
        let Some((header, rest)) = self.rest.split_first_chunk::<HEADER>() else {
            return Err(FrameError::CutShort { got, expected: HEADER });
        };
        let [s0, s1, s2, s3, kind, l0, l1, l2] = *header;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        if rest.len() < length {
            return Err(FrameError::CutShort { got, expected: HEADER + length });
        }
        let (payload, rest) = rest.split_at(length);
        self.rest = rest;
        parse(kind, stream, payload)
    }
}

fn parse(kind: u8, stream: u32, payload: &[u8]) -> Result<Frame<'_>, FrameError> {
    let about_stream = match kind {
        kind::OPEN..=kind::CREDIT => true,
        kind::PING..=kind::GOAWAY => false,
        kind::FIRST_IGNORED.. => return Ok(Frame::Ignored(kind)),
        _ => return Err(FrameError::UnknownType { kind }),
    };
    if about_stream != (stream != 0) {
        return Err(FrameError::WrongStream { kind, stream });
    }
    let id = StreamId(stream);
    Ok(match kind {
        kind::OPEN => match Open::parse(payload) {
            Ok(open) => Frame::Open(id, open),
            Err(error) => Frame::BadOpen(id, error),
        },
        kind::DATA => Frame::Data(id, payload),
        kind::FIN => {
            fixed::<0>(kind, payload)?;
            Frame::Fin(id)
        }
        kind::RESET => Frame::Reset(id, ResetReason::from_code(u16::from_be_bytes(fixed(kind, payload)?))),
        kind::CREDIT => {
            let [a0, a1, a2, a3, a4, a5, a6, a7, w0, w1, w2, w3] = fixed::<12>(kind, payload)?;
            Frame::Credit {
                stream: id,
                acknowledged: u64::from_be_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
                window: u32::from_be_bytes([w0, w1, w2, w3]),
            }
        }
        kind::PING => Frame::Ping(u64::from_be_bytes(fixed(kind, payload)?)),
        kind::PONG => Frame::Pong(u64::from_be_bytes(fixed(kind, payload)?)),
        _ => {
            let [l0, l1, l2, l3, r0, r1] = fixed::<6>(kind, payload)?;
            Frame::GoAway {
                last: u32::from_be_bytes([l0, l1, l2, l3]),
                reason: GoAwayReason::from_code(u16::from_be_bytes([r0, r1])),
            }
        }
    })
}

fn fixed<const N: usize>(kind: u8, payload: &[u8]) -> Result<[u8; N], FrameError> {
    payload.try_into().map_err(|_| FrameError::PayloadSize { kind, got: payload.len(), expected: N })
}

/// Writes a header. `length` is at most [`MAX_PAYLOAD`]: the outbox splits what is longer.
pub fn header(stream: u32, kind: u8, length: usize) -> [u8; HEADER] {
    debug_assert!(length <= MAX_PAYLOAD, "a frame fits into a record");
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    let [_, l0, l1, l2] = (length as u32).to_be_bytes();
    [s0, s1, s2, s3, kind, l0, l1, l2]
}

impl Frame<'_> {
    /// The stream the frame is about; 0 for the tunnel.
    pub fn stream(&self) -> u32 {
        match *self {
            Self::Open(StreamId(id), _)
            | Self::BadOpen(StreamId(id), _)
            | Self::Data(StreamId(id), _)
            | Self::Fin(StreamId(id))
            | Self::Reset(StreamId(id), _)
            | Self::Credit { stream: StreamId(id), .. } => id,
            Self::Ping(_) | Self::Pong(_) | Self::GoAway { .. } | Self::Ignored(_) => 0,
        }
    }

    /// Appends the frame to `out`. [`BadOpen`](Self::BadOpen) and [`Ignored`](Self::Ignored) have no bytes of
    /// their own and write nothing.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER]);
        let kind = match self {
            Self::Open(_, open) => {
                open.write(out);
                kind::OPEN
            }
            Self::Data(_, bytes) => {
                out.extend_from_slice(bytes);
                kind::DATA
            }
            Self::Fin(_) => kind::FIN,
            Self::Reset(_, reason) => {
                out.extend_from_slice(&reason.code().to_be_bytes());
                kind::RESET
            }
            Self::Credit { acknowledged, window, .. } => {
                out.extend_from_slice(&acknowledged.to_be_bytes());
                out.extend_from_slice(&window.to_be_bytes());
                kind::CREDIT
            }
            Self::Ping(token) => {
                out.extend_from_slice(&token.to_be_bytes());
                kind::PING
            }
            Self::Pong(token) => {
                out.extend_from_slice(&token.to_be_bytes());
                kind::PONG
            }
            Self::GoAway { last, reason } => {
                out.extend_from_slice(&last.to_be_bytes());
                out.extend_from_slice(&reason.code().to_be_bytes());
                kind::GOAWAY
            }
            Self::BadOpen(..) | Self::Ignored(_) => {
                out.truncate(start);
                return;
            }
        };
        let length = out.len() - start - HEADER;
        out[start..start + HEADER].copy_from_slice(&header(self.stream(), kind, length));
    }
}
