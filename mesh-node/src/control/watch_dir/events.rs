//! What the kernel tells of a folder, in the few words that matter here.

use std::path::Path;

use mesh_common::model::Text;
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::files;

/// Most events that wait. What comes on top is found by a sweep.
const MAX_WAITING: usize = 4096;

/// Something happened to a file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It was made: by a writer who will close it, or as a link, which is whole at once.
    Created(Text),
    /// Someone writes it, or cut it short.
    Writing(Text),
    /// Whoever wrote it closed it, or it was renamed into place.
    Written(Text),
    /// It was removed, or renamed to another name.
    Gone(Text),
    /// More happened than was told: look the folder over.
    Unsure,
}

/// A running watch; dropped, it ends.
pub(super) struct Watch {
    /// Held because its thread ends with it.
    _watcher: RecommendedWatcher,
    events: mpsc::Receiver<Event>,
}

impl Watch {
    /// Watches the files of a folder.
    pub(super) fn new(folder: &Path) -> notify::Result<Self> {
        let (sender, events) = mpsc::channel(MAX_WAITING);
        let mut watcher = notify::recommended_watcher(move |event| send(&sender, event))?;
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(Self { _watcher: watcher, events })
    }

    /// Waits for the next event. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event, if one waits.
    pub(super) fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Watch").finish_non_exhaustive()
    }
}

// Runs on the watcher's own thread. A full channel loses events; the last place in it is kept for saying so.
fn send(sender: &mpsc::Sender<Event>, event: notify::Result<notify::Event>) {
    let Ok(event) = event else {
        let _ = sender.try_send(Event::Unsure);
        return;
    };
    for told in told(&event) {
        match sender.capacity() {
            0 => {}
            1 => drop(sender.try_send(Event::Unsure)),
            _ => drop(sender.try_send(told)),
        }
    }
}

fn told(event: &notify::Event) -> Vec<Event> {
    if event.need_rescan() {
        return vec![Event::Unsure];
    }
    let make: fn(Text) -> Event = match event.kind {
        EventKind::Create(CreateKind::Folder) => return Vec::new(),
        EventKind::Create(_) => Event::Created,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => Event::Writing,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Event::Written,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => Event::Gone,
        // One event for both names comes beside one for each.
        EventKind::Modify(
            ModifyKind::Name(RenameMode::Both) | ModifyKind::Metadata(_) | ModifyKind::Other,
        )
        | EventKind::Access(_) => return Vec::new(),
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Any | EventKind::Other => {
            return vec![Event::Unsure];
        }
    };
    let of_path = |path: &std::path::PathBuf| {
        let name = path.file_name()?.to_str()?;
        if files::is_configuration(name) {
            Some(make(name.into()))
        } else if name.starts_with("..") {
            // A ConfigMap's volume: `..data` is a link that is swapped under all files at once.
            Some(Event::Unsure)
        } else {
            None
        }
    };
    event.paths.iter().filter_map(of_path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: EventKind, name: &str) -> Vec<Event> {
        told(&notify::Event::new(kind).add_path(Path::new("/folder").join(name)))
    }

    #[test]
    fn a_file_is_whole_when_it_is_closed_or_renamed_into_place() {
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert_eq!(of(closed, "a.yaml"), [Event::Written("a.yaml".into())]);
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert_eq!(of(renamed, "a.yaml"), [Event::Written("a.yaml".into())]);
        let written = EventKind::Modify(ModifyKind::Data(notify::event::DataChange::Any));
        assert_eq!(of(written, "a.yaml"), [Event::Writing("a.yaml".into())]);
    }

    #[test]
    fn files_of_editors_are_not_told_of() {
        let created = EventKind::Create(CreateKind::File);
        for name in [".a.yaml.swp", "a.yaml~", "#a.yaml#", ".#a.yaml", "4913", "a.yaml.tmp", "notes.txt"] {
            assert_eq!(of(created, name), [], "{name}");
        }
    }

    #[test]
    fn a_swapped_config_map_is_looked_over() {
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert_eq!(of(renamed, "..data"), [Event::Unsure]);
    }
}
