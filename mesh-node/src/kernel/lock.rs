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

/// The process that holds the lock, from `/proc/locks`: `1: FLOCK  ADVISORY  WRITE PID MAJOR:MINOR:INODE 0 EOF`.
fn holder(lock: &fs::File) -> String {
    let unknown = "a process that /proc/locks does not show".to_owned();
    let Ok(inode) = lock.metadata().map(|metadata| metadata.ino()) else {
        return unknown;
    };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let ending = format!(":{inode}");
    let process = locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let process = fields.get(4)?;
        (fields.get(1) == Some(&"FLOCK") && fields.get(5)?.ends_with(&ending)).then(|| (*process).to_owned())
    });
    match process {
        Some(process) => {
            let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            format!("process {process} ({})", name.trim())
        }
        None => unknown,
    }
}
