//! The suites that CI runs: what each runs, its time, and what passed and failed.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::tally::Tally;
use crate::{deny, docs, lint, process, setup};

/// One suite; the order is that of a full run, cheap ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// rustfmt
    Format,
    /// Layers, purity, orphan files, sizes
    Lint,
    /// Licences, sources and versions of dependencies
    Deny,
    /// Known weaknesses in dependencies; needs the advisory database
    Advisories,
    /// clippy, warnings denied
    Clippy,
    /// Unit and property tests
    Unit,
    /// Documentation builds without warnings
    Doc,
    /// docs/flags.md and docs/metrics.md are what the code says
    Docs,
    /// Fuzz targets compile; their kept inputs are replayed by the unit tests
    Fuzz,
    /// Kernel programs: verifier and verdicts; needs root
    Ebpf,
    /// End to end: real daemons, pods as network namespaces; needs root
    E2e,
}

/// Runs the suites, or all of them if none is named; prints each with its time, and the count at the end.
/// The exit code says whether anything failed; the count is the last line, so nothing is printed after it.
///
/// # Errors
/// If what the suites need is not here.
pub fn run(suites: &[Suite]) -> Result<ExitCode> {
    let started = Instant::now();
    setup::run(setup::May::Install)?;
    let all = Suite::value_variants();
    let suites = if suites.is_empty() { all } else { suites };
    let mut tally = Tally::default();
    for suite in suites {
        step(*suite, &mut tally);
    }
    println!("\n{}", tally.report());
    println!("all of it took {}", seconds(started.elapsed()));
    println!("{}", tally.line());
    Ok(if tally.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn step(suite: Suite, tally: &mut Tally) {
    let name = suite.to_possible_value().expect("no suite is hidden").get_name().to_string();
    if let Some(reason) = suite.may_be_skipped().filter(|_| is_skip_allowed(&name)) {
        println!("\n== {name}: SKIPPED, as MESH_ALLOW_SKIP says: {reason}");
        tally.skip(&name, reason);
        return;
    }
    println!("\n== {name}");
    let started = Instant::now();
    let result = suite.run(tally);
    let took = started.elapsed();
    match &result {
        Ok(()) => println!("== {name}: passed in {}", seconds(took)),
        Err(error) => println!("== {name}: FAILED in {}: {error:#}", seconds(took)),
    }
    tally.step(&name, took, result.is_ok());
}

fn is_skip_allowed(name: &str) -> bool {
    std::env::var("MESH_ALLOW_SKIP").is_ok_and(|names| names.split([',', ' ']).any(|allowed| allowed == name))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

impl Suite {
    /// Returns why a machine may be unable to run it, if that can be.
    fn may_be_skipped(self) -> Option<&'static str> {
        (self == Self::Advisories).then_some("dependencies were NOT checked for known weaknesses")
    }

    fn run(self, tally: &mut Tally) -> Result<()> {
        match self {
            Self::Format => process::run(&mut process::cargo(&["fmt", "--all", "--check"])),
            Self::Lint => lint::run(),
            Self::Deny => deny::check(),
            Self::Advisories => deny::advisories(),
            Self::Clippy => process::run(&mut process::cargo(&[
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--",
                "--deny=warnings",
            ])),
            Self::Unit => {
                tests(tally, &["mesh-common", "mesh-node", "xtask", "mesh-test-harness", "mesh-test-bench"])
            }
            Self::Doc => process::run(
                process::cargo(&["doc", "--quiet", "--workspace", "--no-deps"])
                    .env("RUSTDOCFLAGS", "--deny=warnings"),
            ),
            Self::Docs => docs::run(docs::Mode::Check),
            Self::Fuzz => process::run(&mut process::cargo(&[
                "check",
                "--quiet",
                "--manifest-path",
                "tests/fuzz/Cargo.toml",
            ])),
            Self::Ebpf => with_daemon(tally, "mesh-test-ebpf"),
            Self::E2e => with_daemon(tally, "mesh-test-e2e"),
        }
    }
}

/// Runs the tests of a package that starts the daemon: the daemon is built first.
fn with_daemon(tally: &mut Tally, package: &str) -> Result<()> {
    process::run(&mut process::cargo(&["build", "--quiet", "--package", "mesh-node"]))?;
    tests(tally, &[package])
}

fn tests(tally: &mut Tally, packages: &[&str]) -> Result<()> {
    let mut command = process::cargo(&["test", "--no-fail-fast"]);
    for package in packages {
        command.args(["--package", package]);
    }
    watch(tally, &mut command)
}

/// Runs `cargo test` and counts what its test binaries say.
fn watch(tally: &mut Tally, command: &mut Command) -> Result<()> {
    let before = tally.tests();
    let succeeded = process::watch(command, |line| tally.read(line))?;
    if !succeeded {
        bail!("tests failed");
    }
    if tally.tests() == before {
        bail!("no test ran");
    }
    Ok(())
}
