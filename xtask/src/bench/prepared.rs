//! The benches that need no more than optimised builds: prepares one and runs it, `mesh-bench NAME`.

use anyhow::Result;

use crate::{process, setup};

/// Runs bench `name`, which needs `what` of the machine; `words` go to it.
///
/// # Errors
/// If something that it needs cannot be had, or the bench itself fails.
pub fn run(name: &str, what: setup::For, words: &[String]) -> Result<()> {
    setup::run(setup::May::Install, what)?;
    println!("bench: building daemon, bench and test programs with optimisation");
    super::build(&["mesh-node", "mesh-test-bench", "mesh-test-harness"])?;
    let release = super::target()?.join("release");
    let json = super::target()?.join(format!("bench-{name}.json"));
    let mut bench = process::command(release.join("mesh-bench"));
    bench.arg(name).arg("--json").arg(&json).args(words);
    bench.env("MESH_NODE_BIN", release.join("mesh-node"));
    process::run(&mut bench)?;
    println!("figures as JSON: {}", json.display());
    Ok(())
}
