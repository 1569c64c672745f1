//! Replays the corpus of fuzz target `tunnel` with its own body, and plays well-formed frames in any order to it.

use mesh_common::tunnel::{
    Frame, GoAwayReason, INITIAL_WINDOW, Open, ResetReason, StreamId, StreamKind, StreamToken,
};
use proptest::prelude::*;

#[path = "../../tests/fuzz/bodies/tunnel.rs"]
mod body;

const OPEN: Open = Open {
    token: StreamToken([7; 16]),
    kind: StreamKind::Opaque,
    dialled: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 80),
    source_port: 1,
};

#[test]
fn the_corpus_of_the_fuzz_target_replays() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus/tunnel");
    let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(inputs.len() >= 20, "only {} inputs", inputs.len());
    for input in inputs {
        body::run(&std::fs::read(input).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Frames that are well formed but in any order reach deeper than any bytes do.
    #[test]
    fn frames_in_any_order_break_no_law(
        choice in any::<u8>(),
        parts in proptest::collection::vec((0..6u32, 1..9u8, 0..80u8, any::<u64>()), 0..60),
    ) {
        let mut input = vec![choice];
        for (stream, kind, length, number) in parts {
            let id = StreamId(stream);
            let frame = match kind {
                1 => Frame::Open(id, OPEN),
                2 => Frame::Data(id, &[0; 80][..usize::from(length)]),
                3 => Frame::Fin(id),
                4 => Frame::Reset(id, ResetReason::Cancelled),
                5 => Frame::Credit { stream: id, acknowledged: number % 200, window: INITIAL_WINDOW },
                6 => Frame::Ping(number),
                7 => Frame::Pong(number),
                _ => Frame::GoAway { last: stream, reason: GoAwayReason::Draining },
            };
            frame.write(&mut input);
        }
        body::run(&input);
    }
}
