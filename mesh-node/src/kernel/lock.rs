//! One agent at a time: a lock on what it uses for itself alone, and who holds it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Why a lock was not taken.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// Somebody has it: which process that is, in words.
    Held(String),
    /// The call failed.
    Failed(io::Error),
}

/// Locks a folder for as long as `file` is open; the kernel lets go when the process ends, however it ends.
pub(super) fn take(file: &fs::File) -> Result<(), NotTaken> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(NotTaken::Held(holder(file))),
        Err(error) => Err(NotTaken::Failed(error.into())),
    }
}

/// The process that holds the lock, in words.
fn holder(lock: &fs::File) -> String {
    seen_holder(lock).unwrap_or_else(|| "a process that /proc/locks does not show".to_owned())
}

/// The same, if the system shows it. Takes nothing, so it is in nobody's way.
pub(super) fn seen_holder(lock: &fs::File) -> Option<String> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let about = lock.metadata().ok()?;
    let process = process(&locks, about.dev(), about.ino())?;
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    Some(format!("process {process} ({})", name.trim()))
}

/// Who has locked an inode, from `/proc/locks`: `1: FLOCK  ADVISORY  WRITE PID MAJOR:MINOR:INODE 0 EOF`, the numbers of
/// the device in hex.
fn process(locks: &str, device: u64, inode: u64) -> Option<&str> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1) == Some(&"FLOCK") && fields.get(5) == Some(&&*place);
        fields.get(4).copied().filter(|_| is_it)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_told_from_one_of_another_device_with_the_same_inode() {
        let locks = "1: FLOCK  ADVISORY  WRITE 7 fd:01:3 0 EOF\n2: POSIX  ADVISORY  WRITE 8 00:1f:3 0 EOF\n3: FLOCK  ADVISORY  WRITE 9 00:1f:3 0 EOF\n";
        assert_eq!(process(locks, rustix::fs::makedev(0, 0x1f), 3), Some("9"));
        assert_eq!(process(locks, rustix::fs::makedev(0, 0x1f), 4), None);
    }

    #[test]
    fn a_lock_is_held_until_its_file_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| fs::File::open(folder.path()).unwrap());
        assert_eq!(seen_holder(&other), None);
        take(&one).unwrap();
        assert!(seen_holder(&other).unwrap().starts_with(&format!("process {} (", std::process::id())));
        assert!(matches!(take(&other), Err(NotTaken::Held(_))));
        drop(one);
        take(&other).unwrap();
    }
}
