//! The suites that CI runs: what each runs, its time, and what passed and failed.

use std::num::NonZero;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::binaries::{Binaries, Binary};
use crate::busy::Processors;
use crate::plan::How;
use crate::previous::{Previous, Profile};
use crate::side_by_side::{self, Said};
use crate::tally::Tally;
use crate::{deny, docs, fuzz, lint, plan, process, setup, vm};

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
    /// Builds every program and test, warm for the suites below
    Build,
    /// Unit and property tests
    Unit,
    /// Documentation builds without warnings
    Doc,
    /// docs/flags.md, docs/metrics.md, docs/kinds.md, docs/rights.md and manifests/foundation/crds.yaml are what the code says
    Docs,
    /// Every fuzz target replays its kept inputs and looks for others, 5 s each; --seconds says how long
    Fuzz,
    /// Kernel programs: verifier and verdicts; needs root
    Ebpf,
    /// Kernel programs and the agent on Debian's 6.1 kernel, in an emulator
    #[value(name = "ebpf-6.1")]
    EbpfOldest,
    /// End to end: real daemons, pods as network namespaces; needs root
    E2e,
    /// Suites that others wrote, through the mesh: h2spec, gRPC's interoperability tests, Autobahn's, Istio's authorizer; needs root, Go
    /// and Python
    Conformance,
    /// On a real API server and real clusters of two and three nodes, built from Go modules; needs root and Go. The first
    /// time it builds Kubernetes, twelve minutes
    Cluster,
    /// Agents, controllers and command lines of this commit and of the one before it, together, and a cluster that is
    /// upgraded; needs root, Go and a clone that has that commit. By name alone: it builds that commit, three minutes
    Skew,
}

/// Runs the suites, or all of them if none is named; prints each with its time, and the count at the end. A fuzz target runs
/// for `fuzz_seconds`, or shortly.
/// The exit code says whether anything failed; the count is the last line, so nothing is printed after it.
///
/// # Errors
/// If what the suites need is not here.
pub fn run(suites: &[Suite], fuzz_seconds: Option<NonZero<u64>>) -> Result<ExitCode> {
    let started = Instant::now();
    let all: Vec<Suite> =
        Suite::value_variants().iter().copied().filter(|suite| !suite.is_by_name_alone()).collect();
    let suites = if suites.is_empty() { &all[..] } else { suites };
    let needs_go =
        suites.iter().any(|suite| matches!(suite, Suite::Cluster | Suite::Conformance | Suite::Skew));
    setup::run(setup::May::Install, if needs_go { setup::For::All } else { setup::For::NoCluster })?;
    let mut run = Run { fuzz_seconds, ..Run::default() };
    for suite in suites {
        run.step(*suite);
    }
    let tally = run.tally;
    println!("\n{}", tally.report());
    println!("all of it took {}", seconds(started.elapsed()));
    println!("{}", tally.line());
    Ok(if tally.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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

    /// Whether it runs only when it is asked for.
    fn is_by_name_alone(self) -> bool {
        self == Self::Skew
    }

    fn run(self, run: &mut Run) -> Result<()> {
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
            Self::Build => run.build().map(|_| ()),
            Self::Unit => run.tests(UNIT, plan::UNIT),
            Self::Doc => process::run(
                process::cargo(&["doc", "--quiet", "--workspace", "--no-deps"])
                    .env("RUSTDOCFLAGS", "--deny=warnings"),
            ),
            Self::Docs => run.docs(),
            Self::Fuzz => fuzz::run(run.fuzz_seconds),
            Self::Ebpf => run.tests(&["mesh-test-ebpf"], plan::USUAL),
            Self::EbpfOldest => run.oldest_kernel(),
            Self::E2e => run.tests(&["mesh-test-e2e"], plan::END_TO_END),
            Self::Conformance => run.tests(&["mesh-test-conformance"], plan::CONFORMANCE),
            Self::Cluster => run.cluster(),
            Self::Skew => run.skew(),
        }
    }
}

/// Packages whose tests need nothing.
const UNIT: &[&str] = &["mesh-common", "mesh-node", "xtask", "mesh-test-harness", "mesh-test-bench"];

/// Prints a line of a test binary, and counts what it says.
fn show(tally: &mut Tally, line: &str) {
    println!("{line}");
    tally.read(line);
}

/// What the suites share.
#[derive(Default)]
struct Run {
    tally: Tally,
    /// Built when the first suite asks for it.
    binaries: Option<Binaries>,
    /// How long each fuzz target runs; shortly if nobody said.
    fuzz_seconds: Option<NonZero<u64>>,
}

impl Run {
    fn step(&mut self, suite: Suite) {
        let name = suite.to_possible_value().expect("no suite is hidden").get_name().to_string();
        if let Some(reason) = suite.may_be_skipped().filter(|_| is_skip_allowed(&name)) {
            println!("\n== {name}: SKIPPED, as MESH_ALLOW_SKIP says: {reason}");
            self.tally.skip(&name, reason);
            return;
        }
        println!("\n== {name}");
        let (started, before) = (Instant::now(), Processors::now());
        let result = suite.run(self);
        let took = started.elapsed();
        let busy = before.zip(Processors::now()).and_then(|(before, after)| after.busy_since(before));
        match &result {
            Ok(()) => println!("== {name}: passed in {}", seconds(took)),
            Err(error) => println!("== {name}: FAILED in {}: {error:#}", seconds(took)),
        }
        self.tally.step(&name, took, busy, result.is_ok());
    }

    /// Returns what was built; builds it if this is the first suite that asks.
    fn build(&mut self) -> Result<&Binaries> {
        let binaries = match self.binaries.take() {
            Some(binaries) => binaries,
            None => Binaries::build()?,
        };
        Ok(self.binaries.insert(binaries))
    }

    /// Checks what the agent's program says of itself. Alone this suite needs no tests built.
    fn docs(&self) -> Result<()> {
        let programs;
        let built = match &self.binaries {
            Some(built) => built,
            None => {
                programs = Binaries::programs()?;
                &programs
            }
        };
        docs::run(docs::Mode::Check, Some(built.program("mesh-node")?))
    }

    /// Runs the tests of some packages and counts what their binaries say; all of them, also after one failed.
    fn tests(&mut self, packages: &[&str], how: How) -> Result<()> {
        self.build()?;
        let Self { tally, binaries, .. } = self;
        let binaries = binaries.as_ref().expect("they were built just now");
        let before = tally.tests();
        let mut failed = Vec::new();
        let threads = how.threads(available_parallelism().map_or(1, NonZero::get));
        for round in how.rounds(binaries.of(packages).collect(), |test| test.target()) {
            let work = |test: &&Binary, say: &dyn Fn(&str)| binaries.run(test, threads, say);
            let mut counted = tally.tests();
            side_by_side::run(&round.jobs, round.at_once, work, |said| match said {
                Said::Line(line) => show(tally, &line),
                Said::End(result) => {
                    if let Err(error) = result {
                        failed.push(format!("{error:#}"));
                        tally.count_crash(counted, &failed[failed.len() - 1]);
                    }
                    counted = tally.tests();
                }
            });
        }
        if !failed.is_empty() {
            bail!("{}", failed.join("; "));
        }
        if tally.tests() == before {
            bail!("no test ran");
        }
        Ok(())
    }

    /// Builds Kubernetes first: ten minutes of a cold run are no test's.
    fn cluster(&mut self) -> Result<()> {
        let program = self.build()?.program("mesh-cluster")?;
        process::run(process::command(program).arg("build"))?;
        self.tests(&["mesh-test-cluster"], plan::CLUSTER)
    }

    /// Builds the commit before this one, too, if this clone has it.
    fn skew(&mut self) -> Result<()> {
        let previous = Previous::find()?;
        process::run(process::command(self.build()?.program("mesh-cluster")?).arg("build"))?;
        self.binaries
            .as_mut()
            .expect("they were built just now")
            .add_previous(previous.build(Profile::Debug)?);
        self.tests(&["mesh-test-skew"], plan::USUAL)
    }

    /// Runs kernel tests on the oldest kernel that is promised, and counts what their binaries say.
    fn oldest_kernel(&mut self) -> Result<()> {
        self.build()?;
        let Self { tally, binaries, .. } = self;
        let before = tally.tests();
        vm::run(binaries.as_ref().expect("they were built just now"), |line| show(tally, line))?;
        if tally.tests() == before {
            bail!("no test ran");
        }
        Ok(())
    }
}
