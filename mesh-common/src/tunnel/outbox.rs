//! What one turn produced for one tunnel, packed into records (`docs/wire.md` sections 2 and 8).
//!
//! In: frames, and bytes read straight into the place where they will be sealed. Out: records of at most
//! [`MAX_RECORD`] bytes, small frames first. Two lanes: a frame goes to the light one unless its stream already
//! has bytes in the bulk lane of this turn, so the order within a stream always holds. Lent to a tunnel for a
//! turn and empty between turns.

use super::frame::{Frame, HEADER, MAX_PAYLOAD, MAX_RECORD, StreamId, header, kind};

/// A read of at most this many bytes counts as small.
pub const LIGHT: usize = 4096;

/// The records of one turn.
#[derive(Debug, Default)]
pub struct Outbox {
    light: Lane,
    bulk: Lane,
    /// Streams with frames in the bulk lane; few, because a turn serves few bulk reads.
    in_bulk: Vec<StreamId>,
    scratch: Vec<u8>,
}

/// Frames one after another, cut into records.
#[derive(Debug, Default)]
struct Lane {
    /// Longer than `used` once it has been filled: the room is kept from turn to turn.
    bytes: Vec<u8>,
    used: usize,
    /// Where each complete record ends; the last one may still be open.
    ends: Vec<usize>,
}

impl Outbox {
    /// Adds a frame other than DATA.
    pub fn push(&mut self, frame: &Frame<'_>) {
        self.scratch.clear();
        frame.write(&mut self.scratch);
        let lane =
            if self.in_bulk.contains(&StreamId(frame.stream())) { &mut self.bulk } else { &mut self.light };
        lane.append(&self.scratch);
    }

    /// Adds bytes of a stream, cut into as many DATA frames as they need.
    pub fn push_data(&mut self, stream: StreamId, bytes: &[u8]) {
        let light = bytes.len() <= LIGHT && !self.in_bulk.contains(&stream);
        if !light && !self.in_bulk.contains(&stream) {
            self.in_bulk.push(stream);
        }
        let lane = if light { &mut self.light } else { &mut self.bulk };
        for payload in bytes.chunks(MAX_PAYLOAD) {
            lane.start(HEADER + payload.len());
            lane.put(&header(stream.0, kind::DATA, payload.len()));
            lane.put(payload);
        }
    }

    /// Room for up to `most` bytes of one stream, as slices to read into in their order. Then [`commit`](Self::commit).
    pub fn room(&mut self, most: usize) -> impl Iterator<Item = &mut [u8]> {
        self.bulk.close();
        let start = self.bulk.used;
        let length = most + most.div_ceil(MAX_PAYLOAD) * HEADER;
        self.bulk.grow(start + length);
        self.bulk.bytes[start..start + length].chunks_mut(MAX_RECORD).map(|record| &mut record[HEADER..])
    }

    /// The first `length` bytes that were put into the last [`room`](Self::room), in their order.
    pub fn uncommitted(&self, length: usize) -> impl Iterator<Item = &[u8]> {
        let records = self.bulk.bytes[self.bulk.used..].chunks(MAX_RECORD);
        let mut left = length;
        records.map_while(move |record| {
            let payload = left.min(record.len().saturating_sub(HEADER));
            left -= payload;
            (payload > 0).then(|| &record[HEADER..HEADER + payload])
        })
    }

    /// Says that `length` bytes of `stream` were put into the last [`room`](Self::room).
    pub fn commit(&mut self, stream: StreamId, length: usize) {
        let known = self.in_bulk.contains(&stream);
        if length <= LIGHT && !known {
            // One copy of a small read buys its place before everything bulky.
            let start = self.bulk.used + HEADER;
            self.light.start(HEADER + length);
            self.light.put(&header(stream.0, kind::DATA, length));
            self.light.put(&self.bulk.bytes[start..start + length]);
            return;
        }
        if !known {
            self.in_bulk.push(stream);
        }
        let mut left = length;
        while left > 0 {
            let payload = left.min(MAX_PAYLOAD);
            self.bulk.close();
            self.bulk.put(&header(stream.0, kind::DATA, payload));
            self.bulk.used += payload;
            left -= payload;
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.light.used == 0 && self.bulk.used == 0
    }

    /// Bytes of all frames.
    pub fn len(&self) -> usize {
        self.light.used + self.bulk.used
    }

    /// The records in the order in which they are to be sealed.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.light.records().chain(self.bulk.records())
    }

    /// Empties it; the room stays.
    pub fn clear(&mut self) {
        self.light.clear();
        self.bulk.clear();
        self.in_bulk.clear();
    }
}

impl Lane {
    /// Begins a record unless `length` more bytes fit into the open one.
    fn start(&mut self, length: usize) {
        if self.used - self.last_end() + length > MAX_RECORD {
            self.close();
        }
    }

    fn append(&mut self, frame: &[u8]) {
        self.start(frame.len());
        self.put(frame);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.grow(self.used + bytes.len());
        self.bytes[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }

    fn grow(&mut self, length: usize) {
        if self.bytes.len() < length {
            self.bytes.resize(length, 0);
        }
    }

    fn close(&mut self) {
        if self.used > self.last_end() {
            self.ends.push(self.used);
        }
    }

    fn last_end(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn records(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let ends = self.ends.iter().copied().chain(std::iter::once(self.used));
        starts.zip(ends).filter(|(start, end)| start < end).map(|(start, end)| &self.bytes[start..end])
    }

    fn clear(&mut self) {
        self.used = 0;
        self.ends.clear();
    }
}
