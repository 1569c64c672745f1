//! Programs that the Go tool builds from pinned modules.
//!
//! In: a module's folder and what to build of it. Out: a folder with the program. It is built once for each content of
//! the module and kept in the user's cache, which fresh clones share.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// What the program is built from, beside it.
const BUILT_FROM: &str = "built-from";
/// How often a log that nobody watches gets a line.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// Where Go is when it is not on the path: its own package, then Debian's.
const FOLDERS: [&str; 2] = ["/usr/local/go/bin", "/usr/lib/go/bin"];

/// What is built from a module.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The name of the program, as a person knows it.
    pub title: &'static str,
    /// The folder of the module.
    pub module: &'static str,
    /// What it requires, beside a file with sums of the same name: `go`, or another name for other versions.
    pub requirements: &'static str,
    /// The module whose version there is the program's.
    pub versioned: &'static str,
    /// What go is told to do: `build`, or `test -c` for a suite as a program.
    pub verb: &'static [&'static str],
    /// The packages, from the module's folder.
    pub packages: &'static [&'static str],
    /// The file that the program becomes; a folder, as in `.`, if there are several packages.
    pub program: &'static str,
    /// Whether parts of it are C, which a compiler and the headers of its libraries are needed for.
    pub has_c: bool,
    /// The source, from the module's folder.
    pub source: &'static str,
    /// What the linker is told besides dropping the tables for debuggers, for a version.
    pub linker_flags: fn(&str) -> String,
}

impl Recipe {
    /// Returns the folder with the program; builds it first if it is not there, and calls `finish` on the folder then.
    ///
    /// # Errors
    /// Go is missing or fails, or the cache cannot be written.
    pub fn get(&self, finish: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let sources = self.sources()?;
        let version = self.version(&sources)?;
        let folder = cache()?.join(format!("{}-{version}", self.title.to_lowercase()));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let lock = File::open(&folder).with_context(|| format!("open {}", folder.display()))?;
        // Another run that builds the same is waited for.
        flock(&lock, FlockOperation::LockExclusive)
            .with_context(|| format!("lock the folder of {}", self.title))?;
        if fs::read_to_string(folder.join(BUILT_FROM)).is_ok_and(|built| built == sources) {
            return Ok(folder);
        }
        self.build(version, &folder.join(self.program))?;
        finish(&folder)?;
        let note = fs::write(folder.join(BUILT_FROM), &sources);
        note.with_context(|| format!("note what {} was built from", self.title))?;
        Ok(folder)
    }

    /// Where the source of a module is that this one requires, which a build brings here.
    ///
    /// # Errors
    /// Go is missing or fails.
    pub fn folder_of(&self, module: &str) -> Result<PathBuf> {
        let mut list = self.go(&["list"]);
        list.args(["-m", "-f", "{{.Dir}}", module]);
        let listed = list.output().context(NO_GO)?;
        let folder = String::from_utf8_lossy(&listed.stdout).trim().to_owned();
        if !listed.status.success() || folder.is_empty() {
            bail!("go list of {module}: {}", String::from_utf8_lossy(&listed.stderr).trim());
        }
        Ok(folder.into())
    }

    /// The version that is built, without `v`.
    ///
    /// # Errors
    /// The module's files cannot be read, or require no such module.
    pub fn pinned(&self) -> Result<String> {
        self.version(&self.sources()?).map(str::to_owned)
    }

    /// Everything that decides what is built, one file after another.
    fn sources(&self) -> Result<String> {
        let read = |name: &str| {
            let path = Path::new(self.module).join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let sums = format!("{}.sum", self.requirements);
        Ok([read(&self.required())?, read(&sums)?, read(self.source)?].concat())
    }

    /// The file that says which modules, and of which versions.
    fn required(&self) -> String {
        format!("{}.mod", self.requirements)
    }

    /// The version, without `v`: what the module requires says it.
    fn version<'a>(&self, sources: &'a str) -> Result<&'a str> {
        version_of(self.versioned, sources)
            .with_context(|| format!("{}/{} requires no {}", self.module, self.required(), self.versioned))
    }

    fn build(&self, version: &str, program: &Path) -> Result<()> {
        let packages = self.dependencies()?;
        let flags = format!("-s -w{}", (self.linker_flags)(version));
        let mut go = self.go(self.verb);
        go.args(["-v", "-trimpath", "-ldflags", &flags, "-o"]).arg(program);
        go.args(self.packages);
        let mut progress = Progress::new(format!("building {} {version}", self.title), packages);
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
            bail!("go build of {} {version}: {status}\n{}", self.title, last_lines(&said));
        }
        Ok(())
    }

    /// How many packages there are to build; brings them all here.
    fn dependencies(&self) -> Result<usize> {
        eprintln!("bringing the modules of {} here, if they are not: hundreds of megabytes", self.title);
        let mut list = self.go(&["list"]);
        list.arg("-deps");
        if self.verb.contains(&"test") {
            list.arg("-test");
        }
        list.args(self.packages);
        let listed = list.stderr(Stdio::piped()).output().context(NO_GO)?;
        if !listed.status.success() {
            let said: Vec<String> =
                String::from_utf8_lossy(&listed.stderr).lines().map(str::to_owned).collect();
            bail!("go list of {}: {}\n{}", self.title, listed.status, last_lines(&said));
        }
        Ok(listed.stdout.split(|byte| *byte == b'\n').count())
    }

    fn go(&self, verb: &[&str]) -> Command {
        let mut go = go(self.module, verb);
        go.env("CGO_ENABLED", if self.has_c { "1" } else { "0" });
        go.arg(format!("-modfile={}", self.required()));
        go
    }
}

/// A module that files are taken from as they are.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The folder of a module that requires it, and has its sum.
    pub required_by: &'static str,
    /// Its name.
    pub name: &'static str,
}

impl Source {
    /// Where its files are; brings them here.
    ///
    /// # Errors
    /// Go is missing or fails, or the files are not those of the sum.
    pub fn folder(&self) -> Result<PathBuf> {
        let required = Path::new(self.required_by).join("go.mod");
        let required =
            fs::read_to_string(&required).with_context(|| format!("read {}", required.display()))?;
        let version = version_of(self.name, &required)
            .with_context(|| format!("{} requires no {}", self.required_by, self.name))?;
        // With its version: what it needs to be built is nobody's business here.
        let module = format!("{}@v{version}", self.name);
        let brought = go(self.required_by, &["mod", "download", "-json", &module]).output().context(NO_GO)?;
        if !brought.status.success() {
            bail!("go mod download {module}: {}", String::from_utf8_lossy(&brought.stdout).trim());
        }
        let said: serde_json::Value = serde_json::from_slice(&brought.stdout).context("read what go says")?;
        Ok(said["Dir"].as_str().context("go says where it put a module")?.into())
    }
}

/// Go, wherever it is, to do something with the module in a folder.
fn go(module: &str, verb: &[&str]) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    let found = folders.map(|folder| folder.join("go")).find(|file| file.is_file());
    let mut go = Command::new(found.unwrap_or_else(|| "go".into()));
    go.current_dir(module)
        // An older Go brings the one that go.mod asks for from the module proxy.
        .env("GOTOOLCHAIN", "auto")
        .env("GOFLAGS", "-buildvcs=false")
        .args(verb);
    go
}

/// The version, without `v`, of a module that a `go.mod` requires.
fn version_of<'a>(module: &str, required: &'a str) -> Option<&'a str> {
    required.lines().find_map(|line| {
        let line = line.trim().trim_start_matches("require ");
        line.strip_prefix(module)?.strip_prefix(" v")?.split(' ').next()
    })
}

const NO_GO: &str = "start go; it builds Kubernetes: cargo xtask setup says how to get it";

/// `$XDG_CACHE_HOME/nodemesh`, or `~/.cache/nodemesh`.
///
/// # Errors
/// There is neither that variable nor a home folder.
pub fn cache() -> Result<PathBuf> {
    let own = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = own.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    Ok(caches
        .context("neither XDG_CACHE_HOME nor a home folder is known; set XDG_CACHE_HOME")?
        .join("nodemesh"))
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
    use crate::programs::{CONFORMANCE, CONTAINERD, COREDNS, ECHO, HELM, KUBERNETES, RUNC};

    #[test]
    fn the_version_is_what_the_module_requires() {
        for recipe in KUBERNETES.into_iter().chain([CONTAINERD, RUNC, COREDNS, ECHO, CONFORMANCE, HELM]) {
            let sources = recipe.sources().unwrap();
            let version = recipe.version(&sources).unwrap();
            assert!(version.split('.').count() >= 3, "{version}");
            assert!(recipe.version("module x\n").is_err());
        }
    }
}
