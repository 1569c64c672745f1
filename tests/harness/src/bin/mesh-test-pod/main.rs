//! The program that the harness runs inside pods: servers and clients that report what they see.
//!
//! Each line on standard output is one JSON object with the key `event`. Nothing here knows of a mesh.

mod attack;
mod connection;
mod dial;
mod first;
mod hold;
mod http;
mod http2;
mod interims;
mod load;
mod report;
mod serve;
mod sockets;
mod turn_away;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Accepts connections and does one thing with each
    Serve(serve::Serve),
    /// Opens one connection, sends standard input and reports what came back
    Dial(dial::Dial),
    /// Connects in its first instruction, again and again until it is answered
    First(first::First),
    /// Keeps one connection to an echo server busy until standard input ends
    Hold(hold::Hold),
    /// Sends HTTP requests or gRPC calls until standard input ends and counts what became of them
    Load(load::Load),
    /// Calls a gRPC method over HTTP/2 without TLS and reports how each call ended
    Call(http2::Call),
    /// Attacks a server and reports what it did, and what that cost
    Attack(attack::AttackArguments),
    /// Tells each HTTP/2 connection that it takes no stream, and goes away
    TurnAway(turn_away::TurnAway),
    /// Makes one socket of each kind that might get past a mesh
    Sockets(sockets::Sockets),
    /// Takes the ports of loopback and dials: is anything delivered to them?
    Squat(sockets::Squat),
    /// Waits until standard input ends, then removes everything of a run
    Reap {
        /// Name of the run
        run: String,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Dial(dial) => dial.run(),
        Command::First(first) => first.run(),
        Command::Hold(hold) => hold.run(),
        Command::Load(load) => load.run(),
        Command::Call(call) => call.run(),
        Command::Attack(attack) => attack.run(),
        Command::TurnAway(server) => server.run(),
        Command::Sockets(sockets) => sockets.run(),
        Command::Squat(squat) => squat.run(),
        Command::Reap { run } => mesh_test_harness::run::reap(&run, std::io::stdin()),
    }
}
