//! What an agent that was told to stop leaves behind: everything, for the agent after it, or nothing.
//!
//! Everything is what happens without an answer: pods whose agent is away are refused, never let out. Only the API server
//! can say that no agent will come; neither a controller that is lost nor anything that a pod can do says so.

use std::path::Path;

use mesh_common::model::NamespacedName;
use tracing::{info, warn};

use super::uninstall::{UninstallError, remove_state};
use crate::config::{Config, ControllerAccess, SourceConfig};
use crate::controller::daemon_set::{Fate, fate};
use crate::kernel;
use crate::telemetry::chain::Chain;

/// Removes what the agent has in the kernel and on disk if no agent comes after it. The agent's programs, maps and
/// listeners must have been let go.
///
/// # Errors
/// Something cannot be removed.
pub(super) async fn depart(config: &Config) -> Result<(), UninstallError> {
    let SourceConfig::Controller(ControllerAccess { state_dir, daemon_set: Some(name), .. }) = &config.source
    else {
        return Ok(());
    };
    match fate(&NamespacedName::new(config.node.root_namespace.clone(), name.clone())).await {
        Ok(Fate::Stays) => info!("leaving programs and state to the next agent"),
        Ok(Fate::Goes) => return remove(&config.capture.pin_dir, state_dir),
        Err(error) => warn!(
            error = %Chain(&error),
            "whether the mesh is being removed is not known: programs and state stay, and enrolled pods open no connection \\
             until an agent runs here, or mesh-node uninstall"
        ),
    }
    Ok(())
}

fn remove(pin_dir: &Path, state_dir: &Path) -> Result<(), UninstallError> {
    let done = kernel::uninstall(pin_dir)?.unwrap_or_default();
    remove_state(state_dir)?;
    let (removed, left) = (done.removed.len(), done.left.join(", "));
    if left.is_empty() {
        info!(
            pins = removed,
            "the DaemonSet is gone: removed what the agent had; its pods are outside the mesh"
        );
    } else {
        warn!(
            pins = removed,
            left, "the DaemonSet is gone, and the kernel still has some of what was pinned"
        );
    }
    Ok(())
}
