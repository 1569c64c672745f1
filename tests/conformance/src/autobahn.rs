//! Autobahn's test suite for WebSockets, and what else Python's registry has for them: where they come from, and how they
//! run in pods.
//!
//! The suite has a side with the cases and a side that echoes, and each can be the client. Of every case both sides say
//! which frames came and how the connection ended; the one with the cases judges it by the suite's rules.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_test_cluster::go::cache;
use mesh_test_harness::eventually::{PATIENCE, eventually};
use mesh_test_harness::pod::Pod;
use mesh_test_harness::process::Process;
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

/// The programs here.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/websocket");
/// Noted with what was installed.
const COMPILED: &str = "# compiled\n";
/// How long a program may take until it listens, on a machine that does other things: it reads all of Twisted first.
const START: Duration = Duration::from_secs(60);
/// Where a gateway listens, on loopback.
const GATEWAY: u16 = 7000;

/// What one side says of each case, by its number.
pub type Told = BTreeMap<String, Value>;

/// The environment with all of it.
#[derive(Clone, Debug)]
pub struct Autobahn {
    python: PathBuf,
}

/// The part of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Has the cases.
    Fuzzes,
    /// Echoes, with a connection for each case.
    Echoes,
}

/// The part of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Has the cases.
    Fuzzes,
    /// Echoes.
    Echoes,
    /// Hypercorn, which echoes over HTTP/1.1 and over HTTP/2.
    Hypercorn,
}

/// A server that listens.
#[derive(Debug)]
pub struct Serving {
    process: Process,
    told: PathBuf,
}

/// A way from HTTP/1.1 on loopback of a pod to HTTP/2.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
}

impl Autobahn {
    /// Installs it into an environment of its own if it is not there.
    ///
    /// # Errors
    /// Python is missing, or the registry does not have what is required.
    pub fn get() -> Result<Self> {
        let requirements = format!("{FOLDER}/requirements.txt");
        let required = fs::read_to_string(&requirements).context("read what is required")? + COMPILED;
        let folder = cache()?.join("autobahn");
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let lock = File::open(&folder).with_context(|| format!("open {}", folder.display()))?;
        // Another run that installs the same is waited for.
        flock(&lock, FlockOperation::LockExclusive).context("lock the suite's folder")?;
        let environment = folder.join("python");
        let python = environment.join("bin/python");
        let note = folder.join("built-from");
        if !fs::read_to_string(&note).is_ok_and(|installed| installed == required) {
            install(&environment, &python, &requirements)?;
            fs::write(&note, &required).context("note what was installed")?;
        }
        Ok(Self { python })
    }

    /// The numbers of all cases, in the order of the suite.
    ///
    /// # Errors
    /// It does not start.
    pub fn cases(&self) -> Result<Vec<String>> {
        let suite = format!("{FOLDER}/suite.py");
        let listed =
            Command::new(&self.python).args(["-B", &suite, "cases"]).output().context("list the cases")?;
        ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        Ok(String::from_utf8(listed.stdout)?.lines().map(str::to_owned).collect())
    }

    /// Starts a server on a port of a pod.
    ///
    /// # Errors
    /// It does not start.
    pub fn serve(&self, server: Server, pod: &Pod, port: u16) -> Result<Serving> {
        let told = out(pod);
        let name = format!("{}-{server:?}", pod.name());
        let process = pod.place().spawn_with(&name, &self.python, |command| {
            command.arg("-B").env("TOLD", &told).current_dir(FOLDER);
            match server {
                Server::Fuzzes => command.args(["suite.py", "fuzz-server"]).arg(port.to_string()).arg(&told),
                Server::Echoes => command.args(["suite.py", "echo-server"]).arg(port.to_string()).arg(&told),
                Server::Hypercorn => {
                    command.args(["-m", "hypercorn", "application:application", "--workers", "0"]);
                    command.args(["--bind", &format!("0.0.0.0:{port}")])
                }
            };
        })?;
        listens(pod, port).with_context(|| process.tail(20))?;
        Ok(Serving { process, told })
    }

    /// Starts a gateway on loopback of a pod, which goes on to `to` over HTTP/2.
    ///
    /// # Errors
    /// It does not start.
    pub fn gateway(&self, pod: &Pod, to: SocketAddr) -> Result<Gateway> {
        let arguments = ["-B", &format!("{FOLDER}/gateway.py"), &GATEWAY.to_string(), &to.to_string()];
        let process = pod.place().spawn(&format!("{}-gateway", pod.name()), &self.python, &arguments)?;
        listens(pod, GATEWAY).with_context(|| process.tail(20))?;
        Ok(Gateway { process })
    }

    /// Runs cases from a pod to an address, `at_once` of them beside each other, and waits for the last of them.
    ///
    /// # Errors
    /// It does not start, or not all cases end within `limit`.
    pub fn ask(
        &self,
        client: Client,
        pod: &Pod,
        to: SocketAddr,
        cases: &[String],
        (at_once, limit): (u32, Duration),
    ) -> Result<Told> {
        let told = out(pod);
        let part = match client {
            Client::Fuzzes => "fuzz-client",
            Client::Echoes => "echo-client",
        };
        let name = format!("{}-{part}", pod.name());
        let process = pod.place().spawn_with(&name, &self.python, |command| {
            command.args(["-B", "suite.py", part, &format!("ws://{to}")]).arg(&told);
            command.args(cases).args(["--at-once", &at_once.to_string()]).current_dir(FOLDER);
        })?;
        process.wait(limit)?.success(part)?;
        read(&told)
    }
}

impl Serving {
    /// What it says of so many cases: it may hear of the last end after its client.
    ///
    /// # Errors
    /// It does not say it.
    pub fn told(&self, cases: usize) -> Result<Told> {
        let all = eventually("the server has told all cases", PATIENCE, || {
            read(&self.told).ok().filter(|told| told.len() == cases)
        });
        all.with_context(|| self.process.tail(20))
    }
}

impl Gateway {
    /// Where it listens, for programs of its pod.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, GATEWAY))
    }

    /// What it says of what went wrong.
    pub fn tail(&self) -> String {
        self.process.tail(20)
    }
}

fn install(environment: &Path, python: &Path, requirements: &str) -> Result<()> {
    eprintln!("installing Autobahn's test suite into {}", environment.display());
    done(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))
        .context("make a Python environment; on Debian it needs the package python3-venv")?;
    // The suite's own list of requirements is of its Python 2.
    let flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--require-hashes"];
    done(Command::new(python).args(["-m", "pip", "install"]).args(flags).args(["-r", requirements]))?;
    // Once, where pip would do it too; every program does it anew otherwise. What is of Python 2 does not compile.
    let compiled =
        Command::new(python).args(["-m", "compileall", "-qq"]).arg(environment.join("lib")).output();
    compiled.map(drop).context("compile what was installed")
}

fn done(command: &mut Command) -> Result<()> {
    let ended = command.output().with_context(|| format!("start {command:?}"))?;
    let said = [ended.stdout, ended.stderr].concat();
    ensure!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
    Ok(())
}

fn listens(pod: &Pod, port: u16) -> Result<()> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    eventually(&format!("port {port} of {} listens", pod.name()), START, || {
        pod.place().netns().run(|| Ok(TcpStream::connect(at)?)).ok().map(drop)
    })
}

/// A file of its own for each side of each run.
fn out(pod: &Pod) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    pod.place().logs().join(format!("{}-told.{count}.json", pod.name()))
}

fn read(told: &Path) -> Result<Told> {
    let text = fs::read_to_string(told).with_context(|| format!("read {}", told.display()))?;
    let of_case = |line: &str| {
        let told: Value = serde_json::from_str(line).with_context(|| format!("understand {line:?}"))?;
        let case = told["case"].as_str().with_context(|| format!("no case in {line}"))?;
        Ok((case.to_owned(), told))
    };
    text.lines().map(of_case).collect()
}
