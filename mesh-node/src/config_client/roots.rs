//! Whom this agent trusts: what the controller said last, and the file that it was given to find the controller with.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use mesh_common::model::TrustDomain;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::identity::{AuthorityError, RootError, TrustBundle, roots_of_pem};
use crate::xds::Trust;

/// Roots from two sources.
#[derive(Debug)]
pub(super) struct Roots {
    trust_domain: TrustDomain,
    file: PathBuf,
    received: ArcSwapOption<Trust>,
}

impl Roots {
    pub(super) fn new(trust_domain: TrustDomain, file: PathBuf) -> Self {
        Self { trust_domain, file, received: ArcSwapOption::empty() }
    }

    /// Takes what the controller said, if it is about our trust domain and can be used.
    pub(super) fn receive(&self, trust: Arc<Trust>) -> Result<(), RootError> {
        if trust.trust_domain == self.trust_domain {
            self.bundle_of(&trust, Vec::new())?;
            self.received.store(Some(trust));
        }
        Ok(())
    }

    /// For peers: what the controller said; before it said anything, the file.
    pub(super) fn of_peers(&self) -> Result<TrustBundle, AuthorityError> {
        match &*self.received.load() {
            Some(trust) => self.bundle_of(trust, Vec::new()).map_err(|source| self.wrong(source)),
            None => {
                let roots = self.read()?;
                TrustBundle::new(self.trust_domain.clone(), roots).map_err(|source| self.wrong(source))
            }
        }
    }

    /// For the controller: both. Whoever was away while the roots changed finds it by the file, and a file that is late
    /// does no harm.
    pub(super) fn of_controller(&self) -> Result<TrustBundle, AuthorityError> {
        match (&*self.received.load(), self.read()) {
            (Some(trust), roots) => {
                self.bundle_of(trust, roots.unwrap_or_default()).map_err(|source| self.wrong(source))
            }
            (None, roots) => {
                TrustBundle::new(self.trust_domain.clone(), roots?).map_err(|source| self.wrong(source))
            }
        }
    }

    fn bundle_of(&self, trust: &Trust, more: Vec<CertificateDer<'static>>) -> Result<TrustBundle, RootError> {
        let roots = trust.roots.iter().cloned().map(CertificateDer::from).chain(more).collect();
        let lists = trust.revocation_lists.iter().cloned().map(CertificateRevocationListDer::from).collect();
        let retired = trust.retired.iter().cloned().map(CertificateDer::from).collect();
        TrustBundle::new(self.trust_domain.clone(), roots)?.without(lists)?.with_retired(retired)
    }

    fn read(&self) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let unreadable = |source| AuthorityError::RootsFile { path: self.file.clone(), source };
        let text = fs::read(&self.file).map_err(unreadable)?;
        roots_of_pem(&text).map_err(|source| self.wrong(source))
    }

    fn wrong(&self, source: RootError) -> AuthorityError {
        AuthorityError::Roots { path: self.file.clone(), source }
    }
}
