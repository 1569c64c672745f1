//! The command line: talks to a running agent over its Unix socket, or to a cluster.
//!
//! In: one verb. Out: text for people or JSON for programs on standard output, and the exit code. Never reads the
//! agent's files or the kernel itself: what it shows is what the agent says, or the API server.

mod authority;
mod authz;
mod client;
mod cluster;
mod explained;
pub mod reference;
mod reference_kinds;
mod render;
mod table;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::client::Client;
use crate::admin::documents::{Certificate, Check, Connection, Log, Policy, Service, Status, Workload};
use crate::system::{print, print_line};

pub use self::authority::{AuthorityArgs, AuthorityError, authority};
pub use self::authz::{AuthzArgs, authz};
pub use self::client::ClientError;
pub use self::cluster::{ClusterArgs, ClusterError, VersionArgs, version};

/// The name under which kubectl finds this program as its plugin.
const PLUGIN: &str = "kubectl-mesh";

/// The command line by the name that a person types: kubectl runs `PLUGIN` for `kubectl mesh`.
pub fn called(command: Command, program: Option<&OsStr>) -> Command {
    let is_plugin = program.and_then(|path| Path::new(path).file_name()).is_some_and(|name| name == PLUGIN);
    if is_plugin { command.name("kubectl mesh").bin_name("kubectl mesh") } else { command }
}

/// Where the agent is, and in which form to answer.
#[derive(Args, Clone, Debug)]
pub struct AnswerArgs {
    /// Unix socket of the agent
    #[arg(
        long,
        env = "NODEMESH_ADMIN_SOCKET",
        value_name = "FILE",
        default_value = "/run/nodemesh/admin.sock"
    )]
    admin_socket: PathBuf,
    /// Form of the answer
    #[arg(long, short, value_name = "FORM", default_value = "text")]
    output: Output,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Tables, for people.
    Text,
    /// JSON, for programs.
    Json,
}

/// `mesh-node status`
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    answer: AnswerArgs,
}

/// `mesh-node check`
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Check a cluster before an installation, and no agent
    #[arg(long)]
    pre: bool,
    #[command(flatten)]
    answer: AnswerArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// `mesh-node dump`
#[derive(Args, Clone, Debug)]
pub struct DumpArgs {
    /// What to show
    what: Dumped,
    #[command(flatten)]
    answer: AnswerArgs,
}

/// What `mesh-node dump` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dumped {
    /// Pods, their identities and addresses.
    Workloads,
    /// Services, their ports and endpoints.
    Services,
    /// Policies, whom they are about and what they say.
    Policies,
    /// Certificates of this node's identities.
    Certificates,
    /// Open connections.
    Connections,
}

/// `mesh-node log`
#[derive(Args, Clone, Debug)]
pub struct LogLevelArgs {
    /// New level, or directives of tracing's filter [default: show what is in force]
    filter: Option<String>,
    #[command(flatten)]
    answer: AnswerArgs,
}

/// Shows how the agent stands.
///
/// # Errors
/// If no agent answers.
pub fn status(args: &StatusArgs) -> Result<ExitCode, ClientError> {
    let status: Status = Client::new(&args.answer.admin_socket).get("/v1/status")?;
    show(&args.answer, &status, render::status);
    Ok(ExitCode::SUCCESS)
}

/// Checks what the agent stands on, or what an installation would; the exit code is 1 if something does not work.
///
/// # Errors
/// If no agent answers.
pub fn check(args: &CheckArgs) -> Result<ExitCode, ClientError> {
    let checks: Vec<Check> = if args.pre {
        cluster::check(&args.cluster).map_err(ClientError::System)?
    } else {
        Client::new(&args.answer.admin_socket).get("/v1/check")?
    };
    show(&args.answer, &checks, |checks| render::checks(checks));
    Ok(cluster::verdict(&checks))
}

/// Shows what the agent knows.
///
/// # Errors
/// If no agent answers.
pub fn dump(args: &DumpArgs) -> Result<ExitCode, ClientError> {
    let answer = &args.answer;
    match args.what {
        Dumped::Workloads => ask::<Workload>(answer, "/v1/dump/workloads", render::workloads),
        Dumped::Services => ask::<Service>(answer, "/v1/dump/services", render::services),
        Dumped::Policies => ask::<Policy>(answer, "/v1/dump/policies", render::policies),
        Dumped::Certificates => ask::<Certificate>(answer, "/v1/dump/certificates", render::certificates),
        Dumped::Connections => ask::<Connection>(answer, "/v1/dump/connections", render::connections),
    }
}

/// Shows or changes what the agent logs.
///
/// # Errors
/// If no agent answers, or the filter cannot be read.
pub fn log(args: &LogLevelArgs) -> Result<ExitCode, ClientError> {
    let client = Client::new(&args.answer.admin_socket);
    let log: Log = match &args.filter {
        None => client.get("/v1/log")?,
        Some(filter) => client.put("/v1/log", &Log { filter: filter.clone() })?,
    };
    show(&args.answer, &log, |log| format!("{}\n", log.filter));
    Ok(ExitCode::SUCCESS)
}

fn ask<T: Serialize + DeserializeOwned>(
    answer: &AnswerArgs,
    path: &str,
    render: fn(&[T]) -> String,
) -> Result<ExitCode, ClientError> {
    let found: Vec<T> = Client::new(&answer.admin_socket).get(path)?;
    show(answer, &found, |found| render(found));
    Ok(ExitCode::SUCCESS)
}

fn show<T: Serialize>(answer: &AnswerArgs, document: &T, text: impl FnOnce(&T) -> String) {
    say(answer.output, document, text);
}

fn say<T: Serialize>(form: Output, document: &T, text: impl FnOnce(&T) -> String) {
    match form {
        Output::Text => print(text(document)),
        Output::Json => {
            let json = serde_json::to_string_pretty(document).expect("documents are plain data: see admin");
            print_line(json);
        }
    }
}

#[cfg(test)]
mod tests;
