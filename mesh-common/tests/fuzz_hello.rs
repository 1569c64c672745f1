//! Replays the corpus of fuzz target `hello` with its own body, with every end cut off and every byte changed.

#[path = "../../tests/fuzz/bodies/hello.rs"]
mod body;

#[test]
fn the_corpus_of_the_fuzz_target_replays() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus/hello");
    let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty());
    for input in inputs {
        let bytes = std::fs::read(input).unwrap();
        body::run(&bytes);
        for at in 0..bytes.len().min(600) {
            body::run(&bytes[..at]);
            for other in [0, 1, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = other;
                body::run(&changed);
            }
        }
    }
}
