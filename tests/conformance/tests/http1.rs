//! The strict codec beside three servers that others wrote: hyper, Go's net/http and fasthttp. What ours accepts they
//! accept, and understand alike: method, target, host, fields, body, trailers, and where the next request begins.

use std::cell::RefCell;
use std::fs;

use anyhow::{Context, Result, ensure};
use mesh_test_conformance::readers::{Reader, Understood};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

#[path = "../../fuzz/bodies/differential.rs"]
mod differential;

use differential::{End, Reading, Request};

/// Lists what others write out of hand, and what is made of it.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus");

#[test]
fn kept_requests_are_understood_as_others_understand_them() -> Result<()> {
    let mut servers = servers()?;
    let differences: Vec<String> =
        connections()?.iter().filter_map(|input| compare(&mut servers, input).err()).collect();
    ensure!(differences.is_empty(), "{}", differences.join("\n\n"));
    Ok(())
}

#[test]
fn mutated_requests_are_understood_as_others_understand_them() -> Result<()> {
    let servers = RefCell::new(servers()?);
    // The same each time; more of them, as PROPTEST_CASES says, begin with these.
    let usual = Config::default();
    let config = Config { cases: usual.cases.max(5_000), failure_persistence: None, ..usual };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mutated = mutated(connections()?);
    let ran = TestRunner::new_with_rng(config, rng)
        .run(&mutated, |input| compare(&mut *servers.borrow_mut(), &input).map_err(TestCaseError::fail));
    ran.map_err(|failure| anyhow::anyhow!("{failure}"))
}

fn servers() -> Result<[Reader; 2]> {
    Ok([Reader::start("net/http")?, Reader::start("fasthttp")?])
}

/// Compares with all; hyper is asked by the fuzz target's body, which panics.
fn compare(servers: &mut [Reader], input: &[u8]) -> Result<(), String> {
    differential::run(input);
    let ours = differential::ours(input);
    for server in servers {
        let theirs = server.ask(input).map_err(|error| format!("{error:#}"))?;
        differential::compare(&ours, &reading(theirs)).map_err(|difference| {
            format!("{} reads '{}' otherwise: {difference}", server.name(), input.escape_ascii())
        })?;
    }
    Ok(())
}

fn reading(understood: Understood) -> Reading {
    let requests = understood.requests.into_iter().map(|request| Request {
        method: request.method,
        target: request.target,
        host: request.host,
        fields: request.fields,
        body: request.body,
        trailers: request.trailers,
        ..Request::default()
    });
    let end = if understood.refused.is_empty() { End::Over } else { End::Refused(understood.refused) };
    Reading { requests: requests.collect(), end }
}

/// What clients say in the inputs that fuzz targets keep.
fn connections() -> Result<Vec<Vec<u8>>> {
    let mut connections = inputs("differential")?;
    // The first byte is the target's; the others are, in turn, the client's and the upstream's.
    let conversations = inputs("http1")?;
    connections.extend(conversations.iter().map(|input| {
        let sides = input[1..].split(|byte| *byte == 0xff);
        sides.step_by(2).flatten().copied().collect::<Vec<u8>>()
    }));
    // Another number there says that it is a response.
    let messages = inputs("messages")?;
    connections.extend(messages.iter().filter(|input| input[0] & 1 == 0).map(|input| input[1..].to_vec()));
    connections.sort_unstable();
    connections.dedup();
    ensure!(connections.len() >= 150, "only {} connections", connections.len());
    Ok(connections)
}

fn inputs(target: &str) -> Result<Vec<Vec<u8>>> {
    let folder = format!("{CORPUS}/{target}");
    let entries = fs::read_dir(&folder).with_context(|| format!("read {folder}"))?;
    entries.map(|entry| Ok(fs::read(entry?.path())?)).collect()
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
];

/// One of them, changed in up to four places: a piece put in, a part left out, a part said twice.
fn mutated(connections: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (0..3_u8, any::<prop::sample::Index>(), 1..12_usize, prop::sample::select(PIECES));
    (prop::sample::select(connections), prop::collection::vec(change, 1..5)).prop_map(
        |(mut input, changes)| {
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
        },
    )
}
