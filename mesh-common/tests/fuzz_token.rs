//! Replays the corpus of fuzz target `token` with its own body, and tokens and keys of pieces that are nearly right.

use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;

#[path = "../../tests/fuzz/bodies/token.rs"]
mod body;

#[test]
fn the_corpus_of_the_fuzz_target_replays() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus/token");
    let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(inputs.len() >= 20, "only {} inputs", inputs.len());
    for input in inputs {
        body::run(&std::fs::read(input).unwrap());
    }
}

const HEADER: &str = r#"("(alg|kid|crit|b64|jwk)":("ES256"|"EdDSA"|"none"|"HS256"|1|\[\]|null),?){0,3}"#;
const PAYLOAD: &str =
    r#"("(iss|sub|aud|exp|nbf|x)":("a"|""|-1|1e400|1800000600|1\.5|\["a"\]|\[1\]|\{"iss":1\}|null),?){0,4}"#;
const KEYS: &str = r#"\{"keys":\[(\{("(kty|crv|kid|alg|use|n|e|x|y|d)":("RSA"|"EC"|"OKP"|"oct"|"P-256"|"Ed25519"|"sig"|"AQAB"|1),?){0,5}\},?){0,3}\]\}"#;

proptest! {
    #[test]
    fn any_mixture_of_pieces_keeps_the_laws(
        header in HEADER, payload in PAYLOAD, signature in "[A-Za-z0-9_-]{0,90}", keys in KEYS
    ) {
        let part = |text: &str| BASE64URL_NOPAD.encode(format!("{{{}}}", text.trim_end_matches(',')).as_bytes());
        body::run(format!("{}.{}.{signature}\n{keys}", part(&header), part(&payload)).as_bytes());
    }

    #[test]
    fn any_bytes_keep_the_laws(input in proptest::collection::vec(any::<u8>(), 0..200)) {
        body::run(&input);
    }
}
