//! Dependencies: licences, sources, duplicates, and known weaknesses where their database can be had.

use anyhow::{Context, Result};

use crate::process;

/// Checks licences, sources and duplicate versions; needs no network but for crates that were never fetched.
pub fn check() -> Result<()> {
    // It looks at the crates of every platform, also where nothing was built yet.
    process::run(&mut process::cargo(&["fetch", "--quiet", "--locked"]))?;
    process::run(&mut process::cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]))
}

/// Checks for known weaknesses and withdrawn versions; fetches the advisory database.
pub fn advisories() -> Result<()> {
    process::run(&mut process::cargo(&["deny", "check", "advisories"])).context(
        "if the advisory database cannot be fetched from here, MESH_ALLOW_SKIP=advisories leaves this step out, \
         and says so",
    )
}
