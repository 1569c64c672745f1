//! `cargo xtask cluster`: a Kubernetes of this machine's own, to try things on.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use mesh_test_cluster::cluster::MOST_NODES;
use mesh_test_cluster::conformance::Suite;
use mesh_test_cluster::images;
use mesh_test_cluster::network::Families;
use mesh_test_cluster::node::Inside;
use mesh_test_cluster::node_inside;
use mesh_test_cluster::programs::{self, Programs};
use mesh_test_cluster::standing::{self, Standing};
use mesh_test_harness::binary::Build;

/// Start, look at and end a Kubernetes of this machine's own: a control plane and nodes that run pods
#[derive(Parser)]
#[command(bin_name = "cargo xtask cluster")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build Kubernetes, containerd, runc, the name server, the Gateway API's conformance suite and Helm, if they are not built yet
    Build,
    /// Build what is missing, start the cluster, wait until it is ready and print how to reach it
    Up {
        #[command(flatten)]
        size: Size,
    },
    /// Say whether it stands, and how to reach it and its nodes
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
    /// Give an image to every node
    Load {
        /// The image, as an OCI archive [default: the mesh of this working copy, as tests have it]
        image: Option<PathBuf>,
        /// The images of manifests/samples/application instead, made from Debian's nginx, Python and Redis
        #[arg(long, conflicts_with = "image")]
        application: bool,
    },
    /// Run the Gateway API's official conformance suite against the mesh that is installed on it
    Conformance {
        /// One test, as in MeshBasic [default: the whole core of both mesh profiles]
        #[arg(long, value_name = "NAME")]
        test: Option<String>,
        /// Where the report goes
        #[arg(long, value_name = "FILE", default_value = "target/conformance.yaml")]
        report: PathBuf,
    },
    /// End it and remove all that it made
    Down,
    /// Hold the cluster until a signal comes; what up starts
    #[command(hide = true)]
    Hold {
        #[command(flatten)]
        size: Size,
    },
    /// Enter the namespaces of a node; what starts a node
    #[command(hide = true)]
    Node { inside: String },
    /// Be the first process of a node
    #[command(hide = true)]
    NodeInside { inside: String },
}

#[derive(clap::Args)]
struct Size {
    /// How many nodes; 0 is an API server and its store on loopback, and nothing runs pods
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(..=i64::from(MOST_NODES)))]
    nodes: u8,
    /// Which families of addresses nodes, pods and Services have
    #[arg(long, value_enum, default_value_t)]
    families: Families,
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
        Verb::Build => {
            let kubectl = Programs::get()?.part("kubectl");
            let others =
                [programs::coredns()?, programs::echo()?, programs::conformance()?, programs::helm()?];
            for built in [kubectl].into_iter().chain(programs::runtime()?).chain(others) {
                println!("{}", built.display());
            }
        }
        Verb::Up { size } => {
            let (standing, took) = Standing::up(size.nodes, size.families)?;
            eprintln!("ready after {:.1} s", took.as_secs_f64());
            println!("export KUBECONFIG={}", standing.kubeconfig.display());
        }
        Verb::Status { output } => return status(output),
        Verb::Shell { words } => return shell(&words),
        Verb::Load { image, application } => load(image, application)?,
        Verb::Conformance { test, report } => conformance(test.as_deref(), &report)?,
        Verb::Down => Standing::present()?.down()?,
        Verb::Hold { size } => standing::hold(size.nodes, size.families)?,
        Verb::Node { inside } => node_inside::enter(&told(&inside)?)?,
        Verb::NodeInside { inside } => node_inside::run(&told(&inside)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn conformance(test: Option<&str>, report: &Path) -> Result<()> {
    let standing = Standing::present()?;
    let folder = standing.kubeconfig.with_file_name("images");
    standing.load(&images::echo(&folder)?)?;
    let suite = Suite { kubeconfig: &standing.kubeconfig, test, report, leaves_pods: false };
    suite.apply_definitions()?;
    println!("{}\nthe report: {}", suite.run()?, report.display());
    Ok(())
}

fn load(image: Option<PathBuf>, application: bool) -> Result<()> {
    let standing = Standing::present()?;
    let folder = standing.kubeconfig.with_file_name("images");
    let archives = match image {
        Some(image) => vec![image],
        None if application => images::application(&folder)?,
        None => vec![images::mesh(&folder, Build::Own)?],
    };
    archives.iter().try_for_each(|archive| standing.load(archive))
}

fn told(inside: &str) -> Result<Inside> {
    serde_json::from_str(inside).context("understand what a node is")
}

/// Succeeds if a cluster stands.
fn status(output: Output) -> Result<ExitCode> {
    let standing = Standing::find()?;
    match (output, &standing) {
        (Output::Json, _) => println!("{:#}", serde_json::to_value(&standing)?),
        (Output::Text, None) => println!("no cluster stands; cargo xtask cluster up starts one"),
        (Output::Text, Some(Standing { process, url, kubeconfig, nodes, .. })) => {
            println!("process     {process}\nAPI server  {url}\nkubeconfig  {}", kubeconfig.display());
            for node in nodes {
                println!(
                    "{:<12}{}, process {}, {}",
                    node.name,
                    node.address,
                    node.process,
                    node.logs.display()
                );
            }
        }
    }
    Ok(if standing.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shell(words: &[String]) -> Result<ExitCode> {
    let standing = Standing::present()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [Programs::get()?.folder().to_owned()].into_iter().chain(std::env::split_paths(&path));
    let path = std::env::join_paths(folders)?;
    let own = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let (program, arguments) = words.split_first().map_or((&own, &[][..]), |(first, rest)| (first, rest));
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", path).env("KUBECONFIG", &standing.kubeconfig);
    let status = command.status().with_context(|| format!("start {program}"))?;
    Ok(u8::try_from(status.code().unwrap_or(1)).map_or(ExitCode::FAILURE, ExitCode::from))
}
