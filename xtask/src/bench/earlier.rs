//! Measures an earlier commit's daemon beside this one's, round by round: what was added since may cost little.

use anyhow::Result;

use crate::previous::{Previous, Profile};
use crate::{process, setup};

/// Runs it; `words` go to `mesh-bench run`. Which commit is said by `MESH_PREVIOUS_REVISION`.
///
/// # Errors
/// If the commit is not in this clone, something that the bench needs cannot be had, or the bench itself fails.
pub fn run(words: &[String]) -> Result<()> {
    setup::run(setup::May::Install, setup::For::NoCluster)?;
    let previous = Previous::find()?;
    println!("bench: building both daemons and the bench with optimisation");
    super::build(&["mesh-node", "mesh-test-bench", "mesh-test-harness"])?;
    let release = super::target()?.join("release");
    let json = super::target()?.join("bench-earlier.json");
    let mut bench = process::command(release.join("mesh-bench"));
    bench.args(["run", "--ways", "direct,earlier,nodemesh"]).arg("--json").arg(&json).args(words);
    bench.env("MESH_NODE_BIN", release.join("mesh-node")).envs(previous.build(Profile::Release)?);
    process::run(&mut bench)?;
    println!("figures as JSON: {}", json.display());
    Ok(())
}
