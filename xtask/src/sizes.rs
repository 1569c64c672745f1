//! File sizes and names: a file says one thing, and says it in its name.

use anyhow::Result;

use crate::lint::Finding;
use crate::source;
use crate::workspace;

/// Most lines of a file: of one with code those without its tests, of one with tests all. A function's length is
/// clippy's to check.
const LIMIT: usize = 500;

/// Files over the limit, with the lines that each has: entries may only shrink or go.
const ALLOWED: &[(&str, usize)] = &[];

/// Names that become a drawer: when nothing fits, the vocabulary lacks a word.
const DRAWERS: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc", "types", "traits"];

/// Checks every source of every package.
pub fn check(findings: &mut Vec<Finding>) -> Result<()> {
    let root = workspace::root();
    for package in workspace::packages() {
        for file in source::files(&package)? {
            let text = source::read(&file)?;
            let inside = file.strip_prefix(&root).expect("packages are below the root");
            let limit = allowed(&inside.to_string_lossy());
            let is_test = source::is_test_file(inside);
            let lines = if is_test { text.lines().count() } else { source::without_tests(&text).len() };
            if lines > limit {
                let what = if is_test { "lines" } else { "lines without tests" };
                findings.push(Finding::at(&file, 1, format!("{lines} {what}, at most {limit}")));
            }
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if DRAWERS.contains(&stem.as_str()) {
                findings.push(Finding::at(&file, 1, format!("{stem} is a drawer, not a name")));
            }
            if let Some((line, _)) = lines_of(&text).find(|(_, line)| line.starts_with("#[ignore")) {
                findings.push(Finding::at(&file, line, "an ignored test: a test runs or goes".into()));
            }
        }
    }
    Ok(())
}

fn allowed(path: &str) -> usize {
    ALLOWED.iter().find(|(name, _)| *name == path).map_or(LIMIT, |(_, lines)| *lines)
}

fn lines_of(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_start()))
}
