//! An agent of another version: it follows a controller, and does not understand what one policy says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use futures_util::stream;
use mesh_node::xds::refusal::{Refusal, error_detail};
use mesh_node::xds::{FieldError, ResourceType};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::caller::Agent;

/// The agent. Ended on drop.
pub struct Refuser {
    understands: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for Refuser {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Refuser {
    /// The agent of a node, which does not understand the AuthorizationPolicy of this name (`namespace/name`).
    pub async fn start(agent: &Agent, node: &str, policy: &str, error: FieldError) -> Result<Self> {
        let (out, requests) = mpsc::channel(64);
        for kind in ResourceType::OF_EVERYBODY {
            let first = DeltaDiscoveryRequest {
                type_url: kind.type_url(),
                node: Some(Node { id: node.to_owned(), ..Node::default() }),
                ..DeltaDiscoveryRequest::default()
            };
            out.send(first).await?;
        }
        let requests = stream::unfold(requests, |mut requests| async {
            requests.recv().await.map(|request| (request, requests))
        });
        let request = agent.proven(requests)?;
        let mut client = AggregatedDiscoveryServiceClient::new(agent.channel());
        let mut responses = client.delta_aggregated_resources(request).await?.into_inner();
        let understands = Arc::new(AtomicBool::new(false));
        let (policy, is_mended) = (policy.to_owned(), Arc::clone(&understands));
        let task = tokio::spawn(async move {
            while let Ok(Some(response)) = responses.message().await {
                let error = (!is_mended.load(Ordering::Relaxed)).then(|| error.clone());
                if out.send(answer(response, &policy, error)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Self { understands, task })
    }

    /// From now on it understands what comes.
    pub fn understands(&self) {
        self.understands.store(true, Ordering::Relaxed);
    }
}

fn answer(
    response: DeltaDiscoveryResponse,
    policy: &str,
    error: Option<FieldError>,
) -> DeltaDiscoveryRequest {
    let kind = ResourceType::AuthorizationPolicy;
    let is_meant = response.type_url == kind.type_url()
        && response.resources.iter().any(|resource| resource.name == policy);
    let refusal = error.filter(|_| is_meant).map(|error| Refusal::new(policy, error, true));
    DeltaDiscoveryRequest {
        error_detail: error_detail(kind, refusal.into_iter().collect()),
        type_url: response.type_url,
        response_nonce: response.nonce,
        ..DeltaDiscoveryRequest::default()
    }
}
