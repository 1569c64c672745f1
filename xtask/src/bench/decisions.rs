//! What one decision costs: runs criterion over the pure stages and reads what it found.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::process;

/// What is measured: resolution with 10,000 Services, a connection and a request with 10,000 rules, a token.
const WHICH: &str = "^(resolve|decide|token)";
/// How long each may take, in nanoseconds, by the beginning of its name.
const GOALS: [(&str, f64); 3] =
    [("decide a connection", 2_000.0), ("decide a request", 20_000.0), ("token/cached", 5_000.0)];

/// One decision, median of criterion's samples.
pub struct Decision {
    name: String,
    nanoseconds: f64,
}

/// Builds what [`measure`] runs.
pub fn build() -> Result<()> {
    process::run(&mut process::cargo(&["bench", "--quiet", "--package", "mesh-common", "--no-run"]))
}

/// Measures; `target` is the folder that cargo builds into.
pub fn measure(target: &Path) -> Result<Vec<Decision>> {
    let words =
        ["bench", "--quiet", "--package", "mesh-common", "--bench", "decide", "--bench", "token", "--"];
    let short = ["--quiet", "--noplot", "--warm-up-time", "0.5", "--measurement-time", "1", WHICH];
    let folder = target.join("criterion");
    // What an earlier run left would pass for this one's.
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    let mut criterion = process::cargo(&[&words[..], &short[..]].concat());
    process::output(criterion.env("CRITERION_HOME", &folder))?;
    let mut found = Vec::new();
    read(&folder, &mut found)?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// A line per decision.
pub fn table(decisions: &[Decision]) -> String {
    decisions
        .iter()
        .map(|decision| {
            let verdict = match decision.is_reached() {
                Some(true) => "reached",
                Some(false) => "MISSED",
                None => "",
            };
            format!("{:<88} {:>8.0} ns  {verdict}\n", decision.name, decision.nanoseconds)
        })
        .collect()
}

/// The same as JSON.
pub fn json(decisions: &[Decision]) -> Value {
    let row = |decision: &Decision| json!({"name": decision.name, "nanoseconds": decision.nanoseconds});
    decisions.iter().map(row).collect()
}

/// Those that took longer than they may, and how many have a limit.
pub fn missed(decisions: &[Decision]) -> (Vec<String>, usize) {
    let limited = decisions.iter().filter_map(|decision| Some((decision, decision.is_reached()?)));
    let missed = limited.clone().filter(|(_, reached)| !reached);
    (missed.map(|(decision, _)| decision.name.clone()).collect(), limited.count())
}

impl Decision {
    /// Whether it is quick enough; `None` if it has no limit.
    fn is_reached(&self) -> Option<bool> {
        let (_, goal) = GOALS.iter().find(|(name, _)| self.name.starts_with(name))?;
        Some(self.nanoseconds <= *goal)
    }
}

/// Reads every result below `folder`: criterion keeps one in a folder `new` per measurement.
fn read(folder: &Path, found: &mut Vec<Decision>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        let path = entry.path();
        if entry.file_name() != "new" {
            read(&path, found)?;
            continue;
        }
        let (named, estimated) =
            (json_of(&path.join("benchmark.json"))?, json_of(&path.join("estimates.json"))?);
        let name = named["full_id"].as_str().context("criterion names what it measured")?.to_owned();
        let nanoseconds = estimated["median"]["point_estimate"].as_f64();
        found.push(Decision { name, nanoseconds: nanoseconds.context("criterion estimated a median")? });
    }
    Ok(())
}

fn json_of(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_longer_than_its_goal_is_named() {
        let decision = |name: &str, nanoseconds| Decision { name: name.to_owned(), nanoseconds };
        let decisions = [
            decision("decide a connection, 10,000 Services/outbound", 2_000.0),
            decision("decide a connection, 10,000 Services/inbound", 2_001.0),
            decision("decide a request, 10,000 rules/Unindexed", 9_000.0),
            decision("token/cached", 5_001.0),
            decision("token/new", 90_000.0),
        ];
        let inbound = "decide a connection, 10,000 Services/inbound".to_owned();
        assert_eq!(missed(&decisions), (vec![inbound, "token/cached".to_owned()], 4));
    }
}
