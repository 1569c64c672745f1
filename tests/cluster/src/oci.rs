//! Images as OCI archives, made from a folder without a registry or a container engine.
//!
//! The same folder gives the same bytes: one layer, uncompressed, whose files have no owner and no time.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

/// An image.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// What pods call it.
    pub name: &'a str,
    /// What its root has.
    pub root: &'a Path,
    /// What runs, with what a pod gives it.
    pub entrypoint: &'a [&'a str],
    /// What runs, or what the entry point is given, when a pod says nothing.
    pub command: &'a [&'a str],
}

impl Image<'_> {
    /// Writes it to `archive`.
    ///
    /// # Errors
    /// A file cannot be read, or the archive not written.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let layer = self.layer().with_context(|| format!("read {}", self.root.display()))?;
        let config = self.config(&layer).to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let mut listed = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        listed["annotations"] = json!({ "io.containerd.image.name": self.name });
        let index = json!({ "schemaVersion": 2, "manifests": [listed] }).to_string().into_bytes();
        let file = File::create(archive).with_context(|| format!("make {}", archive.display()))?;
        let mut tar = tar::Builder::new(file);
        let layout = ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        let blobs = [config, manifest, layer].map(|blob| (format!("blobs/sha256/{}", sha256(&blob)), blob));
        let files = [layout, ("index.json".to_owned(), index)].into_iter().chain(blobs);
        for (name, content) in files {
            append(&mut tar, &name, &content).with_context(|| format!("write {}", archive.display()))?;
        }
        tar.into_inner().map(drop).with_context(|| format!("write {}", archive.display()))
    }

    fn layer(&self) -> std::io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        tar.mode(tar::HeaderMode::Deterministic);
        tar.follow_symlinks(false);
        tar.append_dir_all(".", self.root)?;
        tar.into_inner()
    }

    fn config(&self, layer: &[u8]) -> Value {
        json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(layer))] },
        })
    }
}

fn descriptor(kind: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": format!("sha256:{}", sha256(blob)), "size": blob.len() })
}

fn append(tar: &mut tar::Builder<File>, name: &str, content: &[u8]) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content)
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_folder_gives_the_same_archive() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("b"), "text").unwrap();
        std::os::unix::fs::symlink("b", root.join("a")).unwrap();
        let archives = ["one", "two"].map(|name| folder.path().join(name));
        for archive in &archives {
            let image =
                Image { name: "localhost/test:local", root: &root, entrypoint: &["/b"], command: &[] };
            image.write(archive).unwrap();
        }
        let [one, two] = archives.map(|archive| std::fs::read(archive).unwrap());
        assert_eq!(one, two);
    }
}
