//! A controller in a process of its own, which can be put to sleep.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use mesh_test_harness::binary;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::agents::PATIENCE;

/// Its name, as the Lease has it.
pub const NAME: &str = "sleeper";

/// The process. Killed on drop, asleep or not.
pub struct Sleeper {
    process: Child,
    address: SocketAddr,
    log: NamedTempFile,
    _kubeconfig: NamedTempFile,
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.log.path()).unwrap_or_default());
        }
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Sleeper {
    /// Starts it and waits until it lets agents in.
    pub async fn start(kubeconfig: NamedTempFile) -> Result<Self> {
        let log = NamedTempFile::new()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(binary::mesh_node()?);
        command.args(["controller", "--pod-name", NAME, "--listen", &address.to_string()]);
        command.args(["--metrics-address", "127.0.0.1:0", "--readiness-address", "127.0.0.1:0"]);
        command.arg("--kubeconfig").arg(kubeconfig.path());
        command.stdout(Stdio::null()).stderr(File::create(log.path())?);
        let process = command.spawn().context("start a controller")?;
        let sleeper = Self { process, address, log, _kubeconfig: kubeconfig };
        let listens = async {
            while TcpStream::connect(address).await.is_err() {
                // Between two tries of a bounded wait: nobody tells when it listens.
                sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, listens).await.context("wait until the controller listens")?;
        Ok(sleeper)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts it to sleep: it neither ends nor answers.
    pub fn sleeps(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    pub fn wakes(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.process), signal)?)
    }
}
