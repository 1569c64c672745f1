//! Builds the program that goes into the image: optimised, linked whole, the same on every machine.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{process, workspace};

/// The platform of the image.
///
/// The C library is glibc, linked in: what is measured is measured with its allocator, and every tool chain here
/// has it.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds it, and returns where it is.
///
/// # Errors
/// If it does not build.
pub fn build() -> Result<PathBuf> {
    let root = workspace::root();
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder));
    let moved = moved(&root, &target)?;
    let flags: Vec<String> =
        moved.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")).collect();
    let flags = [vec!["-Ctarget-feature=+crt-static".to_owned()], flags].concat();
    let c_flags: Vec<String> =
        moved.iter().map(|(from, to)| format!("-ffile-prefix-map={from}={to}")).collect();
    let mut cargo = process::cargo(&["build", "--package", "mesh-node", "--bin", "mesh-node"]);
    cargo.args(["--release", "--locked", "--target", TARGET, "--message-format=json-render-diagnostics"]);
    // The names of functions stay, for what a crash says; lines would triple the size.
    cargo.args([
        "--config",
        "profile.release.debug=false",
        "--config",
        "profile.release.strip=\"debuginfo\"",
    ]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTFLAGS");
    // Spaces part the words.
    cargo.env(format!("CFLAGS_{}", TARGET.replace('-', "_")), c_flags.join(" "));
    let output = process::output(&mut cargo)?;
    let messages = output.lines().map(serde_json::from_str::<Value>);
    let messages = messages.collect::<Result<Vec<_>, _>>().context("read what cargo built")?;
    let built = messages.iter().rev().find_map(|message| message["executable"].as_str());
    let built = PathBuf::from(built.context("cargo built no mesh-node")?);
    no_path_is_left(&built, &moved)?;
    Ok(built)
}

/// Folders of this machine, and what the program calls them. The last that fits counts.
fn moved(root: &Path, target: &Path) -> Result<Vec<(String, &'static str)>> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let home = home.context("neither CARGO_HOME nor a home folder is known; set CARGO_HOME")?;
    let folders = [(root, "/nodemesh"), (&home, "/cargo"), (target, "/target")];
    let text = |(folder, name): (&Path, &'static str)| match folder.to_str() {
        Some(folder) if !folder.contains([' ', '=']) => Ok((folder.to_owned(), name)),
        _ => bail!("{} has a blank or '=' in its name: build elsewhere", folder.display()),
    };
    folders.into_iter().map(text).collect()
}

/// A path of this machine in the program would make it another one elsewhere.
fn no_path_is_left(program: &Path, moved: &[(String, &str)]) -> Result<()> {
    let bytes = std::fs::read(program).with_context(|| format!("read {}", program.display()))?;
    for (folder, _) in moved {
        let text = format!("{folder}/");
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) {
            let end = bytes.len().min(at + 160);
            let path = String::from_utf8_lossy(&bytes[at..end]);
            bail!(
                "the program names a folder of this machine: {:?}",
                path.split('\0').next().unwrap_or_default()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_path_of_this_machine_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let moved = moved(Path::new("/home/me/nodemesh"), Path::new("/home/me/target")).unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, b"\x7fELF\0/nodemesh/mesh-node/src/main.rs\0").unwrap();
        no_path_is_left(&program, &moved).unwrap();
        std::fs::write(&program, b"\x7fELF\0/home/me/nodemesh/mesh-node/src/main.rs\0more").unwrap();
        let error = no_path_is_left(&program, &moved).unwrap_err().to_string();
        assert!(error.ends_with("\"/home/me/nodemesh/mesh-node/src/main.rs\""), "{error}");
    }

    #[test]
    fn a_folder_that_a_flag_could_not_name_is_refused() {
        assert!(moved(Path::new("/my sources"), Path::new("/target")).is_err());
    }
}
