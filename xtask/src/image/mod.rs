//! The container image: built from the sources, packed and checked without a container engine.
//!
//! ```text
//! program    the release program, linked whole, with no path of this machine in it
//! packages   what the program is made of, from cargo's metadata
//! sbom       that as a CycloneDX document
//! notices    that as the licence texts that must go with it
//! layer      the root file system as one compressed tar
//! layout     the OCI documents around it, and the archive that holds all
//! check      reads the archive back as a registry and a node would
//! ```
//!
//! In: the sources of one commit. Out: an OCI image archive whose digest follows from them and from the tool chain
//! alone. Never: a clock, a user's name, an order that a folder happened to have.

mod check;
mod layer;
mod layout;
mod notices;
mod packages;
mod program;
mod sbom;
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::image::layer::{Entry, Layer};
use crate::image::layout::Image;
use crate::image::packages::Packages;
use crate::image::source::Source;
use crate::workspace;

/// Most bytes of the archive: it is fetched by every node of a cluster at once.
const LIMIT: usize = 40 << 20;
/// Where the program is in the image.
const PROGRAM: &str = "usr/bin/mesh-node";
/// The name under which kubectl finds it as a plugin.
const PLUGIN: &str = "usr/bin/kubectl-mesh";
/// Where licences and the bill of materials are.
const DOCUMENTS: &str = "usr/share/doc/nodemesh";

/// What was made.
pub struct Made {
    /// The archive.
    pub path: PathBuf,
    /// Its bytes.
    pub size: usize,
    /// The digest of the image's manifest, as in `sha256:...`.
    pub digest: String,
}

/// Builds the program, packs it into `folder` and checks what came out; `program` is one that was built before.
///
/// # Errors
/// If something that it needs is missing, or the archive is not as it must be.
pub fn run(folder: Option<PathBuf>, program: Option<PathBuf>) -> Result<()> {
    let started = Instant::now();
    let source = Source::find()?;
    let program = match program {
        Some(program) => program,
        None => program::build()?,
    };
    println!("built {} in {:.0} s", program.display(), started.elapsed().as_secs_f64());
    let packages = Packages::read()?;
    let folder = folder.unwrap_or_else(|| workspace::root().join("target/image"));
    let made = pack(&program, &packages, &source, &folder)?;
    println!("{}", made.path.display());
    println!("{:.1} MB, {}", made.size as f64 / 1e6, made.digest);
    Ok(())
}

/// Packs a program and checks the archive.
fn pack(program: &Path, packages: &Packages, source: &Source, folder: &Path) -> Result<Made> {
    let program = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let licence = workspace::root().join("LICENSE");
    let licence = fs::read(&licence).with_context(|| format!("read {}", licence.display()))?;
    let bill = sbom::write(packages, source)?;
    let layer = Layer::pack(vec![
        Entry::file(PROGRAM, 0o755, program),
        Entry::link(PLUGIN, "mesh-node"),
        Entry::file(&format!("{DOCUMENTS}/LICENSE"), 0o644, licence),
        Entry::file(&format!("{DOCUMENTS}/THIRD-PARTY"), 0o644, notices::write(packages)?.into_bytes()),
        Entry::file(&format!("{DOCUMENTS}/sbom.cdx.json"), 0o644, bill.clone().into_bytes()),
    ])?;
    let image = Image::new(&layer, source)?;
    let archive = image.archive()?;
    if archive.len() > LIMIT {
        bail!("the archive has {} bytes, at most {LIMIT} are allowed: look what made it grow", archive.len());
    }
    check::layout(&archive)?;
    check::program_runs(&archive, &source.version)?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join(format!("mesh-node-{}-linux-amd64.oci.tar", source.version));
    fs::write(&path, &archive).with_context(|| format!("write {}", path.display()))?;
    let beside = path.with_extension("cdx.json");
    fs::write(&beside, bill).with_context(|| format!("write {}", beside.display()))?;
    Ok(Made { path, size: archive.len(), digest: image.digest().to_owned() })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A program that needs nothing, as the real one, and says what that would: its version, after what it is called.
    fn small_program(folder: &Path) -> PathBuf {
        let (source, program) = (folder.join("small.rs"), folder.join("mesh-node"));
        let says = "fn main() { println!(\"{} {}\", std::env::args().next().unwrap(), env!(\"VERSION\")); }";
        fs::write(&source, says).unwrap();
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--edition=2024", "-Ctarget-feature=+crt-static", "-Cstrip=symbols", "-o"]);
        let status = rustc.arg(&program).arg(&source).env("VERSION", env!("CARGO_PKG_VERSION")).status();
        assert!(status.unwrap().success());
        program
    }

    fn source(time: u64) -> Source {
        Source { version: env!("CARGO_PKG_VERSION").to_owned(), revision: Some("0123".to_owned()), time }
    }

    #[test]
    fn what_is_packed_runs_and_is_the_same_whenever_it_is_packed() {
        let folder = tempfile::tempdir().unwrap();
        let program = small_program(folder.path());
        let packages = Packages::read().unwrap();
        let pack = |name: &str, time: u64| {
            pack(&program, &packages, &source(time), &folder.path().join(name)).unwrap()
        };
        let (first, again, later) = (pack("first", 86_400), pack("again", 86_400), pack("later", 86_401));
        assert_eq!(first.digest, again.digest);
        assert_eq!(fs::read(&first.path).unwrap(), fs::read(&again.path).unwrap());
        assert_ne!(first.digest, later.digest);
        assert!(first.digest.starts_with("sha256:") && first.size < LIMIT);
    }

    #[test]
    fn a_program_that_is_not_whole_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("mesh-node");
        fs::write(&program, "#!/bin/sh\necho mesh-node\n").unwrap();
        let refusal = pack(&program, &Packages::read().unwrap(), &source(0), folder.path()).err().unwrap();
        assert!(format!("{refusal:#}").contains("mesh-node --version"), "{refusal:#}");
    }
}
