//! Attaches programs to cgroups and network namespaces, by links that are pinned: they outlive the agent.
//!
//! A new agent finds the links of the one before and puts its own programs in their place, each in one step, so
//! that there is no moment without a program. What it cannot use (its cgroup or namespace is gone) is replaced.

use std::collections::{BTreeMap, BTreeSet};
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

/// The links of this agent's programs. Each is pinned, to outlive the agent, and held open: who removes a pin opens
/// nothing.
#[derive(Debug, Default)]
pub(super) struct Links {
    cgroups: BTreeMap<&'static str, OwnedFd>,
    /// By the cookie of the namespace.
    namespaces: BTreeMap<u64, OwnedFd>,
}

impl Links {
    /// Attaches every program that stands on a cgroup.
    pub(super) fn attach_to_cgroups(
        &mut self,
        programs: &Programs,
        cgroups: &Cgroups,
        pins: &Pins,
    ) -> Result<(), AttachError> {
        let mut result = Ok(());
        for entry in PROGRAMS {
            if let Some(cgroup) = cgroup_of(entry, cgroups) {
                let target = Target { fd: cgroup.directory.as_fd(), id: cgroup.id };
                let pin = pins.links().join(entry.name);
                let held = self.cgroups.get(entry.name);
                match stand(entry, programs.fd(entry.name), &target, &pin, held) {
                    Ok(link) => drop(self.cgroups.insert(entry.name, link)),
                    // The others all the same: each that is missing lets something pass.
                    Err(error) => result = result.and(Err(error)),
                }
            }
        }
        result
    }

    /// Attaches the program of enrolled network namespaces to one.
    pub(super) fn attach_to_namespace(
        &mut self,
        programs: &Programs,
        netns: BorrowedFd<'_>,
        cookie: u64,
        pins: &Pins,
    ) -> Result<(), AttachError> {
        let pin = pins.namespace(cookie);
        let id = rustix::fs::fstat(netns).map_err(failed("find", &DELIVER, &pin))?.st_ino;
        let held = self.namespaces.get(&cookie);
        let link = stand(&DELIVER, programs.fd(DELIVER.name), &Target { fd: netns, id }, &pin, held)?;
        self.namespaces.insert(cookie, link);
        Ok(())
    }

    /// Gives a pinned link of an earlier agent this one's program. `false`: what it was attached to is gone.
    pub(super) fn take_over_namespace(
        &mut self,
        programs: &Programs,
        cookie: u64,
        pins: &Pins,
    ) -> Result<bool, AttachError> {
        let pin = pins.namespace(cookie);
        let link = sys::open_pin(&pin).map_err(failed("open", &DELIVER, &pin))?;
        let info = sys::link_info(link.as_fd()).map_err(failed("look at", &DELIVER, &pin))?;
        if info.target == 0 {
            return Ok(false);
        }
        sys::update_link(link.as_fd(), programs.fd(DELIVER.name))
            .map_err(failed("update", &DELIVER, &pin))?;
        self.namespaces.insert(cookie, link);
        Ok(true)
    }

    /// Detaches the program from a network namespace, at once, and removes the pin. Nothing attached is fine. Where it
    /// fails, the link is kept: it can be tried again.
    pub(super) fn detach_from_namespace(&mut self, cookie: u64, pins: &Pins) -> Result<(), AttachError> {
        let pin = pins.namespace(cookie);
        let pinned = || sys::open_pin(&pin).ok();
        let detached = match self.namespaces.get(&cookie) {
            Some(link) => sys::detach_link(link.as_fd()),
            None => pinned().map_or(Ok(()), |link| sys::detach_link(link.as_fd())),
        };
        match detached {
            // The namespace is gone, and the link was detached with it.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            result => result.map_err(failed("detach", &DELIVER, &pin))?,
        }
        pins::remove(&pin)?;
        self.namespaces.remove(&cookie);
        Ok(())
    }

    /// Whether a namespace has ended that has a link: it leads nowhere then.
    pub(super) fn has_ended(&self, cookie: u64) -> bool {
        let link = self.namespaces.get(&cookie);
        link.is_some_and(|link| sys::link_info(link.as_fd()).is_ok_and(|info| info.target == 0))
    }

    /// Pins the links of namespaces whose pin somebody removed.
    pub(super) fn pin_namespaces_again(&self, pins: &Pins) -> Result<(), AttachError> {
        let pin_again = |(cookie, link)| {
            let pin = pins.namespace(cookie);
            sys::pin(link, &pin).map_err(failed("pin", &DELIVER, &pin))
        };
        self.namespaces_without_pin(pins).map(pin_again).fold(Ok(()), Result::and)
    }

    /// Programs that are not attached any more, or would not outlive the agent: pin removed, link detached, or
    /// cgroup gone.
    pub(super) fn detached(&self, cgroups: &Cgroups, pins: &Pins) -> Vec<&'static str> {
        let stands = |entry: &&Entry| match cgroup_of(entry, cgroups) {
            Some(cgroup) => {
                let pinned = pinned(&pins.links().join(entry.name));
                cgroup.is_alive() && pinned.is_some_and(|(_, info)| info.target == cgroup.id)
            }
            None => self.namespaces_without_pin(pins).next().is_none(),
        };
        PROGRAMS.iter().filter(|entry| !stands(entry)).map(|entry| entry.name).collect()
    }

    fn namespaces_without_pin(&self, pins: &Pins) -> impl Iterator<Item = (u64, &OwnedFd)> {
        // Without the folder none is pinned.
        let pinned = BTreeSet::from_iter(pins.pinned_namespaces().unwrap_or_default());
        let all = self.namespaces.iter().map(|(cookie, link)| (*cookie, link));
        all.filter(move |(cookie, _)| !pinned.contains(cookie))
    }
}

/// Whether the programs of an agent are attached, as anybody can see it: refused is who is not known from then on.
pub fn stands(pin_dir: &Path) -> bool {
    let on_cgroups = PROGRAMS.iter().filter(|entry| entry.stand != Stand::Namespace);
    let links = pins::links(pin_dir);
    on_cgroups
        .into_iter()
        .all(|entry| pinned(&links.join(entry.name)).is_some_and(|(_, info)| info.target != 0))
}

/// Readable when the pin of a program was removed or renamed (inotify(7) on bpffs).
pub(super) fn watch(pins: &Pins) -> io::Result<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    watch_again(watch.as_fd(), pins)?;
    Ok(watch)
}

/// Goes on watching where the folders were made anew. Those that are watched already stay so.
pub(super) fn watch_again(watch: BorrowedFd<'_>, pins: &Pins) -> io::Result<()> {
    let gone = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    for folder in [pins.links(), pins.namespaces()] {
        inotify::add_watch(watch, folder, gone)?;
    }
    Ok(())
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

/// Makes the link at `pin`, or the one that is held, run `program` on `target`; returns it.
fn stand(
    entry: &Entry,
    program: BorrowedFd<'_>,
    target: &Target<'_>,
    pin: &Path,
    held: Option<&OwnedFd>,
) -> Result<OwnedFd, AttachError> {
    let at_pin = pinned(pin);
    let is_pinned = at_pin.is_some();
    let present = at_pin.or_else(|| {
        // A copy: where this fails the link stays held, and attached.
        let held = held?.try_clone().ok()?;
        let info = sys::link_info(held.as_fd()).ok()?;
        Some((held, info))
    });
    if let Some((link, _)) = present.filter(|(_, info)| info.target == target.id) {
        sys::update_link(link.as_fd(), program).map_err(failed("update", entry, pin))?;
        if !is_pinned {
            sys::pin(&link, pin).map_err(failed("pin", entry, pin))?;
        }
        return Ok(link);
    }
    pins::remove(pin)?;
    let link = sys::create_link(program, target.fd, entry.kind).map_err(failed("create", entry, pin))?;
    sys::pin(&link, pin).map_err(failed("pin", entry, pin))?;
    Ok(link)
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
