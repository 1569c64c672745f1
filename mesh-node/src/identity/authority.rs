//! Who signs: the seam to any authority, and the standalone one of a `--trust-dir`.
//!
//! The standalone authority signs in process.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use mesh_common::model::{SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::clock::{Clock, now};
use super::signer::{BACKDATE, Signer};
use super::trust::{RootError, TrustBundle, seconds_of};
use super::trust_dir::{self, TrustDirError};
use crate::config::IdentityConfig;

/// How the standalone authority signs.
#[derive(Clone, Debug)]
pub struct AuthoritySettings {
    /// The folder of its key and certificates, shared by the agents of one mesh.
    pub trust_dir: PathBuf,
    /// The only trust domain that it signs for.
    pub trust_domain: TrustDomain,
    /// How long a certificate is good from when it is signed.
    pub lifetime: Duration,
    /// How much earlier than now `notBefore` is, for peers whose clocks are late.
    pub backdate: Duration,
}

/// A signed certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then intermediates; no root.
    pub chain: Vec<CertificateDer<'static>>,
    /// First valid second, UTC since the epoch.
    pub not_before: u64,
    /// Last valid second, UTC since the epoch.
    pub not_after: u64,
}

impl Issued {
    /// A chain that an authority sent; `None` if its leaf is no certificate.
    pub fn of(chain: Vec<CertificateDer<'static>>) -> Option<Self> {
        let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
        let (not_before, not_after) = seconds_of(&leaf);
        Some(Self { chain, not_before, not_after })
    }
}

/// Why an authority does not sign or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The folder or a file in it is unusable.
    #[error("use the authority in {}", path.display())]
    TrustDir {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: TrustDirError,
    },
    /// Its roots make no bundle.
    #[error("read the roots in {}", path.display())]
    Roots {
        /// The folder.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: RootError,
    },
    /// The identity is of another trust domain.
    #[error("{identity} is not of trust domain {trust_domain}")]
    ForeignIdentity {
        /// For whom a certificate was asked.
        identity: SpiffeId,
        /// For which it signs.
        trust_domain: TrustDomain,
    },
    /// The signing request is too large, does not decode, has a bad signature or another key than P-256.
    #[error("the signing request is not a signed one for a P-256 key")]
    BadRequest,
    /// Its own certificate is outside its validity.
    #[error("the authority's certificate is valid from {not_before} to {not_after}, it is {now}")]
    Expired {
        /// UTC seconds since the epoch.
        not_before: u64,
        /// UTC seconds since the epoch.
        not_after: u64,
        /// UTC seconds since the epoch.
        now: u64,
    },
    /// It was asked, and does not sign for this identity.
    #[error("the authority does not sign for {identity}: {reason}")]
    Refused {
        /// For whom a certificate was asked.
        identity: SpiffeId,
        /// What it says.
        reason: String,
    },
    /// It signs nothing for this agent.
    #[error("the authority signs nothing for this agent: {reason}")]
    Stranger {
        /// What it says.
        reason: String,
    },
    /// The file of its roots is unusable.
    #[error("read the roots in {}", path.display())]
    RootsFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be asked now.
    #[error("the authority is away: {what}")]
    Away {
        /// What happened instead.
        what: String,
    },
    /// Signing failed.
    #[error("sign the certificate of {identity}")]
    Sign {
        /// For whom.
        identity: SpiffeId,
        /// What failed.
        #[source]
        source: rcgen::Error,
    },
}

/// What [`CertificateAuthority::sign`] gives.
pub type Signing<'a> = Pin<Box<dyn Future<Output = Result<Issued, AuthorityError>> + Send + 'a>>;

/// Something that signs workload certificates: the standalone authority in process, or a controller.
pub trait CertificateAuthority: Send + Sync {
    /// Signs a certificate for `identity` and the key in `request`. `now` is UTC seconds since the epoch.
    fn sign<'a>(
        &'a self,
        identity: &'a SpiffeId,
        request: &'a CertificateSigningRequestDer<'a>,
        now: u64,
    ) -> Signing<'a>;

    /// The roots to trust and what they have revoked, as it is now.
    ///
    /// # Errors
    /// [`AuthorityError`] if they cannot be read; the ones before stay in force.
    fn bundle(&self) -> Result<TrustBundle, AuthorityError>;
}

/// The authority of one `--trust-dir`.
pub struct Authority {
    settings: AuthoritySettings,
    signer: Signer,
}

impl AuthoritySettings {
    /// What the agent was told.
    pub fn new(trust_dir: &Path, config: &IdentityConfig) -> Self {
        Self {
            trust_dir: trust_dir.to_owned(),
            trust_domain: config.trust_domain.clone(),
            lifetime: config.certificate_lifetime,
            backdate: BACKDATE,
        }
    }
}

impl Authority {
    /// Opens the authority of `settings.trust_dir`; makes its key and root if the folder has neither.
    ///
    /// Agents that start at the same moment agree on one: a lock in the folder is held meanwhile.
    ///
    /// # Errors
    /// [`AuthorityError::TrustDir`] if the folder or a file in it is missing, foreign, readable by others, or
    /// does not fit the rest.
    pub fn open(settings: AuthoritySettings, clock: &Clock) -> Result<Self, AuthorityError> {
        let trust_dir_error = |source| AuthorityError::TrustDir { path: settings.trust_dir.clone(), source };
        let AuthoritySettings { trust_dir, trust_domain, lifetime, backdate } = &settings;
        let material = trust_dir::open(trust_dir, trust_domain, now(clock)).map_err(trust_dir_error)?;
        let signer = Signer::new(material, trust_domain.clone(), *lifetime, *backdate)
            .map_err(|error| trust_dir_error(TrustDirError::Material(error)))?;
        Ok(Self { settings, signer })
    }

    /// The folder.
    pub fn trust_dir(&self) -> &Path {
        &self.settings.trust_dir
    }
}

impl CertificateAuthority for Authority {
    fn sign<'a>(
        &'a self,
        identity: &'a SpiffeId,
        request: &'a CertificateSigningRequestDer<'a>,
        now: u64,
    ) -> Signing<'a> {
        Box::pin(std::future::ready(self.signer.sign(identity, request, now)))
    }

    fn bundle(&self) -> Result<TrustBundle, AuthorityError> {
        let path = &self.settings.trust_dir;
        let roots = trust_dir::roots(path)
            .map_err(|source| AuthorityError::TrustDir { path: path.clone(), source })?;
        let revoked = trust_dir::revocation_lists(path)
            .map_err(|source| AuthorityError::TrustDir { path: path.clone(), source })?;
        TrustBundle::new(self.settings.trust_domain.clone(), roots)
            .and_then(|bundle| bundle.without(revoked))
            .map_err(|source| AuthorityError::Roots { path: path.clone(), source })
    }
}
