//! Documents that the code writes: flags, metrics, our kinds and their definitions; the rights that the manifests ask for;
//! and the chart, which follows from them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{chart, process, rights, workspace};

/// File, and the word after `mesh-node reference` that prints it.
const DOCUMENTS: &[(&str, &str)] = &[
    ("docs/flags.md", "flags"),
    ("docs/metrics.md", "metrics"),
    ("docs/kinds.md", "kinds"),
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
        bring(mode, name, &text, &mut stale)?;
    }
    let (name, text) = rights::document()?;
    bring(mode, name, &text, &mut stale)?;
    // Last: it has the definitions.
    for (name, text) in chart::files()? {
        bring(mode, &name, &text, &mut stale)?;
    }
    if !stale.is_empty() {
        bail!("{} differ from the code; run: cargo xtask docs", stale.join(", "));
    }
    Ok(())
}

/// Writes a file that differs, or says that it does.
fn bring(mode: Mode, name: &str, text: &str, stale: &mut Vec<String>) -> Result<()> {
    let path = workspace::root().join(name);
    if fs::read_to_string(&path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    match mode {
        Mode::Check => stale.push(name.to_owned()),
        Mode::Write => {
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            println!("wrote {name}");
        }
    }
    Ok(())
}
