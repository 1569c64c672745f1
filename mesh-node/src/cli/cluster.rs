//! What is asked of a cluster instead of an agent: which versions run, and whether an installation would work.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Output, render, say};
use crate::admin::documents::{Check, CheckVerdict};
use crate::controller::client::{ClientError, client};
use crate::controller::preflight::preflight;
use crate::controller::versions::{VersionsError, versions};

/// Where the API server is, and the mesh.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// How to reach the API server [default: KUBECONFIG, then ~/.kube/config, then as a pod does]
    #[arg(long, env = "NODEMESH_KUBECONFIG", value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Namespace in which controller and agents run
    #[arg(long, env = "NODEMESH_ROOT_NAMESPACE", value_name = "NAME", default_value = "nodemesh-system")]
    pub(super) root_namespace: String,
}

/// `mesh-node version`
#[derive(Args, Clone, Debug)]
pub struct VersionArgs {
    /// Ask no cluster
    #[arg(long)]
    client: bool,
    /// Form of the answer
    #[arg(long, short, value_name = "FORM", default_value = "text")]
    output: Output,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Why a cluster does not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no way to it.
    #[error("reach the API server: set KUBECONFIG or give --kubeconfig FILE, or --client to ask no cluster")]
    Client(#[from] ClientError),
    /// It does not say what runs.
    #[error(transparent)]
    Versions(#[from] VersionsError),
    /// The system refused what asking needs.
    #[error("prepare to ask the API server")]
    System(#[from] io::Error),
}

/// Shows the version of this program, of controllers and of agents; the exit code is 1 if they do not belong together.
///
/// # Errors
/// If the API server does not answer.
pub fn version(args: &VersionArgs) -> Result<ExitCode, ClusterError> {
    let own = env!("CARGO_PKG_VERSION");
    if args.client {
        say(args.output, &serde_json::json!({ "client": own }), |_| format!("client:      {own}\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let ClusterArgs { kubeconfig, root_namespace } = &args.cluster;
    let found = runtime()?.block_on(async {
        let client = client(kubeconfig.as_deref()).await?;
        Ok::<_, ClusterError>(versions(&client, root_namespace).await?)
    })?;
    say(args.output, &found, render::versions);
    Ok(if found.warnings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What an installation would meet.
pub(super) fn check(args: &ClusterArgs) -> io::Result<Vec<Check>> {
    let ClusterArgs { kubeconfig, root_namespace } = args;
    Ok(runtime()?.block_on(preflight(kubeconfig.as_deref(), root_namespace)))
}

/// Whether nothing failed.
pub(super) fn verdict(checks: &[Check]) -> ExitCode {
    let has_failed = checks.iter().any(|check| check.verdict == CheckVerdict::Failed);
    if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

pub(super) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
