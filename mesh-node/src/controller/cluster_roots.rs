//! The mesh's roots as a ClusterTrustBundle (`certificates.k8s.io`), where the cluster has that kind.
//!
//! In: the roots. Out: one object, which any pod may mount, and whether it is in place. Kubernetes serves the kind as `v1`
//! from 1.37 on, and before as `v1beta1` where somebody turned it on. Without it nothing is written here.

use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{FIELD_MANAGER, part_of};
use crate::telemetry::chain::Chain;

/// The object. Its name begins with that of its signer, as the API server asks.
pub(super) const NAME: &str = "nodemesh.dev:mesh:ca-root";
/// Whose roots these are: by it, pods ask for all bundles of the mesh.
const SIGNER: &str = "nodemesh.dev/mesh";

const GROUP: &str = "certificates.k8s.io";
/// The newest first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const KIND: &str = "ClusterTrustBundle";
const PLURAL: &str = "clustertrustbundles";
/// For one answer of the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two questions whether the kind is served: an API server is begun anew for that.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// The one object.
pub(super) struct ClusterRoots {
    client: Client,
    /// The version in which the kind is served.
    served: Option<ApiResource>,
    asked: Option<Instant>,
    /// Whether it is there with the roots; `None` before anybody answered.
    in_place: Option<bool>,
}

impl ClusterRoots {
    pub(super) fn new(client: Client) -> Self {
        Self { client, served: None, asked: None, in_place: None }
    }

    /// Sees that the object has these roots, where there can be one; says whether it has, as far as anybody answered.
    pub(super) async fn keep(&mut self, roots: &str) -> Option<bool> {
        match self.try_keep(roots).await {
            Ok(in_place) => self.in_place = Some(in_place),
            // Refused for good: without rights, or for a certificate that the API server does not take.
            Err(Error::Api(status)) if !is_passing(status.code) => {
                warn!(name = NAME, error = %Chain(&Error::Api(status)), "ClusterTrustBundle not written: namespaces get ConfigMaps");
                self.in_place = Some(false);
            }
            Err(error) => warn!(name = NAME, error = %Chain(&error), "ClusterTrustBundle not looked at"),
        }
        self.in_place
    }

    async fn try_keep(&mut self, roots: &str) -> Result<bool, Error> {
        if self.asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN) {
            self.served = self.find().await?;
            self.asked = Some(Instant::now());
        }
        let Some(resource) = &self.served else { return Ok(false) };
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), resource);
        if let Some(found) = soon(api.get_opt(NAME)).await?
            && found.data["spec"] == json!({"signerName": SIGNER, "trustBundle": roots})
        {
            return Ok(true);
        }
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        match soon(api.patch(NAME, &apply, &Patch::Apply(object(resource, roots)))).await {
            Ok(_) => info!(name = NAME, "wrote the roots as a ClusterTrustBundle"),
            // It is served no more.
            Err(Error::Api(status)) if status.is_not_found() => {
                self.asked = None;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// In which version it is served, the newest of those that are known.
    async fn find(&self) -> Result<Option<ApiResource>, Error> {
        for version in VERSIONS {
            let resources = soon(self.client.list_api_group_resources(&format!("{GROUP}/{version}"))).await;
            match resources {
                Ok(list) if list.resources.iter().any(|resource| resource.name == PLURAL) => {
                    return Ok(Some(resource(version)));
                }
                Ok(_) => {}
                Err(Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn object(resource: &ApiResource, roots: &str) -> serde_json::Value {
    json!({
        "apiVersion": resource.api_version,
        "kind": KIND,
        "metadata": {"name": NAME, "labels": part_of()},
        "spec": {"signerName": SIGNER, "trustBundle": roots},
    })
}

fn resource(version: &str) -> ApiResource {
    ApiResource {
        group: GROUP.to_owned(),
        version: version.to_owned(),
        api_version: format!("{GROUP}/{version}"),
        kind: KIND.to_owned(),
        plural: PLURAL.to_owned(),
    }
}

/// Whether another answer may follow: the API server is busy or in trouble.
pub(super) fn is_passing(code: u16) -> bool {
    matches!(code, 408 | 409 | 429) || code >= 500
}

/// Waits for an answer, and not for ever.
pub(super) async fn soon<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = |_| Error::Service(Box::new(std::io::Error::from(std::io::ErrorKind::TimedOut)));
    timeout(PATIENCE, answer).await.map_err(late)?
}
