//! The checks that neither rustfmt nor clippy has: layers, purity, orphans, sizes.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::{layers, orphans, purity, sizes, workspace};

/// One broken rule, at one line.
pub struct Finding {
    file: PathBuf,
    line: usize,
    problem: String,
}

impl Finding {
    /// A rule broken at a line of a file.
    pub fn at(file: &Path, line: usize, problem: String) -> Self {
        let file = file.strip_prefix(workspace::root()).unwrap_or(file).to_path_buf();
        Self { file, line, problem }
    }
}

/// Runs every check and prints what it finds.
///
/// # Errors
/// If a rule is broken or a source cannot be read.
pub fn run() -> Result<()> {
    let mut findings = Vec::new();
    layers::check(&mut findings)?;
    purity::check(&mut findings)?;
    orphans::check(&mut findings)?;
    sizes::check(&mut findings)?;
    for finding in &findings {
        println!("{}:{}: {}", finding.file.display(), finding.line, finding.problem);
    }
    if !findings.is_empty() {
        bail!("{} broken rules", findings.len());
    }
    Ok(())
}
