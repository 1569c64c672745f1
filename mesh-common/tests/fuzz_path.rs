//! Replays the corpus of fuzz target `path` with its own body, and spellings that mix its pieces.

use proptest::prelude::*;

#[path = "../../tests/fuzz/bodies/path.rs"]
mod body;

#[test]
fn the_corpus_of_the_fuzz_target_replays() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus/path");
    let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty());
    for input in inputs {
        body::run(&std::fs::read(input).unwrap());
    }
}

proptest! {
    #[test]
    fn any_mixture_of_pieces_keeps_the_laws(
        pieces in "(/|//|\\.|\\.\\.|%2[eEfF5]|%5[cC]|;|%3[bBfF]|%23|%61|%c3%a9|%C0%AE|a|Z|~|\\?|%|\\\\){0,16}"
    ) {
        body::run(format!("/{pieces}").as_bytes());
    }
}
