//! Attaches programs to cgroups and network namespaces, by links that are pinned: they outlive the agent.
//!
//! A new agent finds the links of the one before and puts its own programs in their place, each in one step, so
//! that there is no moment without a program. What it cannot use (its cgroup or namespace is gone) is replaced.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::cgroup::{Cgroup, Cgroups};
use super::load::{DELIVER, Entry, PROGRAMS, Programs, Stand};
use super::pins::{self, PinError, Pins};
use super::sys::{self, LinkInfo};

/// Why a program cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A call on a link failed.
    #[error("{operation} the link of {program} at {pin}", pin = pin.display())]
    Link {
        /// What was tried.
        operation: &'static str,
        /// The program.
        program: &'static str,
        /// Where the link is pinned.
        pin: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The pin cannot be removed.
    #[error("replace a pin")]
    Pin(#[from] PinError),
}

/// Attaches every program that stands on a cgroup.
pub(super) fn cgroup_programs(
    programs: &Programs,
    cgroups: &Cgroups,
    pins: &Pins,
) -> Result<(), AttachError> {
    for entry in PROGRAMS {
        if let Some(cgroup) = cgroup_of(entry, cgroups) {
            let target = Target { fd: cgroup.directory.as_fd(), id: cgroup.id };
            stand(entry, programs.fd(entry.name), &target, &pins.links().join(entry.name))?;
        }
    }
    Ok(())
}

/// Attaches the program of enrolled network namespaces to one.
pub(super) fn namespace_program(
    programs: &Programs,
    netns: BorrowedFd<'_>,
    pin: &Path,
) -> Result<(), AttachError> {
    let inode = rustix::fs::fstat(netns).map_err(failed("find", &DELIVER, pin))?.st_ino;
    stand(&DELIVER, programs.fd(DELIVER.name), &Target { fd: netns, id: inode }, pin)
}

/// Gives a pinned link of an earlier agent this one's program. `false`: what it was attached to is gone.
pub(super) fn take_over_namespace(programs: &Programs, pin: &Path) -> Result<bool, AttachError> {
    let link = sys::open_pin(pin).map_err(failed("open", &DELIVER, pin))?;
    let info = sys::link_info(link.as_fd()).map_err(failed("look at", &DELIVER, pin))?;
    if info.target == 0 {
        return Ok(false);
    }
    sys::update_link(link.as_fd(), programs.fd(DELIVER.name)).map_err(failed("update", &DELIVER, pin))?;
    Ok(true)
}

/// Detaches the program from a network namespace, at once, and removes the pin. Nothing pinned is fine.
pub(super) fn remove_namespace(pin: &Path) -> Result<(), AttachError> {
    if let Some((link, _)) = pinned(pin) {
        match sys::detach_link(link.as_fd()) {
            // The namespace is gone, and the link was detached with it.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            result => result.map_err(failed("detach", &DELIVER, pin))?,
        }
    }
    Ok(pins::remove(pin)?)
}

/// Readable when a pin of a program that stands on a cgroup was removed or renamed (inotify(7) on bpffs).
pub(super) fn watch(pins: &Pins) -> io::Result<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let gone = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    inotify::add_watch(&watch, pins.links(), gone)?;
    Ok(watch)
}

/// Programs whose link is not attached any more: pin removed, link detached, or cgroup gone.
pub(super) fn detached(cgroups: &Cgroups, pins: &Pins) -> Vec<&'static str> {
    let stands = |entry: &&Entry| {
        cgroup_of(entry, cgroups).is_none_or(|cgroup| {
            cgroup.is_alive()
                && pinned(&pins.links().join(entry.name)).is_some_and(|(_, info)| info.target == cgroup.id)
        })
    };
    PROGRAMS.iter().filter(|entry| !stands(entry)).map(|entry| entry.name).collect()
}

struct Target<'a> {
    fd: BorrowedFd<'a>,
    id: u64,
}

fn cgroup_of<'a>(entry: &Entry, cgroups: &'a Cgroups) -> Option<&'a Cgroup> {
    match entry.stand {
        Stand::Pods => Some(&cgroups.pods),
        Stand::Top => Some(&cgroups.top),
        Stand::Namespace => None,
    }
}

/// Makes the link at `pin` run `program` on `target`.
fn stand(entry: &Entry, program: BorrowedFd<'_>, target: &Target<'_>, pin: &Path) -> Result<(), AttachError> {
    if let Some((link, info)) = pinned(pin) {
        if info.target == target.id {
            return sys::update_link(link.as_fd(), program).map_err(failed("update", entry, pin));
        }
        pins::remove(pin)?;
    }
    let link = sys::create_link(program, target.fd, entry.kind).map_err(failed("create", entry, pin))?;
    sys::pin(&link, pin).map_err(failed("pin", entry, pin))
}

fn pinned(pin: &Path) -> Option<(OwnedFd, LinkInfo)> {
    let link = sys::open_pin(pin).ok()?;
    let info = sys::link_info(link.as_fd()).ok()?;
    Some((link, info))
}

fn failed<E: Into<io::Error>>(
    operation: &'static str,
    entry: &Entry,
    pin: &Path,
) -> impl FnOnce(E) -> AttachError {
    let (program, pin) = (entry.name, pin.to_owned());
    move |source| AttachError::Link { operation, program, pin, source: source.into() }
}
