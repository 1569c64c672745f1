//! A cluster that stands until it is told to go: up, status, down.
//!
//! A process of its own holds it, and ends it when it is told to. One at a time; a file says which process that is
//! and how to reach what it holds.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesh_test_harness::eventually::eventually;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::api_server::ApiServer;
use crate::programs::Programs;

/// Which process holds it, and how to reach it.
const STATE: &str = "/run/nodemesh-cluster.json";
/// What that process says.
const LOG: &str = "/run/nodemesh-cluster.log";
/// The word that makes this program that process.
const HOLD: &str = "hold";
/// How long a start or an end may take, on a machine that does other work too.
const PATIENCE: Duration = Duration::from_secs(150);

/// A cluster that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The process that holds it.
    pub process: u32,
    /// Where the API server listens.
    pub url: String,
    /// The kubeconfig of somebody who may do everything.
    pub kubeconfig: PathBuf,
}

impl Standing {
    /// The one that stands, if any does.
    ///
    /// # Errors
    /// The file that names it cannot be read.
    pub fn find() -> Result<Option<Self>> {
        let text = match fs::read_to_string(STATE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("read {STATE}"))?,
        };
        let standing: Self = serde_json::from_str(&text).with_context(|| format!("understand {STATE}"))?;
        Ok(standing.lives().then_some(standing))
    }

    /// Builds what is missing, starts a cluster and waits until it is ready; the one that stands, if one does.
    /// Returns how long the start took.
    ///
    /// # Errors
    /// It does not come up; the text is what its process said.
    pub fn up() -> Result<(Self, Duration)> {
        let started = Instant::now();
        if let Some(standing) = Self::find()? {
            return Ok((standing, Duration::ZERO));
        }
        Programs::get()?;
        let log = File::create(LOG).with_context(|| format!("make {LOG}"))?;
        let mut holder = Command::new(std::env::current_exe().context("find this program")?);
        holder.arg(HOLD).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // A group of its own: what ends the caller does not end it.
        let mut holder =
            holder.process_group(0).spawn().context("start the process that holds the cluster")?;
        let standing = eventually("the cluster stands", PATIENCE, || match holder.try_wait() {
            Ok(None) => Self::find().transpose(),
            _ => Some(Err(said())),
        });
        Ok((standing.flatten()?, started.elapsed()))
    }

    /// Ends it and waits until it is gone.
    ///
    /// # Errors
    /// It does not end.
    pub fn down(&self) -> Result<()> {
        let process =
            i32::try_from(self.process).ok().and_then(Pid::from_raw).context("the process has an id")?;
        kill_process(process, Signal::TERM).context("tell the cluster to end")?;
        eventually("the cluster is gone", PATIENCE, || (!self.lives()).then_some(()))
    }

    /// Whether the process is one that holds a cluster: ids are given anew.
    fn lives(&self) -> bool {
        let words = fs::read(Path::new("/proc").join(self.process.to_string()).join("cmdline"));
        words.is_ok_and(|words| words.ends_with(format!("\0{HOLD}\0").as_bytes()))
    }
}

/// Holds a cluster until this process is told to end.
///
/// # Errors
/// It does not start, or cannot be made known.
pub fn hold() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Listened to from the first: what is told meanwhile is heard after the start.
    let _inside = runtime.enter();
    let (mut end, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let server = ApiServer::start()?;
    let standing = Standing {
        process: std::process::id(),
        url: server.url().to_owned(),
        kubeconfig: server.kubeconfig().to_owned(),
    };
    write(&serde_json::to_string(&standing)?)?;
    runtime.block_on(async {
        tokio::select! {
            _ = end.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    fs::remove_file(STATE).with_context(|| format!("remove {STATE}"))?;
    drop(server);
    Ok(())
}

/// What the process that holds it said against it.
fn said() -> anyhow::Error {
    let log = fs::read_to_string(LOG).unwrap_or_default();
    anyhow::anyhow!("{}", log.trim().trim_start_matches("error: ").to_owned())
}

/// Nobody reads half of it.
fn write(state: &str) -> Result<()> {
    let new = format!("{STATE}.new");
    fs::write(&new, state).with_context(|| format!("write {new}"))?;
    fs::rename(&new, STATE).with_context(|| format!("write {STATE}"))
}

/// Fails if nothing stands.
///
/// # Errors
/// See [`Standing::find`].
pub fn present() -> Result<Standing> {
    match Standing::find()? {
        Some(standing) => Ok(standing),
        None => bail!("no cluster stands; cargo xtask cluster up starts one"),
    }
}
