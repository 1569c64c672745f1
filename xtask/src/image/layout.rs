//! The OCI documents around a layer (image-spec 1.1), and the archive that holds them all.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType};

use crate::image::PROGRAM;
use crate::image::layer::{Layer, header};
use crate::image::source::Source;

/// The image's name, with the version behind it.
const NAME: &str = "nodemesh.dev/mesh-node";
/// Nobody in particular. The agent needs root, and its pod says so; everything else runs as this.
const USER: &str = "65532:65532";

pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The digest of some bytes, as in `sha256:...`.
pub(super) fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Where the archive has the bytes of a digest.
pub(super) fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// An image.
pub struct Image {
    index: Vec<u8>,
    /// The manifest first.
    blobs: Vec<(String, Vec<u8>)>,
}

impl Image {
    /// An image of one layer.
    ///
    /// # Errors
    /// If a document cannot be written.
    pub fn new(layer: &Layer, source: &Source) -> Result<Self> {
        let labels = labels(source);
        let config = bytes(&config(layer, source, &labels))?;
        let manifest = bytes(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, &config),
            "layers": [descriptor(LAYER_TYPE, &layer.blob)],
            "annotations": labels,
        }))?;
        let mut listed = descriptor(MANIFEST_TYPE, &manifest);
        listed["platform"] = json!({"architecture": "amd64", "os": "linux"});
        listed["annotations"] = json!({
            // What podman and skopeo, and what containerd take for its name.
            "org.opencontainers.image.ref.name": source.version,
            "io.containerd.image.name": format!("{NAME}:{}", source.version),
        });
        let index = bytes(&json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [listed]}))?;
        let blobs = [manifest, config, layer.blob.clone()].map(|bytes| (digest(&bytes), bytes));
        Ok(Self { index, blobs: blobs.into() })
    }

    /// The digest of the manifest: what names the image for good.
    pub fn digest(&self) -> &str {
        &self.blobs[0].0
    }

    /// The image as one file.
    ///
    /// # Errors
    /// If it cannot be packed.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let layout = bytes(&json!({"imageLayoutVersion": "1.0.0"}))?;
        let mut files = vec![("oci-layout".to_owned(), &layout), ("index.json".to_owned(), &self.index)];
        files.extend(self.blobs.iter().map(|(digest, bytes)| (blob(digest), bytes)));
        files.sort();
        let mut tar = Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = header(EntryType::Regular, 0o644, bytes.len());
            tar.append_data(&mut header, &path, &bytes[..]).with_context(|| format!("pack {path}"))?;
        }
        tar.into_inner().context("finish the archive")
    }
}

fn config(layer: &Layer, source: &Source, labels: &Value) -> Value {
    json!({
        "created": source.created(),
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": USER,
            "Env": ["PATH=/usr/bin"],
            "Entrypoint": [format!("/{PROGRAM}")],
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created": source.created(), "created_by": "cargo xtask image"}],
    })
}

/// What the image says of itself, for people and scanners.
fn labels(source: &Source) -> Value {
    let mut labels = json!({
        "org.opencontainers.image.title": "Nodemesh",
        "org.opencontainers.image.description":
            "A service mesh for Kubernetes without sidecars: the daemon of a node, and its command line",
        "org.opencontainers.image.version": source.version,
        "org.opencontainers.image.created": source.created(),
        "org.opencontainers.image.licenses": "Apache-2.0",
    });
    if let Some(revision) = &source.revision {
        labels["org.opencontainers.image.revision"] = json!(revision);
    }
    labels
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}

/// The fields of an object are written in the order of their names.
fn bytes(document: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(document).context("write a document of the image")
}
