//! The rounds: every figure of every way, interleaved, so that a slow minute hits all of them.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::process::Process;

use crate::load::read_wrk;
use crate::machine::{busy_seconds, resident_megabytes};
use crate::report::{Report, Requests};
use crate::world::{Traffic, Way, World};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Rounds {
    /// How often everything is measured; at least 1.
    pub count: usize,
    /// How long each load lasts, in seconds; at least 1.
    pub seconds: u64,
    /// Connections that are held idle for the figure of memory.
    pub idle_connections: usize,
    /// Kinds of traffic, in their order.
    pub traffic: Vec<Traffic>,
    /// Ways, in their order.
    pub ways: Vec<Way>,
}

impl Rounds {
    /// Measures everything.
    ///
    /// # Errors
    /// A load fails: a figure with failed requests is none.
    pub fn run(&self, world: &World) -> Result<Report> {
        let mut report = Report::default();
        self.memory_idle(world, &mut report)?;
        for round in 1..=self.count {
            for &traffic in &self.traffic {
                for &way in &self.ways {
                    eprintln!("round {round} of {}: {} {}", self.count, traffic.name(), way.name());
                    self.measure(world, way, traffic, &mut report)
                        .with_context(|| format!("measure {} {}", traffic.name(), way.name()))?;
                }
            }
        }
        self.memory_held(world, &mut report)?;
        Ok(report)
    }

    fn measure(&self, world: &World, way: Way, traffic: Traffic, report: &mut Report) -> Result<()> {
        let mut add = |figure: &str, value| report.add(traffic.name(), figure, way.name(), value);
        let one = self.requests(world, way, traffic, 1)?;
        add("p50 us at 1", one.p50_us);
        add("p99 us at 1", one.p99_us);
        for connections in [32, 256] {
            let before = busy_seconds()?;
            let many = self.requests(world, way, traffic, connections)?;
            add(&format!("requests/s at {connections}"), many.per_second);
            let busy = busy_seconds()? - before;
            let requests = many.per_second * self.seconds as f64;
            add(&format!("CPU s per 100k at {connections}"), busy / requests * 1e5);
        }
        if traffic != Traffic::Grpc {
            let closing = self.wrk(world, way, traffic, 16, "/ok", &["-H", "Connection: close"])?;
            add("new connections/s", read_wrk(&closing)?.per_second);
            let bulk = self.wrk(world, way, traffic, 1, "/big", &[])?;
            add("bulk Gbit/s", read_wrk(&bulk)?.per_second * f64::from(8 << 23) / 1e9);
            let beside = self.beside_bulk(world, way, traffic)?;
            add("p50 us at 1 beside bulk", beside.p50_us);
        }
        Ok(())
    }

    fn requests(&self, world: &World, way: Way, traffic: Traffic, connections: u32) -> Result<Requests> {
        if traffic != Traffic::Grpc {
            return read_wrk(&self.wrk(world, way, traffic, connections, "/ok", &[])?);
        }
        let own = std::env::current_exe().context("find the bench's own executable")?;
        let target = world.target(way, traffic).to_string();
        let (connections, seconds) = (connections.to_string(), self.seconds.to_string());
        let arguments = ["grpc-load", &target, "--connections", &connections, "--seconds", &seconds];
        let load = world.client(way).place().spawn("grpc-load", own, &arguments)?;
        Requests::from_json(&finish(load, self.seconds)?)
    }

    fn wrk(
        &self,
        world: &World,
        way: Way,
        traffic: Traffic,
        connections: u32,
        path: &str,
        more: &[&str],
    ) -> Result<String> {
        finish(self.start_wrk(world, way, traffic, connections, path, more)?, self.seconds)
    }

    fn start_wrk(
        &self,
        world: &World,
        way: Way,
        traffic: Traffic,
        connections: u32,
        path: &str,
        more: &[&str],
    ) -> Result<Process> {
        let url = format!("http://{}{path}", world.target(way, traffic));
        let (connections, seconds) = (format!("-c{connections}"), format!("-d{}s", self.seconds));
        let mut arguments = vec!["-t1", &connections, &seconds, "--latency", "--timeout", "10s"];
        arguments.extend(more);
        arguments.push(&url);
        world.client(way).place().spawn("wrk", "wrk", &arguments)
    }

    fn beside_bulk(&self, world: &World, way: Way, traffic: Traffic) -> Result<Requests> {
        let bulk = self.start_wrk(world, way, traffic, 2, "/big", &[])?;
        let small = self.wrk(world, way, traffic, 1, "/ok", &[])?;
        finish(bulk, self.seconds)?;
        read_wrk(&small)
    }

    fn memory_idle(&self, world: &World, report: &mut Report) -> Result<()> {
        for &traffic in &self.traffic {
            for &way in &self.ways {
                if let Some(proxies) = world.proxies(way, traffic) {
                    report.add(traffic.name(), "MB idle, mean of two", way.name(), resident(proxies)?);
                }
            }
        }
        Ok(())
    }

    fn memory_held(&self, world: &World, report: &mut Report) -> Result<()> {
        for &traffic in self.traffic.iter().filter(|&&traffic| traffic != Traffic::Grpc) {
            for &way in &self.ways {
                let Some(proxies) = world.proxies(way, traffic) else { continue };
                let before = resident(proxies)?;
                let held = self.hold(world, way, traffic)?;
                let during = resident(proxies)?;
                drop(held);
                let mut add = |figure: String, value| report.add(traffic.name(), &figure, way.name(), value);
                add(format!("MB with {} idle connections", self.idle_connections), during);
                let each = (during - before) * 1e3 / self.idle_connections as f64;
                add("kB per idle connection".to_owned(), each.max(0.0));
            }
        }
        Ok(())
    }

    /// A process that holds idle connections until it is dropped.
    fn hold(&self, world: &World, way: Way, traffic: Traffic) -> Result<Process> {
        let own = std::env::current_exe().context("find the bench's own executable")?;
        let target = world.target(way, traffic).to_string();
        let count = self.idle_connections.to_string();
        let mut holder = world.client(way).place().spawn_with("hold", own, |command| {
            command.args(["hold", &target, "--connections", &count]).stdin(Stdio::piped());
        })?;
        eventually("the idle connections are open", Duration::from_secs(60), || {
            (holder.stdout().contains("holding") || holder.ended().is_some()).then_some(())
        })?;
        ensure!(holder.ended().is_none(), "holding failed: {}", holder.stderr());
        Ok(holder)
    }
}

fn resident(proxies: [u32; 2]) -> Result<f64> {
    Ok((resident_megabytes(proxies[0])? + resident_megabytes(proxies[1])?) / 2.0)
}

fn finish(load: Process, seconds: u64) -> Result<String> {
    let name = load.name().to_owned();
    let ended = load.wait(Duration::from_secs(seconds + 30))?;
    ensure!(ended.status.success(), "{name} ended with {}: {}{}", ended.status, ended.stdout, ended.stderr);
    Ok(ended.stdout)
}
