//! Reads an archive back, as a registry and a node would: nothing of it is believed.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;
use tar::Archive;

use crate::image::layout::{CONFIG_TYPE, INDEX_TYPE, LAYER_TYPE, MANIFEST_TYPE, blob, digest};
use crate::image::{PLUGIN, PROGRAM};

/// Fails unless every document is there, names what is there, and every digest and size is right.
///
/// # Errors
/// What is wrong first.
pub fn layout(archive: &[u8]) -> Result<()> {
    let files = Files::read(archive)?;
    let version = files.document("oci-layout")?;
    ensure!(version["imageLayoutVersion"] == "1.0.0", "oci-layout names no version that is known: {version}");
    let manifest = files.manifest()?;
    let config = files.described(&manifest["config"], CONFIG_TYPE)?;
    let config: Value = serde_json::from_slice(config).context("read the configuration")?;
    for (name, expected) in [("architecture", "amd64"), ("os", "linux")] {
        ensure!(config[name] == expected, "the configuration has {name} {}, not {expected}", config[name]);
    }
    let user = config["config"]["User"].as_str().unwrap_or_default();
    ensure!(!user.is_empty() && !user.starts_with("0"), "the image runs as root");
    let labels = config["config"]["Labels"].as_object().context("the configuration has no labels")?;
    for name in ["title", "version", "created", "licenses"] {
        let name = format!("org.opencontainers.image.{name}");
        ensure!(labels.get(&name).is_some_and(Value::is_string), "the label {name} is missing");
    }
    let tar = files.layer(&manifest)?;
    ensure!(
        config["rootfs"]["diff_ids"][0] == digest(&tar),
        "the layer is not the one that the configuration names"
    );
    // Two documents that lead to everything, and three blobs.
    ensure!(files.0.len() == 5, "the archive holds files that nothing names: {:?}", files.0.keys());
    Ok(())
}

/// Fails unless the program, and the link to it, run with nothing around them but the image and say `version`, by whatever
/// name each calls itself.
///
/// # Errors
/// What they said.
pub fn program_runs(archive: &[u8], version: &str) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let files = Files::read(archive)?;
    let tar = files.layer(&files.manifest()?)?;
    Archive::new(&tar[..]).unpack(folder.path()).context("unpack the layer")?;
    for program in [PROGRAM, PLUGIN] {
        let output = alone(folder.path(), program).output().context("start unshare (package util-linux)")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || said.split_whitespace().last() != Some(version) {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("{program} --version, asked in the image for {version}: {}: {said}{errors}", output.status);
        }
    }
    Ok(())
}

/// A command that sees a folder as its root; anybody may, as root of a user namespace of its own.
fn alone(root: &Path, program: &str) -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--mount").arg(format!("--root={}", root.display()));
    command.arg(format!("/{program}")).arg("--version").env_clear();
    command
}

/// What an archive holds.
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    fn read(archive: &[u8]) -> Result<Self> {
        let mut files = BTreeMap::new();
        for entry in Archive::new(archive).entries().context("read the archive")? {
            let mut entry = entry.context("read the archive")?;
            let path = entry.path().context("read a path of the archive")?.display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).with_context(|| format!("read {path} of the archive"))?;
            ensure!(files.insert(path.clone(), bytes).is_none(), "{path} is twice in the archive");
        }
        Ok(Self(files))
    }

    fn bytes(&self, path: &str) -> Result<&[u8]> {
        self.0.get(path).map(Vec::as_slice).with_context(|| format!("the archive has no {path}"))
    }

    fn document(&self, path: &str) -> Result<Value> {
        serde_json::from_slice(self.bytes(path)?).with_context(|| format!("read {path}"))
    }

    /// The one manifest that the index names.
    fn manifest(&self) -> Result<Value> {
        let index = self.document("index.json")?;
        ensure!(index["mediaType"] == INDEX_TYPE, "index.json is no index");
        let manifests = index["manifests"].as_array().context("the index names no manifests")?;
        ensure!(manifests.len() == 1, "the index names {} manifests, not one", manifests.len());
        let manifest = self.described(&manifests[0], MANIFEST_TYPE)?;
        let manifest: Value = serde_json::from_slice(manifest).context("read the manifest")?;
        ensure!(
            manifest["layers"].as_array().is_some_and(|layers| layers.len() == 1),
            "there is not one layer"
        );
        Ok(manifest)
    }

    /// The tar of the one layer.
    fn layer(&self, manifest: &Value) -> Result<Vec<u8>> {
        let mut tar = Vec::new();
        let blob = self.described(&manifest["layers"][0], LAYER_TYPE)?;
        GzDecoder::new(blob).read_to_end(&mut tar).context("decompress the layer")?;
        Ok(tar)
    }

    /// What a descriptor is about, if it is right.
    fn described(&self, descriptor: &Value, kind: &str) -> Result<&[u8]> {
        let named = descriptor["digest"].as_str().context("a descriptor has no digest")?;
        ensure!(descriptor["mediaType"] == kind, "{named} is {}, not {kind}", descriptor["mediaType"]);
        let bytes = self.bytes(&blob(named))?;
        ensure!(descriptor["size"] == bytes.len(), "{named} has {} bytes, not the named size", bytes.len());
        ensure!(digest(bytes) == named, "{named} has other bytes than its digest says");
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::layer::{Entry, Layer};
    use crate::image::layout::Image;
    use crate::image::source::Source;

    fn archive() -> Vec<u8> {
        let layer = Layer::pack(vec![Entry::file(PROGRAM, 0o755, b"program".to_vec())]).unwrap();
        let source = Source { version: "1.2.3".to_owned(), revision: None, time: 0 };
        Image::new(&layer, &source).unwrap().archive().unwrap()
    }

    #[test]
    fn an_archive_that_was_changed_anywhere_is_refused() {
        let good = archive();
        layout(&good).unwrap();
        let files = Files::read(&good).unwrap();
        for (path, bytes) in &files.0 {
            let at = |part: &[u8]| good.windows(part.len()).position(|window| window == part);
            let start = at(bytes).unwrap();
            let mut changed = good.clone();
            changed[start + bytes.len() / 2] ^= 1;
            assert!(layout(&changed).is_err(), "{path}");
        }
    }

    #[test]
    fn folders_come_before_what_stands_in_them() {
        let layer = Layer::pack(vec![
            Entry::link("usr/bin/b", "a"),
            Entry::file("usr/bin/a", 0o755, Vec::new()),
            Entry::file("etc/c", 0o644, Vec::new()),
        ]);
        let mut tar = Vec::new();
        GzDecoder::new(&layer.unwrap().blob[..]).read_to_end(&mut tar).unwrap();
        let mut archive = Archive::new(&tar[..]);
        let paths = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
            entry.path().unwrap().display().to_string()
        });
        let paths: Vec<String> = paths.collect();
        assert_eq!(paths, ["etc/", "usr/", "usr/bin/", "etc/c", "usr/bin/a", "usr/bin/b"]);
    }
}
