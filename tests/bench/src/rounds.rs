//! The rounds: every figure of every way, interleaved, so that a slow minute hits all of them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::process::Process;

use crate::figures;
use crate::load::read_wrk;
use crate::machine::{busy_seconds, process_seconds, resident_megabytes};
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
        // Before any load: what a load leaves in an allocator would hide what connections cost.
        self.memory_idle(world, &mut report)?;
        self.memory_held(world, &mut report)?;
        let started = Instant::now();
        let (mut done, all) = (0, self.count * self.traffic.len() * self.ways.len());
        for round in 1..=self.count {
            for &traffic in &self.traffic {
                for &way in &self.ways {
                    let left = match done {
                        0 => String::new(),
                        done => {
                            let each = started.elapsed().as_secs_f64() / done as f64;
                            format!(", {:.0} s left", each * (all - done) as f64)
                        }
                    };
                    eprintln!("round {round} of {}: {} {}{left}", self.count, traffic.name(), way.name());
                    self.measure(world, way, traffic, &mut report)
                        .with_context(|| format!("measure {} {}", traffic.name(), way.name()))?;
                    done += 1;
                }
            }
        }
        Ok(report)
    }

    fn measure(&self, world: &World, way: Way, traffic: Traffic, report: &mut Report) -> Result<()> {
        let mut add = |figure: &str, value| report.add(traffic.name(), figure, way.name(), value);
        let one = self.requests(world, way, traffic, 1)?;
        add(figures::P50_AT_1, one.p50_us);
        add(figures::P99_AT_1, one.p99_us);
        for (connections, rate, cpu, of_proxies) in [
            (32, figures::RATE_AT_32, figures::CPU_AT_32, figures::PROXIES_AT_32),
            (256, figures::RATE_AT_256, figures::CPU_AT_256, figures::PROXIES_AT_256),
        ] {
            let proxies = world.proxies(way, traffic);
            let before = (busy_seconds()?, proxies.map(used).transpose()?);
            let many = self.requests(world, way, traffic, connections)?;
            let after = (busy_seconds()?, proxies.map(used).transpose()?);
            let hundred_thousands = many.per_second * self.seconds as f64 / 1e5;
            add(rate, many.per_second);
            add(cpu, (after.0 - before.0) / hundred_thousands);
            if let (Some(before), Some(after)) = (before.1, after.1) {
                add(of_proxies, (after - before) / hundred_thousands);
            }
        }
        if traffic != Traffic::Grpc {
            let closing = self.wrk(world, way, traffic, 16, "/ok", &["-H", "Connection: close"])?;
            add(figures::NEW_CONNECTIONS, read_wrk(&closing)?.per_second);
            let bulk = self.wrk(world, way, traffic, 1, "/big", &[])?;
            add(figures::BULK, read_wrk(&bulk)?.per_second * f64::from(8 << 23) / 1e9);
            let beside = self.beside_bulk(world, way, traffic)?;
            add(figures::P50_BESIDE_BULK, beside.p50_us);
            add(figures::BESIDE_BULK_TO_QUIET, beside.p50_us / one.p50_us);
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
                    report.add(traffic.name(), figures::MEMORY_IDLE, way.name(), resident(proxies)?);
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
                let mut add = |figure, value| report.add(traffic.name(), figure, way.name(), value);
                add(figures::MEMORY_HELD, during);
                let each = (during - before) * 1e3 / self.idle_connections as f64;
                add(figures::MEMORY_EACH, each.max(0.0));
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

/// Megabytes of memory of a proxy, mean of the two.
fn resident(proxies: [u32; 2]) -> Result<f64> {
    Ok((resident_megabytes(proxies[0])? + resident_megabytes(proxies[1])?) / 2.0)
}

/// CPU seconds of both proxies.
fn used(proxies: [u32; 2]) -> Result<f64> {
    Ok(process_seconds(proxies[0])? + process_seconds(proxies[1])?)
}

fn finish(load: Process, seconds: u64) -> Result<String> {
    let name = load.name().to_owned();
    let ended = load.wait(Duration::from_secs(seconds + 30))?;
    ensure!(ended.status.success(), "{name} ended with {}: {}{}", ended.status, ended.stdout, ended.stderr);
    Ok(ended.stdout)
}
