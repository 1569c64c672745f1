//! Replays the corpus of fuzz target `http1` with its own body, and plays conversations made of telling pieces.

use proptest::prelude::*;

#[path = "../../tests/fuzz/bodies/http1.rs"]
mod body;

#[test]
fn the_corpus_of_the_fuzz_target_replays() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus/http1");
    let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(inputs.len() >= 20, "only {} inputs", inputs.len());
    for input in inputs {
        body::run(&std::fs::read(input).unwrap());
    }
}

const PIECES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a?b HTTP/1.1\r\n",
    "GET /denied HTTP/1.1\r\n",
    "HEAD /h HTTP/1.0\r\n",
    "Host: a\r\n",
    "Host: b\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "Connection: upgrade\r\nUpgrade: w\r\n",
    "Expect: 100-continue\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "abc",
    "3\r\nabc\r\n",
    "0\r\n\r\n",
    "0\r\nA: b\r\n\r\n",
    "x",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n",
    "HTTP/1.1 204 No Content\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn conversations_of_telling_pieces_break_no_law(
        cut in any::<u8>(),
        client in prop::collection::vec(prop::sample::select(PIECES), 0..16),
        upstream in prop::collection::vec(prop::sample::select(PIECES), 0..12),
    ) {
        let input = [&[cut % 40], client.concat().as_bytes(), &[0xff, 0xff], upstream.concat().as_bytes()].concat();
        body::run(&input);
    }

    #[test]
    fn any_bytes_break_no_law(input in prop::collection::vec(any::<u8>(), 0..400)) {
        body::run(&input);
    }
}
