//! Runs other programs: in the workspace's root, with their output shown as it comes.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Returns a command that starts in the workspace's root.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace::root());
    command
}

/// Returns cargo, the one that runs this.
pub fn cargo(words: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = command(program);
    command.args(words);
    command
}

/// Runs a command and fails if it does.
pub fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    let status = command.status().with_context(|| format!("start {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// Runs a command and returns what it wrote to standard output; fails if it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("start {line}"))?;
    if !output.status.success() {
        bail!("{line}: {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("read what {line} wrote"))
}

/// Runs a command and hands on every line that it writes, to standard output or to standard error; returns whether it
/// succeeded.
pub fn watch(mut command: Command, mut line: impl FnMut(&str)) -> Result<bool> {
    let words = shown(&command);
    let (reader, writer) = io::pipe().context("make a pipe")?;
    command.stdout(writer.try_clone().context("copy the end of a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("start {words}"))?;
    // It has the end that is written to: as long as somebody has it, there is more to read.
    drop(command);
    for text in BufReader::new(reader).split(b'\n') {
        let text = text.with_context(|| format!("read what {words} writes"))?;
        line(&String::from_utf8_lossy(&text));
    }
    Ok(child.wait().with_context(|| format!("wait for {words}"))?.success())
}

/// Returns where a program is, on PATH, in cargo's folder or among the system's.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(cargo_home().map(|home| home.join("bin")))
        .chain(system)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn cargo_home() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
