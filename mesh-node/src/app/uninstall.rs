//! Takes away what an agent left in the kernel, and proves it.

use std::process::ExitCode;

use crate::args::UninstallArgs;
use crate::kernel::{self, UninstallError};

/// Removes every pin, link, program and map below the folder of pins. With `--verify` the exit code is 1 if the
/// kernel still has any of them.
///
/// # Errors
/// The folder is not an agent's, an agent uses it, or a pin cannot be removed.
pub fn uninstall(args: &UninstallArgs) -> Result<ExitCode, UninstallError> {
    let Some(done) = kernel::uninstall(&args.pin_dir)? else {
        println!("nothing is pinned at {}: there is no such folder", args.pin_dir.display());
        return Ok(ExitCode::SUCCESS);
    };
    println!("removed {} pins below {}", done.removed.len(), args.pin_dir.display());
    if done.left.is_empty() {
        println!("looked again: no link, program or map of them is left");
        return Ok(ExitCode::SUCCESS);
    }
    println!("the kernel still has {}", done.left.join(", "));
    Ok(if args.verify { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
