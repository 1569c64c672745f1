//! Bytes on their way out, kept while they may have to be sent again.

/// The most that is kept to be sent again.
pub const MAX_REPLAY: usize = 64 << 10;

/// Bytes on their way out.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    keep: bool,
}

impl Outgoing {
    /// What is still to be sent.
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// How much is still to be sent.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether everything was sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says that the first `count` of [`pending`](Self::pending) were sent.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn sent(&mut self, count: usize) {
        assert!(count <= self.len(), "no more is sent than there is");
        self.sent += count;
        self.forget_sent();
    }

    /// Makes room for what is about to be appended bit by bit.
    pub fn expect(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// Bytes kept, sent or not.
    pub(super) fn kept(&self) -> usize {
        self.bytes.len()
    }

    /// Where more is appended.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// From now on keeps what is sent, as long as it is not more than [`MAX_REPLAY`].
    pub(super) fn start_keeping(&mut self) {
        self.clear();
        self.keep = true;
    }

    /// No longer keeps what was sent.
    pub(super) fn stop_keeping(&mut self) {
        self.keep = false;
        self.forget_sent();
    }

    /// Whether everything since [`start_keeping`](Self::start_keeping) is still here.
    pub(super) fn is_whole(&self) -> bool {
        self.keep && self.bytes.len() <= MAX_REPLAY
    }

    /// Starts again at the first byte.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        *self = Self { bytes: recycled(std::mem::take(&mut self.bytes)), sent: 0, keep: false };
    }

    fn forget_sent(&mut self) {
        if self.keep && self.bytes.len() <= MAX_REPLAY {
            return;
        }
        self.keep = false;
        if self.sent == self.bytes.len() {
            self.bytes = recycled(std::mem::take(&mut self.bytes));
            self.sent = 0;
        } else {
            forget_sent(&mut self.bytes, &mut self.sent);
        }
    }
}

/// Drops the first `sent` of `bytes` once they are half of them: a queue that is never empty stays within twice what
/// waits in it, and no byte is moved more than once for one that was sent.
pub fn forget_sent(bytes: &mut Vec<u8>, sent: &mut usize) {
    if *sent > 0 && *sent >= bytes.len() / 2 {
        bytes.drain(..*sent);
        *sent = 0;
    }
}

/// Room up to a small head's size is kept for the next one; an idle connection holds no more than that.
fn recycled(mut bytes: Vec<u8>) -> Vec<u8> {
    const SMALL: usize = 1 << 10;
    if bytes.capacity() > SMALL {
        return Vec::new();
    }
    bytes.clear();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_is_never_empty_holds_little_more_than_what_waits() {
        let mut out = Outgoing::default();
        out.buffer().extend_from_slice(&[0; 10_000]);
        let mut next = 0_u8;
        for _ in 0..10_000 {
            out.buffer().extend_from_slice(&[next; 1000]);
            out.sent(1000);
            next = next.wrapping_add(1);
        }
        assert_eq!(out.len(), 10_000);
        assert_eq!(out.pending().first(), Some(&next.wrapping_sub(10)));
        assert!(out.bytes.capacity() < 50_000, "{} bytes of room", out.bytes.capacity());
    }
}
