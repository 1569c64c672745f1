//! Fuzzing: every target of `tests/fuzz`, built for libFuzzer by the stable compiler, run from its kept inputs.
//!
//! In: how long each may run. Out: a line for each; for one that fails the input, where it is, and how to play it again. No
//! target is named here: every program of that workspace is one.

use std::cell::RefCell;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;
use std::{fs, process::Command};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::MetadataCommand;
use serde_json::Value;

use crate::side_by_side::{self, Said};
use crate::{process, workspace};

/// The workspace of the targets.
const MANIFEST: &str = "tests/fuzz/Cargo.toml";

/// Have LLVM note which code an input reaches, and what it compares. A nightly is needed for sanitizers alone, and those look
/// for what safe Rust does not have. They are told to the target's code alone, not to build scripts: `--target` does that.
const COVERAGE: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// How long each target looks for new inputs where nobody says how long.
const SHORT: Duration = Duration::from_secs(5);
/// Seconds that one input may take: a target that hangs ends, one on a crowded machine does not.
const ONE_INPUT: u64 = 25;
/// Inputs of a short run: a machine that is fast needs no more.
const INPUTS: u64 = 2_000_000;
/// MiB that a target may take.
const MEMORY: u64 = 512;

/// One program for libFuzzer.
struct Target {
    name: String,
    program: PathBuf,
}

/// Where the inputs of one target are.
struct Folders {
    /// Kept in the repository.
    kept: PathBuf,
    /// What was found: by a short run thrown away, by a long one the next one's start.
    found: PathBuf,
    /// What a target failed on.
    failed: PathBuf,
}

/// Builds all targets and runs each, as many at a time as there are processors.
///
/// # Errors
/// A target does not build, has no kept input, or fails on an input.
pub fn run(seconds: Option<NonZero<u64>>) -> Result<()> {
    let targets = build()?;
    let short = tempfile::tempdir().context("make a folder for what is found")?;
    let long = workspace::root().join("tests/fuzz/target/found");
    let found = if seconds.is_some() { &long } else { short.path() };
    let failed = RefCell::new(Vec::new());
    let at_once = available_parallelism().map_or(1, NonZero::get);
    let work = |target: &Target, say: &dyn Fn(&str)| {
        let summary = look(target, seconds, &Folders::of(target, found)?)?;
        say(&format!("{:<14} {summary}", target.name));
        anyhow::Ok(())
    };
    side_by_side::run(&targets, at_once, work, |said| match said {
        Said::Line(line) => println!("{line}"),
        Said::End(Ok(())) => {}
        Said::End(Err(error)) => {
            println!("{error:#}");
            failed.borrow_mut().push(error.to_string().lines().next().unwrap_or_default().to_owned());
        }
    });
    let failed = failed.into_inner();
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// The names of all targets.
fn names() -> Result<Vec<String>> {
    let manifest = workspace::root().join(MANIFEST);
    let metadata =
        MetadataCommand::new().manifest_path(manifest).no_deps().exec().context("list the fuzz targets")?;
    let targets = metadata.packages.into_iter().flat_map(|package| package.targets);
    let mut names: Vec<String> = targets.filter(|target| target.is_bin()).map(|target| target.name).collect();
    names.sort_unstable();
    Ok(names)
}

fn build() -> Result<Vec<Target>> {
    let names = names()?;
    let host = host()?;
    let mut cargo = process::cargo(&["build", "--quiet", "--locked", "--release", "--bins"]);
    cargo.args([
        "--manifest-path",
        MANIFEST,
        "--message-format",
        "json-render-diagnostics",
        "--target",
        &host,
    ]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f"));
    let mut targets = Vec::new();
    for line in process::output(&mut cargo)?.lines() {
        let message: Value = serde_json::from_str(line).context("read what cargo built")?;
        if let (Some(program), Some(name)) =
            (message["executable"].as_str(), message["target"]["name"].as_str())
        {
            targets.push(Target { name: name.to_owned(), program: program.into() });
        }
    }
    targets.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    ensure!(targets.iter().map(|target| &target.name).eq(&names), "not every target of {MANIFEST} was built");
    Ok(targets)
}

/// The machine that this is, as the compiler calls it.
fn host() -> Result<String> {
    let said = process::output(Command::new("rustc").arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

impl Folders {
    fn of(target: &Target, found: &Path) -> Result<Self> {
        let fuzz = workspace::root().join("tests/fuzz");
        let folder = |parent: &Path| parent.join(&target.name);
        let folders = Self {
            kept: folder(&fuzz.join("corpus")),
            found: folder(found),
            failed: folder(&fuzz.join("artifacts")),
        };
        let has_input = fs::read_dir(&folders.kept).is_ok_and(|mut inputs| inputs.next().is_some());
        ensure!(has_input, "{}: there is no kept input in {}", target.name, folders.kept.display());
        for folder in [&folders.found, &folders.failed] {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        Ok(folders)
    }
}

/// Replays the kept inputs of a target, looks for others, and returns what it did.
fn look(target: &Target, seconds: Option<NonZero<u64>>, folders: &Folders) -> Result<String> {
    let mut command = process::command(&target.program);
    command.args([&folders.found, &folders.kept]);
    command.arg(format!("-artifact_prefix={}/", folders.failed.display()));
    command.args([format!("-timeout={ONE_INPUT}"), format!("-rss_limit_mb={MEMORY}")]);
    command.arg(format!("-max_total_time={}", seconds.map_or(SHORT.as_secs(), NonZero::get)));
    if seconds.is_none() {
        // What one run does not find, another does not either: nobody's change fails for what it did not touch.
        command.args([format!("-runs={INPUTS}"), "-seed=1".to_owned()]);
    }
    command.arg("-print_final_stats=1");
    let mut said = Vec::new();
    let passed = process::watch(command, |line| said.push(line.to_owned()))?;
    if passed {
        return summary(&said)
            .with_context(|| format!("{}: libFuzzer said nothing of coverage", target.name));
    }
    bail!("{}", failure(&target.name, &target.program, &said))
}

/// What libFuzzer did, from what it said; nothing if it did not see which code is reached.
fn summary(said: &[String]) -> Option<String> {
    let done = said.iter().rev().find(|line| line.contains("DONE") && line.contains(" cov: "))?;
    let after = |line: &str, word: &str| -> Option<String> {
        Some(line.split_once(word)?.1.split_whitespace().next()?.to_owned())
    };
    let kept = said.iter().find_map(|line| after(line, "INFO: seed corpus: files: "))?;
    let inputs = said.iter().find_map(|line| after(line, "stat::number_of_executed_units: "))?;
    Some(format!("{inputs} inputs from {kept} kept ones, {} places reached", after(done, " cov: ")?))
}

/// What a person needs to know of a target that failed: first which, and on what.
fn failure(name: &str, program: &Path, said: &[String]) -> String {
    let input = said.iter().find_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path));
    let last = &said[said.len().saturating_sub(60)..];
    let again = match input {
        Some(input) => format!(
            "{name} fails on {input}\nplay it again: {} {input}\nonce it is mended, keep it: tests/fuzz/corpus/{name}/WHAT_IT_IS",
            program.display()
        ),
        None => format!("{name} failed, and left no input"),
    };
    format!("{again}\n{}", last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_kept_inputs_and_no_inputs_lack_a_target() {
        let corpus = workspace::root().join("tests/fuzz/corpus");
        let mut kept: Vec<String> = fs::read_dir(corpus)
            .unwrap()
            .map(|folder| folder.unwrap())
            .inspect(|folder| assert!(fs::read_dir(folder.path()).unwrap().next().is_some()))
            .map(|folder| folder.file_name().into_string().unwrap())
            .collect();
        kept.sort_unstable();
        assert_eq!(kept, names().unwrap());
    }

    #[test]
    fn what_was_done_is_told() {
        let said = [
            "INFO: seed corpus: files: 7 min: 1b max: 20b total: 70b rss: 30Mb",
            "#524288\tDONE   cov: 321 ft: 900 corp: 90/3Kb lim: 4096 exec/s: 104857 rss: 60Mb",
            "stat::number_of_executed_units: 524288",
        ];
        let said = said.map(str::to_owned);
        assert_eq!(summary(&said).as_deref(), Some("524288 inputs from 7 kept ones, 321 places reached"));
        assert_eq!(summary(&said[..1]), None);
    }

    #[test]
    fn a_failure_says_on_what_and_how_to_see_it_again() {
        let said = ["panicked at", "artifact_prefix='a/'; Test unit written to a/crash-1"].map(str::to_owned);
        let text = failure("path", Path::new("/t/path"), &said);
        assert!(text.starts_with("path fails on a/crash-1\nplay it again: /t/path a/crash-1\n"), "{text}");
        assert!(failure("path", Path::new("/t/path"), &[]).starts_with("path failed, and left no input"));
    }
}
