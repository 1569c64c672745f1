//! How the API server is reached.

use std::path::Path;
use std::time::Duration;

use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// For one connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Without a byte, longer than any watch is without a bookmark or an end.
const READ: Duration = Duration::from_secs(75);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of `--kubeconfig`.
    #[error("read the file of --kubeconfig")]
    Kubeconfig(#[from] KubeconfigError),
    /// Neither a pod's service account nor a kubeconfig is there.
    #[error("find out where the API server is")]
    Infer(#[from] InferConfigError),
    /// What was found cannot be used.
    #[error("use what is known of the API server")]
    Client(#[from] kube::Error),
}

/// A client of the API server. It connects when it is used.
///
/// # Errors
/// If nobody knows where the API server is, or how to prove who we are.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    config.reset_reader_on_write = true;
    // Whoever calls knows when to call again.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
