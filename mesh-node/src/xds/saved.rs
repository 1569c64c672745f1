//! What an agent keeps on disk of what it was told: all of it, or nothing.
//!
//! A file is a mark, the SHA-256 of the rest, and one `Saved`. A file that is cut short, has a bit flipped or another
//! mark is none; so is one of another node.

use std::io::{self, Seek, SeekFrom, Write};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use mesh_common::model::Text;
use prost::Message;

use super::{Key, ResourceType};

/// Begins every file; the digit is the version of the whole format.
const MARK: &[u8; 8] = b"ndmshst1";
const DIGEST: usize = 32;

/// All that a node was told.
#[derive(Clone, PartialEq, Message)]
struct Saved {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<SavedResource>,
}

/// A resource as it was sent.
#[derive(Clone, PartialEq, Message)]
struct SavedResource {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "bytes", tag = "3")]
    value: Bytes,
}

/// Why a file says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SavedError {
    /// Not a file of this version.
    #[error("it is not a state of this version")]
    Mark,
    /// Not as it was written.
    #[error("it was damaged: its checksum does not fit")]
    Checksum,
    /// The checksum fits, and yet it cannot be read.
    #[error("it is of a version that is not known")]
    Content,
    /// Of another node.
    #[error("it is of node {0:?}")]
    Node(String),
}

/// Writes a file, one resource after another: all of them at once would take as much memory again.
///
/// # Errors
/// If it cannot be written.
pub fn save(
    node: &str,
    resources: impl Iterator<Item = (Key, Bytes)>,
    file: &mut (impl Write + Seek),
) -> io::Result<()> {
    file.write_all(MARK)?;
    file.write_all(&[0; DIGEST])?;
    let (mut digest, mut bytes) = (Context::new(&SHA256), Vec::new());
    // Messages that follow each other are one, with all their resources.
    let mut write = |part: &Saved| {
        bytes.clear();
        part.encode(&mut bytes).expect("a vector grows");
        digest.update(&bytes);
        file.write_all(&bytes)
    };
    write(&Saved { node: node.to_owned(), resources: Vec::new() })?;
    for (key, value) in resources {
        let (kind, name) = (key.kind.name().to_owned(), key.name.to_string());
        write(&Saved { node: String::new(), resources: vec![SavedResource { kind, name, value }] })?;
    }
    file.seek(SeekFrom::Start(MARK.len() as u64))?;
    file.write_all(digest.finish().as_ref())
}

/// What a file says. Each value keeps the whole file: copy what is to stay.
///
/// # Errors
/// [`SavedError`] if it is not whole, or not this node's.
pub fn restore(node: &str, file: Bytes) -> Result<Vec<(Key, Bytes)>, SavedError> {
    let rest = file.strip_prefix(MARK).ok_or(SavedError::Mark)?;
    let (sum, body) = rest.split_at_checked(DIGEST).ok_or(SavedError::Checksum)?;
    if digest(body) != sum {
        return Err(SavedError::Checksum);
    }
    let saved = Saved::decode(file.slice_ref(body)).map_err(|_| SavedError::Content)?;
    if saved.node != node {
        return Err(SavedError::Node(saved.node));
    }
    saved.resources.into_iter().map(|resource| key(resource).ok_or(SavedError::Content)).collect()
}

fn key(SavedResource { kind, name, value }: SavedResource) -> Option<(Key, Bytes)> {
    let kind = ResourceType::ALL.into_iter().find(|known| known.name() == kind)?;
    let name: Text = Arc::from(name);
    Some((Key { kind, name }, value))
}

fn digest(body: &[u8]) -> [u8; DIGEST] {
    let mut digest = [0; DIGEST];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&SHA256, body).as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn resources() -> Vec<(Key, Bytes)> {
        let named = |kind, name: &str| (Key { kind, name: name.into() }, Bytes::from(format!("of {name}")));
        vec![named(ResourceType::Mesh, "mesh"), named(ResourceType::Service, "shop/web")]
    }

    fn saved(resources: Vec<(Key, Bytes)>) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        save("a", resources.into_iter(), &mut file).unwrap();
        file.into_inner()
    }

    fn restored(node: &str, file: &[u8]) -> Result<Vec<(Key, Bytes)>, SavedError> {
        restore(node, Bytes::copy_from_slice(file))
    }

    #[test]
    fn what_is_saved_is_restored() {
        let file = saved(resources());
        assert_eq!(restored("a", &file), Ok(resources()));
        assert_eq!(restored("b", &file), Err(SavedError::Node("a".to_owned())));
        assert_eq!(restored("a", &saved(Vec::new())), Ok(Vec::new()));
    }

    #[test]
    fn a_file_that_was_cut_short_says_nothing() {
        let file = saved(resources());
        for length in 0..file.len() {
            assert!(restored("a", &file[..length]).is_err(), "{length} bytes were read");
        }
    }

    #[test]
    fn a_file_with_a_flipped_bit_says_nothing() {
        let file = saved(resources());
        for bit in 0..file.len() * 8 {
            let mut file = file.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            assert!(restored("a", &file).is_err(), "bit {bit} was not missed");
        }
    }

    #[test]
    fn a_type_that_is_not_known_makes_a_file_of_another_version() {
        let resource = SavedResource { kind: "Sidecar".to_owned(), ..SavedResource::default() };
        let body = Saved { node: "a".to_owned(), resources: vec![resource] }.encode_to_vec();
        let file = [&MARK[..], &digest(&body), &body].concat();
        assert_eq!(restored("a", &file), Err(SavedError::Content));
    }
}
