//! The programs of an earlier commit, for tests of two builds at a time.
//!
//! In: the repository. Out: the daemon and the controller for tests of the commit before this one, or of the one that
//! `MESH_PREVIOUS_REVISION` names. What both commits depend on is built once: only the workspace's own packages are
//! built anew.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;

/// Names another commit than the one before this: the last release, as an example.
const REVISION: &str = "MESH_PREVIOUS_REVISION";
/// What is built, by package and by the variable that tells tests where it is.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("mesh-node", "mesh-node", "MESH_PREVIOUS_NODE_BIN"),
    ("mesh-test-e2e", "mesh-test-controller", "MESH_PREVIOUS_CONTROLLER_BIN"),
];
/// Names its manifests.
const MANIFESTS: &str = "MESH_PREVIOUS_MANIFESTS";
/// Packages of the workspace that those are made of. Cargo takes them for the same as this commit's: by a setting of their
/// own they get files of their own in the folder that both commits share.
const OWN: [&str; 5] = ["mesh-common", "mesh-ebpf", "mesh-node", "mesh-test-harness", "mesh-test-e2e"];

/// How it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As tests need it.
    Debug,
    /// As the bench needs it: the daemon alone.
    Release,
}

/// A commit that this clone has.
pub struct Previous {
    commit: String,
}

impl Previous {
    /// Finds it.
    ///
    /// # Errors
    /// This clone does not have it.
    pub fn find() -> Result<Self> {
        let revision = std::env::var(REVISION).unwrap_or_else(|_| "HEAD~1".to_owned());
        let commit = commit(&revision)?;
        println!("the earlier build is that of {revision}, {commit}");
        Ok(Self { commit })
    }

    /// Builds its programs; returns where they and its manifests are, by variable.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn build(&self, profile: Profile) -> Result<Vec<(&'static str, PathBuf)>> {
        let (name, programs) = match profile {
            Profile::Debug => ("dev", &PROGRAMS[..]),
            Profile::Release => ("release", &PROGRAMS[..1]),
        };
        let shared = shared_folder()?;
        let own = shared.join("previous");
        let source = own.join("source");
        check_out(&self.commit, &source)?;
        let mut cargo = process::cargo(&["build", "--quiet", "--message-format", "json-render-diagnostics"]);
        cargo.args(["--profile", name]);
        for (package, program, _) in programs {
            cargo.args(["--package", package, "--bin", program]);
        }
        for package in OWN {
            cargo.args(["--config", &format!("profile.{name}.package.{package}.debug=false")]);
        }
        // Not by the environment: the cargo that builds the kernel programs inside this one would wait for its lock.
        cargo.args(["--config", &format!("build.build-dir={shared:?}")]);
        cargo.current_dir(&source).env("CARGO_TARGET_DIR", own);
        let built = process::output(&mut cargo).with_context(|| format!("build {}", self.commit))?;
        let manifests = (MANIFESTS, source.join("manifests"));
        let programs =
            programs.iter().map(|(_, program, variable)| Ok((*variable, executable(&built, program)?)));
        programs.chain([Ok(manifests)]).collect()
    }
}

fn commit(revision: &str) -> Result<String> {
    let mut git = process::command("git");
    git.args(["rev-parse", "--verify", "--quiet", &format!("{revision}^{{commit}}")]);
    let found = git.output().context("start git")?;
    if !found.status.success() {
        bail!(
            "this clone has no {revision}: a shallow one has no earlier commit. Bring it with git fetch --deepen=1, or name \
             one that is here by {REVISION}"
        );
    }
    Ok(String::from_utf8_lossy(&found.stdout).trim().to_owned())
}

/// Cargo's folder of this very build.
fn shared_folder() -> Result<PathBuf> {
    let metadata = process::output(&mut process::cargo(&["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("read cargo metadata")?;
    let folder = metadata["build_directory"].as_str().or_else(|| metadata["target_directory"].as_str());
    folder.map(PathBuf::from).context("cargo metadata names a target folder")
}

/// Has the commit's files in a work tree of their own. Files that an earlier run left and that are the same keep their
/// times, by which cargo knows what to build.
fn check_out(commit: &str, source: &Path) -> Result<()> {
    if source.join(".git").is_file() {
        let in_source = |words: &[&str]| process::run(Command::new("git").arg("-C").arg(source).args(words));
        let kept = in_source(&["checkout", "--quiet", "--detach", "--force", commit]);
        if kept.and_then(|()| in_source(&["clean", "--quiet", "-ffdx"])).is_ok() {
            return Ok(());
        }
    }
    if source.exists() {
        std::fs::remove_dir_all(source).with_context(|| format!("remove {}", source.display()))?;
    }
    process::run(process::command("git").args(["worktree", "prune"]))?;
    let mut add = process::command("git");
    add.args(["worktree", "add", "--quiet", "--force", "--detach"]).arg(source).arg(commit);
    process::run(&mut add)
}

fn executable(built: &str, program: &str) -> Result<PathBuf> {
    let messages = built.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages.filter(|message| message["target"]["name"] == program);
    let path = programs.find_map(|message| message["executable"].as_str().map(PathBuf::from));
    path.with_context(|| format!("cargo built no {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_is_not_here_is_said_with_what_to_do() {
        let error = commit("no-such-revision").unwrap_err().to_string();
        assert!(error.contains("git fetch --deepen=1"), "{error}");
    }

    #[test]
    fn a_program_is_found_among_what_cargo_says() {
        let said = r#"{"reason":"compiler-artifact","target":{"name":"mesh-node"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"mesh-node"},"executable":"/t/debug/mesh-node"}"#;
        assert_eq!(executable(said, "mesh-node").unwrap(), Path::new("/t/debug/mesh-node"));
        assert!(executable(said, "mesh-test-controller").is_err());
    }
}
