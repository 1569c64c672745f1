//! Orphans: Rust files that no `mod` line reaches, so that nobody compiles them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::lint::Finding;
use crate::source;
use crate::workspace;

/// Checks every package.
pub fn check(findings: &mut Vec<Finding>) -> Result<()> {
    for package in workspace::packages() {
        for file in orphans(&package)? {
            findings.push(Finding::at(&file, 1, "no mod line reaches this file: nobody compiles it".into()));
        }
    }
    Ok(())
}

fn orphans(package: &Path) -> Result<Vec<PathBuf>> {
    let mut reached = BTreeSet::new();
    for root in roots(package)? {
        reach(&root, true, &mut reached)?;
    }
    let nested: Vec<PathBuf> = workspace::packages()
        .into_iter()
        .filter(|other| other != package && other.starts_with(package))
        .collect();
    let mut files = source::files(package)?;
    files.retain(|file| !reached.contains(file) && !nested.iter().any(|other| file.starts_with(other)));
    Ok(files)
}

/// Returns the files that cargo compiles by itself: crate roots, by place or by a `path` in the manifest.
fn roots(package: &Path) -> Result<Vec<PathBuf>> {
    let mut roots: Vec<PathBuf> =
        ["build.rs", "src/lib.rs", "src/main.rs"].iter().map(|name| package.join(name)).collect();
    for folder in ["src/bin", "tests", "benches", "examples"] {
        for file in source::files(&package.join(folder))? {
            let inside =
                file.strip_prefix(package.join(folder)).expect("the file was found below the folder");
            if inside.components().count() == 1 || inside.ends_with("main.rs") {
                roots.push(file);
            }
        }
    }
    let manifest = std::fs::read_to_string(package.join("Cargo.toml"))?;
    let named = manifest.lines().filter_map(|line| line.strip_prefix("path = \"")?.strip_suffix("\""));
    roots.extend(named.filter(|path| path.ends_with(".rs")).map(|path| package.join(path)));
    roots.retain(|root| root.exists());
    Ok(roots)
}

fn reach(file: &Path, is_root: bool, reached: &mut BTreeSet<PathBuf>) -> Result<()> {
    if !reached.insert(file.to_path_buf()) {
        return Ok(());
    }
    let folder = file.parent().expect("a file stands in a folder");
    let stem = file.file_stem().unwrap_or_default();
    let children = if is_root || stem == "mod" { folder.to_path_buf() } else { folder.join(stem) };
    for module in modules(&source::read(file)?) {
        let places = match module {
            Module::Named(name) => {
                vec![children.join(format!("{name}.rs")), children.join(&name).join("mod.rs")]
            }
            Module::At(path) => vec![folder.join(path)],
        };
        for place in places.into_iter().filter(|place| place.exists()) {
            // A path may go up; files are found without that.
            reach(&place.canonicalize()?, false, reached)?;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Module {
    Named(String),
    At(String),
}

/// Returns the `mod name;` lines of a source.
fn modules(text: &str) -> Vec<Module> {
    let mut found = Vec::new();
    let mut path = None;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("#[path = \"") {
            path = rest.strip_suffix("\"]").map(str::to_string);
            continue;
        }
        let declaration = line.strip_suffix(';').and_then(|line| {
            let (visibility, name) = line
                .strip_prefix("mod ")
                .map_or_else(|| line.split_once(" mod ").unwrap_or_default(), |name| ("", name));
            let is_declaration = visibility.is_empty() || visibility.starts_with("pub");
            (is_declaration && !name.is_empty() && !name.contains(' ')).then_some(name)
        });
        if let Some(name) = declaration {
            found.push(path.take().map_or_else(|| Module::Named(name.to_string()), Module::At));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mod_lines_are_found_whatever_their_visibility() {
        let found = modules("mod a;\npub mod b;\npub(in crate::x) mod c;\nmod inline {\n}\n");
        assert_eq!(found, ["a", "b", "c"].map(|name| Module::Named(name.to_string())));
    }

    #[test]
    fn a_path_attribute_is_followed() {
        assert_eq!(modules("#[path = \"x/y.rs\"]\nmod a;\n"), [Module::At("x/y.rs".into())]);
    }
}
