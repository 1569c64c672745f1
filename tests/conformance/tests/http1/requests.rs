//! Requests beside three servers that others wrote: hyper, Go's net/http and fasthttp. What ours accepts they accept, and
//! understand alike: method, target, host, fields, body, trailers, and where the next request begins.

use std::cell::RefCell;

use anyhow::{Result, ensure};
use mesh_test_conformance::readers::{Reader, Understood};
use proptest::test_runner::TestCaseError;

use super::differential::{self, End, Reading, Request};
use super::mutation::{inputs, mutated, runner};

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
    let ran = runner(5_000).run(&mutated(connections()?), |input| {
        compare(&mut *servers.borrow_mut(), &input).map_err(TestCaseError::fail)
    });
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
