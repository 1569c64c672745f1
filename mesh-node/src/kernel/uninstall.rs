//! Removes everything that is pinned, and proves it by looking again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};

use super::pins::{self, PinError, Pins};
use crate::system::access;

/// The kernel frees links, programs and maps some time after their last pin went.
const FREED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What an uninstall removed, and what is still there.
#[derive(Clone, Debug, Default)]
pub struct Uninstalled {
    /// Pins that were removed.
    pub removed: Vec<PathBuf>,
    /// Links, programs and maps of these pins that the kernel still has, as `link 12`; empty is the proof.
    pub left: Vec<String>,
}

/// Why nothing was removed, or not all.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// The folder cannot be locked or emptied.
    #[error("remove what is pinned")]
    Pins(#[from] PinError),
}

/// Removes every pin of `pin_dir`, then waits until the kernel has let go of what they held. `None`: there is no such
/// folder.
///
/// # Errors
/// The folder is not on bpffs, its top, or not an agent's: nothing is removed then. An agent uses it, or a pin cannot be
/// removed.
pub fn uninstall(pin_dir: &Path) -> Result<Option<Uninstalled>, UninstallError> {
    if !pin_dir.exists() {
        return Ok(None);
    }
    pins::check(pin_dir)?;
    let pins = Pins::lock_existing(pin_dir)?;
    let folders = pins::folders(pin_dir)?;
    let held = Objects::of(&folders);
    let mut removed = Vec::new();
    for folder in folders {
        empty(&folder, &mut removed)?;
    }
    fs::remove_dir(pin_dir).map_err(access("remove", pin_dir)).map_err(PinError::from)?;
    drop(pins);
    Ok(Some(Uninstalled { removed, left: held.wait_until_freed() }))
}

/// Removes a folder of pins with what is in it.
fn empty(folder: &Path, removed: &mut Vec<PathBuf>) -> Result<(), PinError> {
    for name in pins::names(folder)? {
        let path = folder.join(name);
        pins::remove(&path)?;
        removed.push(path);
    }
    Ok(fs::remove_dir(folder).map_err(access("remove", folder))?)
}

/// Kernel objects by id.
#[derive(Debug, Default)]
struct Objects {
    links: BTreeSet<u32>,
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Objects {
    /// What the pins in some folders hold.
    fn of(folders: &[PathBuf]) -> Self {
        let mut objects = Self::default();
        for folder in folders {
            let names = pins::names(folder).unwrap_or_default();
            names.into_iter().for_each(|name| objects.add(&folder.join(name)));
        }
        objects
    }

    fn add(&mut self, pin: &Path) {
        if let Ok(map) = aya::maps::MapInfo::from_pin(pin) {
            self.maps.insert(map.id());
        } else if let Ok(link) = super::sys::open_pin(pin)
            && let Ok(info) = super::sys::link_info(std::os::fd::AsFd::as_fd(&link))
        {
            self.links.insert(info.id);
            self.programs.insert(info.program);
        }
    }

    fn wait_until_freed(&self) -> Vec<String> {
        let deadline = Instant::now() + FREED_WITHIN;
        loop {
            let left = self.still_there();
            if left.is_empty() || Instant::now() >= deadline {
                return left;
            }
            // Between two looks of a bounded wait: the kernel tells nobody that it freed something.
            thread::sleep(LOOK_EVERY);
        }
    }

    fn still_there(&self) -> Vec<String> {
        let links = loaded_links().flatten().map(|link| ("link", link.id(), &self.links));
        let programs = loaded_programs().flatten().map(|program| ("program", program.id(), &self.programs));
        let maps = loaded_maps().flatten().map(|map| ("map", map.id(), &self.maps));
        let here = links.chain(programs).chain(maps).filter(|(_, id, mine)| mine.contains(id));
        here.map(|(kind, id, _)| format!("{kind} {id}")).collect()
    }
}
