//! The mesh's authority in a Secret: made once, or given; and its roots where agents find them.
//!
//! In: the Secret `nodemesh-ca` of the root namespace (`kubernetes.io/tls`: `tls.crt`, `tls.key`, and `ca.crt` for more
//! roots). Without one, the first controller that comes makes it; of several at once one wins, and all take that one.
//! Looked at again now and then: what is put in its place is taken over, at once below the same root, else when every
//! agent trusts the other (`swap`). A key that is to sign next stands beside the one
//! that does, as `next.crt` and `next.key`; `Rotator` says when it takes its place, and for how long the one before
//! stays trusted, as `before.crt`. Where somebody else signs, only `ca.crt` is looked at, and has to be given. Out: a
//! [`HeldAuthority`] that follows it, and the ConfigMap `nodemesh-ca-root` with the roots.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Error};
use mesh_common::model::TrustDomain;
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::backoff::Backoff;
use super::discovery::Discovery;
use super::found::{CERTIFICATE, Found, KEY, ROOTS};
use super::rotator::Rotator;
use super::swap::{self, Before, Verdict};
use super::{FIELD_MANAGER, part_of};
use crate::identity::{
    AuthorityPem, CertificateAuthority as _, Clock, HeldAuthority, HeldError, MaterialError, SigningPem,
    TrustBundle, now, roots_of_pem,
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
        "use Secret {SECRET}: it needs tls.crt of a certificate that may sign now, its tls.key, and all that is between it and \
         a root in tls.crt or ca.crt"
    )]
    Held(#[from] HeldError),
    #[error(
        "what is to sign next in Secret {SECRET} cannot: give it another key and certificate, or take them out"
    )]
    Next(#[source] HeldError),
    #[error(
        "Secret {SECRET} has a key whose root agents do not trust, and nobody has the one that signed before (SHA-256 \
         {before}): put its tls.key and tls.crt back and give the new ones as next.key and next.crt. If it is lost for good, \
         add the roots of ConfigMap {ROOT_CONFIG_MAP} to ca.crt of the Secret and annotate that with \
         nodemesh.dev/signs-with={given}: for the minutes until every agent has read the new root, new certificates are \
         refused"
    )]
    Lost { before: String, given: String },
}

impl SecretError {
    /// The reason of the Event that tells people to act; `None` where nothing is wrong with the Secret.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Api(_) | Self::Late | Self::Make(_) => None,
            Self::Missing(_) | Self::NoRoots | Self::Held(_) | Self::Next(_) => Some("CannotSign"),
            Self::Lost { .. } => Some("KeyLost"),
        }
    }
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
    /// Told when they changed.
    pub(super) roots_changed: Arc<Notify>,
    /// Tells people what they must act on.
    pub(super) recorder: Recorder,
}

impl AuthoritySecret {
    /// The authority, however long that takes: without it there is nothing to do.
    pub(super) async fn obtain(&self) -> HeldAuthority {
        let (mut backoff, mut complaint) = (Backoff::default(), None);
        loop {
            match self.try_obtain().await {
                Ok(authority) => return authority,
                Err(error) => {
                    let wait = backoff.next();
                    error!(error = %Chain(&error), again_in = ?wait, "no certificate authority");
                    self.complain(&error, &mut complaint).await;
                    sleep(wait).await;
                }
            }
        }
    }

    async fn try_obtain(&self) -> Result<HeldAuthority, SecretError> {
        let pem = match self.read().await? {
            Some(found) => {
                self.may_begin(&found).await?;
                let pem = self.pem(&found)?;
                if let Some(signing) = &pem.signing {
                    signing.is_taken_by(&pem.bundle(&self.trust_domain)?, now(&self.clock))?;
                }
                pem
            }
            None if self.signs => self.make().await?,
            None => return Err(SecretError::NoRoots),
        };
        Ok(HeldAuthority::new(pem, self.trust_domain.clone(), self.lifetime)?)
    }

    /// Follows the Secret, and sees that agents find the roots. Ends when it is dropped.
    pub(super) async fn follow(self, authority: Arc<HeldAuthority>, mut rotator: Rotator) {
        let (mut told, mut complaint, mut next_complaint) = (None, None, None);
        loop {
            let taken = self.take_over(&authority).await;
            match &taken {
                Ok(_) => complaint = None,
                Err(error) => {
                    warn!(error = %Chain(error), "the certificate authority stays as it was");
                    self.complain(error, &mut complaint).await;
                }
            }
            let found = taken.unwrap_or_default();
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
                self.complain(&error, &mut next_complaint).await;
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
        let verdict = self.judge(&found, authority)?;
        if verdict == Verdict::Keep {
            return self.keep(found, authority).await.map(|()| None);
        }
        if authority.replace(self.pem(&found)?)? {
            info!(secret = SECRET, "the authority has changed");
        }
        if verdict == Verdict::Mark {
            let signing = found.signing()?;
            return self.replace(found.marked(&signing)?).await.map(|_| None);
        }
        Ok(Some(found))
    }

    fn judge(&self, found: &Found, authority: &HeldAuthority) -> Result<Verdict, SecretError> {
        match (authority.signing(), authority.bundle()) {
            (Some(signing), Ok(bundle)) => {
                swap::judge(found, &Before::Signs(&signing, &bundle), now(&self.clock))
            }
            _ => Ok(Verdict::Use),
        }
    }

    /// Has the key in memory sign on, beside the one that somebody put in its place.
    async fn keep(&self, found: Found, authority: &HeldAuthority) -> Result<(), SecretError> {
        let Some(signing) = authority.signing() else { return Ok(()) };
        let kept = found.clone().keeping(&signing, authority.roots_pem()?.as_bytes())?;
        if !self.replace(kept).await? {
            return Ok(());
        }
        let note = "tls.crt has another root than agents trust: it is told to every agent first, and until then the key \
                    before signs on, as kept.key; mesh-node ca status says how far that is";
        warn!(secret = SECRET, "{note}");
        self.tell_people(&found, EventType::Normal, "AnotherRoot", note).await;
        Ok(())
    }

    /// Whether the key in the Secret may sign, for a controller that has just begun.
    async fn may_begin(&self, found: &Found) -> Result<(), SecretError> {
        if !self.signs {
            return Ok(());
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let data = soon(api.get_opt(ROOT_CONFIG_MAP)).await?.and_then(|found| found.data);
        let roots = data.and_then(|mut data| roots_of_pem(data.remove(ROOTS)?.as_bytes()).ok());
        let told = roots.and_then(|roots| TrustBundle::new(self.trust_domain.clone(), roots).ok());
        swap::judge(found, &Before::Told(told.as_ref()), now(&self.clock)).map(drop)
    }

    /// Tells people what is wrong with the Secret, once for each version of it.
    async fn complain(&self, error: &SecretError, told: &mut Option<String>) {
        let (Some(reason), said) = (error.reason(), Chain(error).to_string()) else { return };
        let Ok(Some(found)) = self.read().await else { return };
        let version = found.0.metadata.resource_version.clone();
        if *told != version {
            self.tell_people(&found, EventType::Warning, reason, &said).await;
            *told = version;
        }
    }

    /// Leaves an Event beside the Secret.
    async fn tell_people(&self, about: &Found, type_: EventType, reason: &str, note: &str) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note.to_owned()),
            action: "Sign".to_owned(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(SECRET.to_owned()),
            namespace: Some(self.namespace.clone()),
            uid: about.0.metadata.uid.clone(),
            // What is said of one version is not said of another: without it the Event would keep the first text.
            resource_version: about.0.metadata.resource_version.clone(),
            ..ObjectReference::default()
        };
        match timeout(PATIENCE, self.recorder.publish(&event, &about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(error = %Chain(&error), "event not written"),
            Err(_) => warn!("event not written: the API server does not answer"),
        }
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
        self.replace(found.signing_with_next(now)?).await.map(drop)
    }

    /// Trusts no longer what signed before.
    pub(super) async fn let_go(&self, found: Found) -> Result<(), SecretError> {
        self.replace(found.without_before()).await.map(drop)
    }

    /// Writes the Secret, if it can be used; not if somebody did since it was read: that is looked at first.
    async fn replace(&self, found: Found) -> Result<bool, SecretError> {
        HeldAuthority::new(self.pem(&found)?, self.trust_domain.clone(), self.lifetime)?;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        match soon(api.replace(SECRET, &PostParams::default(), &found.0)).await {
            Ok(_) => Ok(true),
            Err(SecretError::Api(Error::Api(status))) if status.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Tells agents of the roots, if they changed.
    fn tell(&self, authority: &HeldAuthority, told: &mut Option<Trust>) {
        let Ok(bundle) = authority.bundle() else { return };
        let bytes = |roots: &[CertificateDer<'_>]| roots.iter().map(|root| root.to_vec()).collect();
        let trust = Trust {
            trust_domain: self.trust_domain.clone(),
            roots: bytes(bundle.roots()),
            revocation_lists: Vec::new(),
            retired: bytes(bundle.retired()),
        };
        if told.as_ref() != Some(&trust) {
            self.discovery.publish_trust(&trust);
            *told = Some(trust);
            self.roots_changed.notify_one();
        }
    }

    /// What signs now, and all that is trusted.
    fn pem(&self, found: &Found) -> Result<AuthorityPem, SecretError> {
        if self.signs {
            return found.pem();
        }
        let roots = Some(found.part(ROOTS).ok_or(SecretError::NoRoots)?);
        Ok(AuthorityPem { signing: None, roots, others: Vec::new(), retired: None })
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
                Ok(AuthorityPem { signing: Some(made), roots: None, others: Vec::new(), retired: None })
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
