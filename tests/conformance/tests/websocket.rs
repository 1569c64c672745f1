//! Autobahn's test suite through the mesh: in every case both applications see the frames, and the end, that they see
//! without it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_test_conformance::autobahn::{Autobahn, Client, Server, Told};
use mesh_test_e2e::{HTTP, at, server, service};
use mesh_test_harness::eventually::{PATIENCE, eventually};
use mesh_test_harness::figure;
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use serde_json::Value;

/// Address of the Service whose pod is on the client's node.
const NEAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 11));
/// If this says `all`, all cases run, which takes long.
const ALL: &str = "MESH_TEST_AUTOBAHN";
/// The sections of the fixed part. There is none for handshakes in the suite, nor an 8 or 11.
const SECTIONS: [&str; 8] = ["1.", "2.", "3.", "4.", "5.", "6.", "7.", "10."];
/// Of large messages, and of compression.
const OF_OTHER_SECTIONS: [&str; 12] = [
    "9.1.1", "9.2.2", "9.3.9", "9.4.9", "9.5.6", "9.6.6", "9.7.1", "9.8.2", "12.1.1", "12.2.5", "13.3.1",
    "13.7.2",
];
/// So many cases run beside each other, as most of them wait; and how long one run may take where the machine does other things.
const RUN: (u32, Duration) = (64, Duration::from_secs(240));
/// Of all cases: those that compress a thousand messages each keep a processor busy, and have an end of their own.
const RUN_OF_ALL: (u32, Duration) = (4, Duration::from_secs(3600));

/// What both sides said of the same cases.
#[derive(Debug)]
struct Run {
    client: Told,
    server: Told,
}

#[test]
fn every_case_gives_what_it_gives_without_the_mesh() {
    let near = PodSpec::new("near").port("http", HTTP);
    let plain = |name: &str| PodSpec::new(name).mode("disabled");
    let a = vec![PodSpec::new("client"), near, plain("caller")];
    let scenario = Scenario::new(a, vec![server("server"), plain("called")]).service(service());
    let scenario = scenario.service(ServiceSpec::new("near", &[NEAR]).port("http", 80, HTTP));
    // All cases are gigabytes on every wire.
    let scenario = if wants_all() { scenario.capture_only("lo") } else { scenario };
    scenario.run(|mesh| {
        let suite = Autobahn::get()?;
        let cases = chosen(suite.cases()?);
        for parts in [(Client::Fuzzes, Server::Echoes), (Client::Echoes, Server::Fuzzes)] {
            let run = |from, to, at| run(&suite, mesh, parts, (from, to, at), &cases);
            let without = run("caller", "called", mesh.pod("called").at(HTTP))?;
            all_are_judged_well(&without)?;
            same(&without, &run("client", "server", at(80))?)?;
            same(&without, &run("client", "near", SocketAddr::new(NEAR, 80))?)?;
        }
        were_carried(mesh, 2 * cases.len())
    });
}

fn chosen(all: Vec<String>) -> Vec<String> {
    let is_fixed = |case: &String| {
        SECTIONS.iter().any(|section| case.starts_with(section)) || OF_OTHER_SECTIONS.contains(&case.as_str())
    };
    if wants_all() { all } else { all.into_iter().filter(is_fixed).collect() }
}

fn wants_all() -> bool {
    std::env::var(ALL).is_ok_and(|what| what == "all")
}

fn run(
    suite: &Autobahn,
    mesh: &Mesh,
    (client, server): (Client, Server),
    (from, to, at): (&str, &str, SocketAddr),
    cases: &[String],
) -> Result<Run> {
    let started = Instant::now();
    let serving = suite.serve(server, mesh.pod(to), HTTP)?;
    let bounds = if wants_all() { RUN_OF_ALL } else { RUN };
    let asked = suite.ask(client, mesh.pod(from), at, cases, bounds);
    let asked = asked.with_context(|| format!("{client:?} in {from}, {server:?} in {to}"))?;
    let run = Run { client: asked, server: serving.told(cases.len())? };
    let (counts, took) = (counts(&run), started.elapsed().as_secs());
    figure(&format!("client {from} {client:?}, server {to} {server:?}: {counts} in {took} s"));
    Ok(run)
}

/// How many cases were judged how, by the side that has them.
fn counts(run: &Run) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for told in run.client.values().chain(run.server.values()) {
        if let Some(behavior) = told["behavior"].as_str() {
            *counts.entry(behavior).or_default() += 1;
        }
    }
    format!("{counts:?}")
}

/// Otherwise it would be no suite.
fn all_are_judged_well(run: &Run) -> Result<()> {
    let judged = run.client.values().chain(run.server.values()).filter(|told| told.get("behavior").is_some());
    for told in judged {
        let is_well = |field: &str| matches!(told[field].as_str(), Some("OK" | "INFORMATIONAL"));
        ensure!(is_well("behavior") && is_well("close"), "without a mesh: {told}");
    }
    Ok(())
}

fn same(without: &Run, with: &Run) -> Result<()> {
    for (side, without, with) in
        [("client", &without.client, &with.client), ("server", &without.server, &with.server)]
    {
        ensure!(without.keys().eq(with.keys()), "the {side} told other cases");
        let pairs = without.values().zip(with.values());
        let count = pairs.len();
        let differ: Vec<(&Value, &Value)> = pairs.filter(|(without, with)| without != with).collect();
        let same = count - differ.len();
        figure(&format!("the {side} saw {same} of {count} cases as without the mesh"));
        ensure!(differ.is_empty(), "the {side} saw {} otherwise, as {:#?}", differ.len(), differ[0]);
    }
    Ok(())
}

/// Each case to the other node was a WebSocket of the mesh.
fn were_carried(mesh: &Mesh, cases: usize) -> Result<()> {
    let node = mesh.node("node-b");
    eventually("each case has its record", PATIENCE, || {
        let records = node.records();
        let switched = records.iter().filter(|record| record["http.status"] == 101);
        (switched.count() == cases).then_some(())
    })
}
