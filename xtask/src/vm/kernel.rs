//! Debian's 6.1 kernel: found in the target folder, or brought there with apt.
//!
//! The package is unpacked and never installed, so that the machine's own boot is left alone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process;
use crate::workspace;

/// Packages of that kernel, for virtual machines: all that the tests need, at a third of the size of the general one.
const PACKAGES: &str = r"^linux-image-6\.1\.0-[0-9]+-cloud-amd64$";

/// How a person gets it where setup may not.
pub const BY_HAND: &str =
    "(Linux 6.1, from Debian 12's packages: sudo apt-get update, then cargo xtask setup)";

/// An unpacked kernel.
pub struct Kernel {
    /// What the emulator boots.
    pub image: PathBuf,
    /// As `uname -r` says.
    pub release: String,
    /// `kernel/` holds the modules by subsystem.
    pub modules: PathBuf,
}

fn folder() -> PathBuf {
    workspace::root().join("target/vm/linux-6.1")
}

/// Returns whether it is here.
pub fn is_present() -> bool {
    find().is_ok()
}

/// Finds it.
///
/// # Errors
/// If it was never brought here.
pub fn find() -> Result<Kernel> {
    let folder = folder();
    let names = fs::read_dir(folder.join("boot")).into_iter().flatten().flatten();
    let image = names.map(|entry| entry.path()).find(|path| release(path).is_some());
    let image = image.with_context(|| format!("no kernel in {}: cargo xtask setup", folder.display()))?;
    let release = release(&image).context("the name was looked at just now")?;
    Ok(Kernel { modules: folder.join("lib/modules").join(&release), image, release })
}

/// `6.1.0-56-cloud-amd64` of `vmlinuz-6.1.0-56-cloud-amd64`.
fn release(image: &Path) -> Option<String> {
    Some(image.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned())
}

/// Downloads and unpacks the newest; apt's lists must be fresh.
///
/// # Errors
/// If apt knows no such package, as on a Debian without 12's packages, or cannot fetch it.
pub fn unpack() -> Result<()> {
    let known = process::output(process::command("apt-cache").args(["search", "--names-only", PACKAGES]))?;
    let package = newest(&known).context(
        "apt knows no Linux 6.1: add Debian 12's packages (suite bookworm, and bookworm-security) to its sources",
    )?;
    let folder = folder();
    let part = folder.with_file_name("unpacking");
    // What an interrupted call left.
    let _ = fs::remove_dir_all(&part);
    fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
    // apt drops its rights for the download, and may not write into root's folders: as root it says so and goes on.
    let mut download = process::command("apt-get");
    process::run(download.args(["download", "--quiet", package]).current_dir(&part))?;
    let file = fs::read_dir(&part)?.flatten().next().context("apt downloads into the folder it stands in")?;
    process::run(process::command("dpkg-deb").arg("--extract").arg(file.path()).arg(&part))?;
    fs::remove_file(file.path()).with_context(|| format!("remove {}", file.path().display()))?;
    let _ = fs::remove_dir_all(&folder);
    fs::rename(&part, &folder).with_context(|| format!("rename to {}", folder.display()))
}

/// The package with the highest number among the lines `NAME - DESCRIPTION`.
fn newest(lines: &str) -> Option<&str> {
    let names = lines.lines().filter_map(|line| line.split_whitespace().next());
    names.max_by_key(|name| name.split('-').nth(3).and_then(|number| number.parse::<u32>().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_has_the_highest_number() {
        let lines = "linux-image-6.1.0-9-cloud-amd64 - Linux\nlinux-image-6.1.0-56-cloud-amd64 - Linux\n\
                     linux-image-6.1.0-48-cloud-amd64 - Linux\n";
        assert_eq!(newest(lines), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest(""), None);
    }
}
