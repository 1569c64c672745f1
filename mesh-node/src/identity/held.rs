//! An authority whose key and roots are given as text, and may be given anew: a controller's.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use mesh_common::model::{SpiffeId, TrustDomain};
use pem::Pem;
use rcgen::CertificateParams;
use rustls_pki_types::{CertificateSigningRequestDer, UnixTime};

use super::authority::{AuthorityError, CertificateAuthority, Signing};
use super::clock::{Clock, now};
use super::material::{self, Material, MaterialError};
use super::reason::Reason;
use super::signer::{BACKDATE, Signer};
use super::trust::{RootError, TrustBundle};
use super::verify;

/// The parts of an authority as a `kubernetes.io/tls` Secret has them, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityPem {
    /// What signs; `None` where somebody else does.
    pub signing: Option<SigningPem>,
    /// `ca.crt`: more roots to trust.
    pub roots: Option<Vec<u8>>,
    /// Certificates of keys that signed before, or will: those of them that are roots are trusted, too.
    pub others: Vec<Vec<u8>>,
    /// Certificates of keys that signed long ago: those of them that are roots vouch for open connections alone.
    pub retired: Option<Vec<u8>>,
}

/// What an authority signs with, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningPem {
    /// `tls.key`.
    pub key: Vec<u8>,
    /// `tls.crt`: the signing certificate, then those above it.
    pub certificates: Vec<u8>,
}

/// Why an authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    /// What signing needs.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// The roots.
    #[error("read the roots")]
    Roots(#[from] RootError),
    /// It cannot sign now.
    #[error("sign with it")]
    Sign(#[from] AuthorityError),
    /// What it signs is nothing that anybody takes.
    #[error(
        "agents would refuse what it signs, for {reason}: its certificates have to reach up to a root that they trust"
    )]
    Refused {
        /// What is wrong.
        reason: Reason,
    },
}

/// For what is signed to see whether it would be taken; nobody gets it.
const TRIED: (&str, &str) = ("nodemesh-system", "nobody");

/// An authority in memory.
pub struct HeldAuthority {
    trust_domain: TrustDomain,
    lifetime: Duration,
    current: ArcSwap<Current>,
}

struct Current {
    signer: Option<Signer>,
    pem: AuthorityPem,
}

impl AuthorityPem {
    /// All that is trusted.
    ///
    /// # Errors
    /// [`HeldError`] if a part is no certificate.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Result<TrustBundle, HeldError> {
        let signing = self.signing.iter().map(|signing| &signing.certificates);
        let mut roots = self.roots.as_deref().map_or_else(|| Ok(Vec::new()), material::all_roots)?;
        for certificates in signing.chain(&self.others) {
            roots.extend(material::roots(certificates, None)?);
        }
        let retired = self.retired.as_ref().map(|certificates| material::roots(certificates, None));
        let retired = retired.transpose()?.unwrap_or_default();
        Ok(TrustBundle::new(trust_domain.clone(), roots)?.with_retired(retired)?)
    }
}

impl SigningPem {
    /// Makes a key and a root of it.
    ///
    /// # Errors
    /// [`MaterialError::Make`].
    pub fn make(trust_domain: &TrustDomain, clock: &Clock) -> Result<Self, MaterialError> {
        let key = material::make_key()?;
        let certificates = material::make_root(&key, trust_domain, now(clock))?.into_bytes();
        Ok(Self { key: key.serialize_pem().into_bytes(), certificates })
    }

    /// The SHA-256 of the signing certificate, in hex: what openssl calls its fingerprint.
    ///
    /// # Errors
    /// [`MaterialError::Encoding`].
    pub fn fingerprint(&self) -> Result<String, MaterialError> {
        let certificate = material::first_of(&self.certificates)?;
        Ok(digest(&SHA256, &certificate).as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Signs for nobody, to see whether those who trust `bundle` would take it at `now`.
    ///
    /// # Errors
    /// [`HeldError`] with why they would not.
    pub fn is_taken_by(&self, bundle: &TrustBundle, now: u64) -> Result<(), HeldError> {
        let trust_domain = bundle.trust_domain();
        let signer = self.signer(trust_domain, Duration::from_secs(60))?;
        let made = |source| MaterialError::Make { source };
        let key = material::make_key()?;
        let request = CertificateParams::default().serialize_request(&key).map_err(made)?;
        let (namespace, account) = TRIED;
        let nobody =
            SpiffeId::new(trust_domain, namespace, account).map_err(|_| AuthorityError::BadRequest)?;
        let issued = signer.sign(&nobody, request.der(), now)?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let (leaf, above) = issued.chain.split_first().ok_or(AuthorityError::BadRequest)?;
        verify::verify(bundle, leaf, above, at, Duration::ZERO)
            .map(drop)
            .map_err(|reason| HeldError::Refused { reason })
    }

    fn signer(&self, trust_domain: &TrustDomain, lifetime: Duration) -> Result<Signer, MaterialError> {
        let material = Material::read(material::key_of(&self.key)?, &self.certificates, trust_domain)?;
        Signer::new(material, trust_domain.clone(), lifetime, BACKDATE)
    }
}

impl HeldAuthority {
    /// An authority that signs for one trust domain.
    ///
    /// # Errors
    /// [`HeldError`] if the parts do not belong together, or to that domain.
    pub fn new(pem: AuthorityPem, trust_domain: TrustDomain, lifetime: Duration) -> Result<Self, HeldError> {
        let current = Current::new(pem, &trust_domain, lifetime)?;
        Ok(Self { trust_domain, lifetime, current: ArcSwap::from_pointee(current) })
    }

    /// What it signs with; `None` where somebody else does.
    pub fn signing(&self) -> Option<SigningPem> {
        self.current.load().pem.signing.clone()
    }

    /// Signs with other parts from now on; says whether they differ.
    ///
    /// # Errors
    /// [`HeldError`]; the ones before stay in use.
    pub fn replace(&self, pem: AuthorityPem) -> Result<bool, HeldError> {
        if self.current.load().pem == pem {
            return Ok(false);
        }
        self.current.store(Arc::new(Current::new(pem, &self.trust_domain, self.lifetime)?));
        Ok(true)
    }

    /// The roots, PEM, as agents are to trust them.
    ///
    /// # Errors
    /// [`HeldError`], which does not happen: they were read before.
    pub fn roots_pem(&self) -> Result<String, HeldError> {
        let bundle = self.current.load().pem.bundle(&self.trust_domain)?;
        Ok(bundle.roots().iter().map(|root| pem::encode(&Pem::new("CERTIFICATE", root.to_vec()))).collect())
    }
}

impl Current {
    fn new(pem: AuthorityPem, trust_domain: &TrustDomain, lifetime: Duration) -> Result<Self, HeldError> {
        pem.bundle(trust_domain)?;
        let signer = |signing: &SigningPem| signing.signer(trust_domain, lifetime);
        Ok(Self { signer: pem.signing.as_ref().map(signer).transpose()?, pem })
    }
}

impl CertificateAuthority for HeldAuthority {
    fn sign<'a>(
        &'a self,
        identity: &'a SpiffeId,
        request: &'a CertificateSigningRequestDer<'a>,
        now: u64,
    ) -> Signing<'a> {
        let current = self.current.load();
        let nobody = || AuthorityError::Away { what: "its key is somebody else's".to_owned() };
        let issued = current.signer.as_ref().ok_or_else(nobody);
        Box::pin(std::future::ready(issued.and_then(|signer| signer.sign(identity, request, now))))
    }

    fn bundle(&self) -> Result<TrustBundle, AuthorityError> {
        let bundle = self.current.load().pem.bundle(&self.trust_domain);
        // Only what could be read is kept.
        bundle.map_err(|error| AuthorityError::Away { what: error.to_string() })
    }
}
