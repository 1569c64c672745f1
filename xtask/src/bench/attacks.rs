//! Prepares the bench of attacks and runs it: release builds, `mesh-bench attacks`.

use anyhow::Result;

use crate::{process, setup};

/// Runs it; `words` go to `mesh-bench attacks`.
///
/// # Errors
/// If something that it needs cannot be had, or the bench itself fails.
pub fn run(words: &[String]) -> Result<()> {
    setup::run(setup::May::Install, setup::For::NoCluster)?;
    println!("bench: building the daemon, the bench and the attacker with optimisation");
    super::build(&["mesh-node", "mesh-test-bench", "mesh-test-harness"])?;
    let release = super::target()?.join("release");
    let json = super::target()?.join("bench-attacks.json");
    let mut bench = process::command(release.join("mesh-bench"));
    bench.arg("attacks").arg("--json").arg(&json).args(words);
    bench.env("MESH_NODE_BIN", release.join("mesh-node"));
    process::run(&mut bench)?;
    println!("figures as JSON: {}", json.display());
    Ok(())
}
