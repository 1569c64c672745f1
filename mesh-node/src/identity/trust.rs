//! Whom we trust: the roots of a trust domain, and the generation that counts their changes.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use mesh_common::model::TrustDomain;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

/// The roots that vouch for one trust domain.
///
/// A root vouches for no other domain: intermediates cannot be held to one by name constraints (webpki refuses
/// every chain with a URI constraint), so it is done here.
#[derive(Debug)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    /// In the order of `roots`.
    anchors: Vec<TrustAnchor<'static>>,
    /// First and last valid second of each root, in the order of `roots`.
    validity: Vec<(u64, u64)>,
    /// As they came, to tell whether they changed.
    revocation_lists: Vec<CertificateRevocationListDer<'static>>,
    /// In the order of `revocation_lists`.
    revoked: Vec<CertRevocationList<'static>>,
    /// Roots that vouch for nobody new; sorted, each once.
    retired: Vec<CertificateDer<'static>>,
    /// What vouches for connections that are open; `None` where that is this bundle itself.
    of_open: Option<Box<Self>>,
}

/// A root certificate cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Not an X.509 certificate.
    #[error("root {index} is not an X.509 certificate")]
    Encoding {
        /// Its place in the bundle, from 0.
        index: usize,
    },
    /// It lacks `cA` or may not sign certificates.
    #[error("root {index} is not a certificate authority")]
    NotAuthority {
        /// Its place in the bundle, from 0.
        index: usize,
    },
    /// A revocation list that cannot be read: version 2 with a next update, and no delta (RFC 5280 section 5).
    #[error("revocation list {index} is none that is understood: {source}")]
    RevocationList {
        /// Its place in the file, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: webpki::Error,
    },
    /// Nobody could ever be verified.
    #[error("the bundle has no root")]
    Empty,
}

/// The current bundle; readers never wait.
#[derive(Debug)]
pub(super) struct Trust {
    current: ArcSwap<Numbered>,
}

/// A bundle and how many came before it.
#[derive(Debug)]
pub(super) struct Numbered {
    pub(super) bundle: TrustBundle,
    pub(super) generation: u64,
}

impl TrustBundle {
    /// Makes a bundle of one or more roots; order and duplicates do not matter.
    ///
    /// # Errors
    /// [`RootError`] for the first root that is none, or if there is none at all.
    pub fn new(
        trust_domain: TrustDomain,
        mut roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, RootError> {
        roots.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        roots.dedup();
        if roots.is_empty() {
            return Err(RootError::Empty);
        }
        let mut anchors = Vec::with_capacity(roots.len());
        let mut validity = Vec::with_capacity(roots.len());
        for (index, root) in roots.iter().enumerate() {
            let (_, certificate) =
                X509Certificate::from_der(root).map_err(|_| RootError::Encoding { index })?;
            if !is_authority(&certificate) {
                return Err(RootError::NotAuthority { index });
            }
            let anchor = anchor_from_trusted_cert(root).map_err(|_| RootError::Encoding { index })?;
            anchors.push(anchor.to_owned());
            validity.push(seconds_of(&certificate));
        }
        Ok(Self {
            trust_domain,
            roots,
            anchors,
            validity,
            revocation_lists: Vec::new(),
            revoked: Vec::new(),
            retired: Vec::new(),
            of_open: None,
        })
    }

    /// The same bundle, where connections stay open that one of these roots vouched for. Nobody new is believed for them.
    ///
    /// # Errors
    /// [`RootError`] for the first root that is none; places are counted among all roots.
    pub fn with_retired(mut self, mut retired: Vec<CertificateDer<'static>>) -> Result<Self, RootError> {
        retired.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        retired.dedup();
        retired.retain(|root| !self.roots.contains(root));
        if !retired.is_empty() {
            let roots = self.roots.iter().chain(&retired).cloned().collect();
            let all = Self::new(self.trust_domain.clone(), roots)?;
            self.of_open = Some(Box::new(all.without(self.revocation_lists.clone())?));
        }
        self.retired = retired;
        Ok(self)
    }

    /// The same bundle without what these lists revoke. Of several lists of one authority the newest counts.
    ///
    /// # Errors
    /// [`RootError::RevocationList`] for the first list that is none.
    pub fn without(mut self, lists: Vec<CertificateRevocationListDer<'static>>) -> Result<Self, RootError> {
        let read = |(index, list): (usize, CertificateRevocationListDer<'static>)| {
            let bad = |source| RootError::RevocationList { index, source };
            let revoked = OwnedCertRevocationList::from_der(&list).map_err(bad)?;
            let (_, dates) =
                CertificateRevocationList::from_der(&list).map_err(|_| bad(webpki::Error::BadDer))?;
            Ok((dates.last_update().timestamp(), list, CertRevocationList::from(revoked)))
        };
        let mut lists: Vec<_> = lists.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
        // webpki asks the first list that speaks for an authority, and no other.
        lists.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.as_ref().cmp(b.1.as_ref())));
        (self.revocation_lists, self.revoked) =
            lists.into_iter().map(|(_, list, revoked)| (list, revoked)).unzip();
        Ok(self)
    }

    /// The trust domain that the roots vouch for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, sorted, each once.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The roots that vouch for nobody new, sorted, each once, and none of [`roots`](Self::roots).
    pub fn retired(&self) -> &[CertificateDer<'static>] {
        &self.retired
    }

    /// What vouches for connections that are open already.
    pub(super) fn of_open(&self) -> &Self {
        self.of_open.as_deref().unwrap_or(self)
    }

    /// What the authorities have revoked.
    pub(super) fn revoked(&self) -> &[CertRevocationList<'static>] {
        &self.revoked
    }

    fn is_same(&self, other: &Self) -> bool {
        self.roots == other.roots
            && self.trust_domain == other.trust_domain
            && self.revocation_lists == other.revocation_lists
            && self.retired == other.retired
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// Whether `anchor`, one of [`anchors`](Self::anchors), may vouch for anyone at `now`.
    pub(super) fn holds_at(&self, anchor: &TrustAnchor<'_>, now: u64) -> bool {
        self.anchors
            .iter()
            .zip(&self.validity)
            .any(|(known, (first, last))| *known == *anchor && (*first..=*last).contains(&now))
    }
}

impl Trust {
    pub(super) fn new(bundle: TrustBundle) -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::from_pointee(Numbered { bundle, generation: 1 }) })
    }

    pub(super) fn load(&self) -> Guard<Arc<Numbered>> {
        self.current.load()
    }

    /// Takes a bundle over; says whether it differs from the one before. One task writes.
    pub(super) fn replace(&self, bundle: TrustBundle) -> bool {
        let before = self.current.load();
        if before.bundle.is_same(&bundle) {
            return false;
        }
        let generation = before.generation + 1;
        self.current.store(Arc::new(Numbered { bundle, generation }));
        true
    }
}

/// `cA`, and keyCertSign where there is a key usage (RFC 5280 section 4.2.1.3).
pub(super) fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    let signs = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    matches!(certificate.basic_constraints(), Ok(Some(basic)) if basic.value.ca) && signs
}

/// First and last valid second. A time before the epoch counts as the epoch.
pub(super) fn seconds_of(certificate: &X509Certificate<'_>) -> (u64, u64) {
    let validity = certificate.validity();
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    (seconds(validity.not_before.timestamp()), seconds(validity.not_after.timestamp()))
}
