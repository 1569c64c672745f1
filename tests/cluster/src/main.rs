//! `cargo xtask cluster`: a Kubernetes of this machine's own, to try things on.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use mesh_test_cluster::programs::Programs;
use mesh_test_cluster::standing::{self, Standing};

/// Start, look at and end a Kubernetes of this machine's own: an API server and its store on loopback
#[derive(Parser)]
#[command(bin_name = "cargo xtask cluster")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build Kubernetes, if it is not built yet
    Build,
    /// Build what is missing, start the cluster, wait until it is ready and print how to reach it
    Up,
    /// Say whether it stands, and how to reach it
    Status {
        /// How to say it
        #[arg(short, long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Run a shell, or a command, that has kubectl and KUBECONFIG
    Shell {
        /// The command [default: the shell]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// End it and remove all that it made
    Down,
    /// Hold the cluster until a signal comes; what up starts
    #[command(hide = true)]
    Hold,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

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
        Verb::Build => println!("{}", Programs::get()?.part("kubectl").display()),
        Verb::Up => {
            let (standing, took) = Standing::up()?;
            eprintln!("ready after {:.1} s", took.as_secs_f64());
            println!("export KUBECONFIG={}", standing.kubeconfig.display());
        }
        Verb::Status { output } => return status(output),
        Verb::Shell { words } => return shell(&words),
        Verb::Down => standing::present()?.down()?,
        Verb::Hold => standing::hold()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Succeeds if a cluster stands.
fn status(output: Output) -> Result<ExitCode> {
    let standing = Standing::find()?;
    match (output, &standing) {
        (Output::Json, _) => println!("{:#}", serde_json::to_value(&standing)?),
        (Output::Text, None) => println!("no cluster stands; cargo xtask cluster up starts one"),
        (Output::Text, Some(Standing { process, url, kubeconfig })) => {
            println!("process     {process}\nAPI server  {url}\nkubeconfig  {}", kubeconfig.display());
        }
    }
    Ok(if standing.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shell(words: &[String]) -> Result<ExitCode> {
    let standing = standing::present()?;
    let programs = Programs::get()?.part("kubectl");
    let folder = programs.parent().context("a program is in a folder")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([folder.to_owned()].into_iter().chain(std::env::split_paths(&path)))?;
    let own = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let (program, arguments) = words.split_first().map_or((&own, &[][..]), |(first, rest)| (first, rest));
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", path).env("KUBECONFIG", &standing.kubeconfig);
    let status = command.status().with_context(|| format!("start {program}"))?;
    Ok(u8::try_from(status.code().unwrap_or(1)).map_or(ExitCode::FAILURE, ExitCode::from))
}
