//! Replays the corpus of fuzz target `http1` with its own body, and conversations of pieces that matter to a codec.

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

/// Pieces of requests and responses; most conversations of them are nearly right.
const PIECES: [&[u8]; 31] = [
    b"GET / HTTP/1.1\r\n",
    b"POST /a?b HTTP/1.1\r\n",
    b"GET /denied HTTP/1.1\r\n",
    b"HEAD / HTTP/1.1\r\n",
    b"GET http://b:80/x HTTP/1.1\r\n",
    b"GET / HTTP/1.0\r\n",
    b"Host: a\r\n",
    b"Host: a\r\n\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"Expect: 100-continue\r\n",
    b"X-A: b\r\n",
    b"\r\n",
    b"\n",
    b"abc",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"0\r\nA: b\r\n\r\n",
    b"\xff",
    b"\xffHTTP/1.1 200 OK\r\n",
    b"\xffHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\xff",
    b"\xffHTTP/1.1 204 No Content\r\n\r\n\xff",
    b"\xffHTTP/1.1 100 Continue\r\n\r\n\xff",
    b"\xffHTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\xff",
    b"\xffHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\xff",
    b"\xffHTTP/1.1 200 OK\r\n\r\nuntil the end\xff",
    b"\xffHTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n\xff",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn conversations_of_pieces_break_no_law(
        choice in any::<u8>(),
        pieces in proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..24),
    ) {
        body::run(&[&[choice], pieces.concat().as_slice()].concat());
    }

    #[test]
    fn no_bytes_break_a_law(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        body::run(&input);
    }
}
