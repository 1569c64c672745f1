//! PURE. The authority's Secret as it was read, and as each step of a change of the root leaves it.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::authority_secret::{SECRET, SecretError};
use crate::identity::{AuthorityPem, SigningPem};

pub(super) const KEY: &str = "tls.key";
pub(super) const CERTIFICATE: &str = "tls.crt";
pub(super) const ROOTS: &str = "ca.crt";
/// What signs next, once every agent trusts its root.
const NEXT_KEY: &str = "next.key";
const NEXT_CERTIFICATE: &str = "next.crt";
/// What goes on signing after somebody put another key in its place, until every agent trusts the root of that.
const KEPT_KEY: &str = "kept.key";
const KEPT_CERTIFICATE: &str = "kept.crt";
/// What signed before, while certificates of it may be valid.
const BEFORE: &str = "before.crt";
/// What signed before that: it vouches for connections that are open, and for nobody new.
const RETIRED: &str = "retired.crt";
/// Annotation: since when the key signs that does, in seconds since the epoch.
const SIGNS_SINCE: &str = "nodemesh.dev/signs-since";
/// Annotation: SHA-256 of the certificate that agents were found to trust, so that its key signs.
const SIGNS_WITH: &str = "nodemesh.dev/signs-with";
/// Annotation of Secrets that cert-manager writes: the name of its Certificate.
const CERT_MANAGER: &str = "cert-manager.io/certificate-name";

/// The Secret as it was read.
#[derive(Clone)]
pub(super) struct Found(pub(super) Secret);

impl Found {
    pub(super) fn part(&self, name: &str) -> Option<Vec<u8>> {
        let bytes = &self.0.data.as_ref()?.get(name)?.0;
        (!bytes.is_empty()).then(|| bytes.clone())
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.0.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    fn pair(&self, key: &str, certificates: &str) -> Option<SigningPem> {
        Some(SigningPem { key: self.part(key)?, certificates: self.part(certificates)? })
    }

    fn kept(&self) -> Option<SigningPem> {
        self.pair(KEPT_KEY, KEPT_CERTIFICATE)
    }

    /// What signs.
    pub(super) fn signing(&self) -> Result<SigningPem, SecretError> {
        if let Some(kept) = self.kept() {
            return Ok(kept);
        }
        let needed = |name| self.part(name).ok_or(SecretError::Missing(name));
        Ok(SigningPem { key: needed(KEY)?, certificates: needed(CERTIFICATE)? })
    }

    /// What is to sign next: of two, first what was put in the place of what signs.
    pub(super) fn next(&self) -> Option<SigningPem> {
        let in_place = self.kept().and_then(|_| self.pair(KEY, CERTIFICATE));
        in_place.or_else(|| self.pair(NEXT_KEY, NEXT_CERTIFICATE))
    }

    /// What signs, and all that is trusted.
    pub(super) fn pem(&self) -> Result<AuthorityPem, SecretError> {
        let others = [CERTIFICATE, NEXT_CERTIFICATE, BEFORE].into_iter().filter_map(|name| self.part(name));
        Ok(AuthorityPem {
            signing: Some(self.signing()?),
            roots: self.part(ROOTS),
            others: others.collect(),
            retired: self.part(RETIRED),
        })
    }

    /// Which certificate agents were found to trust.
    pub(super) fn signs_with(&self) -> Option<&str> {
        self.annotation(SIGNS_WITH)
    }

    /// Since when the key signs that does, while one before it is trusted.
    pub(super) fn signs_since(&self) -> Option<u64> {
        self.part(BEFORE)?;
        // Who took the annotation away has to wait for as long as is needed, and for ever.
        Some(self.annotation(SIGNS_SINCE).and_then(|since| since.parse().ok()).unwrap_or(u64::MAX))
    }

    /// The Certificate of cert-manager that the Secret is written from.
    pub(super) fn cert_manager(&self) -> Option<&str> {
        self.annotation(CERT_MANAGER)
    }

    /// A patch that gives it a key to sign next, if nobody wrote it since it was read.
    pub(super) fn giving_next(&self, next: &SigningPem) -> Value {
        let bytes = |bytes: &Vec<u8>| ByteString(bytes.clone());
        let data = json!({NEXT_KEY: bytes(&next.key), NEXT_CERTIFICATE: bytes(&next.certificates)});
        json!({
            "apiVersion": "v1", "kind": "Secret", "data": data,
            "metadata": {"name": SECRET, "resourceVersion": self.0.metadata.resource_version},
        })
    }

    /// The next key signs from `now` on.
    pub(super) fn signing_with_next(mut self, now: u64) -> Result<Self, SecretError> {
        let signed = self.signing()?;
        let next = self.next().ok_or(SecretError::Missing(NEXT_KEY))?;
        let is_in_place = self.kept().is_some() && self.pair(KEY, CERTIFICATE).is_some();
        let used = if is_in_place { [KEPT_KEY, KEPT_CERTIFICATE] } else { [NEXT_KEY, NEXT_CERTIFICATE] };
        let mut before = self.part(BEFORE).unwrap_or_default();
        before.extend(signed.certificates);
        self = self.marked(&next)?;
        let data = self.0.data.get_or_insert_default();
        used.into_iter().for_each(|name| drop(data.remove(name)));
        for (name, bytes) in [(KEY, next.key), (CERTIFICATE, next.certificates), (BEFORE, before)] {
            data.insert(name.to_owned(), ByteString(bytes));
        }
        self.annotate(SIGNS_SINCE, now.to_string());
        Ok(self)
    }

    /// Says that agents trust what signs.
    pub(super) fn marked(mut self, signing: &SigningPem) -> Result<Self, SecretError> {
        self.annotate(SIGNS_WITH, signing.fingerprint()?);
        Ok(self)
    }

    /// What signs goes on beside what was put in its place, and `roots`, PEM, stay trusted.
    pub(super) fn keeping(self, signing: &SigningPem, roots: &[u8]) -> Result<Self, SecretError> {
        let mut kept = self.marked(signing)?;
        let mut before = kept.part(BEFORE).unwrap_or_default();
        before.extend(roots);
        let data = kept.0.data.get_or_insert_default();
        let parts = [(KEPT_KEY, &signing.key), (KEPT_CERTIFICATE, &signing.certificates), (BEFORE, &before)];
        for (name, bytes) in parts {
            data.insert(name.to_owned(), ByteString(bytes.clone()));
        }
        Ok(kept)
    }

    fn annotate(&mut self, name: &str, value: String) {
        self.0.metadata.annotations.get_or_insert_default().insert(name.to_owned(), value);
    }

    /// What signed before vouches for nobody new, and what did so before that for nothing at all.
    pub(super) fn without_before(mut self) -> Self {
        let data = self.0.data.get_or_insert_default();
        if let Some(before) = data.remove(BEFORE) {
            data.insert(RETIRED.to_owned(), before);
        }
        self.0.metadata.annotations.get_or_insert_default().remove(SIGNS_SINCE);
        self
    }
}
