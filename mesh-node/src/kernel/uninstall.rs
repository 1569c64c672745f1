//! Removes everything that is pinned, and proves it by looking again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};

use super::pins::{self, PinError, Pins};

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

/// Removes every pin below `pin_dir`, then waits until the kernel has let go of what they held.
///
/// # Errors
/// An agent uses the folder, or a pin cannot be removed.
pub fn uninstall(pin_dir: &Path) -> Result<Uninstalled, UninstallError> {
    if !pin_dir.exists() {
        return Ok(Uninstalled::default());
    }
    let lock = Pins::lock_existing(pin_dir)?;
    let mut removed = Vec::new();
    let held = Objects::of(pin_dir);
    empty(pin_dir, &mut removed)?;
    fs::remove_dir(pin_dir).map_err(pins::access("remove", pin_dir))?;
    drop(lock);
    Ok(Uninstalled { removed, left: held.wait_until_freed() })
}

/// Removes links before maps: a program never runs on maps that are being taken apart.
fn empty(folder: &Path, removed: &mut Vec<PathBuf>) -> Result<(), PinError> {
    let mut names = pins::names(folder)?;
    names.sort_by_key(|name| name.starts_with("maps-"));
    for name in names {
        let path = folder.join(name);
        if path.is_dir() {
            empty(&path, removed)?;
            fs::remove_dir(&path).map_err(pins::access("remove", &path))?;
        } else {
            pins::remove(&path)?;
            removed.push(path);
        }
    }
    Ok(())
}

/// Kernel objects by id.
#[derive(Debug, Default)]
struct Objects {
    links: BTreeSet<u32>,
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Objects {
    /// What the pins below a folder hold.
    fn of(folder: &Path) -> Self {
        let mut objects = Self::default();
        objects.add(folder);
        objects
    }

    fn add(&mut self, folder: &Path) {
        for name in pins::names(folder).unwrap_or_default() {
            let path = folder.join(name);
            if path.is_dir() {
                self.add(&path);
            } else if let Ok(map) = aya::maps::MapInfo::from_pin(&path) {
                self.maps.insert(map.id());
            } else if let Ok(link) = super::sys::open_pin(&path)
                && let Ok(info) = super::sys::link_info(std::os::fd::AsFd::as_fd(&link))
            {
                self.links.insert(info.id);
                self.programs.insert(info.program);
            }
        }
    }

    fn wait_until_freed(&self) -> Vec<String> {
        let deadline = Instant::now() + FREED_WITHIN;
        loop {
            let left = self.still_there();
            if left.is_empty() || Instant::now() >= deadline {
                return left;
            }
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
