//! Takes away what an agent left in the kernel, and proves it.

use std::process::ExitCode;

use crate::args::UninstallArgs;
use crate::kernel::{self, UninstallError};

/// Removes every pin, link, program and map below the folder of pins. With `--verify` the exit code is 1 if the
/// kernel still has any of them.
///
/// # Errors
/// An agent uses the folder, or a pin cannot be removed.
pub fn uninstall(args: &UninstallArgs) -> Result<ExitCode, UninstallError> {
    let done = kernel::uninstall(&args.pin_dir)?;
    println!("removed {} pins below {}", done.removed.len(), args.pin_dir.display());
    if done.left.is_empty() {
        println!("looked again: no link, program or map of them is left");
        return Ok(ExitCode::SUCCESS);
    }
    println!("the kernel still has {}", done.left.join(", "));
    Ok(if args.verify { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
