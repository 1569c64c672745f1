//! How the API server is reached.

use std::path::Path;
use std::time::Duration;

use kube::config::{InClusterError, InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
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
    /// There is no service account's token, or the pod was not told where the API server is.
    #[error("find what a pod has of its service account")]
    Pod(#[from] InClusterError),
    /// What was found cannot be used.
    #[error("use what is known of the API server")]
    Client(#[from] kube::Error),
}

/// A client of the API server. It connects when it is used.
///
/// # Errors
/// If nobody knows where the API server is, or how to prove who we are.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    connect_with(match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await?,
    })
}

/// A client that is the pod's own service account, and never a person's. It connects when it is used.
///
/// # Errors
/// If this is no pod, or one without a service account's token.
pub fn client_of_pod() -> Result<Client, ClientError> {
    connect_with(Config::incluster()?)
}

fn connect_with(mut config: Config) -> Result<Client, ClientError> {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    config.reset_reader_on_write = true;
    // Whoever calls knows when to call again.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
