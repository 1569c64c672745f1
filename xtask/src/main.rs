//! Build, test, demo and bench: everything a person or CI runs.
//!
//! Owns the order of the steps and what they print. In: one verb of the command line. Out: the exit code. Never
//! holds a step that only CI can run.

mod bench;
mod binaries;
mod build_ebpf;
mod busy;
mod chart;
mod demo;
mod deny;
mod docs;
mod fuzz;
mod image;
mod layers;
mod lint;
mod orphans;
mod plan;
mod previous;
mod process;
mod purity;
mod rights;
mod setup;
mod side_by_side;
mod sizes;
mod source;
mod tally;
mod test;
mod vm;
mod workspace;

use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::test::Suite;

/// Build, test, demo and bench Nodemesh
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find or install everything that building and testing need
    Setup {
        /// Install nothing: say what is missing and how to get it
        #[arg(long)]
        check: bool,
    },
    /// Build the kernel programs and print the object's path
    BuildEbpf,
    /// Run what CI runs, or only the named suites
    Test {
        /// Suites to run, in this order [default: all]
        suites: Vec<Suite>,
        /// How long each fuzz target runs, in seconds, and what it finds is kept for the next such run [default: 5, and
        /// nothing is kept]
        #[arg(long)]
        seconds: Option<NonZero<u64>>,
    },
    /// Check layers, purity, orphan files and sizes
    Lint,
    /// Show two nodes at work: capture, encryption, policy, metrics; needs root
    Demo {
        /// Leave everything up at the end, until Enter or Ctrl-C
        #[arg(long)]
        keep: bool,
    },
    /// Measure no mesh, two agents and two Envoys in one run, then the deciders; or, with control, a controller and agents of
    /// a large cluster; or, with detect, what it costs that a port declares nothing; needs root
    Bench {
        /// Words for mesh-bench run, as in --rounds 5 --traffic l4, or control, detect or earlier and words for it, as in control
        /// --agents 100; --help lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Start, look at and end a Kubernetes of this machine's own, with nodes that run pods; needs root and Go
    Cluster {
        /// build, up, status, shell, load, down; --help says more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Build the container image as an OCI archive, without a container engine, and check it
    Image {
        /// The folder that the archive is written to [default: target/image]
        #[arg(long)]
        folder: Option<PathBuf>,
        /// A mesh-node that was built before; without it one is built, which takes some minutes
        #[arg(long)]
        program: Option<PathBuf>,
    },
    /// Write docs/flags.md, docs/metrics.md, docs/kinds.md and manifests/foundation/crds.yaml from the code, docs/rights.md
    /// and manifests/chart from the manifests
    Docs {
        /// Write nothing: fail if a file would change
        #[arg(long)]
        check: bool,
    },
}

/// The program that knows how to make a cluster.
const CLUSTER: &[&str] = &["run", "--quiet", "--package", "mesh-test-cluster", "--bin", "mesh-cluster", "--"];

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup { check } => {
            setup::run_all(if check { setup::May::Look } else { setup::May::Install })?;
        }
        Verb::BuildEbpf => {
            let root = workspace::root();
            let object = build_ebpf::build(&root, &root.join("target/ebpf"))?;
            println!("{}", object.display());
        }
        Verb::Test { suites, seconds } => return test::run(&suites, seconds),
        Verb::Lint => lint::run()?,
        Verb::Demo { keep } => {
            setup::run(setup::May::Install, setup::For::Demo)?;
            demo::run(if keep { demo::Keep::Up } else { demo::Keep::Nothing })?;
        }
        Verb::Bench { words } => bench::run(&words)?,
        Verb::Cluster { words } => return cluster(&words),
        Verb::Image { folder, program } => image::run(folder, program)?,
        Verb::Docs { check } => docs::run(if check { docs::Mode::Check } else { docs::Mode::Write }, None)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Hands on to the program that makes clusters, and its exit code; brings what it needs before it starts one.
fn cluster(words: &[String]) -> Result<ExitCode> {
    let starts = words.first().is_some_and(|verb| verb == "build" || verb == "up");
    if starts && !setup::is_complete(setup::For::All) {
        setup::run(setup::May::Install, setup::For::All)?;
    }
    let status = process::cargo(CLUSTER).args(words).status().context("start cargo")?;
    Ok(u8::try_from(status.code().unwrap_or(1)).map_or(ExitCode::FAILURE, ExitCode::from))
}
