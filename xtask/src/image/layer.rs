//! The root file system of the image, as one layer: a compressed tar.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use crate::image::layout::digest;

/// One thing of the root file system.
pub struct Entry {
    path: String,
    mode: u32,
    content: Content,
}

enum Content {
    File(Vec<u8>),
    Link(String),
}

impl Entry {
    /// A file.
    pub fn file(path: &str, mode: u32, bytes: Vec<u8>) -> Self {
        Self { path: path.to_owned(), mode, content: Content::File(bytes) }
    }

    /// A symbolic link.
    pub fn link(path: &str, to: &str) -> Self {
        Self { path: path.to_owned(), mode: 0o777, content: Content::Link(to.to_owned()) }
    }
}

/// A layer.
pub struct Layer {
    /// The compressed tar.
    pub blob: Vec<u8>,
    /// The digest of the tar before it was compressed.
    pub diff_id: String,
}

impl Layer {
    /// Packs entries and the folders that they stand in, in order of their paths.
    ///
    /// # Errors
    /// If a path is too long for a tar.
    pub fn pack(mut entries: Vec<Entry>) -> Result<Self> {
        entries.sort_by(|left, right| left.path.cmp(&right.path));
        let folders: BTreeSet<&Path> = entries
            .iter()
            .flat_map(|entry| Path::new(&entry.path).ancestors().skip(1))
            .filter(|folder| !folder.as_os_str().is_empty())
            .collect();
        let mut tar = Builder::new(Vec::new());
        for folder in folders {
            let mut header = header(EntryType::Directory, 0o755, 0);
            let path = format!("{}/", folder.display());
            tar.append_data(&mut header, &path, &[][..]).with_context(|| format!("pack {path}"))?;
        }
        for Entry { path, mode, content } in &entries {
            match content {
                Content::File(bytes) => {
                    let mut header = header(EntryType::Regular, *mode, bytes.len());
                    tar.append_data(&mut header, path, &bytes[..])
                }
                Content::Link(to) => tar.append_link(&mut header(EntryType::Symlink, *mode, 0), path, to),
            }
            .with_context(|| format!("pack {path}"))?;
        }
        let tar = tar.into_inner().context("finish the layer")?;
        Ok(Self { diff_id: digest(&tar), blob: compressed(&tar)? })
    }
}

/// A header that says nothing of this machine: root owns all, and all is as old as time. When the image was made
/// stands in its configuration.
pub(super) fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Without name and time, which gzip would keep.
fn compressed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    std::io::Write::write_all(&mut gzip, bytes).context("compress the layer")?;
    gzip.finish().context("compress the layer")
}
