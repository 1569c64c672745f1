//! The state on disk: read once at start, written now and then, whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use mesh_common::model::Text;

use crate::xds::Key;
use crate::xds::saved::{SavedError, restore, save};

/// The file.
const STATE: &str = "state";
/// Written first, then renamed.
const NEW: &str = "state.new";
/// All that is ever in the folder.
pub const STATE_FILES: [&str; 2] = [STATE, NEW];
/// The largest file that is read, in bytes: the largest clusters have a tenth of it.
const MAX_STATE: u64 = 1 << 30;

/// The folder of `--state-dir`.
#[derive(Clone, Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    node: Text,
}

/// Why nothing is restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestoreError {
    #[error("read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("use {}", path.display())]
    Content {
        path: PathBuf,
        #[source]
        source: SavedError,
    },
}

impl StateDir {
    pub(super) fn new(path: &Path, node: Text) -> Self {
        Self { path: path.to_owned(), node }
    }

    /// What was saved; `None` if nothing was.
    pub(super) fn restore(&self) -> Result<Option<Vec<(Key, Bytes)>>, RestoreError> {
        let path = self.path.join(STATE);
        let io_error = |source| RestoreError::Io { path: path.clone(), source };
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(error)),
            Ok(found) if found.len() > MAX_STATE => {
                return Err(io_error(io::Error::other(format!("it has more than {MAX_STATE} bytes"))));
            }
            Ok(_) => {}
        }
        let file = fs::read(&path).map_err(io_error)?;
        let content = restore(&self.node, file.into());
        content.map(Some).map_err(|source| RestoreError::Content { path, source })
    }

    /// Saves; what was saved before stays until all of it is on the disk.
    pub(super) fn save(&self, resources: impl Iterator<Item = (Key, Bytes)>) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        let new = self.path.join(NEW);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let mut file = BufWriter::new(file);
        save(&self.node, resources, &mut file)?;
        file.into_inner()?.sync_all()?;
        fs::rename(&new, self.path.join(STATE))?;
        File::open(&self.path)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::ResourceType;

    fn resources() -> Vec<(Key, Bytes)> {
        vec![(Key { kind: ResourceType::Mesh, name: "mesh".into() }, Bytes::from_static(b"settings"))]
    }

    #[test]
    fn a_folder_without_a_state_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(&folder.path().join("not/there"), "a".into());
        assert!(state.restore().unwrap().is_none());
    }

    #[test]
    fn what_is_saved_is_restored_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(&folder.path().join("below"), "a".into());
        state.save(std::iter::empty()).unwrap();
        state.save(resources().into_iter()).unwrap();
        assert_eq!(state.restore().unwrap(), Some(resources()));
        assert!(StateDir::new(&folder.path().join("below"), "b".into()).restore().is_err());
    }

    #[test]
    fn a_state_that_cannot_be_written_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path(), "a".into());
        state.save(resources().into_iter()).unwrap();
        fs::create_dir(folder.path().join(NEW)).unwrap();
        assert!(state.save(std::iter::empty()).is_err());
        assert_eq!(state.restore().unwrap(), Some(resources()));
    }
}
