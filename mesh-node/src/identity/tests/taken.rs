//! Whether agents would take what a key signs, asked before it signs.

use mesh_common::model::TrustDomain;

use crate::identity::{AuthorityPem, HeldError, SigningPem, now, system_clock};

fn made(domain: &str) -> SigningPem {
    SigningPem::make(&TrustDomain::parse(domain).unwrap(), &system_clock()).unwrap()
}

fn taken(signing: &SigningPem, trusted: &SigningPem, later: u64) -> Result<(), HeldError> {
    let pem = AuthorityPem { signing: Some(trusted.clone()), roots: None, others: Vec::new(), retired: None };
    let bundle = pem.bundle(&TrustDomain::parse("cluster.local").unwrap()).unwrap();
    signing.is_taken_by(&bundle, now(&system_clock()) + later)
}

#[test]
fn what_a_trusted_root_vouches_for_is_taken_and_nothing_else() {
    let (one, other) = (made("cluster.local"), made("cluster.local"));
    taken(&one, &one, 0).unwrap();
    assert!(matches!(taken(&one, &other, 0), Err(HeldError::Refused { .. })));
    let mixed = SigningPem { key: other.key.clone(), certificates: one.certificates.clone() };
    assert!(matches!(taken(&mixed, &one, 0), Err(HeldError::Material(_))), "its key is another's");
    assert!(matches!(taken(&made("other.example"), &one, 0), Err(HeldError::Material(_))));
    let eleven_years = 11 * 365 * 24 * 3600;
    assert!(matches!(taken(&one, &one, eleven_years), Err(HeldError::Sign(_))), "it has expired");
}

#[test]
fn two_keys_have_two_fingerprints() {
    let one = made("cluster.local");
    assert_eq!(one.fingerprint().unwrap(), one.clone().fingerprint().unwrap());
    assert_ne!(one.fingerprint().unwrap(), made("cluster.local").fingerprint().unwrap());
    assert_eq!(one.fingerprint().unwrap().len(), 64);
}
