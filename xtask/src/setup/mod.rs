//! Finds or installs everything that building and testing need, and says exactly what is missing otherwise.
//!
//! Looking is cheap: files and programs are looked for where they would be, nothing is asked of a package manager
//! unless something is missing.

mod apt;
mod go;
mod needs;

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::setup::needs::{CLUSTER, DEMO, NEEDS, Need, Source};
use crate::vm::kernel;

/// Whether setup may change the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// Look, and say what is missing.
    Look,
    /// Install what is missing.
    Install,
}

/// What setup is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Everything.
    All,
    /// Everything but clusters, which alone need Go and what runs containers.
    NoCluster,
    /// The demo, which a person runs who has nothing of this yet.
    Demo,
}

/// The Rust that the workspace needs, as `rust-version` says.
const RUST: (u32, u32) = (1, 95);

/// Runs setup.
///
/// # Errors
/// If something is missing and may not or cannot be installed; what and how to get it has been printed.
pub fn run(may: May, purpose: For) -> Result<()> {
    check_rust()?;
    let missing = missing(purpose);
    if missing.is_empty() {
        println!("setup: all {} tools are here", needs(purpose).count());
        return Ok(());
    }
    // What nobody can install here keeps nothing else from being installed.
    let (by_hand, installed): (Vec<&Need>, Vec<&Need>) =
        missing.iter().copied().partition(|need| need.by_hand().is_some());
    if may == May::Look || !may_install(&installed) {
        return refuse(&missing);
    }
    if installed.is_empty() {
        return refuse(&by_hand);
    }
    install(&installed)?;
    let missing = self::missing(purpose);
    if !missing.is_empty() {
        return refuse(&missing);
    }
    println!("setup: installed, all {} tools are here", needs(purpose).count());
    Ok(())
}

/// Runs setup for all there is. What clusters alone need and what is not to be had is said, and is no error: a demo, a bench
/// and every suite but `conformance` and `cluster` do without.
///
/// # Errors
/// As [`run`], but for clusters.
pub fn run_all(may: May) -> Result<()> {
    run(may, For::NoCluster)?;
    if let Err(error) = run(may, For::All) {
        println!(
            "setup: {error:#}, for clusters and other projects' suites alone (cargo xtask cluster, and cargo xtask test \
             unless suites are named that do without); all else is here"
        );
    }
    Ok(())
}

/// Whether everything is here.
pub fn is_complete(purpose: For) -> bool {
    missing(purpose).is_empty()
}

fn needs(purpose: For) -> impl Iterator<Item = &'static Need> {
    let cluster = if purpose == For::All { CLUSTER } else { &[] };
    NEEDS.iter().filter(move |need| purpose != For::Demo || DEMO.contains(&need.name)).chain(cluster)
}

fn missing(purpose: For) -> Vec<&'static Need> {
    needs(purpose).filter(|need| !need.is_present()).collect()
}

fn check_rust() -> Result<()> {
    let version = process::output(Command::new("rustc").arg("--version"))
        .context("no Rust here; rustup or Debian's cargo-web and rustc-web bring one")?;
    let numbers: Vec<u32> = version
        .split(|letter: char| !letter.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .take(2)
        .filter_map(|part| part.parse().ok())
        .collect();
    let (major, minor) = RUST;
    if numbers.as_slice() < [major, minor].as_slice() {
        bail!("{} is too old, {major}.{minor} is needed; run: rustup update stable", version.trim());
    }
    Ok(())
}

/// Debian packages need root and apt, unpacking one needs apt; cargo's need neither.
fn may_install(missing: &[&Need]) -> bool {
    let has_apt = process::find("apt-get").is_some();
    let unpacked = missing.iter().any(|need| need.is_unpacked());
    (packages(missing).is_empty() || (is_root() && has_apt)) && (!unpacked || has_apt)
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|entry| std::os::unix::fs::MetadataExt::uid(&entry) == 0)
}

fn refuse(missing: &[&Need]) -> Result<()> {
    println!("missing:");
    for need in missing {
        println!("  {:<24} {}", need.name, need.reason);
    }
    let packages = packages(missing);
    println!("to get them, on Debian 12 or newer:");
    if !packages.is_empty() {
        println!(
            "  apt-get update && apt-get install --no-install-recommends {}   (as root)",
            packages.join(" ")
        );
    }
    for line in missing.iter().filter_map(|need| need.cargo_line()) {
        println!("  {line}");
    }
    for line in missing.iter().filter_map(|need| need.by_hand()) {
        println!("  {line}");
    }
    if missing.iter().any(|need| need.is_unpacked()) {
        println!("  {}", kernel::BY_HAND);
    }
    if missing.iter().any(|need| need.name == needs::KERNEL_COMPILER) {
        println!("  (instead of Debian's rustc-web: rustup toolchain install nightly --component rust-src)");
    }
    bail!("{} tools are missing", missing.len());
}

fn packages(missing: &[&Need]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = missing.iter().flat_map(|need| need.packages()).copied().collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn install(missing: &[&Need]) -> Result<()> {
    let packages = packages(missing);
    if !packages.is_empty() {
        println!("setup: installing Debian packages {}", packages.join(" "));
        apt::install(&packages)?;
    }
    if missing.iter().any(|need| need.is_unpacked()) {
        println!("setup: unpacking {} from Debian's packages", needs::OLDEST_KERNEL);
        if packages.is_empty() && is_root() {
            apt::refresh()?;
        }
        kernel::unpack().with_context(|| format!("get {}", needs::OLDEST_KERNEL))?;
    }
    for need in missing {
        if let Source::Cargo { arguments, environment, .. } = need.source {
            println!("setup: building {}, which takes a minute or two", need.name);
            let mut cargo = process::cargo(&["install", "--locked"]);
            // A target folder of the caller's would be filled with another project's artefacts.
            cargo.args(arguments).envs(environment.iter().copied()).env_remove("CARGO_TARGET_DIR");
            process::run(&mut cargo).with_context(|| format!("install {}", need.name))?;
        }
    }
    Ok(())
}
