//! What an agent that was told to stop leaves behind: everything, for the agent after it, or nothing.
//!
//! Everything is what happens without an answer: pods whose agent is away are refused, never let out. Only the API server
//! can say that no agent will come, and only of a DaemonSet that it has shown before: a wrong name is gone from the
//! beginning. Neither a controller that is lost nor anything that a pod can do says so.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mesh_common::model::NamespacedName;
use tracing::{info, warn};

use super::uninstall::{UninstallError, remove_state};
use crate::config::{Config, ControllerAccess, SourceConfig};
use crate::controller::daemon_set::{Fate, OwnDaemonSet};
use crate::kernel;
use crate::telemetry::chain::Chain;

/// The DaemonSet that an agent is a pod of, and what goes with it.
#[derive(Debug)]
pub(super) struct Departure {
    daemon_set: OwnDaemonSet,
    pin_dir: PathBuf,
    state_dir: PathBuf,
}

impl Departure {
    /// `None` where no DaemonSet is named: then everything stays.
    pub(super) fn new(config: &Config) -> Option<Rc<Self>> {
        let SourceConfig::Controller(ControllerAccess { state_dir, daemon_set: Some(name), .. }) =
            &config.source
        else {
            return None;
        };
        Some(Rc::new(Self {
            daemon_set: OwnDaemonSet::new(NamespacedName::new(
                config.node.root_namespace.clone(),
                name.clone(),
            )),
            pin_dir: config.capture.pin_dir.clone(),
            state_dir: state_dir.clone(),
        }))
    }

    /// Looks for the DaemonSet until it was seen.
    pub(super) async fn look(self: Rc<Self>) -> Infallible {
        let say = |reason: String| {
            warn!(
                daemon_set = %self.daemon_set.name(),
                reason,
                "the DaemonSet of --daemon-set was not seen yet; as long as it was not, an agent that stops removes nothing"
            );
        };
        self.daemon_set.look(say).await
    }

    /// Removes what the agent has in the kernel and on disk if no agent comes after it. The agent's programs, maps and
    /// listeners must have been let go.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(super) async fn depart(&self) -> Result<(), UninstallError> {
        match self.daemon_set.fate().await {
            Ok(Fate::Stays) => info!("leaving programs and state to the next agent"),
            Ok(Fate::Goes) => return remove(&self.pin_dir, &self.state_dir),
            Err(error) => warn!(
                error = %Chain(&error),
                "whether the mesh is being removed is not known: programs and state stay, and enrolled pods open no connection \
                 until an agent runs here, or mesh-node uninstall"
            ),
        }
        Ok(())
    }
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
