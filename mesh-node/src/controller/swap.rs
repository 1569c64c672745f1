//! PURE. Whether the key that stands in the authority's Secret may sign, or the one before goes on until every agent
//! trusts the root of the other.
//!
//! In: the Secret, and what this replica signed with, or what agents were told before it began. Out: a [`Verdict`]. A key
//! may sign that a controller found good for all agents, as the Secret's annotation says, and one below the same root as
//! the key that signs.

use super::authority_secret::SecretError;
use super::found::Found;
use crate::identity::{HeldError, SigningPem, TrustBundle};

/// What is to be done with the key in the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It signs.
    Use,
    /// It signs, and the Secret is to say that it may.
    Mark,
    /// Somebody put it in the place of the one that signs, which goes on.
    Keep,
}

/// What is known beside the Secret.
pub(super) enum Before<'a> {
    /// This replica signs with this key, below one of these roots.
    Signs(&'a SigningPem, &'a TrustBundle),
    /// It has just begun; agents were told these roots, if any.
    Told(Option<&'a TrustBundle>),
}

/// Judges the key in the Secret, at `now` in UTC seconds since the epoch.
pub(super) fn judge(found: &Found, before: &Before<'_>, now: u64) -> Result<Verdict, SecretError> {
    let wanted = found.signing()?;
    let given = wanted.fingerprint().map_err(HeldError::from)?;
    let marked = found.signs_with();
    if marked == Some(&given) {
        return Ok(Verdict::Use);
    }
    let lost =
        || SecretError::Lost { before: marked.unwrap_or("not known").to_owned(), given: given.clone() };
    match before {
        Before::Told(Some(roots)) if wanted.is_taken_by(roots, now).is_err() => Err(lost()),
        Before::Told(_) => Ok(Verdict::Mark),
        Before::Signs(signs, roots) => {
            let own = signs.fingerprint()?;
            // Another replica came to another key than this one has: who has it keeps it.
            if marked.is_some_and(|marked| marked != own) {
                return Err(lost());
            }
            if given == own || is_below_same_root(&wanted, signs, roots, now) {
                return Ok(Verdict::Mark);
            }
            // What could never sign is not told to agents, nor kept beside what does.
            wanted.is_taken_by(&found.pem()?.bundle(roots.trust_domain())?, now)?;
            Ok(Verdict::Keep)
        }
    }
}

/// Whether who trusts the root of one trusts the other.
fn is_below_same_root(one: &SigningPem, other: &SigningPem, roots: &TrustBundle, now: u64) -> bool {
    let alone = |root: &_| TrustBundle::new(roots.trust_domain().clone(), vec![Clone::clone(root)]);
    roots
        .roots()
        .iter()
        .filter_map(|root| alone(root).ok())
        .any(|root| [one, other].iter().all(|signing| signing.is_taken_by(&root, now).is_ok()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;
    use mesh_common::model::TrustDomain;
    use serde_json::json;

    use super::*;
    use crate::identity::{AuthorityPem, now, system_clock};

    fn domain() -> TrustDomain {
        TrustDomain::parse("cluster.local").unwrap()
    }

    fn made() -> SigningPem {
        SigningPem::make(&domain(), &system_clock()).unwrap()
    }

    fn roots(of: &[&SigningPem]) -> TrustBundle {
        let others = of.iter().map(|signing| signing.certificates.clone()).collect();
        AuthorityPem { signing: None, roots: None, others, retired: None }.bundle(&domain()).unwrap()
    }

    fn secret(signing: &SigningPem, marked: Option<&SigningPem>) -> Found {
        let bytes = |bytes: &Vec<u8>| ByteString(bytes.clone());
        let data = json!({"tls.key": bytes(&signing.key), "tls.crt": bytes(&signing.certificates)});
        let marked = marked.map(|signing| ("nodemesh.dev/signs-with", signing.fingerprint().unwrap()));
        let annotations: BTreeMap<_, _> = marked.into_iter().collect();
        let object = json!({"data": data, "metadata": {"annotations": annotations}});
        Found(serde_json::from_value(object).unwrap())
    }

    fn judged(found: &Found, before: &Before<'_>) -> Result<Verdict, String> {
        judge(found, before, now(&system_clock())).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_of_another_root_waits_unless_a_controller_found_it_good() {
        let (old, new) = (made(), made());
        let trusted = roots(&[&old]);
        let signs = Before::Signs(&old, &trusted);
        assert_eq!(judged(&secret(&old, None), &signs), Ok(Verdict::Mark));
        assert_eq!(judged(&secret(&old, Some(&old)), &signs), Ok(Verdict::Use));
        assert_eq!(judged(&secret(&new, None), &signs), Ok(Verdict::Keep));
        assert_eq!(judged(&secret(&new, Some(&old)), &signs), Ok(Verdict::Keep));
        assert_eq!(judged(&secret(&new, Some(&new)), &signs), Ok(Verdict::Use));
        let both = roots(&[&old, &new]);
        let signs = Before::Signs(&old, &both);
        assert_eq!(judged(&secret(&new, None), &signs), Ok(Verdict::Keep), "told is not yet trusted by all");
    }

    #[test]
    fn what_could_never_sign_is_refused_and_nothing_is_kept() {
        let (old, new) = (made(), made());
        let trusted = roots(&[&old]);
        let signs = Before::Signs(&old, &trusted);
        let mismatch = SigningPem { key: old.key.clone(), certificates: new.certificates.clone() };
        let said = |given: &SigningPem| match judge(&secret(given, Some(&old)), &signs, now(&system_clock()))
        {
            Err(error) => crate::telemetry::chain::Chain(&error).to_string(),
            Ok(verdict) => panic!("{verdict:?}"),
        };
        assert!(
            said(&mismatch).contains("tls.key is not the key of the first certificate"),
            "{}",
            said(&mismatch)
        );
        let late = now(&system_clock()) + 11 * 365 * 24 * 3600;
        assert!(judge(&secret(&new, Some(&old)), &signs, late).is_err(), "it has expired");
        let garbage = SigningPem { key: b"no key".to_vec(), certificates: new.certificates };
        assert!(said(&garbage).contains("tls.key"), "{}", said(&garbage));
    }

    #[test]
    fn a_replica_that_missed_a_change_keeps_nothing() {
        let (old, now_signs, given) = (made(), made(), made());
        let trusted = roots(&[&old]);
        let said = judged(&secret(&given, Some(&now_signs)), &Before::Signs(&old, &trusted)).unwrap_err();
        assert!(said.contains(&now_signs.fingerprint().unwrap()), "{said}");
    }

    #[test]
    fn at_the_start_what_agents_were_told_counts() {
        let (old, new) = (made(), made());
        let told = roots(&[&old]);
        assert_eq!(judged(&secret(&new, None), &Before::Told(None)), Ok(Verdict::Mark));
        assert_eq!(judged(&secret(&old, None), &Before::Told(Some(&told))), Ok(Verdict::Mark));
        assert_eq!(judged(&secret(&new, Some(&new)), &Before::Told(Some(&told))), Ok(Verdict::Use));
        let said = judged(&secret(&new, Some(&old)), &Before::Told(Some(&told))).unwrap_err();
        assert!(said.contains(&old.fingerprint().unwrap()), "{said}");
    }

    #[test]
    fn what_was_kept_signs_until_the_other_does() {
        let (old, new) = (made(), made());
        let kept = secret(&new, None).keeping(&old, &old.certificates).unwrap();
        assert_eq!(kept.signs_with(), old.fingerprint().ok().as_deref());
        let trusted = roots(&[&old]);
        for before in [Before::Signs(&old, &trusted), Before::Told(Some(&trusted))] {
            assert_eq!(judged(&kept, &before), Ok(Verdict::Use));
        }
        assert!(kept.signing().unwrap() == old && kept.next().unwrap() == new);
        assert_eq!(kept.pem().unwrap().bundle(&domain()).unwrap().roots().len(), 2);

        let signed = kept.signing_with_next(7).unwrap();
        assert!(signed.signing().unwrap() == new && signed.next().is_none());
        assert_eq!(signed.signs_since(), Some(7));
        assert_eq!(signed.pem().unwrap().bundle(&domain()).unwrap().roots().len(), 2);
        assert_eq!(judged(&signed, &Before::Signs(&old, &trusted)), Ok(Verdict::Use));
        assert_eq!(signed.without_before().pem().unwrap().bundle(&domain()).unwrap().roots().len(), 1);
    }
}
