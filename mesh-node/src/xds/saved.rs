//! What an agent keeps on disk of what it was told: all of it, or nothing.
//!
//! A file is a mark, the SHA-256 of the rest, and one `Saved`. A file that is cut short, has a bit flipped or another
//! mark is none; so is one of another node.

use std::sync::Arc;

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

/// What goes into the file.
pub fn save(node: &str, resources: impl Iterator<Item = (Key, Bytes)>) -> Vec<u8> {
    let saved = |(key, value): (Key, Bytes)| SavedResource {
        kind: key.kind.name().to_owned(),
        name: key.name.to_string(),
        value,
    };
    let saved = Saved { node: node.to_owned(), resources: resources.map(saved).collect() };
    let mut file = Vec::with_capacity(MARK.len() + DIGEST + saved.encoded_len());
    file.extend_from_slice(MARK);
    file.resize(MARK.len() + DIGEST, 0);
    saved.encode(&mut file).expect("a vector grows");
    let digest = digest(&file[MARK.len() + DIGEST..]);
    file[MARK.len()..MARK.len() + DIGEST].copy_from_slice(&digest);
    file
}

/// What a file says.
///
/// # Errors
/// [`SavedError`] if it is not whole, or not this node's.
pub fn restore(node: &str, file: &[u8]) -> Result<Vec<(Key, Bytes)>, SavedError> {
    let rest = file.strip_prefix(MARK).ok_or(SavedError::Mark)?;
    let (sum, body) = rest.split_at_checked(DIGEST).ok_or(SavedError::Checksum)?;
    if digest(body) != sum {
        return Err(SavedError::Checksum);
    }
    let saved = Saved::decode(Bytes::copy_from_slice(body)).map_err(|_| SavedError::Content)?;
    if saved.node != node {
        return Err(SavedError::Node(saved.node));
    }
    saved.resources.into_iter().map(|resource| key(resource).ok_or(SavedError::Content)).collect()
}

fn key(SavedResource { kind, name, value }: SavedResource) -> Option<(Key, Bytes)> {
    let kind = ResourceType::ALL.into_iter().find(|known| known.name() == kind)?;
    let name: Text = Arc::from(name);
    // A copy of its own: as a slice it would keep the whole file.
    Some((Key { kind, name }, Bytes::copy_from_slice(&value)))
}

fn digest(body: &[u8]) -> [u8; DIGEST] {
    let mut digest = [0; DIGEST];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body).as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources() -> Vec<(Key, Bytes)> {
        let named = |kind, name: &str| (Key { kind, name: name.into() }, Bytes::from(format!("of {name}")));
        vec![named(ResourceType::Mesh, "mesh"), named(ResourceType::Service, "shop/web")]
    }

    #[test]
    fn what_is_saved_is_restored() {
        let file = save("a", resources().into_iter());
        assert_eq!(restore("a", &file), Ok(resources()));
        assert_eq!(restore("b", &file), Err(SavedError::Node("a".to_owned())));
        assert_eq!(restore("a", &save("a", std::iter::empty())), Ok(Vec::new()));
    }

    #[test]
    fn a_file_that_was_cut_short_says_nothing() {
        let file = save("a", resources().into_iter());
        for length in 0..file.len() {
            assert!(restore("a", &file[..length]).is_err(), "{length} bytes were read");
        }
    }

    #[test]
    fn a_file_with_a_flipped_bit_says_nothing() {
        let file = save("a", resources().into_iter());
        for bit in 0..file.len() * 8 {
            let mut file = file.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            assert!(restore("a", &file).is_err(), "bit {bit} was not missed");
        }
    }

    #[test]
    fn a_type_that_is_not_known_makes_a_file_of_another_version() {
        let resource = SavedResource { kind: "Sidecar".to_owned(), ..SavedResource::default() };
        let body = Saved { node: "a".to_owned(), resources: vec![resource] }.encode_to_vec();
        let file = [&MARK[..], &digest(&body), &body].concat();
        assert_eq!(restore("a", &file), Err(SavedError::Content));
    }
}
