//! Finds the programs that tests start: next to the test's own executable, built once.
//!
//! In: the name of a package and a program. Out: a path. `MESH_NODE_BIN`, `MESH_TEST_POD_BIN`,
//! `MESH_TEST_CONTROLLER_BIN` and `MESH_CLUSTER_BIN` override it. What an earlier commit built is named by
//! `MESH_PREVIOUS_NODE_BIN` and `MESH_PREVIOUS_CONTROLLER_BIN`, its manifests by `MESH_PREVIOUS_MANIFESTS`, and by nothing
//! else.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

const PREVIOUS_MANIFESTS: &str = "MESH_PREVIOUS_MANIFESTS";
const BUILDS_PREVIOUS: &str = "cargo xtask test skew builds the commit before this one and sets it";

/// Which build of a program: the mesh has two at a time while it is upgraded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Build {
    /// What stands here.
    #[default]
    Own,
    /// An earlier commit's.
    Previous,
}

impl Build {
    /// The daemon and command line of this build.
    ///
    /// # Errors
    /// It can neither be found nor built.
    pub fn mesh_node(self) -> Result<&'static Path> {
        static PREVIOUS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        match self {
            Self::Own => mesh_node(),
            Self::Previous => found(&PREVIOUS, || previous("MESH_PREVIOUS_NODE_BIN")),
        }
    }

    /// `flags` without those of `not_needed`, and their values, that the agent of this build does not have.
    ///
    /// # Errors
    /// It cannot be found, or does not say what it has.
    pub fn understood(self, flags: &[String], not_needed: &[&str]) -> Result<Vec<String>> {
        static PREVIOUS: OnceLock<Result<String, String>> = OnceLock::new();
        if self == Self::Own {
            return Ok(flags.to_vec());
        }
        let program = self.mesh_node()?;
        let help = PREVIOUS.get_or_init(|| help_of_agent(program).map_err(|error| format!("{error:#}")));
        let help = help.as_ref().map_err(|error| anyhow!("{error}"))?;
        let is_unknown = |flag: &String| not_needed.contains(&flag.as_str()) && !help.contains(flag.as_str());
        let (mut understood, mut left) = (Vec::new(), flags.iter());
        while let Some(flag) = left.next() {
            match is_unknown(flag) {
                true => drop(left.next()),
                false => understood.push(flag.clone()),
            }
        }
        Ok(understood)
    }

    /// The controller for tests of this build.
    ///
    /// # Errors
    /// It can neither be found nor built.
    pub fn test_controller(self) -> Result<&'static Path> {
        static PREVIOUS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        match self {
            Self::Own => test_controller(),
            Self::Previous => found(&PREVIOUS, || previous("MESH_PREVIOUS_CONTROLLER_BIN")),
        }
    }
}

/// The daemon.
///
/// # Errors
/// It is neither named by `MESH_NODE_BIN` nor can be built.
pub fn mesh_node() -> Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    found(&FOUND, || locate("MESH_NODE_BIN", "mesh-node", "mesh-node"))
}

/// The servers and clients that run inside pods.
///
/// # Errors
/// It is neither named by `MESH_TEST_POD_BIN` nor can be built.
pub fn test_pod() -> Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    found(&FOUND, || locate("MESH_TEST_POD_BIN", "mesh-test-harness", "mesh-test-pod"))
}

/// What makes a Kubernetes of this machine's own, and is the first process of its nodes.
///
/// # Errors
/// It is neither named by `MESH_CLUSTER_BIN` nor can be built.
pub fn cluster() -> Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    found(&FOUND, || locate("MESH_CLUSTER_BIN", "mesh-test-cluster", "mesh-cluster"))
}

/// A controller that reads its objects from a folder.
///
/// # Errors
/// It is neither named by `MESH_TEST_CONTROLLER_BIN` nor can be built.
pub fn test_controller() -> Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    found(&FOUND, || locate("MESH_TEST_CONTROLLER_BIN", "mesh-test-e2e", "mesh-test-controller"))
}

fn found(
    cell: &'static OnceLock<Result<PathBuf, String>>,
    locate: impl FnOnce() -> Result<PathBuf>,
) -> Result<&'static Path> {
    match cell.get_or_init(|| locate().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(error) => bail!("{error}"),
    }
}

fn previous(variable: &str) -> Result<PathBuf> {
    named(variable)?.with_context(|| format!("{variable} is not set; {BUILDS_PREVIOUS}"))
}

/// What the agent's flags are.
fn help_of_agent(program: &Path) -> Result<String> {
    let output = Command::new(program).args(["agent", "--help"]).output();
    let output = output.with_context(|| format!("start {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The folder of an earlier commit's manifests.
///
/// # Errors
/// Nothing names it.
pub fn previous_manifests() -> Result<PathBuf> {
    let named = env::var_os(PREVIOUS_MANIFESTS).map(PathBuf::from);
    named.with_context(|| format!("{PREVIOUS_MANIFESTS} is not set; {BUILDS_PREVIOUS}"))
}

/// The file that a variable names, if it is set.
fn named(variable: &str) -> Result<Option<PathBuf>> {
    let Some(path) = env::var_os(variable).map(PathBuf::from) else { return Ok(None) };
    if !path.is_file() {
        bail!("{variable} names {}, which is no file", path.display());
    }
    Ok(Some(path))
}

fn locate(variable: &str, package: &str, program: &str) -> Result<PathBuf> {
    if let Some(path) = named(variable)? {
        return Ok(path);
    }
    let own = env::current_exe().context("find the test's own executable")?;
    if own.ends_with(program) {
        return Ok(own);
    }
    let profile = profile_folder(&own)?;
    build(package, program, profile)?;
    let path = profile.join(program);
    if !path.is_file() {
        bail!("{package} was built and {} is not there", path.display());
    }
    Ok(path)
}

/// `TARGET/debug` of `TARGET/debug/xtask` and of `TARGET/debug/deps/test-0123`.
fn profile_folder(own: &Path) -> Result<&Path> {
    let folder = own.parent().context("an executable has a folder")?;
    if folder.ends_with("deps") {
        return folder.parent().context("deps has a parent");
    }
    Ok(folder)
}

/// Cargo decides whether there is anything to do; a second call costs a fraction of a second.
fn build(package: &str, program: &str, profile: &Path) -> Result<()> {
    let target = profile.parent().context("a profile's folder has a parent")?;
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--package", package, "--bin", program]);
    command.env("CARGO_TARGET_DIR", target);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    // The folder of this crate: cargo finds the workspace from it, wherever the test runs.
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = command.status().context("start cargo")?;
    if !status.success() {
        bail!("cargo build --package {package} ended with {status}");
    }
    Ok(())
}
