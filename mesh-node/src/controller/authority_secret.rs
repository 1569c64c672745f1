//! The mesh's authority in a Secret: made once, or given; and its roots where agents find them.
//!
//! In: the Secret `nodemesh-ca` of the root namespace (`kubernetes.io/tls`: `tls.crt`, `tls.key`, and `ca.crt` for more
//! roots). Without one, the first controller that comes makes it; of several at once one wins, and all take that one.
//! Looked at again now and then: what is put in its place is taken over. A key that is to sign next stands beside the one
//! that does, as `next.crt` and `next.key`; `Rotator` says when it takes its place, and for how long the one before
//! stays trusted, as `before.crt`. Where somebody else signs, only `ca.crt` is looked at, and has to be given. Out: a
//! [`HeldAuthority`] that follows it, and the ConfigMap `nodemesh-ca-root` with the roots.

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
use super::found::{CERTIFICATE, Found, KEY, ROOTS};
use super::rotator::Rotator;
use super::{FIELD_MANAGER, part_of};
use crate::identity::{
    AuthorityPem, CertificateAuthority as _, Clock, HeldAuthority, HeldError, MaterialError, SigningPem,
    TrustBundle,
};
use crate::telemetry::chain::Chain;
use crate::xds::Trust;

/// The Secret.
pub const SECRET: &str = "nodemesh-ca";
/// The ConfigMap that agents mount.
pub const ROOT_CONFIG_MAP: &str = "nodemesh-ca-root";

const TYPE: &str = "kubernetes.io/tls";
/// For one answer of the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at the Secret.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The same, while agents are waited for.
const LOOK_SOON: Duration = Duration::from_secs(3);

/// Why the Secret cannot be used now.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretError {
    #[error("ask the API server")]
    Api(#[from] Error),
    #[error("the API server does not answer")]
    Late,
    #[error("Secret {SECRET} has no {0}: give it one, or delete the Secret to have a new authority made")]
    Missing(&'static str),
    #[error("somebody else signs, and nobody says whom to trust: give Secret {SECRET} its roots as {ROOTS}")]
    NoRoots,
    #[error("make an authority")]
    Make(#[from] MaterialError),
    #[error(
        "use Secret {SECRET}: give it tls.key and tls.crt that belong together, or delete it to have a new authority made"
    )]
    Held(#[from] HeldError),
    #[error("next.crt and next.key of Secret {SECRET} cannot sign: give it others, or take them out")]
    Next(#[source] HeldError),
}

/// Where the Secret is.
#[derive(Clone)]
pub(super) struct AuthoritySecret {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) trust_domain: TrustDomain,
    pub(super) lifetime: Duration,
    pub(super) clock: Clock,
    /// Whether its key signs, and not somebody else's.
    pub(super) signs: bool,
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
            Some(found) => self.pem(&found)?,
            None if self.signs => self.make().await?,
            None => return Err(SecretError::NoRoots),
        };
        Ok(HeldAuthority::new(pem, self.trust_domain.clone(), self.lifetime)?)
    }

    /// Follows the Secret, and sees that agents find the roots. Ends when it is dropped.
    pub(super) async fn follow(self, authority: Arc<HeldAuthority>, mut rotator: Rotator) {
        let mut told = Vec::new();
        loop {
            let found = self.take_over(&authority).await.unwrap_or_else(|error| {
                warn!(error = %Chain(&error), "the certificate authority stays as it was");
                None
            });
            self.tell(&authority, &mut told);
            if let Err(error) = self.publish_roots(&authority).await {
                warn!(error = %Chain(&error), config_map = ROOT_CONFIG_MAP, "roots not written");
            }
            let has_next = self.signs && found.as_ref().is_some_and(|found| found.next().is_some());
            let rest = if has_next { LOOK_SOON } else { LOOK_AGAIN };
            if let Some(found) = found
                && let Err(error) = rotator.turn(&self, found, &authority).await
            {
                warn!(error = %Chain(&error), "the change of the root waits");
            }
            sleep(rest.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
        }
    }

    async fn take_over(&self, authority: &HeldAuthority) -> Result<Option<Found>, SecretError> {
        let Some(found) = self.read().await? else {
            warn!(
                secret = SECRET,
                "the authority's Secret is gone: it is in use until this controller ends, restore it"
            );
            return Ok(None);
        };
        if authority.replace(self.pem(&found)?)? {
            info!(secret = SECRET, "the authority has changed");
        }
        Ok(Some(found))
    }

    /// Has the next key sign from now on, if agents that trust `bundle` take what it signs.
    pub(super) async fn sign_with_next(
        &self,
        found: Found,
        bundle: &TrustBundle,
        now: u64,
    ) -> Result<(), SecretError> {
        if let Some(next) = found.next() {
            next.is_taken_by(bundle, now).map_err(SecretError::Next)?;
        }
        self.replace(found.signing_with_next(now)?).await
    }

    /// Trusts no longer what signed before.
    pub(super) async fn let_go(&self, found: Found) -> Result<(), SecretError> {
        self.replace(found.without_before()).await
    }

    /// Writes the Secret, if nobody did since it was read and if it can be used.
    async fn replace(&self, found: Found) -> Result<(), SecretError> {
        HeldAuthority::new(self.pem(&found)?, self.trust_domain.clone(), self.lifetime)?;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        soon(api.replace(SECRET, &PostParams::default(), &found.0)).await.map(drop)
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

    /// What signs now, and all that is trusted.
    fn pem(&self, found: &Found) -> Result<AuthorityPem, SecretError> {
        if self.signs {
            return found.pem();
        }
        let roots = Some(found.part(ROOTS).ok_or(SecretError::NoRoots)?);
        Ok(AuthorityPem { signing: None, roots, others: Vec::new() })
    }

    async fn read(&self) -> Result<Option<Found>, SecretError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        Ok(soon(api.get_opt(SECRET)).await?.map(Found))
    }

    /// Makes an authority; takes the one that another controller made meanwhile.
    async fn make(&self) -> Result<AuthorityPem, SecretError> {
        let made = SigningPem::make(&self.trust_domain, &self.clock)?;
        let bytes = |(name, bytes): (&str, &Vec<u8>)| (name.to_owned(), ByteString(bytes.clone()));
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                labels: Some(part_of()),
                ..ObjectMeta::default()
            },
            type_: Some(TYPE.to_owned()),
            data: Some([(KEY, &made.key), (CERTIFICATE, &made.certificates)].map(bytes).into()),
            ..Secret::default()
        };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        match soon(api.create(&PostParams::default(), &secret)).await {
            Ok(_) => {
                info!(secret = SECRET, "made a certificate authority for the mesh");
                Ok(AuthorityPem { signing: Some(made), roots: None, others: Vec::new() })
            }
            Err(SecretError::Api(Error::Api(status))) if status.is_already_exists() => {
                self.pem(&self.read().await?.ok_or(SecretError::Missing(CERTIFICATE))?)
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

async fn soon<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, SecretError> {
    Ok(timeout(PATIENCE, answer).await.map_err(|_| SecretError::Late)??)
}
