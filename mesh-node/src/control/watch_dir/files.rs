//! The files of a folder: which of them count, and what they say.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use mesh_common::model::Text;

use super::Content;
use crate::control::documents::MAX_FILE;

/// Tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The files of a folder that count.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: BTreeMap<Text, Stamp>,
    /// What is in the folder and not read, although it looks as if it should be.
    pub(super) trouble: Option<String>,
}

/// Whether a name is one of configuration, and not an editor's.
pub(super) fn is_configuration(name: &str) -> bool {
    let is_known = [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending));
    is_known && !name.starts_with(['.', '#', '~'])
}

/// Device and inode of a folder.
pub(super) fn identity(folder: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(folder).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Whether a name is a link of either kind: its content is whole at once.
pub(super) fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}

/// Lists a folder. Links are followed; one that leads nowhere is not there.
pub(super) fn list(folder: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            listing.trouble = Some(format!("has a file whose name is not UTF-8: {}", lossy(&name)));
            continue;
        };
        let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
        if metadata.is_dir() && !name.starts_with('.') {
            listing.trouble = Some(format!("has a folder, which is not read: {name}"));
        } else if metadata.is_file() && is_configuration(name) {
            listing.files.insert(name.into(), stamp(&metadata));
        }
    }
    Ok(listing)
}

/// Reads a file, at most [`MAX_FILE`] of it.
pub(super) fn read(path: &Path) -> (Content, Option<Stamp>) {
    // Opening a pipe would wait for its writer.
    let opened =
        OpenOptions::new().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32).open(path);
    let result = opened.and_then(|file| read_open(&file).map(|text| (text, file)));
    match result {
        Ok((Ok(text), file)) => (Content::Text(text), file.metadata().ok().as_ref().map(stamp)),
        Ok((Err(refused), file)) => (refused, file.metadata().ok().as_ref().map(stamp)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (Content::Gone, None),
        Err(error) => (refused(format!("cannot be read, see who may: {error}"), &[]), None),
    }
}

fn refused(reason: String, seen: &[u8]) -> Content {
    Content::Refused { reason, seen: String::from_utf8_lossy(seen).into_owned() }
}

fn read_open(file: &File) -> io::Result<Result<String, Content>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Err(refused("is not a file".to_owned(), &[])));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0).min(MAX_FILE));
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_FILE {
        let reason = format!(
            "has {} bytes, at most {MAX_FILE} are read: split it into several files",
            metadata.len().max(bytes.len() as u64)
        );
        return Ok(Err(refused(reason, &bytes)));
    }
    Ok(String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        refused(format!("is not UTF-8 from byte {valid} on: write it as UTF-8"), error.as_bytes())
    }))
}

fn stamp(metadata: &Metadata) -> Stamp {
    Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn lossy(name: &OsStr) -> String {
    name.to_string_lossy().escape_debug().to_string()
}
