//! What would keep an installation from working, said before it.
//!
//! In: an API server, and the namespace that the mesh is to have. Out: a [`Check`] for each thing that matters, with what
//! to do where it is not as it should be. Only reads and asks. `facts` finds out; `judge` says what it means.

mod facts;
mod gateway_api;
mod judge;

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

pub(super) use self::judge::numbers;

use self::facts::Facts;
use super::client;
use crate::admin::documents::{Check, CheckVerdict};
use crate::telemetry::chain::Chain;

/// For the first answer: an API server that takes longer is away.
const PATIENCE: Duration = Duration::from_secs(15);

/// Looks at a cluster on which the mesh is to be installed.
pub async fn preflight(kubeconfig: Option<&Path>, root_namespace: &str) -> Vec<Check> {
    let client = match client::client(kubeconfig).await {
        Ok(client) => client,
        Err(error) => return vec![unreachable(&Chain(&error).to_string())],
    };
    let version = match timeout(PATIENCE, client.apiserver_version()).await {
        Ok(Ok(version)) => version,
        Ok(Err(error)) => return vec![unreachable(&Chain(&error).to_string())],
        Err(_) => return vec![unreachable(&format!("no answer in {} s", PATIENCE.as_secs()))],
    };
    let facts = Facts::gather(&client, root_namespace, version).await;
    judge::all(&facts)
}

fn unreachable(why: &str) -> Check {
    Check {
        name: "API server".to_owned(),
        verdict: CheckVerdict::Failed,
        detail: why.to_owned(),
        advice: Some(
            "give --kubeconfig FILE, or set KUBECONFIG; kubectl version shows whether kubectl reaches it"
                .to_owned(),
        ),
    }
}
