//! The vectors of `docs/wire.md` section 11, read out of the document.

use super::frame::{Frame, StreamId, frames};
use super::open::{Open, StreamKind, StreamToken};
use super::reason::{GoAwayReason, ResetReason};

const DOCUMENT: &str = include_str!("../../../docs/wire.md");

fn vectors() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let (_, rest) = DOCUMENT.split_once("```vectors\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    block
        .lines()
        .map(|line| {
            let (verdict, rest) = line.split_once(' ').unwrap();
            let (name, digits) = rest.trim_start().split_once(' ').unwrap();
            let digits: Vec<u8> =
                digits.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
            (verdict, name, digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
        })
        .collect()
}

fn meaning(name: &str) -> Frame<'static> {
    match name {
        "open-ipv4" => Frame::Open(
            StreamId(1),
            Open {
                token: StreamToken([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
                kind: StreamKind::Opaque,
                dialled: "10.96.0.7:8080".parse().unwrap(),
                source_port: 40_000,
            },
        ),
        "open-ipv6-http" => Frame::Open(
            StreamId(2),
            Open {
                token: StreamToken(std::array::from_fn(|index| 0xf0 + index as u8)),
                kind: StreamKind::Http1,
                dialled: "[fd00::5]:443".parse().unwrap(),
                source_port: 65_535,
            },
        ),
        "data" => Frame::Data(StreamId(1), b"ping\n"),
        "data-empty" => Frame::Data(StreamId(1), b""),
        "fin" => Frame::Fin(StreamId(3)),
        "reset-denied" => Frame::Reset(StreamId(4), ResetReason::Denied),
        "reset-newer" => Frame::Reset(StreamId(4), ResetReason::Unknown(999)),
        "credit" => Frame::Credit { stream: StreamId(5), acknowledged: 65_536, window: 131_072 },
        "ping" => Frame::Ping(0x0123_4567_89ab_cdef),
        "pong" => Frame::Pong(0x0123_4567_89ab_cdef),
        "goaway" => Frame::GoAway { last: 7, reason: GoAwayReason::Draining },
        other => panic!("vector {other} has no meaning here"),
    }
}

#[test]
fn every_vector_of_the_document_holds() {
    let vectors = vectors();
    assert!(vectors.len() >= 20, "only {} vectors were found", vectors.len());
    for (verdict, name, bytes) in vectors {
        let read: Vec<_> = frames(&bytes).collect();
        match verdict {
            "ok" => {
                assert_eq!(read, [Ok(meaning(name))], "{name} reads differently");
                let mut written = Vec::new();
                meaning(name).write(&mut written);
                assert_eq!(written, bytes, "{name} is written differently");
            }
            "bad" => assert!(matches!(read[..], [Err(_)]), "{name} was read as {read:?}"),
            "refused" => {
                assert!(matches!(read[..], [Ok(Frame::BadOpen(..))]), "{name} was read as {read:?}");
            }
            other => panic!("vector {name} has verdict {other}"),
        }
    }
}

#[test]
fn the_document_names_every_reason() {
    let row = |code: u16, word: &str| format!("| {code} | {word} |");
    for reason in ResetReason::ALL {
        assert!(DOCUMENT.contains(&row(reason.code(), reason.reason())), "{reason:?} is not in the document");
    }
    for reason in GoAwayReason::ALL {
        assert!(DOCUMENT.contains(&row(reason.code(), reason.reason())), "{reason:?} is not in the document");
    }
}
