//! The `mesh-node` binary.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use mesh_node::app;
use mesh_node::args::{AgentArgs, ControllerArgs, HoldArgs, UninstallArgs};
use mesh_node::capture::trial_connect;
use mesh_node::cli::reference::Document;
use mesh_node::cli::{self, reference};
use mesh_node::controller;
use mesh_node::system::print;
use mesh_node::telemetry::chain::Chain;

/// A service mesh for Kubernetes without sidecars: the daemon of a node, and its command line.
#[derive(Parser)]
#[command(name = "mesh-node", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Carry the traffic of this node's enrolled pods
    Agent(Box<AgentArgs>),
    /// Run beside the API server: tell agents what their nodes need, sign their pods' certificates
    Controller(Box<ControllerArgs>),
    /// Show how the agent of this node stands
    Status(cli::StatusArgs),
    /// Check what the agent stands on, or with --pre what an installation would; exit code 1 if something does not work
    Check(cli::CheckArgs),
    /// Show the version of this program, of the cluster's controllers and of its agents; exit code 1 if one is not known, or
    /// they are more than one minor version apart
    Version(cli::VersionArgs),
    /// Have the mesh come to another root, and show where that stands
    Ca(cli::AuthorityArgs),
    /// Ask what policy says, and why
    Authz(cli::AuthzArgs),
    /// Show what the agent knows
    Dump(cli::DumpArgs),
    /// Show or change what the agent logs
    Log(cli::LogLevelArgs),
    /// Remove every program, map and link that an agent left; enrolled pods are outside the mesh from then on
    Uninstall(UninstallArgs),
    /// Have new pods of this node wait until the agent's programs stand, after a reboot too; or no longer
    Hold(HoldArgs),
    /// Connect once and say whether that worked: what an agent starts in the pods' cgroup to try itself out
    #[command(hide = true)]
    TrialConnect {
        /// Where to
        address: SocketAddr,
    },
    /// Write a reference document from the code
    #[command(hide = true)]
    Reference {
        /// Which one
        document: Document,
    },
}

fn main() -> ExitCode {
    let program = std::env::args_os().next();
    if app::is_plugin(program.as_deref()) {
        let [command, arguments] = ["CNI_COMMAND", "CNI_ARGS"].map(|name| std::env::var(name).ok());
        return app::cni(app::Call { command: command.as_deref(), arguments: arguments.as_deref() });
    }
    let given = cli::called(CommandLine::command(), program.as_deref()).get_matches();
    let command_line = CommandLine::from_arg_matches(&given).unwrap_or_else(|error| error.exit());
    match run(command_line.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    Ok(match command {
        Command::Agent(args) => {
            app::run(&(*args).into())?;
            ExitCode::SUCCESS
        }
        Command::Controller(args) => {
            controller::run((*args).into())?;
            ExitCode::SUCCESS
        }
        Command::Status(args) => cli::status(&args)?,
        Command::Check(args) => cli::check(&args)?,
        Command::Version(args) => cli::version(&args)?,
        Command::Ca(args) => cli::authority(&args)?,
        Command::Authz(args) => cli::authz(&args),
        Command::Dump(args) => cli::dump(&args)?,
        Command::Log(args) => cli::log(&args)?,
        Command::Uninstall(args) => app::uninstall(&args)?,
        Command::Hold(args) => app::hold(&args)?,
        Command::TrialConnect { address } => {
            trial_connect(address)?;
            ExitCode::SUCCESS
        }
        Command::Reference { document } => {
            print(reference::write(document, &CommandLine::command())?);
            ExitCode::SUCCESS
        }
    })
}
