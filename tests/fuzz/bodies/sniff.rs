//! Tells the protocol of foreign bytes, and holds the laws that no bytes may break.

use mesh_common::model::protocol::{Sniffed, sniff};

pub fn run(input: &[u8]) {
    let answers: Vec<Sniffed> = (0..=input.len().min(64)).map(|end| sniff(&input[..end])).collect();
    let first = answers.iter().position(|answer| *answer != Sniffed::NeedMore);
    match first {
        Some(first) => assert!(
            answers[first..].iter().all(|answer| *answer == answers[first]) && sniff(input) == answers[first],
            "more bytes change no answer"
        ),
        None => assert!(input.len() < 24, "24 bytes are an answer"),
    }
}
