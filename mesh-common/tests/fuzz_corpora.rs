//! Replays the corpora of fuzz targets with their own bodies, and inputs of pieces that are nearly right.

use proptest::prelude::*;

#[path = "../../tests/fuzz/bodies/authority.rs"]
mod authority;
#[path = "../../tests/fuzz/bodies/grpc_messages.rs"]
mod grpc_messages;
#[path = "../../tests/fuzz/bodies/grpc_timeout.rs"]
mod grpc_timeout;
#[path = "../../tests/fuzz/bodies/jwks.rs"]
mod jwks;
#[path = "../../tests/fuzz/bodies/messages.rs"]
mod messages;
#[path = "../../tests/fuzz/bodies/sniff.rs"]
mod sniff;
#[path = "../../tests/fuzz/bodies/spiffe_id.rs"]
mod spiffe_id;

fn replay(target: &str, body: fn(&[u8])) {
    let corpus = format!("{}/../tests/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(corpus).expect("the corpus is a folder");
    let inputs: Vec<_> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    assert!(inputs.len() >= 10, "only {} inputs", inputs.len());
    for input in inputs {
        body(&std::fs::read(input).expect("an input is a file"));
    }
}

#[test]
fn authorities_are_spelled_in_one_way() {
    replay("authority", authority::run);
}

#[test]
fn messages_of_calls_are_counted_in_one_way() {
    replay("grpc_messages", grpc_messages::run);
}

#[test]
fn times_of_calls_are_read_in_one_way() {
    replay("grpc_timeout", grpc_timeout::run);
}

#[test]
fn keys_are_read_in_one_way() {
    replay("jwks", jwks::run);
}

#[test]
fn messages_read_to_the_same_again() {
    replay("messages", messages::run);
}

#[test]
fn first_bytes_have_one_answer() {
    replay("sniff", sniff::run);
}

#[test]
fn spiffe_ids_are_printed_as_they_were_read() {
    replay("spiffe_id", spiffe_id::run);
}

/// Pieces of responses; most mixtures of them are nearly right.
const RESPONSE: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.0 204 \r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close, x-a\r\n",
    "Connection: Upgrade\r\n",
    "Upgrade: websocket\r\n",
    "X-A:  1 \r\n",
    "x-a: \u{e9}\r\n",
    "\r\n",
    "abc",
    "3\r\nabc\r\n",
    "0\r\nA: b\r\n\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_mixture_of_pieces_is_an_authority_in_one_spelling_or_none(
        text in "(\\[|\\]|:|:80|:8080|\\.|a|A|_|~|-|@|::1|FD00::1|::ffff:10\\.0\\.0\\.1|10\\.0\\.0\\.1|%25e|0){1,5}"
    ) {
        authority::run(text.as_bytes());
    }

    #[test]
    fn any_mixture_of_pieces_is_a_spiffe_id_in_one_spelling_or_none(
        text in "(spiffe://|SPIFFE://)[a-z._-]{0,3}(/ns|/|/sa|/\\.\\.|/[A-Za-z0-9._%-]{1,3}){0,6}"
    ) {
        spiffe_id::run(text.as_bytes());
    }

    #[test]
    fn any_mixture_of_pieces_of_a_response_reads_to_the_same_again(
        choice in any::<u8>(), pieces in proptest::collection::vec(proptest::sample::select(RESPONSE), 0..10)
    ) {
        messages::run(&[&[choice | 1], pieces.concat().as_bytes()].concat());
    }
}
