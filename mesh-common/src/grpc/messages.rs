//! Messages of a call, counted as their bytes pass (gRPC over HTTP/2, Length-Prefixed-Message).

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: u8 = 5;

/// Counts the messages of one direction. What their frames are does not matter: a message may lie in many, and one hold many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounter {
    whole: u64,
    place: Place,
}

/// Where in a message the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In its prefix: how much of that is there, and what its length is so far.
    Prefix(u8, u32),
    /// In the message: how much of it is to come, at least 1.
    Message(u32),
    /// Nowhere: the bytes were no message of gRPC.
    Lost,
}

impl Default for Place {
    fn default() -> Self {
        Self::Prefix(0, 0)
    }
}

impl MessageCounter {
    /// Whole messages so far.
    pub fn whole(&self) -> u64 {
        self.whole
    }

    /// Looks at bytes that pass, once. After a prefix that is none nothing more is counted.
    pub fn passed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((first, others)) = rest.split_first() {
            match self.place {
                Place::Lost => return,
                Place::Prefix(0, _) if *first > 1 => self.place = Place::Lost,
                Place::Prefix(at, length) => {
                    // The first byte is 0 or 1, and no part of the length.
                    let length = if at == 0 { 0 } else { length << 8 | u32::from(*first) };
                    rest = others;
                    self.place = Place::Prefix(at + 1, length);
                    if at + 1 == PREFIX {
                        self.begin(length);
                    }
                }
                Place::Message(left) => {
                    let taken = rest.len().min(left as usize);
                    rest = &rest[taken..];
                    // Not more than `left`.
                    self.begin(left - taken as u32);
                }
            }
        }
    }

    /// So much of a message is to come.
    fn begin(&mut self, left: u32) {
        self.place = if left == 0 {
            self.whole += 1;
            Place::default()
        } else {
            Place::Message(left)
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(pieces: &[&[u8]]) -> u64 {
        let mut counter = MessageCounter::default();
        pieces.iter().for_each(|piece| counter.passed(piece));
        counter.whole()
    }

    fn message(flag: u8, bytes: &[u8]) -> Vec<u8> {
        [&[flag][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    #[test]
    fn an_empty_message_is_one() {
        assert_eq!(counted(&[&[0, 0, 0, 0, 0]]), 1);
        assert_eq!(counted(&[&[0; 15]]), 3);
    }

    #[test]
    fn a_message_counts_once_it_is_whole() {
        let sent = message(1, b"hello");
        assert_eq!(counted(&[&sent[..9]]), 0);
        assert_eq!(counted(&[&sent[..9], &sent[9..]]), 1);
    }

    #[test]
    fn nothing_is_counted_after_what_is_no_prefix() {
        let (good, bad) = (message(0, b"ok"), message(2, b"no"));
        assert_eq!(counted(&[&good, &bad, &good]), 1);
        assert_eq!(counted(&[b"HTTP/1.1 200 OK\r\n\r\n"]), 0);
    }

    #[test]
    fn the_longest_length_is_no_overflow() {
        let mut counter = MessageCounter::default();
        counter.passed(&[0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(counter.place, Place::Message(u32::MAX));
        counter.passed(&[7; 100]);
        assert_eq!((counter.whole(), counter.place), (0, Place::Message(u32::MAX - 100)));
    }

    proptest! {
        #[test]
        fn no_cut_changes_the_count(
            lengths in proptest::collection::vec(0usize..40, 0..20), cuts in proptest::collection::vec(any::<u16>(), 0..30)
        ) {
            let sent: Vec<u8> = lengths.iter().flat_map(|length| message(0, &vec![9; *length])).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut) % (sent.len() + 1)).collect();
            cuts.extend([0, sent.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &sent[cut[0]..cut[1]]).collect();
            prop_assert_eq!(counted(&pieces), lengths.len() as u64);
        }
    }
}
