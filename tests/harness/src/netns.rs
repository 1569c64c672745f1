//! Network namespaces with a name under `/run/netns`.
//!
//! In: a name. Out: a guard that runs work inside the namespace and deletes it on drop.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where iproute2 keeps named namespaces.
pub const FOLDER: &str = "/run/netns";

/// A named network namespace; clones share it, and the last one deletes it.
#[derive(Clone, Debug)]
pub struct Namespace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    /// Held to enter the namespace; released before the name is deleted.
    file: File,
}

impl Namespace {
    /// Makes a namespace, with its loopback up.
    ///
    /// # Errors
    /// The name is taken, or the caller is not root.
    pub fn create(name: &str) -> Result<Self> {
        ip_batch(&[format!("netns add {name}")])?;
        let file = File::open(Path::new(FOLDER).join(name)).with_context(|| format!("open {name}"))?;
        let namespace = Self { inner: Arc::new(Inner { name: name.to_owned(), file }) };
        namespace.ip(&["link set lo up".to_owned()])?;
        Ok(namespace)
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Where the namespace can be opened.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.inner.name)
    }

    /// The open namespace, as `setns` takes it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inner.file.as_fd()
    }

    /// Runs `work` on a thread of its own that stands in the namespace. Sockets made there stay there.
    ///
    /// # Errors
    /// The namespace cannot be entered, or what `work` returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("enter the network namespace {}", self.name()))?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs lines of `ip` inside the namespace.
    ///
    /// # Errors
    /// A line fails; the text is what `ip` says.
    pub fn ip(&self, lines: &[String]) -> Result<()> {
        batch(&["-n", self.name(), "-batch", "-"], lines)
    }

    /// Sets `/proc/sys/net/KEY` inside the namespace.
    ///
    /// # Errors
    /// The kernel has no such setting, or refuses the value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                let path = Path::new("/proc/sys/net").join(key);
                std::fs::write(&path, value).with_context(|| format!("write {}", path.display()))
            })
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A failure leaves the name to the reaper of the run.
        let _ = ip_batch(&[format!("netns delete {}", self.name)]);
    }
}

/// Runs lines of `ip` where the caller stands.
///
/// # Errors
/// A line fails; the text is what `ip` says.
pub fn ip_batch(lines: &[String]) -> Result<()> {
    batch(&["-batch", "-"], lines)
}

fn batch(arguments: &[&str], lines: &[String]) -> Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start ip (package iproute2)")?;
    let text = lines.join("\n") + "\n";
    child.stdin.take().context("stdin was asked for")?.write_all(text.as_bytes()).context("write to ip")?;
    let output = child.wait_with_output().context("wait for ip")?;
    if !output.status.success() {
        bail!("ip: {} in:\n{text}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
