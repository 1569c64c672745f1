//! Reads Rust sources for the lints: finds them, and tells code from comments and tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One line of code, without its comment.
pub struct Line {
    /// Counted from 1.
    pub number: usize,
    pub code: String,
}

/// Returns every Rust source below a folder, in order; none if there is no such folder.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.exists() {
        return Ok(found);
    }
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target" && name != "corpus") {
                found.extend(files(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Reads a source.
pub fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

/// Returns whether a file below `src` holds only tests.
pub fn is_test_file(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests")
        || file.file_stem().is_some_and(|stem| stem == "tests")
}

/// Returns the lines that are not part of a `#[cfg(test)]` module, comments kept.
///
/// Relies on rustfmt: a module's closing brace stands alone, indented as its first line.
pub fn without_tests(text: &str) -> Vec<(usize, &str)> {
    let mut kept = Vec::new();
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push((number, line));
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        let item = lines.by_ref().find(|(_, line)| !line.trim_start().starts_with("#["));
        if item.is_some_and(|(_, line)| line.trim_end().ends_with('{')) {
            lines.by_ref().find(|(_, line)| *line == end);
        }
    }
    kept
}

/// Returns the code that is no test, line by line, comments and the insides of simple strings removed.
pub fn code(text: &str) -> Vec<Line> {
    without_tests(text)
        .into_iter()
        .map(|(number, line)| Line { number, code: strip(line) })
        .filter(|line| !line.code.trim().is_empty())
        .collect()
}

fn strip(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut letters = line.chars().peekable();
    let mut quoted = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if quoted => {
                letters.next();
            }
            '"' => {
                quoted = !quoted;
                kept.push(letter);
            }
            '/' if !quoted && letters.peek() == Some(&'/') => break,
            _ if quoted => {}
            _ => kept.push(letter),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_module_is_not_code() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        let kept: Vec<usize> = without_tests(text).into_iter().map(|(number, _)| number).collect();
        assert_eq!(kept, [1, 6]);
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_ends_at_its_line() {
        let text = "#[cfg(test)]\nmod tests;\nfn a() {}\n";
        let kept: Vec<usize> = without_tests(text).into_iter().map(|(number, _)| number).collect();
        assert_eq!(kept, [3]);
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        let lines = code("let a = \"crate::x // y\"; // crate::z\n/// crate::w\n");
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].code.trim(), "let a = \"\";");
    }
}
