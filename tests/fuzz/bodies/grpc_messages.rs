//! Counts the messages in foreign bytes of a call: however frames cut them, the count is that of a plain reader.

use mesh_common::grpc::MessageCounter;

/// The first byte says where the others are cut.
pub fn run(input: &[u8]) {
    let Some((cut, sent)) = input.split_first() else { return };
    let mut at_once = MessageCounter::default();
    at_once.passed(sent);
    let mut cut_up = MessageCounter::default();
    for piece in sent.chunks(usize::from(cut % 16) + 1) {
        let before = cut_up.whole();
        cut_up.passed(piece);
        assert!(cut_up.whole() >= before, "a message is counted once");
    }
    assert_eq!(cut_up, at_once, "a cut changes nothing");
    assert_eq!(at_once.whole(), plain(sent));
}

/// The same, with the whole in hand.
fn plain(sent: &[u8]) -> u64 {
    let (mut rest, mut whole) = (sent, 0);
    while let [0 | 1, a, b, c, d, others @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some(following) = others.get(length..) else { break };
        (rest, whole) = (following, whole + 1);
    }
    whole
}
