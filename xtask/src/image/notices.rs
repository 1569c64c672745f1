//! Licence texts of others, which must go with a program that their code is in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::Package;

use crate::image::packages::Packages;

/// How a file with such a text is called, in lower case.
const NAMES: &[&str] = &["license", "licence", "copying", "copyright", "notice", "unlicense"];
/// Where packages keep texts besides their own folder: those of C code.
const FOLDERS: &[&str] = &["", "aws-lc"];
/// The licence of the C library, which is linked in.
const LGPL: &str = "/usr/share/common-licenses/LGPL-2.1";

/// Every text once, with the packages that it belongs to.
///
/// # Errors
/// If a text cannot be read.
pub fn write(packages: &Packages) -> Result<String> {
    let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let foreign = packages.all.values().filter(|package| package.source.is_some());
    for package in foreign.clone() {
        for path in texts(package)? {
            let text = read(&path)?;
            owners.entry(text).or_default().insert(format!("{} {}", package.name, package.version));
        }
    }
    let lgpl = read(Path::new(LGPL)).context("install base-files, which has the licence of the C library")?;
    owners.entry(lgpl).or_default().insert(format!("glibc {}", packages.glibc));
    let mut notices = "What mesh-node is made of, besides code of its own.\n\n".to_owned();
    for package in foreign {
        let licence = package.license.as_deref().unwrap_or("see below");
        notices += &format!("{} {}: {licence}\n", package.name, package.version);
    }
    notices += &format!("glibc {}: LGPL-2.1-or-later\n", packages.glibc);
    notices += &format!("rust-std {}: MIT OR Apache-2.0\n", packages.rust);
    let mut blocks: Vec<(Vec<String>, String)> =
        owners.into_iter().map(|(text, owners)| (owners.into_iter().collect(), text)).collect();
    blocks.sort();
    for (owners, text) in blocks {
        notices += &format!("\n{}\n{}\n\n{}\n", "=".repeat(80), owners.join(", "), text);
    }
    Ok(notices)
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).replace("\r\n", "\n").trim().to_owned())
}

/// The files of a package that hold such a text.
fn texts(package: &Package) -> Result<Vec<PathBuf>> {
    let folder = package.manifest_path.as_std_path().parent().context("a manifest stands in a folder")?;
    let mut found = Vec::new();
    for folder in FOLDERS.iter().map(|inside| folder.join(inside)).filter(|folder| folder.is_dir()) {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            if path.is_file() && NAMES.iter().any(|start| name.starts_with(start)) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_are_there() {
        let notices = write(&Packages::read().unwrap()).unwrap();
        assert!(notices.contains("aws-lc-sys 0."));
        assert!(notices.contains("GNU LESSER GENERAL PUBLIC LICENSE\n"));
        assert!(!notices.contains("mesh-common"));
    }
}
