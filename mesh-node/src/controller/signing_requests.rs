//! Has somebody else sign: the signer of a CertificateSigningRequest (`certificates.k8s.io/v1`), such as cert-manager's
//! or a company's own.
//!
//! In: what our own authority would be asked. Out: its answer. The caller was permitted before this is asked, so each
//! request is approved by the controller itself; it is gone when it is answered. Roots are those of the Secret, as a
//! signer of that API states none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Client, Error};
use mesh_common::model::{SpiffeId, Text};
use rustls_pki_types::CertificateSigningRequestDer;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::debug;

use super::part_of;
use crate::identity::{
    AuthorityError, CertificateAuthority, HeldAuthority, Issued, Signing, TrustBundle, issued_for,
    request_for,
};
use crate::telemetry::chain::Chain;

/// Begins the names of requests.
const PREFIX: &str = "nodemesh-";
/// Requests at a time: more would be the API server's load, not the signer's.
const AT_A_TIME: usize = 32;
/// For one answer of the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a turn, and then for the signer: together less than an agent waits. It asks again.
const TURN: Duration = Duration::from_secs(5);
const SIGNER_PATIENCE: Duration = Duration::from_secs(8);
/// The least that the API takes as a request's lifetime.
const SHORTEST: u64 = 600;

/// Asks a signer for each certificate.
pub(super) struct RequestedAuthority {
    client: Client,
    signer_name: Text,
    lifetime: Duration,
    /// Of whom only the roots are taken.
    roots: Arc<HeldAuthority>,
    /// The controller's own, which waits behind nobody's.
    own: SpiffeId,
    turns: Semaphore,
}

impl RequestedAuthority {
    /// Of the signer that takes requests with `signer_name`.
    pub(super) fn new(
        client: Client,
        signer_name: Text,
        lifetime: Duration,
        roots: Arc<HeldAuthority>,
        own: SpiffeId,
    ) -> Self {
        Self { client, signer_name, lifetime, roots, own, turns: Semaphore::new(AT_A_TIME) }
    }

    async fn turn(&self, identity: &SpiffeId) -> Result<Option<SemaphorePermit<'_>>, AuthorityError> {
        if *identity == self.own {
            return Ok(None);
        }
        let late = |_| AuthorityError::Away {
            what: format!("{AT_A_TIME} requests to {} are under way already", self.signer_name),
        };
        timeout(TURN, self.turns.acquire()).await.map_err(late)?.map(Some).map_err(away)
    }

    async fn ask(
        &self,
        identity: &SpiffeId,
        request: &CertificateSigningRequestDer<'_>,
        now: u64,
    ) -> Result<Issued, AuthorityError> {
        let pem = request_for(identity, request)?;
        let _turn = self.turn(identity).await?;
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let made = soon(api.create(&PostParams::default(), &self.object(pem))).await?;
        let name = made.metadata.name.unwrap_or_default();
        let answer = self.answer(&api, &name, identity).await;
        if let Err(error) = soon(api.delete(&name, &DeleteParams::default())).await {
            debug!(%error, %name, "an answered request stays until the cluster clears it away");
        }
        issued_for(identity, request, &answer?, &self.roots.bundle()?, now)
    }

    /// Approves a request, and waits for what its signer says.
    async fn answer(
        &self,
        api: &Api<CertificateSigningRequest>,
        name: &str,
        identity: &SpiffeId,
    ) -> Result<Vec<u8>, AuthorityError> {
        soon(api.patch_approval(name, &PatchParams::default(), &Patch::Merge(approval()))).await?;
        let waiting = await_condition(api.clone(), name, Answered);
        let Ok(answered) = timeout(SIGNER_PATIENCE, waiting).await else {
            let what = format!("no signer of {} answered request {name}", self.signer_name);
            return Err(AuthorityError::Away { what });
        };
        let Some(answered) = answered.map_err(away)? else {
            return Err(AuthorityError::Away { what: format!("somebody deleted request {name}") });
        };
        let status = answered.status.unwrap_or_default();
        match status.certificate {
            Some(ByteString(chain)) => Ok(chain),
            None => {
                let refusal = status.conditions.iter().flatten().find(|condition| is_refusal(condition));
                let said = refusal.and_then(|condition| condition.message.clone());
                let reason =
                    said.unwrap_or_else(|| "its signer gave no certificate and no reason".to_owned());
                Err(AuthorityError::Refused { identity: identity.clone(), reason })
            }
        }
    }

    fn object(&self, pem: String) -> CertificateSigningRequest {
        let seconds = self.lifetime.as_secs().max(SHORTEST);
        let usages = ["digital signature", "server auth", "client auth"];
        CertificateSigningRequest {
            metadata: ObjectMeta {
                generate_name: Some(PREFIX.to_owned()),
                labels: Some(part_of()),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                signer_name: self.signer_name.to_string(),
                usages: Some(usages.map(str::to_owned).into()),
                expiration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        }
    }
}

impl CertificateAuthority for RequestedAuthority {
    fn sign<'a>(
        &'a self,
        identity: &'a SpiffeId,
        request: &'a CertificateSigningRequestDer<'a>,
        now: u64,
    ) -> Signing<'a> {
        Box::pin(self.ask(identity, request, now))
    }

    fn bundle(&self) -> Result<TrustBundle, AuthorityError> {
        self.roots.bundle()
    }
}

/// Whether a request has its answer.
struct Answered;

impl Condition<CertificateSigningRequest> for Answered {
    fn matches_object(&self, request: Option<&CertificateSigningRequest>) -> bool {
        let Some(request) = request else { return true };
        let Some(status) = &request.status else { return false };
        status.certificate.is_some() || status.conditions.iter().flatten().any(is_refusal)
    }
}

fn is_refusal(condition: &CertificateSigningRequestCondition) -> bool {
    matches!(condition.type_.as_str(), "Denied" | "Failed")
}

fn approval() -> serde_json::Value {
    let condition = BTreeMap::from([
        ("type", "Approved"),
        ("status", "True"),
        ("reason", "Permitted"),
        ("message", "who asks may have a certificate for this identity"),
    ]);
    serde_json::json!({"status": {"conditions": [condition]}})
}

async fn soon<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, AuthorityError> {
    let late = |_| AuthorityError::Away { what: "the API server does not answer".to_owned() };
    timeout(PATIENCE, answer).await.map_err(late)?.map_err(away)
}

fn away(error: impl std::error::Error + 'static) -> AuthorityError {
    AuthorityError::Away { what: Chain(&error).to_string() }
}
