//! DATA frames that hold nothing and end nothing, taken out before h2 sees them.
//!
//! A connection of h2 ends for the hundred-and-first of them in all its life (`MAX_RECV_EMPTY_DATA_FRAMES`), however long that
//! is and whatever else it carries; applications may write one with every response, and who pools connections to them would
//! lose other requests with it. They mean nothing (RFC 9113 section 6.1), so nothing is lost with them. Who sends many of them for little
//! else has them counted by h2 as before.
//!
//! And heads come from whoever is asked no faster than they are looked at: h2 reads as long as there is something to read, and
//! keeps every interim answer until somebody asks for it.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use smallvec::SmallVec;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::pings::Heard;
use super::through::{Reading, Through};

/// Bytes of a frame's header (RFC 9113 section 4.1).
const HEADER: usize = 9;
/// What a client says before its first frame (RFC 9113 section 3.4).
const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
/// So many are taken out at once; another one for each other frame that came since.
const AT_ONCE: u32 = 100;
/// After so many heads of answers everybody else has a turn before more is read.
const HEADS: u32 = 64;

/// Whose frames come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FramesOf {
    /// They begin with the preface.
    Client,
    /// They begin at once.
    Server,
}

/// A connection of which such frames are never read.
pub(super) type WithoutEmpties<S> = Through<S, Frames>;

/// Where in the stream of frames it is.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes that are left before the next header.
    left: usize,
    /// Bytes that were read and not given yet: part of a header, and what had no room for such a part before it.
    held: SmallVec<[u8; 2 * HEADER]>,
    spare: u32,
    /// Heads that were read since everybody else had a turn; `None` where whoever sends them waits for us.
    heads: Option<u32>,
    heard: Heard,
}

/// `stream` without them, and when something of it was read last.
pub(super) fn without_empties<S>(stream: S, of: FramesOf) -> (WithoutEmpties<S>, Heard) {
    let left = if of == FramesOf::Client { PREFACE } else { 0 };
    let heard = Heard::new(Cell::new(Instant::now()));
    let heads = (of == FramesOf::Server).then_some(0);
    let reading = Frames { left, held: SmallVec::new(), spare: AT_ONCE, heads, heard: heard.clone() };
    (Through { stream, reading }, heard)
}

impl Frames {
    /// A frame begins; says whether it is taken out.
    fn begin(&mut self, header: &[u8]) -> bool {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let is_empty = length == 0 && header[3] == DATA && header[4] & END_STREAM == 0;
        if is_empty && self.spare > 0 {
            self.spare -= 1;
            return true;
        }
        if !is_empty {
            self.spare = (self.spare + 1).min(AT_ONCE);
        }
        if let Some(heads) = &mut self.heads {
            *heads += u32::from(header[3] == HEADERS);
        }
        self.left = HEADER + length;
        false
    }

    /// Gives of what is held as much as is no beginning of a header; says whether that was anything.
    fn give(&mut self, room: &mut ReadBuf<'_>) -> bool {
        while self.left == 0 && self.held.len() >= HEADER {
            let mut header = [0; HEADER];
            header.copy_from_slice(&self.held[..HEADER]);
            if self.begin(&header) {
                self.held.drain(..HEADER);
            }
        }
        let count = self.left.min(self.held.len()).min(room.remaining());
        room.put_slice(&self.held[..count]);
        self.held.drain(..count);
        self.left -= count;
        count > 0
    }

    /// Puts what is held before `bytes`, which were read after it, and holds what is over.
    fn put_held_first(&mut self, bytes: &mut [u8]) {
        let count = self.held.len().min(bytes.len());
        if count == 0 {
            return;
        }
        // The last bytes change places with those that are held.
        bytes.rotate_right(count);
        self.held.extend_from_slice(&bytes[..count]);
        bytes[..count].copy_from_slice(&self.held[..count]);
        self.held.drain(..count);
    }

    /// Takes such frames out of `bytes`, and holds the beginning of a header at the end. Returns how many bytes are left.
    fn take_out(&mut self, bytes: &mut [u8]) -> usize {
        let (mut read, mut kept) = (0, 0);
        while read < bytes.len() {
            if self.left == 0 {
                let Some(header) = bytes.get(read..read + HEADER) else {
                    self.held.insert_from_slice(0, &bytes[read..]);
                    break;
                };
                if self.begin(header) {
                    read += HEADER;
                    continue;
                }
            }
            let count = self.left.min(bytes.len() - read);
            if read != kept {
                bytes.copy_within(read..read + count, kept);
            }
            (read, kept, self.left) = (read + count, kept + count, self.left - count);
        }
        kept
    }
}

impl Reading for Frames {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = room.filled().len();
        if room.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.heads.is_some_and(|heads| heads >= HEADS) {
            self.heads = Some(0);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if self.give(room) {
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut *stream).poll_read(context, room))?;
            self.heard.set(Instant::now());
            let read = &mut room.filled_mut()[before..];
            if read.is_empty() {
                // The end, within a header perhaps.
                let count = self.held.len().min(room.remaining());
                room.put_slice(&self.held[..count]);
                self.held.drain(..count);
                return Poll::Ready(Ok(()));
            }
            self.put_held_first(read);
            let kept = self.take_out(read);
            room.set_filled(before + kept);
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What is read of `sent`, when it comes in pieces of `piece` bytes and there is room for `room` at a time.
    async fn read(sent: &[u8], of: FramesOf, piece: usize, room: usize) -> Vec<u8> {
        let (mut there, here) = duplex(piece);
        let (mut here, _) = without_empties(here, of);
        let (mut seen, mut buffer) = (Vec::new(), vec![0; room]);
        let write = async {
            there.write_all(sent).await.unwrap();
            drop(there);
        };
        let look = async {
            loop {
                match here.read(&mut buffer).await.unwrap() {
                    0 => return,
                    count => seen.extend_from_slice(&buffer[..count]),
                }
            }
        };
        tokio::join!(write, look);
        seen
    }

    #[tokio::test]
    async fn they_are_taken_out_wherever_reads_begin_and_end() {
        let (head, data) = (frame(1, 4, b"head"), frame(DATA, 0, &[7; 30]));
        let (empty, end) = (frame(DATA, 0, b""), frame(DATA, END_STREAM, b""));
        // SETTINGS without settings, and a piece of data that looks like an empty frame.
        let (settings, inside) = (frame(4, 1, b""), frame(DATA, 0, &empty));
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let rest = [&head[..], &settings, &data, &inside, &end].concat();
        let with =
            [&empty[..], &head, &settings, &empty, &empty, &data, &empty, &inside, &empty, &end, &empty];
        let with = with.concat();
        for piece in 1..40 {
            for room in [1, 2, 3, 8, 9, 10, 17, 64, 4096] {
                assert_eq!(read(&with, FramesOf::Server, piece, room).await, rest, "{piece} {room}");
                let (sent, seen) = ([preface, &with[..]].concat(), [preface, &rest[..]].concat());
                assert_eq!(read(&sent, FramesOf::Client, piece, room).await, seen, "{piece} {room}");
            }
        }
    }

    /// How many bytes are read of `sent`, at most 100 at a time, before others have a turn.
    async fn most_in_a_turn(sent: &[u8], of: FramesOf) -> usize {
        let (mut there, here) = duplex(1 << 20);
        let (mut here, _) = without_empties(here, of);
        there.write_all(sent).await.unwrap();
        let (mut seen, mut before, mut most) = (0, 0, 0);
        let read = std::future::poll_fn(|context| {
            while seen < sent.len() {
                let mut room = [0; 100];
                let mut room = ReadBuf::new(&mut room);
                let is_pending = Pin::new(&mut here).poll_read(context, &mut room).is_pending();
                seen += room.filled().len();
                most = most.max(seen - before);
                if is_pending {
                    before = seen;
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        });
        tokio::task::unconstrained(read).await;
        most
    }

    #[tokio::test]
    async fn others_have_a_turn_between_many_heads_of_answers() {
        let heads = frame(HEADERS, 4, b"\x88").repeat(1000);
        let most = most_in_a_turn(&heads, FramesOf::Server).await;
        assert!((64 * 10..64 * 10 + 100).contains(&most), "{most}");
        let callers = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &heads[..]].concat();
        assert_eq!(most_in_a_turn(&callers, FramesOf::Client).await, callers.len());
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_seen() {
        let cut = [frame(DATA, 0, b"x"), vec![0, 0, 0, 0]].concat();
        assert_eq!(read(&cut, FramesOf::Server, 64, 64).await, cut);
    }

    #[tokio::test]
    async fn who_sends_little_else_is_left_to_h2() {
        let (empty, data) = (frame(DATA, 0, b""), frame(DATA, 0, b"x"));
        let seen = read(&empty.repeat(1000), FramesOf::Server, 64, 64).await;
        assert_eq!(seen.len(), 900 * HEADER);
        // One with every other frame goes on for ever.
        let pairs = [&data[..], &empty].concat().repeat(1000);
        assert_eq!(read(&pairs, FramesOf::Server, 64, 64).await, data.repeat(1000));
    }
}
