//! The mesh's authority in a Secret: made once, or given; and its roots where agents find them.
//!
//! In: the Secret `nodemesh-ca` of the root namespace (`kubernetes.io/tls`: `tls.crt`, `tls.key`, and `ca.crt` for more
//! roots). Without one, the first controller that comes makes it; of several at once one wins, and all take that one.
//! Looked at again now and then: what is put in its place is taken over. Out: a [`HeldAuthority`] that follows it, and
//! the ConfigMap `nodemesh-ca-root` with the roots.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use mesh_common::model::TrustDomain;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::backoff::Backoff;
use super::discovery::Discovery;
use super::{FIELD_MANAGER, part_of};
use crate::identity::{
    AuthorityPem, CertificateAuthority as _, Clock, HeldAuthority, HeldError, MaterialError,
};
use crate::telemetry::chain::Chain;
use crate::xds::Trust;

/// The Secret.
pub const SECRET: &str = "nodemesh-ca";
/// The ConfigMap that agents mount.
pub const ROOT_CONFIG_MAP: &str = "nodemesh-ca-root";

const TYPE: &str = "kubernetes.io/tls";
const KEY: &str = "tls.key";
const CERTIFICATE: &str = "tls.crt";
const ROOTS: &str = "ca.crt";
/// For one answer of the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at the Secret.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// Why the Secret cannot be used now.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretError {
    #[error("ask the API server")]
    Api(#[from] Error),
    #[error("the API server does not answer")]
    Late,
    #[error("Secret {SECRET} has no {0}: give it one, or delete the Secret to have a new authority made")]
    Missing(&'static str),
    #[error("make an authority")]
    Make(#[from] MaterialError),
    #[error(
        "use Secret {SECRET}: give it tls.key and tls.crt that belong together, or delete it to have a new authority made"
    )]
    Held(#[from] HeldError),
}

/// Where the Secret is.
#[derive(Clone)]
pub(super) struct AuthoritySecret {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) trust_domain: TrustDomain,
    pub(super) lifetime: Duration,
    pub(super) clock: Clock,
    /// Tells agents of the roots.
    pub(super) discovery: Arc<Discovery>,
}

impl AuthoritySecret {
    /// The authority, however long that takes: without it there is nothing to do.
    pub(super) async fn obtain(&self) -> HeldAuthority {
        let mut backoff = Backoff::default();
        loop {
            match self.try_obtain().await {
                Ok(authority) => return authority,
                Err(error) => {
                    let wait = backoff.next();
                    error!(error = %Chain(&error), again_in = ?wait, "no certificate authority");
                    sleep(wait).await;
                }
            }
        }
    }

    async fn try_obtain(&self) -> Result<HeldAuthority, SecretError> {
        let pem = match self.read().await? {
            Some(pem) => pem,
            None => self.make().await?,
        };
        Ok(HeldAuthority::new(pem, self.trust_domain.clone(), self.lifetime)?)
    }

    /// Follows the Secret, and sees that agents find the roots. Ends when it is dropped.
    pub(super) async fn follow(self, authority: Arc<HeldAuthority>) {
        let mut told = Vec::new();
        loop {
            if let Err(error) = self.take_over(&authority).await {
                warn!(error = %Chain(&error), "the certificate authority stays as it was");
            }
            self.tell(&authority, &mut told);
            if let Err(error) = self.publish_roots(&authority).await {
                warn!(error = %Chain(&error), config_map = ROOT_CONFIG_MAP, "roots not written");
            }
            sleep(LOOK_AGAIN.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
        }
    }

    async fn take_over(&self, authority: &HeldAuthority) -> Result<(), SecretError> {
        let Some(pem) = self.read().await? else {
            warn!(
                secret = SECRET,
                "the authority's Secret is gone: it is in use until this controller ends, restore it"
            );
            return Ok(());
        };
        if authority.replace(pem)? {
            info!(secret = SECRET, "the authority has changed");
        }
        Ok(())
    }

    /// Tells agents of the roots, if they changed.
    fn tell(&self, authority: &HeldAuthority, told: &mut Vec<Vec<u8>>) {
        let Ok(bundle) = authority.bundle() else { return };
        let roots: Vec<Vec<u8>> = bundle.roots().iter().map(|root| root.to_vec()).collect();
        if roots != *told {
            told.clone_from(&roots);
            let trust_domain = self.trust_domain.clone();
            self.discovery.publish_trust(&Trust { trust_domain, roots, revocation_lists: Vec::new() });
        }
    }

    async fn read(&self) -> Result<Option<AuthorityPem>, SecretError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = soon(api.get_opt(SECRET)).await?;
        secret.map(|secret| pem_of(secret.data.unwrap_or_default())).transpose()
    }

    /// Makes an authority; takes the one that another controller made meanwhile.
    async fn make(&self) -> Result<AuthorityPem, SecretError> {
        let pem = AuthorityPem::make(&self.trust_domain, &self.clock)?;
        let bytes = |(name, bytes): (&str, &Vec<u8>)| (name.to_owned(), ByteString(bytes.clone()));
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                labels: Some(part_of()),
                ..ObjectMeta::default()
            },
            type_: Some(TYPE.to_owned()),
            data: Some([(KEY, &pem.key), (CERTIFICATE, &pem.certificates)].map(bytes).into()),
            ..Secret::default()
        };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        match soon(api.create(&PostParams::default(), &secret)).await {
            Ok(_) => {
                info!(secret = SECRET, "made a certificate authority for the mesh");
                Ok(pem)
            }
            Err(SecretError::Api(Error::Api(status))) if status.is_already_exists() => {
                self.read().await?.ok_or(SecretError::Missing(CERTIFICATE))
            }
            Err(error) => Err(error),
        }
    }

    async fn publish_roots(&self, authority: &HeldAuthority) -> Result<(), SecretError> {
        let roots = BTreeMap::from([(ROOTS.to_owned(), authority.roots_pem()?)]);
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = soon(api.get_opt(ROOT_CONFIG_MAP)).await?;
        if found.is_some_and(|found| found.data.as_ref() == Some(&roots)) {
            return Ok(());
        }
        let config_map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(ROOT_CONFIG_MAP.to_owned()),
                labels: Some(part_of()),
                ..ObjectMeta::default()
            },
            data: Some(roots),
            ..ConfigMap::default()
        };
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        soon(api.patch(ROOT_CONFIG_MAP, &apply, &Patch::Apply(&config_map))).await?;
        info!(config_map = ROOT_CONFIG_MAP, "wrote the roots for agents");
        Ok(())
    }
}

fn pem_of(mut data: BTreeMap<String, ByteString>) -> Result<AuthorityPem, SecretError> {
    let mut part =
        |name: &'static str| data.remove(name).filter(|bytes| !bytes.0.is_empty()).map(|bytes| bytes.0);
    Ok(AuthorityPem {
        key: part(KEY).ok_or(SecretError::Missing(KEY))?,
        certificates: part(CERTIFICATE).ok_or(SecretError::Missing(CERTIFICATE))?,
        roots: part(ROOTS),
    })
}

async fn soon<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, SecretError> {
    Ok(timeout(PATIENCE, answer).await.map_err(|_| SecretError::Late)??)
}
