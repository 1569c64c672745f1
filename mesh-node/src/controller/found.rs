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
/// What signed before, while certificates of it may be valid.
const BEFORE: &str = "before.crt";
/// Annotation: since when the key signs that does, in seconds since the epoch.
const SIGNS_SINCE: &str = "nodemesh.dev/signs-since";
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

    /// What signs.
    pub(super) fn signing(&self) -> Result<SigningPem, SecretError> {
        let needed = |name| self.part(name).ok_or(SecretError::Missing(name));
        Ok(SigningPem { key: needed(KEY)?, certificates: needed(CERTIFICATE)? })
    }

    /// What is to sign next.
    pub(super) fn next(&self) -> Option<SigningPem> {
        Some(SigningPem { key: self.part(NEXT_KEY)?, certificates: self.part(NEXT_CERTIFICATE)? })
    }

    /// What signs, and all that is trusted.
    pub(super) fn pem(&self) -> Result<AuthorityPem, SecretError> {
        let others = [NEXT_CERTIFICATE, BEFORE].into_iter().filter_map(|name| self.part(name)).collect();
        Ok(AuthorityPem { signing: Some(self.signing()?), roots: self.part(ROOTS), others })
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
        let data = self.0.data.get_or_insert_default();
        let mut take = |name| data.remove(name).ok_or(SecretError::Missing(name));
        let (key, certificate, before) = (take(NEXT_KEY)?, take(NEXT_CERTIFICATE)?, take(CERTIFICATE)?);
        let mut others = take(BEFORE).map(|before| before.0).unwrap_or_default();
        others.extend(before.0);
        data.insert(KEY.to_owned(), key);
        data.insert(CERTIFICATE.to_owned(), certificate);
        data.insert(BEFORE.to_owned(), ByteString(others));
        self.0.metadata.annotations.get_or_insert_default().insert(SIGNS_SINCE.to_owned(), now.to_string());
        Ok(self)
    }

    /// What signed before is trusted no longer.
    pub(super) fn without_before(mut self) -> Self {
        self.0.data.get_or_insert_default().remove(BEFORE);
        self.0.metadata.annotations.get_or_insert_default().remove(SIGNS_SINCE);
        self
    }
}
