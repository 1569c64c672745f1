//! Test binaries and programs: built once, for the whole workspace, so that no suite builds dependencies anew
//! because it selects other packages and with them other features.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;

/// Longest time for one test binary, in seconds: a wait without end must not eat CI's time.
const DEADLINE: &str = "1200";

/// Programs that tests start, by the variable that names each.
const PROGRAMS: [(&str, &str); 4] = [
    ("MESH_NODE_BIN", "mesh-node"),
    ("MESH_TEST_POD_BIN", "mesh-test-pod"),
    ("MESH_TEST_CONTROLLER_BIN", "mesh-test-controller"),
    ("MESH_CLUSTER_BIN", "mesh-cluster"),
];

/// Says how many tests of a binary run at a time.
const THREADS: &str = "RUST_TEST_THREADS";

/// One test binary.
pub struct Binary {
    package: String,
    target: String,
    executable: PathBuf,
    /// Where `cargo test` would run it.
    folder: PathBuf,
}

impl Binary {
    /// What it is called in its package.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The file.
    pub fn executable(&self) -> &Path {
        &self.executable
    }
}

/// Everything that was built.
pub struct Binaries {
    tests: Vec<Binary>,
    /// Programs by name.
    programs: Vec<(String, PathBuf)>,
    /// Programs and files of an earlier commit, by the variable that names each.
    previous: Vec<(&'static str, PathBuf)>,
}

impl Binaries {
    /// Builds all tests and programs, by one call: what only tests want of a dependency (a clock that can be stopped, of
    /// tokio) is one more feature of it, and by two calls everything above it would be built twice.
    pub fn build() -> Result<Self> {
        Self::read(&["build", "--workspace", "--bins", "--tests"])
    }

    /// Builds the programs alone.
    pub fn programs() -> Result<Self> {
        Self::read(&["build", "--workspace", "--bins"])
    }

    /// Has tests find programs of an earlier commit.
    pub fn add_previous(&mut self, programs: Vec<(&'static str, PathBuf)>) {
        self.previous = programs;
    }

    fn read(words: &[&str]) -> Result<Self> {
        let mut built = Self { tests: Vec::new(), programs: Vec::new(), previous: Vec::new() };
        let mut cargo = process::cargo(words);
        cargo.args(["--quiet", "--message-format", "json-render-diagnostics"]);
        for line in process::output(&mut cargo)?.lines() {
            let message: Value = serde_json::from_str(line).context("read what cargo built")?;
            let Some(executable) = message["executable"].as_str().map(PathBuf::from) else {
                continue;
            };
            let target = message["target"]["name"].as_str().unwrap_or_default().to_owned();
            if message["profile"]["test"] != true {
                built.programs.push((target, executable));
                continue;
            }
            let manifest = PathBuf::from(message["manifest_path"].as_str().unwrap_or_default());
            let folder = manifest.parent().context("a manifest stands in a folder")?.to_path_buf();
            let package = package(message["package_id"].as_str().unwrap_or_default(), &folder);
            built.tests.push(Binary { package, target, executable, folder });
        }
        Ok(built)
    }

    /// Returns the test binaries of some packages, in the order of the packages.
    pub fn of<'a>(&'a self, packages: &'a [&str]) -> impl Iterator<Item = &'a Binary> {
        packages.iter().flat_map(|package| self.tests.iter().filter(move |test| test.package == *package))
    }

    /// Returns one test binary.
    pub fn test(&self, package: &str, target: &str) -> Result<&Binary> {
        let found = self.tests.iter().find(|test| test.package == package && test.target == target);
        found.with_context(|| format!("test {target} of {package} was not built"))
    }

    /// Returns where a program is.
    pub fn program(&self, name: &str) -> Result<&Path> {
        match self.programs.iter().find(|(program, _)| program == name) {
            Some((_, path)) => Ok(path),
            None => bail!("{name} was not built"),
        }
    }

    /// Runs a test binary, so many of its tests at a time, and hands on every line, after its name; fails if a test does.
    pub fn run(&self, test: &Binary, threads: usize, line: impl Fn(&str)) -> Result<()> {
        line("");
        line(&format!("-- {} {}", test.package, test.target));
        let mut command = process::command("timeout");
        command.args(["--kill-after=10", DEADLINE]).arg(&test.executable).current_dir(&test.folder);
        command.envs(self.previous.iter().map(|(variable, program)| (variable, program)));
        let programs =
            PROGRAMS.map(|(variable, name)| self.program(name).map(|path| (variable, path.into())));
        let settings = programs.into_iter().collect::<Result<Vec<(_, OsString)>>>()?;
        for (variable, value) in settings.into_iter().chain([(THREADS, threads.to_string().into())]) {
            // A caller's own choice wins, as a release build.
            if std::env::var_os(variable).is_none() {
                command.env(variable, value);
            }
        }
        if !process::watch(command, line)? {
            bail!("tests of {} {} failed", test.package, test.target);
        }
        Ok(())
    }
}

/// Returns the name in a package id: `path+file:///folder#name@version`, or `...#version` where the folder has the
/// name.
fn package(id: &str, folder: &Path) -> String {
    let named = id.rsplit_once('#').and_then(|(_, rest)| rest.split_once('@'));
    match named {
        Some((name, _)) => name.to_owned(),
        None => folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_id_names_its_package() {
        assert_eq!(
            package("path+file:///w/tests/e2e#mesh-test-e2e@0.1.0", Path::new("/w/tests/e2e")),
            "mesh-test-e2e"
        );
        assert_eq!(package("path+file:///w/xtask#0.1.0", Path::new("/w/xtask")), "xtask");
    }
}
