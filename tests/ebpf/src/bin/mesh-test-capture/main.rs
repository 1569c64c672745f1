//! Stands in for the daemon in kernel tests: captures pods with the daemon's own `kernel` and `capture` modules, and
//! carries their connections in the clear.
//!
//! Each line on standard input is a command; each line on standard output is a JSON object with the key `event`.

mod relay;
mod stand;
mod workloads;

use std::io::BufRead as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use mesh_node::capture::{ControllerLogs, Pods};
use mesh_node::kernel::{Kernel, KernelConfig, KernelReport, RefusedSockets, uninstall};
use serde_json::{Value, json};

use crate::stand::Stand;

#[derive(Parser)]
struct Arguments {
    /// As of the agent
    #[arg(long)]
    cgroup_root: PathBuf,
    /// As of the agent
    #[arg(long)]
    agent_cgroup: PathBuf,
    /// As of the agent
    #[arg(long)]
    pin_dir: PathBuf,
    /// Connects of pods that are not known yet pass
    #[arg(long)]
    unknown_pods_pass: bool,
    /// Enrolled pods may make RAW sockets
    #[arg(long)]
    allow_raw: bool,
    /// Remove what is pinned and say what is left, instead of capturing
    #[arg(long)]
    uninstall: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.uninstall {
        let done = uninstall(&arguments.pin_dir)?.unwrap_or_default();
        say(&json!({ "event": "uninstalled", "removed": done.removed, "left": done.left }));
        return Ok(());
    }
    let report = KernelReport::probe();
    let kernel = Kernel::load(&config(&arguments))?;
    let nobody =
        ControllerLogs { folder: "/nonexistent".into(), namespace: String::new(), workload: String::new() };
    let mut stand = Stand::new(Pods::new(kernel, arguments.cgroup_root.clone(), nobody));
    say(&json!({ "event": "ready", "kernel": report.to_string() }));
    for line in std::io::stdin().lock().lines() {
        let answer = match stand.run(&line?) {
            Ok(result) => json!({ "event": "answer", "result": result }),
            Err(error) => json!({ "event": "answer", "error": format!("{error:#}") }),
        };
        say(&answer);
    }
    Ok(())
}

fn config(arguments: &Arguments) -> KernelConfig {
    KernelConfig {
        cgroup_root: arguments.cgroup_root.clone(),
        agent_cgroup: Some(arguments.agent_cgroup.clone()),
        pin_dir: arguments.pin_dir.clone(),
        unknown_pods_pass: arguments.unknown_pods_pass,
        refused_sockets: RefusedSockets { raw: !arguments.allow_raw, transports: true },
    }
}

pub(crate) fn say(value: &Value) {
    println!("{value}");
}
