//! What an authority has revoked is nobody any more, before and during a connection.

use std::fs;
use std::time::Duration;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SerialNumber};
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

use super::rig::*;
use crate::identity::*;

const SERIAL: u64 = 4711;

/// A list of `issuer` that revokes one serial number, as PEM.
fn list(issuer: &Signer, serial: u64) -> String {
    list_of_age(issuer, serial, 10)
}

/// The same, made so many seconds ago.
fn list_of_age(issuer: &Signer, serial: u64, seconds: u64) -> String {
    let date = |seconds: u64| time::OffsetDateTime::from_unix_timestamp(seconds.cast_signed()).unwrap();
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: date(NOW - 10),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date(NOW - seconds),
        // Long over: what it revokes stays revoked.
        next_update: date(NOW - 5),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&issuer.issuer).unwrap().pem().unwrap()
}

fn svid_number(serial: u64) -> rcgen::CertificateParams {
    let mut params = svid();
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

/// Writes the folder's list and lets `web` notice.
fn revoke(rig: &Rig, text: &str) {
    fs::write(rig.folder.path().join("crl.pem"), text).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let looked = async { timeout(Duration::from_secs(11), rig.identities.run()).await };
    runtime.unwrap().block_on(looked).unwrap_err();
}

#[test]
fn a_revoked_certificate_is_refused_in_both_directions_and_another_is_not() {
    let rig = Rig::start();
    revoke(&rig, &list(&rig.root(), SERIAL));
    rig.expect_refused(&rig.root().leaf(&svid_number(SERIAL), &[]), Reason::Revoked);
    assert_eq!(rig.refusals_of(&rig.root().leaf(&svid_number(SERIAL + 1), &[])), [Ok(()), Ok(())]);
}

#[test]
fn a_peer_that_is_revoked_during_its_connection_is_no_longer_trusted() {
    let rig = Rig::start();
    let chain = |serial| rig.root().leaf(&svid_number(serial), &[]).cert;
    let (revoked, other): (Vec<CertificateDer<'_>>, Vec<_>) = (chain(SERIAL), chain(SERIAL + 1));
    assert_eq!(rig.identities.still_trusted(&revoked), Ok(()));
    let generation = rig.identities.generation();
    revoke(&rig, &list(&rig.root(), SERIAL));
    assert_eq!(rig.identities.generation(), generation + 1);
    assert_eq!(rig.identities.still_trusted(&revoked), Err(Reason::Revoked));
    assert_eq!(rig.identities.still_trusted(&other), Ok(()));
    // Its time is over: that alone ends no connection.
    rig.set_now(NOW + 7200);
    assert_eq!(rig.identities.still_trusted(&other), Ok(()));
}

#[test]
fn a_list_that_cannot_be_read_changes_nothing() {
    let rig = Rig::start();
    revoke(&rig, &list(&rig.root(), SERIAL));
    for bad in ["", "no PEM", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"] {
        revoke(&rig, bad);
        rig.expect_refused(&rig.root().leaf(&svid_number(SERIAL), &[]), Reason::Revoked);
    }
}

#[test]
fn a_list_of_another_authority_revokes_nothing_and_a_forged_one_trusts_nobody() {
    let rig = Rig::start();
    let mut params = authority_params("elsewhere", None);
    params.key_usages.push(KeyUsagePurpose::CrlSign);
    let elsewhere = rcgen::Issuer::new(params, rcgen::KeyPair::generate().unwrap());
    revoke(&rig, &list(&Signer { issuer: elsewhere }, SERIAL));
    assert_eq!(rig.refusals_of(&rig.root().leaf(&svid_number(SERIAL), &[])), [Ok(()), Ok(())]);
    let certificate = fs::read_to_string(rig.folder.path().join("tls.crt")).unwrap();
    let forger = rcgen::Issuer::from_ca_cert_pem(&certificate, rcgen::KeyPair::generate().unwrap()).unwrap();
    revoke(&rig, &list(&Signer { issuer: forger }, SERIAL));
    rig.expect_refused(&rig.root().leaf(&svid_number(SERIAL + 1), &[]), Reason::RevocationUnknown);
}

#[test]
fn of_two_lists_of_one_authority_the_newer_counts_wherever_it_stands() {
    let rig = Rig::start();
    let older = list_of_age(&rig.root(), SERIAL + 1, 100);
    let newer = list_of_age(&rig.root(), SERIAL, 10);
    for both in [[&*older, &*newer], [&*newer, &*older]] {
        revoke(&rig, &both.concat());
        rig.expect_refused(&rig.root().leaf(&svid_number(SERIAL), &[]), Reason::Revoked);
        assert_eq!(rig.refusals_of(&rig.root().leaf(&svid_number(SERIAL + 1), &[])), [Ok(()), Ok(())]);
    }
}
