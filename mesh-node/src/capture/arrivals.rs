//! Notices that pods come: folders that are made among the pods' cgroups.
//!
//! In: `--cgroup-root`. Out: that one was made, as inotify(7) tells it. The processes of a pod are in its folder a moment
//! later, and in its network namespace another moment later, which nobody tells: who is told looks several times.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tracing::warn;

use super::cgroups::{DEPTH, folders, is_a_pods, may_hold_pods};

/// Bytes of events that are read at once.
const BUFFER: usize = 8192;

/// The watch over the folders.
#[derive(Debug)]
pub struct Arrivals {
    inotify: OwnedFd,
    root: PathBuf,
    watched: HashMap<i32, Watched>,
    /// Whether it was said that the kernel watches no more.
    is_said: bool,
}

#[derive(Debug)]
struct Watched {
    folder: PathBuf,
    /// How many levels of folders below it may be those of pods; 0: it is a pod's own, and containers come in it.
    depth: usize,
}

impl Arrivals {
    /// Watches the folders that may hold pods, and those of the pods that are there.
    ///
    /// # Errors
    /// The kernel has no inotify instance left (`fs.inotify.max_user_instances`).
    pub fn watch(root: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut arrivals = Self { inotify, root: root.to_owned(), watched: HashMap::new(), is_said: false };
        arrivals.add(root.to_owned(), DEPTH);
        Ok(arrivals)
    }

    /// Takes what the kernel told so far; whether a folder came.
    pub fn take(&mut self) -> bool {
        let mut came = Vec::new();
        let (mut gone, mut has_lost) = (Vec::new(), false);
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            has_lost |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            if event.events().contains(ReadFlags::IGNORED) {
                gone.push(event.wd());
            }
            if let (Some(Watched { folder, depth }), Some(name)) =
                (self.watched.get(&event.wd()), event.file_name())
                && event.events().contains(ReadFlags::ISDIR)
            {
                came.push((folder.join(std::ffi::OsStr::new(&*name.to_string_lossy())), *depth));
            }
        }
        let has_come = has_lost || !came.is_empty();
        for watch in gone {
            self.watched.remove(&watch);
        }
        for (folder, depth) in came {
            self.add_child(folder, depth);
        }
        if has_lost {
            self.add(self.root.clone(), DEPTH);
        }
        has_come
    }

    /// Watches a folder, and what is in it already.
    fn add(&mut self, folder: PathBuf, depth: usize) {
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.inotify, &folder, flags) {
            Ok(watch) => {
                self.watched.insert(watch, Watched { folder: folder.clone(), depth });
            }
            // It is gone again.
            Err(rustix::io::Errno::NOENT) => return,
            Err(error) => {
                if !std::mem::replace(&mut self.is_said, true) {
                    warn!(folder = %folder.display(), error = %io::Error::from(error),
                        "cannot watch a cgroup; raise fs.inotify.max_user_watches. Pods below are found some seconds late");
                }
                return;
            }
        }
        for child in folders(&folder) {
            self.add_child(child, depth);
        }
    }

    /// What is made inside of a container is nobody's business.
    fn add_child(&mut self, folder: PathBuf, parent_depth: usize) {
        let Some(name) = folder.file_name().map(|name| name.to_string_lossy().into_owned()) else { return };
        match parent_depth {
            0 => {}
            _ if is_a_pods(&name) => self.add(folder, 0),
            1 => {}
            depth if may_hold_pods(&name) => self.add(folder, depth - 1),
            _ => {}
        }
    }
}

impl AsFd for Arrivals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl AsRawFd for Arrivals {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_pods_folder_and_its_containers_are_noticed_and_nothing_inside_of_those() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("burstable")).unwrap();
        let mut arrivals = Arrivals::watch(root.path()).unwrap();
        assert!(!arrivals.take());
        let pod = root.path().join("burstable/pod0f4a2a6e");
        let container = pod.join("5d41402abc4b");
        for (folder, is_noticed) in [
            (&pod, true),
            (&container, true),
            (&container.join("inner"), false),
            (&container.join("pod1"), false),
        ] {
            fs::create_dir(folder).unwrap();
            assert_eq!(arrivals.take(), is_noticed, "{}", folder.display());
        }
    }

    #[test]
    fn folders_that_are_made_at_once_are_all_watched() {
        let root = tempfile::tempdir().unwrap();
        let mut arrivals = Arrivals::watch(root.path()).unwrap();
        let slice = root.path().join("kubepods-besteffort.slice/kubepods-besteffort-pod1.slice");
        fs::create_dir_all(&slice).unwrap();
        assert!(arrivals.take());
        fs::create_dir(slice.join("cri-containerd-5d41.scope")).unwrap();
        assert!(arrivals.take());
        fs::remove_dir_all(root.path().join("kubepods-besteffort.slice")).unwrap();
        arrivals.take();
        assert_eq!(arrivals.watched.len(), 1);
    }
}
