//! Documents that the code writes: flags, metrics, and the definitions of our kinds.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// File, and the word after `mesh-node reference` that prints it.
const DOCUMENTS: &[(&str, &str)] = &[
    ("docs/flags.md", "flags"),
    ("docs/metrics.md", "metrics"),
    ("manifests/foundation/crds.yaml", "definitions"),
];

/// What to do with a document that differs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Write it.
    Write,
    /// Fail.
    Check,
}

/// Writes or checks every generated document; `program` is a built `mesh-node`, else cargo builds one.
pub fn run(mode: Mode, program: Option<&Path>) -> Result<()> {
    let mut stale = Vec::new();
    for (name, word) in DOCUMENTS {
        let mut print = match program {
            Some(program) => process::command(program),
            None => process::cargo(&["run", "--quiet", "--package", "mesh-node", "--"]),
        };
        let text = process::output(print.args(["reference", word]))?;
        let path = workspace::root().join(name);
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        match mode {
            Mode::Check => stale.push(*name),
            Mode::Write => {
                fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
                println!("wrote {name}");
            }
        }
    }
    if !stale.is_empty() {
        bail!("{} differ from the code; run: cargo xtask docs", stale.join(", "));
    }
    Ok(())
}
