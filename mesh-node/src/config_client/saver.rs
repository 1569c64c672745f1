//! Writes the state now and then, beside everything else: a disk that is slow or full holds up nobody.

use std::io;
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::state_dir::StateDir;
use super::world::Kept;

/// The state is written this long after something changed, with what changed until then.
const AFTER: Duration = Duration::from_secs(5);
/// After a state could not be written.
const AGAIN: Duration = Duration::from_secs(60);

/// Knows when the state is to be written, and writes it.
#[derive(Debug)]
pub(super) struct Saver {
    state_dir: StateDir,
    due: Option<Instant>,
    writing: Option<JoinHandle<io::Result<()>>>,
}

/// What there is to do.
#[derive(Debug)]
pub(super) enum Turn {
    /// It is time: [`Saver::write`], or [`Saver::put_off`].
    Due,
    /// What was to be written is, or cannot be; then it is tried again later.
    Written(io::Result<()>),
}

impl Saver {
    pub(super) fn new(state_dir: StateDir) -> Self {
        Self { state_dir, due: None, writing: None }
    }

    /// Something changed.
    pub(super) fn changed(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + AFTER);
    }

    /// It was time, and there is nothing that can be written yet.
    pub(super) fn put_off(&mut self) {
        self.due = Some(Instant::now() + AFTER);
    }

    /// Begins to write; one at a time, because nothing is due before that was told.
    pub(super) fn write(&mut self, resources: Vec<Kept>) {
        let state_dir = self.state_dir.clone();
        self.writing =
            Some(spawn_blocking(move || state_dir.save(resources.into_iter().map(Kept::resource))));
    }

    /// Waits until there is something to do. Cancel safe.
    pub(super) async fn turn(&mut self) -> Result<Turn, JoinError> {
        if let Some(writing) = &mut self.writing {
            let written = writing.await;
            self.writing = None;
            let written = written?;
            if written.is_err() {
                self.due = Some(Instant::now() + AGAIN);
            }
            return Ok(Turn::Written(written));
        }
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
        self.due = None;
        Ok(Turn::Due)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn saver(folder: &Path) -> Saver {
        Saver::new(StateDir::new(folder, "a".into()))
    }

    #[tokio::test(start_paused = true)]
    async fn many_changes_are_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut saver = saver(folder.path());
        let began = Instant::now();
        saver.changed();
        saver.changed();
        assert!(matches!(saver.turn().await.unwrap(), Turn::Due));
        assert_eq!(began.elapsed().as_secs(), AFTER.as_secs());
        saver.write(Vec::new());
        // What changes while it is written is due later.
        saver.changed();
        assert!(matches!(saver.turn().await.unwrap(), Turn::Written(Ok(()))));
        assert!(matches!(saver.turn().await.unwrap(), Turn::Due));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_written_is_tried_again_later() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut saver = saver(&file);
        saver.write(Vec::new());
        let began = Instant::now();
        assert!(matches!(saver.turn().await.unwrap(), Turn::Written(Err(_))));
        assert!(matches!(saver.turn().await.unwrap(), Turn::Due));
        assert_eq!(began.elapsed().as_secs(), AGAIN.as_secs());
    }
}
