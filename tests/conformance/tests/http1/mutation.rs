//! Inputs that are nearly right: those that fuzz targets keep, and what becomes of them when they are changed.

use std::fs;

use anyhow::{Context, Result};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus");

/// What a fuzz target keeps.
pub fn inputs(target: &str) -> Result<Vec<Vec<u8>>> {
    let folder = format!("{CORPUS}/{target}");
    let entries = fs::read_dir(&folder).with_context(|| format!("read {folder}"))?;
    entries.map(|entry| Ok(fs::read(entry?.path())?)).collect()
}

/// Runs so many cases at least, the same each time; more of them, as PROPTEST_CASES says, begin with these.
pub fn runner(cases: u32) -> TestRunner {
    let usual = Config::default();
    let config = Config { cases: usual.cases.max(cases), failure_persistence: None, ..usual };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// What parsers have been found to disagree on.
const PIECES: &[&str] = &[
    "\r",
    "\n",
    "\r\n",
    "\r\n\r\n",
    " ",
    "\t",
    "\0",
    "\x0b",
    "\x7f",
    "\u{e9}",
    ":",
    ";",
    ",",
    "\"",
    "\\",
    "/",
    "?",
    "#",
    "%",
    "*",
    "@",
    "[",
    "]",
    "_",
    "+",
    "-",
    "0",
    "1",
    "a",
    "0x",
    "HTTP/1.0",
    "HTTP/1.1",
    "HEAD",
    "OPTIONS",
    "http://b",
    "Host: b\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Upgrade: x\r\n",
    "Expect: 100-continue\r\n",
    "Trailer: A\r\n",
    "3\r\nabc\r\n",
    "0\r\n\r\n",
    ";a=b",
    "GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "204",
    "304",
];

/// One of them, changed in up to four places: a piece put in, a part left out, a part said twice.
pub fn mutated(kept: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (0..3_u8, any::<prop::sample::Index>(), 1..12_usize, prop::sample::select(PIECES));
    (prop::sample::select(kept), prop::collection::vec(change, 1..5)).prop_map(|(mut input, changes)| {
        for (kind, at, length, piece) in changes {
            let start = at.index(input.len() + 1);
            let end = (start + length).min(input.len());
            let part = input[start..end].to_vec();
            match kind {
                0 => drop(input.splice(start..start, piece.bytes())),
                1 => drop(input.splice(start..end, [])),
                _ => drop(input.splice(start..start, part)),
            }
        }
        input
    })
}
