//! The programs of Kubernetes, built by the Go tool from pinned modules.
//!
//! In: `kubernetes/` beside this crate. Out: a folder with one program and a link for each part. It is built once for
//! each content of `kubernetes/` and kept in the user's cache, which fresh clones share.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write, stderr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// The module that pins every version.
const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kubernetes");
/// What the program is made of.
const SOURCES: [&str; 3] = ["go.mod", "go.sum", "kubeall/main.go"];
/// The parts, as the program knows them.
const PARTS: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];
/// What the program is built from, beside it.
const BUILT_FROM: &str = "built-from";
/// How often a log that nobody watches gets a line.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// A folder of programs that is complete.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Finds the programs, and builds them if they are not there: ten minutes on two idle cores the first time.
    ///
    /// # Errors
    /// Go is missing or fails, or the cache cannot be written.
    pub fn get() -> Result<Self> {
        Self::get_in(&cache()?)
    }

    fn get_in(cache: &Path) -> Result<Self> {
        let sources = sources(Path::new(MODULE))?;
        let version = version(&sources)?;
        let folder = cache.join(format!("kubernetes-{version}"));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let lock = File::open(&folder).with_context(|| format!("open {}", folder.display()))?;
        // Another run that builds the same is waited for.
        flock(&lock, FlockOperation::LockExclusive).context("lock the folder of Kubernetes' programs")?;
        let programs = Self { folder };
        if fs::read_to_string(programs.folder.join(BUILT_FROM)).is_ok_and(|built| built == sources) {
            return Ok(programs);
        }
        programs.build(version)?;
        fs::write(programs.folder.join(BUILT_FROM), &sources)
            .context("note what the programs were built from")?;
        Ok(programs)
    }

    /// Where a part is.
    pub fn part(&self, name: &str) -> PathBuf {
        debug_assert!(PARTS.contains(&name), "{name} is no part");
        self.folder.join(name)
    }

    fn build(&self, version: &str) -> Result<()> {
        let packages = packages()?;
        let program = self.folder.join("kubeall");
        let mut go = go();
        go.args(["build", "-v", "-trimpath", "-ldflags", &linker_flags(version), "-o"]);
        go.arg(&program).arg("./kubeall");
        let mut progress = Progress::new(format!("building Kubernetes {version}"), packages);
        let mut child = go.stderr(Stdio::piped()).spawn().context(NO_GO)?;
        let mut said = Vec::new();
        for line in BufReader::new(child.stderr.take().context("standard error is piped")?).lines() {
            let line = line.context("read what go says")?;
            progress.step();
            said.push(line);
        }
        progress.end();
        let status = child.wait().context("wait for go")?;
        if !status.success() {
            bail!("go build of Kubernetes {version}: {status}\n{}", last_lines(&said));
        }
        for part in PARTS {
            let link = self.folder.join(part);
            let _ = fs::remove_file(&link);
            symlink("kubeall", &link).with_context(|| format!("link {}", link.display()))?;
        }
        Ok(())
    }
}

const NO_GO: &str =
    "start go; it builds Kubernetes: install Go 1.25 or newer (on Debian the package golang-go of backports)";

/// `$XDG_CACHE_HOME/nodemesh`, or `~/.cache/nodemesh`.
fn cache() -> Result<PathBuf> {
    let own = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = own.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    Ok(caches
        .context("neither XDG_CACHE_HOME nor a home folder is known; set XDG_CACHE_HOME")?
        .join("nodemesh"))
}

fn sources(module: &Path) -> Result<String> {
    let read = |name: &&str| {
        let path = module.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    Ok(SOURCES.iter().map(read).collect::<Result<Vec<_>>>()?.concat())
}

/// The version of Kubernetes, without `v`: what `go.mod` requires says it.
fn version(sources: &str) -> Result<&str> {
    let required = sources.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"));
    required.context("go.mod of the cluster requires no k8s.io/kubernetes")
}

/// The names under which Kubernetes' parts tell their version. Without them clients refuse to speak to it.
fn linker_flags(version: &str) -> String {
    let mut numbers = version.split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let facts = [
        ("gitVersion", format!("v{version}")),
        ("gitMajor", major.to_owned()),
        ("gitMinor", minor.to_owned()),
        ("gitTreeState", "clean".to_owned()),
        ("buildDate", "1970-01-01T00:00:00Z".to_owned()),
    ];
    let set = |(name, value): &(&str, String)| format!(" -X k8s.io/component-base/version.{name}={value}");
    format!("-s -w{}", facts.iter().map(set).collect::<String>())
}

fn go() -> Command {
    let mut go = Command::new("go");
    go.current_dir(MODULE)
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-buildvcs=false");
    go
}

/// How many packages there are to build; brings them all here.
fn packages() -> Result<usize> {
    eprintln!("bringing the modules of Kubernetes here: 600 MB the first time");
    let listed = go().args(["list", "-deps", "./kubeall"]).stderr(Stdio::piped()).output().context(NO_GO)?;
    if !listed.status.success() {
        let said: Vec<String> = String::from_utf8_lossy(&listed.stderr).lines().map(str::to_owned).collect();
        bail!("go list of Kubernetes: {}\n{}", listed.status, last_lines(&said));
    }
    Ok(listed.stdout.split(|byte| *byte == b'\n').count())
}

fn last_lines(said: &[String]) -> String {
    said[said.len().saturating_sub(20)..].join("\n")
}

/// Says how far something is: on a terminal in one line that changes, elsewhere in a line now and then.
struct Progress {
    what: String,
    of: usize,
    done: usize,
    started: Instant,
    said: Instant,
}

impl Progress {
    fn new(what: String, of: usize) -> Self {
        let now = Instant::now();
        Self { what, of, done: 0, started: now, said: now }
    }

    fn step(&mut self) {
        self.done += 1;
        if stderr().is_terminal() {
            eprint!("\r{self}");
            let _ = stderr().flush();
        } else if self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            eprintln!("{self}");
        }
    }

    fn end(&self) {
        let before = if stderr().is_terminal() { "\r" } else { "" };
        eprintln!("{before}{self}");
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, of, done, started, .. } = self;
        write!(formatter, "{what}: {done} packages, at most {of}, {} s", started.elapsed().as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_what_the_module_requires() {
        let sources = sources(Path::new(MODULE)).unwrap();
        let version = version(&sources).unwrap();
        assert_eq!(version.split('.').count(), 3, "{version}");
        assert!(linker_flags(version).contains(&format!("gitVersion=v{version} ")));
        assert!(super::version("module x\n").is_err());
    }
}
