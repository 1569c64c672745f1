//! Takes away what an agent left in the kernel and on disk, and proves it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use crate::args::UninstallArgs;
use crate::config_client;
use crate::kernel;
use crate::system::print_line;

/// Why not all is gone.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// The kernel's side.
    #[error(transparent)]
    Kernel(#[from] kernel::UninstallError),
    /// What the controller said last.
    #[error("remove the files in {}", folder.display())]
    State {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Removes every pin, link, program and map below the folder of pins, and the agent's state. With `--verify` the exit code
/// is 1 if the kernel still has any of them; with `--stay` it does not end once all is gone.
///
/// # Errors
/// The folder is not an agent's, an agent uses it, or something cannot be removed.
pub fn uninstall(args: &UninstallArgs) -> Result<ExitCode, UninstallError> {
    let is_clean = remove_pins(&args.pin_dir)?;
    if let Some(folder) = &args.state_dir {
        remove_state(folder)?;
    }
    if args.verify && !is_clean {
        return Ok(ExitCode::FAILURE);
    }
    if args.stay {
        loop {
            thread::park();
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether nothing is left.
fn remove_pins(pin_dir: &Path) -> Result<bool, UninstallError> {
    let Some(done) = kernel::uninstall(pin_dir)? else {
        print_line(absent(pin_dir));
        return Ok(true);
    };
    match done.removed.len() {
        0 => print_line(format_args!("no pin was below {}; the folder is removed", pin_dir.display())),
        count => print_line(format_args!("removed {count} pins below {}", pin_dir.display())),
    }
    if done.left.is_empty() {
        print_line("looked again: no link, program or map of them is left");
    } else {
        print_line(format_args!("the kernel still has {}", done.left.join(", ")));
    }
    Ok(done.left.is_empty())
}

/// What is said of a folder that is not there; beside it may be the one that was meant.
fn absent(pin_dir: &Path) -> String {
    let there = format!("there is no folder {}: nothing was removed", pin_dir.display());
    let others: Vec<String> =
        kernel::others_beside(pin_dir).iter().map(|path| path.display().to_string()).collect();
    match others.is_empty() {
        true => format!("{there}; if the agent ran with another --pin-dir, name that one"),
        false => format!("{there}; agents' pins are at {}: name one of them in --pin-dir", others.join(", ")),
    }
}

/// Removes what an agent kept in a folder; the folder itself may be where something is mounted.
pub(super) fn remove_state(folder: &Path) -> Result<(), UninstallError> {
    remove_files(folder).map_err(|source| UninstallError::State { folder: folder.to_owned(), source })
}

fn remove_files(folder: &Path) -> io::Result<()> {
    for file in config_client::STATE_FILES {
        match fs::remove_file(folder.join(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    // Somebody else's files, or a mount: it stays.
    let _ = fs::remove_dir(folder);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_told_from_those_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let wrong = folder.path().join("nodemsh");
        assert!(
            absent(&wrong)
                .ends_with("nothing was removed; if the agent ran with another --pin-dir, name that one")
        );
        fs::create_dir_all(folder.path().join("nodemesh/maps-1")).unwrap();
        fs::create_dir_all(folder.path().join("other/things")).unwrap();
        let expected = format!("agents' pins are at {}/nodemesh: name one", folder.path().display());
        assert!(absent(&wrong).contains(&expected), "{}", absent(&wrong));
    }
}
