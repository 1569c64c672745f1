//! The folder on bpffs where programs' links and maps outlive the agent: one agent per folder.
//!
//! ```text
//! PIN-DIR/                 locked by the agent that uses it
//!   maps-VERSION/NAME      maps; VERSION is the ABI's
//!   links/NAME             links of the programs that stand on cgroups
//!   namespaces/COOKIE      links of the programs that stand in enrolled network namespaces
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use mesh_common::abi::version::ABI_VERSION;
use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};

use super::lock::{self, NotTaken};
use crate::system::{AccessError, access};

const BPFFS_MAGIC: i64 = 0xcafe_4a11;
const BPFFS: &str = "/sys/fs/bpf";
/// The number of the inode of a BPF file system's own folder (fs/libfs.c, `simple_fill_super`).
const ROOT_INODE: u64 = 1;

/// A locked folder on bpffs.
#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
    /// Holds the lock; released when the agent ends, however it ends.
    _lock: fs::File,
}

/// Why the folder of pins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The folder is not on bpffs.
    #[error("{path} is not on a BPF file system; `mount -t bpf bpf /sys/fs/bpf`, or set --pin-dir", path = path.display())]
    NotBpffs {
        /// `--pin-dir`.
        path: PathBuf,
    },
    /// The folder is a BPF file system's own: others pin there too, and it cannot be removed.
    #[error("--pin-dir {path} is the top of a BPF file system; name a folder in it, as in {path}/nodemesh", path = path.display())]
    Top {
        /// `--pin-dir`.
        path: PathBuf,
    },
    /// The folder has what no agent put there: it is not an agent's, or not an agent's alone.
    #[error(
        "{path} is not a folder of an agent's pins: it holds {stranger}; nothing was touched. Set --pin-dir to a folder \
         that an agent has for itself",
        path = path.display()
    )]
    Foreign {
        /// `--pin-dir`.
        path: PathBuf,
        /// What does not belong there.
        stranger: String,
    },
    /// Another agent uses the folder.
    #[error("another agent uses --pin-dir {path}: {holder}", path = path.display())]
    Held {
        /// `--pin-dir`.
        path: PathBuf,
        /// Which process that is.
        holder: String,
    },
    /// A call on the folder failed.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// Whether a folder may be an agent's, or may become it. Touches nothing.
///
/// # Errors
/// It is the top of a BPF file system, or holds what no agent puts there.
pub(super) fn check(root: &Path) -> Result<(), PinError> {
    let is_usual = root.canonicalize().is_ok_and(|path| path == Path::new(BPFFS));
    let is_bpffs = is_bpffs(root);
    let is_top = is_bpffs && fs::metadata(root).is_ok_and(|about| about.ino() == ROOT_INODE);
    if is_usual || is_top {
        return Err(PinError::Top { path: root.to_owned() });
    }
    if is_bpffs { folders(root).map(drop) } else { Ok(()) }
}

/// Folders of agents' pins in the same folder as this one.
pub fn others_beside(root: &Path) -> Vec<PathBuf> {
    let entries = root.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let has_maps =
        |path: &PathBuf| names(path).is_ok_and(|names| names.iter().any(|name| name.starts_with("maps-")));
    let mut others: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(has_maps).collect();
    others.sort();
    others
}

/// Whether no other agent is seen to use a folder. Looks alone: only `Pins::lock` makes sure.
///
/// # Errors
/// One uses it.
pub fn unused(root: &Path) -> Result<(), PinError> {
    let holder = fs::File::open(root).ok().as_ref().and_then(lock::seen_holder);
    holder.map_or(Ok(()), |holder| Err(PinError::Held { path: root.to_owned(), holder }))
}

/// The folders that pins are in, of any version, those of links first: a program never runs on maps that are being
/// taken apart.
///
/// # Errors
/// The root holds something that no agent puts there.
pub(super) fn folders(root: &Path) -> Result<Vec<PathBuf>, PinError> {
    let mut folders = Vec::new();
    for name in present(names(root))?.unwrap_or_default() {
        folders.extend(folder(root, &name)?);
    }
    folders.sort_by_key(|folder| {
        folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"maps-"))
    });
    Ok(folders)
}

/// One folder of pins. `None`: it was there when it was listed, and is gone. An agent works there, or ends: who locks the root
/// is told so.
fn folder(root: &Path, name: &str) -> Result<Option<PathBuf>, PinError> {
    let foreign = |stranger: String| PinError::Foreign { path: root.to_owned(), stranger };
    let path = root.join(name);
    let is_ours = name == "links" || name == "namespaces" || name.starts_with("maps-");
    let Some(found) = look(&path)? else { return Ok(None) };
    if !is_ours || !found.is_dir() {
        return Err(foreign(name.to_owned()));
    }
    let Some(inside) = present(names(&path))? else { return Ok(None) };
    for inside in inside {
        if look(&path.join(&inside))?.is_some_and(|found| !found.is_file()) {
            return Err(foreign(format!("{name}/{inside}")));
        }
    }
    Ok(Some(path))
}

/// What is at a path, if anything is. Not followed: a symbolic link is a stranger.
fn look(path: &Path) -> Result<Option<fs::Metadata>, PinError> {
    present(fs::symlink_metadata(path).map_err(|error| access("look at", path)(error).into()))
}

/// `None` for what is not there.
fn present<T>(found: Result<T, PinError>) -> Result<Option<T>, PinError> {
    match found {
        Err(PinError::Access(error)) if error.is_of_nothing() => Ok(None),
        found => found.map(Some),
    }
}

impl Pins {
    /// Makes the folder if need be, and locks it.
    pub(super) fn lock(root: &Path) -> Result<Self, PinError> {
        make_bpffs(root)?;
        let is_new = !root.exists();
        fs::create_dir_all(root).map_err(access("make", root))?;
        let pins = Self::lock_existing(root).inspect_err(|error| {
            if is_new && matches!(error, PinError::NotBpffs { .. }) {
                // Best effort: what was made for nothing.
                let _ = fs::remove_dir(root);
            }
        })?;
        pins.make_folders()?;
        Ok(pins)
    }

    /// Makes the folders of pins that are not there.
    pub(super) fn make_folders(&self) -> Result<(), PinError> {
        for folder in [self.maps(), self.links(), self.namespaces()] {
            fs::create_dir_all(&folder).map_err(access("make", &folder))?;
        }
        Ok(())
    }

    /// Locks a folder that is there.
    pub(super) fn lock_existing(root: &Path) -> Result<Self, PinError> {
        if !is_bpffs(root) {
            return Err(PinError::NotBpffs { path: root.to_owned() });
        }
        let lock = fs::File::open(root).map_err(access("open", root))?;
        match lock::take(&lock) {
            Ok(()) => Ok(Self { root: root.to_owned(), _lock: lock }),
            Err(NotTaken::Held(holder)) => Err(PinError::Held { path: root.to_owned(), holder }),
            Err(NotTaken::Failed(error)) => Err(access("lock", root)(error).into()),
        }
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.root.join(format!("maps-{ABI_VERSION}"))
    }

    pub(super) fn links(&self) -> PathBuf {
        links(&self.root)
    }

    pub(super) fn namespaces(&self) -> PathBuf {
        self.root.join("namespaces")
    }

    pub(super) fn namespace(&self, netns_cookie: u64) -> PathBuf {
        self.namespaces().join(netns_cookie.to_string())
    }

    /// Cookies of the network namespaces that have a pinned link.
    pub(super) fn pinned_namespaces(&self) -> Result<Vec<u64>, PinError> {
        Ok(names(&self.namespaces())?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Removes the maps of other versions.
    pub(super) fn remove_other_versions(&self) -> Result<(), PinError> {
        let current = self.maps();
        for name in names(&self.root)? {
            let folder = self.root.join(&name);
            if name.starts_with("maps-") && folder != current {
                fs::remove_dir_all(&folder).map_err(access("remove", &folder))?;
            }
        }
        Ok(())
    }
}

/// Where the links of the programs are that stand on cgroups.
pub(super) fn links(root: &Path) -> PathBuf {
    root.join("links")
}

/// The names in a folder.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, PinError> {
    let entries = fs::read_dir(folder).map_err(access("read", folder))?;
    entries
        .map(|entry| Ok(entry.map_err(access("read", folder))?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Removes a pin that may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), PinError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(access("remove", path)(error).into()),
        _ => Ok(()),
    }
}

/// Mounts bpffs at its usual place if the folder is to be there and nothing is mounted.
fn make_bpffs(root: &Path) -> Result<(), PinError> {
    let usual = Path::new(BPFFS);
    if root.starts_with(usual) && usual.is_dir() && !is_bpffs(usual) {
        mount("bpf", usual, "bpf", MountFlags::empty(), None)
            .map_err(|error| access("mount", usual)(error.into()))?;
    }
    Ok(())
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|about| about.f_type == BPFFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_vanishes_between_list_and_look_is_no_stranger() {
        let root = tempfile::tempdir().unwrap();
        assert!(folder(root.path(), "namespaces").unwrap().is_none());
        assert!(folder(root.path(), "a-folder-of-others").unwrap().is_none());
        assert!(folders(&root.path().join("gone")).unwrap().is_empty());
        fs::create_dir(root.path().join("namespaces")).unwrap();
        assert_eq!(folder(root.path(), "namespaces").unwrap(), Some(root.path().join("namespaces")));
    }

    #[test]
    fn what_no_agent_puts_there_is_a_stranger() {
        let root = tempfile::tempdir().unwrap();
        let refused = |name: &str| folder(root.path(), name).unwrap_err().to_string();
        fs::create_dir(root.path().join("cilium")).unwrap();
        fs::write(root.path().join("links"), "").unwrap();
        std::os::unix::fs::symlink("cilium", root.path().join("maps-1")).unwrap();
        fs::create_dir_all(root.path().join("namespaces/inner")).unwrap();
        for name in ["cilium", "links", "maps-1"] {
            assert!(refused(name).contains(&format!("it holds {name};")), "{name}");
        }
        assert!(refused("namespaces").contains("it holds namespaces/inner;"));
    }
}
