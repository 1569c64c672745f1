//! Has the mesh come to another root, for a person: gives the authority's Secret a key that is to sign next.
//!
//! In: an API server, as that person may use it. Out: the Secret with the key, which a controller then takes step by step,
//! and where that stands, as the controllers say it. Never takes a step itself.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error};
use mesh_common::model::TrustDomain;

use super::authority_secret::SECRET;
use super::found::{Found, ROOTS};
use super::trust_record::{self, Phase, RECORD, Standing};
use crate::identity::{AuthorityPem, HeldError, MaterialError, SigningPem, now, system_clock};

/// Looks at the Secret, if somebody writes it meanwhile.
const TRIES: usize = 5;

/// Why a change of the root does not begin, or cannot be seen.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The API server refuses.
    #[error(
        "you may not {verb} {what} in namespace {namespace}: docs/controller.md has the Role that allows it"
    )]
    Forbidden {
        /// What was tried.
        verb: &'static str,
        /// With what.
        what: &'static str,
        /// Where.
        namespace: String,
    },
    /// No answer, or none that is understood.
    #[error("ask the API server for {what} in namespace {namespace}")]
    Api {
        /// For what.
        what: &'static str,
        /// Where.
        namespace: String,
        /// What it said.
        #[source]
        source: Box<Error>,
    },
    /// There is no authority.
    #[error(
        "there is no Secret {SECRET} in namespace {namespace}: give the mesh's with --root-namespace; the first controller \
         that starts makes it"
    )]
    NoSecret {
        /// Where.
        namespace: String,
    },
    /// No controller was there, or only one that does not say where it stands.
    #[error(
        "no controller says in ConfigMap {RECORD} of namespace {namespace} where it stands: it does 30 s after it leads; see \
         kubectl -n {namespace} get pods -l app.kubernetes.io/name=nodemesh-controller"
    )]
    Silent {
        /// Where.
        namespace: String,
    },
    /// The mesh's controllers do not sign.
    #[error(
        "somebody else signs for this mesh (--signer-name): have that signer change its root, with both roots in ca.crt of \
         Secret {SECRET}, as docs/controller.md says under \"Another signer\""
    )]
    Elsewhere,
    /// cert-manager would put its own key back.
    #[error(
        "Secret {SECRET} is written by cert-manager, from Certificate {certificate}: renew that one, as with cmctl renew \
         {certificate}; controllers tell its root to every agent before they sign with it"
    )]
    CertManager {
        /// Its name.
        certificate: String,
    },
    /// Another one is not over.
    #[error(
        "another change of the root is under way, to the certificate {under_way}: see how far with ca status, and begin \
         yours when it is over; yours is {given}"
    )]
    UnderWay {
        /// To which.
        under_way: String,
        /// Which was given.
        given: String,
    },
    /// What was given signs nothing that agents would take.
    #[error("the key and certificates cannot sign for this mesh")]
    Given(#[source] HeldError),
    /// A part is none.
    #[error("read a certificate of Secret {SECRET}")]
    Part(#[from] MaterialError),
    /// The trust domain that a controller said.
    #[error(
        "the controller says that the trust domain is {0:?}, which is none: use the mesh-node of its version"
    )]
    TrustDomain(String),
    /// Somebody else writes the Secret all the time.
    #[error("Secret {SECRET} changes faster than it can be read: see who writes it")]
    Contended,
}

/// A change of the root that a controller takes step by step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// SHA-256 of the certificate that is to sign.
    pub fingerprint: String,
    /// Whether it began just now.
    pub is_new: bool,
}

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No controller has seen it yet.
    Unseen,
    /// Agents come to trust the root.
    Distributing,
    /// Its key signs; the root before is trusted still.
    Signs,
    /// The root before is gone.
    Over,
}

/// The authority of a mesh, as a person sees it.
pub struct Mesh {
    client: Client,
    namespace: String,
}

impl Mesh {
    /// The one whose controllers run in a namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    /// Where it stands.
    ///
    /// # Errors
    /// [`RotateError`] if nobody says it.
    pub async fn standing(&self) -> Result<Standing, RotateError> {
        let standing = trust_record::standing(&self.client, &self.namespace).await;
        let standing = standing.map_err(|error| self.error("get", "ConfigMap nodemesh-ca-trust", error))?;
        standing.ok_or_else(|| RotateError::Silent { namespace: self.namespace.clone() })
    }

    /// Begins a change to a key that is given, or to a new one; finds the one that is under way.
    ///
    /// # Errors
    /// [`RotateError`]; nothing was changed then.
    pub async fn begin(&self, given: Option<&SigningPem>) -> Result<Begun, RotateError> {
        let standing = self.standing().await?;
        for _ in 0..TRIES {
            let found = self.read().await?;
            if let Some(fingerprint) = under_way(&found, &standing, given)? {
                return Ok(Begun { fingerprint, is_new: false });
            }
            let next = self.next(&found, &standing, given)?;
            if self.give(&found, &next).await? {
                return Ok(Begun { fingerprint: next.fingerprint()?, is_new: true });
            }
        }
        Err(RotateError::Contended)
    }

    /// What is to sign: known to be good for this mesh.
    fn next(
        &self,
        found: &Found,
        standing: &Standing,
        given: Option<&SigningPem>,
    ) -> Result<SigningPem, RotateError> {
        let trust_domain = TrustDomain::parse(&standing.trust_domain)
            .map_err(|_| RotateError::TrustDomain(standing.trust_domain.clone()))?;
        let clock = system_clock();
        let next = match given {
            Some(given) => given.clone(),
            None => SigningPem::make(&trust_domain, &clock)?,
        };
        let pem = AuthorityPem {
            signing: Some(next.clone()),
            roots: found.part(ROOTS),
            others: Vec::new(),
            retired: None,
        };
        let taken = pem.bundle(&trust_domain).and_then(|bundle| next.is_taken_by(&bundle, now(&clock)));
        taken.map_err(RotateError::Given)?;
        Ok(next)
    }

    /// Whether it was written: not if somebody else wrote it meanwhile.
    async fn give(&self, found: &Found, next: &SigningPem) -> Result<bool, RotateError> {
        let patch = Patch::Merge(found.giving_next(next));
        match self.secrets().patch(SECRET, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(true),
            Err(Error::Api(status)) if status.is_conflict() => Ok(false),
            Err(error) => Err(self.error("patch", "Secret nodemesh-ca", error)),
        }
    }

    async fn read(&self) -> Result<Found, RotateError> {
        let found = self.secrets().get_opt(SECRET).await;
        let found = found.map_err(|error| self.error("get", "Secret nodemesh-ca", error))?;
        found.map(Found).ok_or_else(|| RotateError::NoSecret { namespace: self.namespace.clone() })
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn error(&self, verb: &'static str, what: &'static str, error: Error) -> RotateError {
        let namespace = self.namespace.clone();
        match error {
            Error::Api(status) if status.is_forbidden() => RotateError::Forbidden { verb, what, namespace },
            error => RotateError::Api { what, namespace, source: Box::new(error) },
        }
    }
}

/// PURE. The certificate of the change that is under way and may be followed; `None` if one may begin.
fn under_way(
    found: &Found,
    standing: &Standing,
    given: Option<&SigningPem>,
) -> Result<Option<String>, RotateError> {
    if standing.step == Phase::Elsewhere {
        return Err(RotateError::Elsewhere);
    }
    let signs = found.signing().ok().map(|signing| signing.fingerprint()).transpose()?;
    let given = given.map(SigningPem::fingerprint).transpose()?;
    let to = match (found.next(), found.signs_since()) {
        (Some(next), _) => Some(next.fingerprint()?),
        (None, Some(_)) => signs.clone(),
        (None, None) => None,
    };
    match (to, given) {
        (Some(under_way), Some(given)) if under_way != given => {
            Err(RotateError::UnderWay { under_way, given })
        }
        (Some(under_way), _) => Ok(Some(under_way)),
        // What signs already is no change.
        (None, Some(given)) if signs.as_ref() == Some(&given) => Ok(Some(given)),
        (None, _) => match found.cert_manager() {
            Some(certificate) => Err(RotateError::CertManager { certificate: certificate.to_owned() }),
            None => Ok(None),
        },
    }
}

/// PURE. How far the change to a certificate is.
pub fn progress(standing: &Standing, fingerprint: &str) -> Progress {
    let is = |known: &Option<String>| known.as_deref() == Some(fingerprint);
    match standing.step {
        _ if is(&standing.next) => Progress::Distributing,
        _ if !is(&standing.signs) => Progress::Unseen,
        Phase::Expire | Phase::Retire => Progress::Signs,
        _ => Progress::Over,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn pair(name: &str) -> SigningPem {
        let domain = TrustDomain::parse(name).unwrap();
        SigningPem::make(&domain, &system_clock()).unwrap()
    }

    fn found(parts: &[(&str, &[u8])], annotations: &[(&str, &str)]) -> Found {
        let data: BTreeMap<&str, _> =
            parts.iter().map(|(name, bytes)| (*name, k8s_openapi::ByteString(bytes.to_vec()))).collect();
        let annotations: BTreeMap<&str, &str> = annotations.iter().copied().collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "data": data, "metadata": {"annotations": annotations},
        });
        Found(serde_json::from_value(object).unwrap())
    }

    fn standing(step: Phase) -> Standing {
        Standing {
            step,
            trust_domain: "cluster.local".to_owned(),
            signs: None,
            next: None,
            agents: 0,
            missing: 0,
            waiting: Vec::new(),
            retires_at: None,
            replica: String::new(),
        }
    }

    #[test]
    fn one_change_is_under_way_at_a_time() {
        let (old, new, other) = (pair("cluster.local"), pair("cluster.local"), pair("cluster.local"));
        let signs: [(&str, &[u8]); 2] = [("tls.key", &old.key), ("tls.crt", &old.certificates)];
        let next: [(&str, &[u8]); 2] = [("next.key", &new.key), ("next.crt", &new.certificates)];
        let settled = standing(Phase::Settled);
        let is_under_way = |found: &Found, given: Option<&SigningPem>| {
            under_way(found, &settled, given).map_err(|error| error.to_string())
        };

        let fresh = found(&signs, &[]);
        assert_eq!(is_under_way(&fresh, None), Ok(None));
        assert_eq!(is_under_way(&fresh, Some(&other)), Ok(None));
        assert_eq!(is_under_way(&fresh, Some(&old)), Ok(old.fingerprint().ok()), "it signs already");

        let begun = found(&[signs, next].concat(), &[]);
        assert_eq!(is_under_way(&begun, None), Ok(new.fingerprint().ok()));
        assert_eq!(is_under_way(&begun, Some(&new)), Ok(new.fingerprint().ok()));
        let refused = is_under_way(&begun, Some(&other)).unwrap_err();
        assert!(refused.contains(&new.fingerprint().unwrap()), "{refused}");

        let before: (&str, &[u8]) = ("before.crt", &new.certificates);
        let signed = found(&[&signs[..], &[before]].concat(), &[]);
        assert_eq!(is_under_way(&signed, None), Ok(old.fingerprint().ok()), "the root before is there still");
        assert!(is_under_way(&signed, Some(&other)).is_err());
    }

    #[test]
    fn who_else_writes_the_secret_is_said() {
        let old = pair("cluster.local");
        let signs: [(&str, &[u8]); 2] = [("tls.key", &old.key), ("tls.crt", &old.certificates)];
        let managed = found(&signs, &[("cert-manager.io/certificate-name", "mesh-root")]);
        let error = under_way(&managed, &standing(Phase::Settled), None).unwrap_err();
        assert!(error.to_string().contains("cmctl renew mesh-root"), "{error}");
        let error = under_way(&found(&[], &[]), &standing(Phase::Elsewhere), None).unwrap_err();
        assert!(matches!(error, RotateError::Elsewhere), "{error}");
    }
}
