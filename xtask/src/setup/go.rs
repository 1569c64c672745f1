//! The Go that builds Kubernetes: how to tell that it is here, and whether a package brings it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;

/// The lowest that will do: since then Go brings the version that `go.mod` asks for from the module proxy.
const LOWEST: (u32, u32) = (1, 21);
/// Where it is when it is not on the path: its own archive's place, then Debian's.
const FOLDERS: [&str; 2] = ["/usr/local/go/bin", "/usr/lib/go/bin"];

/// The package that brings it, where it is new enough.
pub const PACKAGE: &str = "golang-go";
/// How to get it where no package is new enough.
pub const BY_HAND: &str = "Go 1.21 or newer from https://go.dev/dl, unpacked to /usr/local/go";

/// Whether one is here that will do.
pub fn is_present() -> bool {
    let own = FOLDERS.iter().map(|folder| Path::new(folder).join("go")).find(|path| path.is_file());
    process::find("go").into_iter().chain(own).any(|path: PathBuf| {
        let said = Command::new(path).arg("version").output();
        said.is_ok_and(|said| version(&String::from_utf8_lossy(&said.stdout)) >= Some(LOWEST))
    })
}

/// Whether the distribution's package will do.
pub fn is_packaged() -> bool {
    let said = Command::new("apt-cache").args(["policy", PACKAGE]).output();
    said.is_ok_and(|said| candidate(&String::from_utf8_lossy(&said.stdout)) >= Some(LOWEST))
}

/// `(1, 26)` of `go version go1.26.8 linux/amd64`.
fn version(said: &str) -> Option<(u32, u32)> {
    numbers(said.split_whitespace().find_map(|word| word.strip_prefix("go1."))?)
}

/// `(1, 24)` of a line `Candidate: 2:1.24~2`.
fn candidate(said: &str) -> Option<(u32, u32)> {
    let version = said.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    numbers(version.split_once(':').map_or(version, |(_, version)| version).strip_prefix("1.")?)
}

/// The number after `1.`, whatever follows it.
fn numbers(rest: &str) -> Option<(u32, u32)> {
    let minor = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    Some((1, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_understood() {
        assert_eq!(version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(version("go version go1.25rc1 linux/amd64"), Some((1, 25)));
        assert_eq!(candidate("golang-go:\n  Installed: (none)\n  Candidate: 2:1.19~1\n"), Some((1, 19)));
        assert_eq!(candidate("golang-go:\n  Candidate: (none)\n"), None);
        assert!(candidate("") < Some(LOWEST) && candidate("  Candidate: 2:1.24~2") > Some(LOWEST));
    }
}
