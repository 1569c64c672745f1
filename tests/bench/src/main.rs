//! Throughput, latency, CPU and memory through two agents, against no mesh and against two Envoys; and the control plane of a
//! large cluster; and what a hostile pod costs.

mod attacks;
mod control;
mod detect;
mod edits;
mod envoy;
mod figures;
mod goals;
mod grpc;
mod hold;
mod load;
mod machine;
mod report;
mod rounds;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::report::Report;
use crate::rounds::Rounds;
use crate::world::{Traffic, Way, World};

#[derive(Parser)]
#[command(name = "mesh-bench", about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure every way and print a table of ratios
    Run(RunArgs),
    /// Measure a controller, the streams of many agents and one whole agent of a large cluster
    Control(control::ControlArgs),
    /// Measure what a hostile pod costs a client beside it, and the daemons
    Attacks(attacks::AttackArgs),
    /// Call a gRPC server at a pace and print what was measured as JSON
    Paced {
        /// Whom to call
        address: SocketAddr,
        /// Milliseconds from one call to the next
        #[arg(long, default_value_t = 5)]
        every_ms: u64,
        /// How long, in milliseconds
        #[arg(long, default_value_t = 2000)]
        for_ms: u64,
    },
    /// Measure what it costs that a port declares nothing
    Detect {
        /// How often everything is measured
        #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u8).range(1..))]
        rounds: u8,
        /// File for the figures as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Serve what is measured by it, as an application in a pod
    FirstByteServer,
    /// Connect to addresses in turn and print how long the first byte of an answer took, as JSON
    FirstByte {
        /// What is spoken there
        spoken: detect::Spoken,
        /// Whom to call
        addresses: Vec<SocketAddr>,
    },
    /// Open connections, have one request answered on each, and keep them until standard input ends
    Hold {
        /// Whom to call
        address: SocketAddr,
        /// How many connections
        #[arg(long, default_value_t = 2000)]
        connections: usize,
    },
    /// Serve unary gRPC echoes, as an application in a pod
    GrpcServer {
        /// Where to listen
        address: SocketAddr,
    },
    /// Call a server's echo and print what was measured as JSON
    GrpcLoad {
        /// Whom to call
        address: SocketAddr,
        /// Connections, each with one call at a time
        #[arg(long, default_value_t = 32)]
        connections: usize,
        /// How long, in seconds
        #[arg(long, default_value_t = 2)]
        seconds: u64,
    },
}

/// What is measured, and how long.
#[derive(Args)]
struct RunArgs {
    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Seconds that each load lasts
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Idle connections for the figure of memory
    #[arg(long, default_value_t = 2000)]
    idle_connections: usize,
    /// Kinds of traffic
    #[arg(long, value_delimiter = ',', default_values = ["l4", "http1", "grpc"])]
    traffic: Vec<Traffic>,
    /// Ways from client to server
    #[arg(long, value_delimiter = ',', default_values = ["direct", "nodemesh", "envoy"])]
    ways: Vec<Way>,
    /// Envoy's program
    #[arg(long, default_value = "envoy")]
    envoy: PathBuf,
    /// File for the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// More flags of both agents
    #[arg(last = true)]
    agent_flags: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let command = match CommandLine::parse().command {
        Command::Run(args) => return run(args),
        Command::Attacks(args) => return attacks::run(&args),
        Command::Detect { rounds, json } => return detect(rounds.into(), json),
        Command::FirstByte { spoken, addresses } => {
            println!("{}", detect::first_byte(spoken, &addresses)?);
            return Ok(());
        }
        Command::Control(args) => {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            return runtime.block_on(control::run(args));
        }
        command => command,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        match command {
            Command::Run(_)
            | Command::Control(_)
            | Command::Attacks(_)
            | Command::Detect { .. }
            | Command::FirstByte { .. } => unreachable!("they were run above"),
            Command::Paced { address, every_ms, for_ms } => {
                let (pause, length) = (Duration::from_millis(every_ms), Duration::from_millis(for_ms));
                let measured =
                    attacks::Paced::measure(address, pause, length).await.context("call at a pace")?;
                println!("{}", measured.json());
                Ok(())
            }
            Command::FirstByteServer => detect::serve().await.context("serve first bytes"),
            Command::Hold { address, connections } => hold::hold(address, connections).await,
            Command::GrpcServer { address } => grpc::serve(address).await.context("serve gRPC"),
            Command::GrpcLoad { address, connections, seconds } => {
                let measured = grpc::load(address, connections, seconds).await.context("load gRPC")?;
                println!("{}", measured.json());
                Ok(())
            }
        }
    })
}

fn run(args: RunArgs) -> anyhow::Result<()> {
    let world = World::start(&args.envoy, &args.traffic, &args.ways, &args.agent_flags)?;
    let baselines = [Way::Envoy, Way::Earlier].into_iter();
    let baseline =
        baselines.fold(Way::Direct, |other, way| if args.ways.contains(&way) { way } else { other });
    let baseline = baseline.name();
    let rounds = Rounds {
        count: args.rounds.into(),
        seconds: args.seconds,
        idle_connections: args.idle_connections,
        traffic: args.traffic,
        ways: args.ways,
    };
    let measures_mesh = rounds.ways.contains(&Way::Nodemesh);
    let mut report = rounds.run(&world).inspect_err(|_| eprintln!("{}", world.excuses()))?;
    drop(world);
    if measures_mesh {
        edits::measure(&mut report)?;
        detect::measure(&mut report, args.rounds.into())?;
    }
    tell(&report, baseline, args.json)
}

fn detect(rounds: usize, json: Option<PathBuf>) -> anyhow::Result<()> {
    let mut report = Report::default();
    detect::measure(&mut report, rounds)?;
    tell(&report, Way::Direct.name(), json)
}

fn tell(report: &Report, baseline: &str, json: Option<PathBuf>) -> anyhow::Result<()> {
    let outcomes = goals::outcomes(report);
    print!("{}\n{}", report.table(baseline), goals::table(&outcomes));
    if let Some(path) = json {
        let all = json!({"figures": report.json(baseline), "goals": goals::json(&outcomes)});
        let text = serde_json::to_string_pretty(&all)?;
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
