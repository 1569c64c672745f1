//! What X509-SVID.md and RELIABILITY 2.7 refuse, shown by a server and by a client; the rows' numbers are its.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    OtherNameValue, SanType,
};
use rustls::client::danger::ServerCertVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::rig::*;
use crate::identity::trust::Trust;
use crate::identity::verify::{ClientVerifier, Rules, ServerVerifier};
use crate::identity::*;

/// Spoils a good SVID signed by the mesh's own root, and expects one reason in both directions.
fn check(spoil: impl FnOnce(&mut CertificateParams), reason: Reason) {
    let rig = Rig::start();
    let mut params = svid();
    spoil(&mut params);
    rig.expect_refused(&rig.root().leaf(&params, &[]), reason);
}

/// Expects that `api`'s certificate with this change is still accepted in both directions.
fn check_good(change: impl FnOnce(&mut CertificateParams)) {
    let rig = Rig::start();
    let mut params = svid();
    change(&mut params);
    assert_eq!(rig.refusals_of(&rig.root().leaf(&params, &[])), [Ok(()), Ok(())]);
}

fn check_uris(uris: &[&str], reason: Reason) {
    check(|params| params.subject_alt_names = uris.iter().map(|uri| uri_san(uri)).collect(), reason);
}

#[test]
fn a_good_svid_is_accepted() {
    check_good(|_| {});
}

#[test]
fn row_1_two_uri_sans_are_refused_whichever_comes_first() {
    let (good, bad) = ("spiffe://cluster.local/ns/shop/sa/api", "spiffe://cluster.local/ns/shop/sa/root");
    check_uris(&[good, bad], Reason::SeveralUriSans);
    check_uris(&[bad, good], Reason::SeveralUriSans);
    check_uris(&[good, "spiffe://other.example/ns/shop/sa/api"], Reason::SeveralUriSans);
    check_uris(&[good, good], Reason::SeveralUriSans);
    check_uris(&[good, "https://example.com/"], Reason::SeveralUriSans);
}

#[test]
fn row_2_a_dns_san_beside_the_uri_decides_nothing() {
    check_good(|params| {
        params.subject_alt_names.insert(0, SanType::DnsName("web.shop.svc".try_into().unwrap()));
    });
    check(
        |params| {
            params.subject_alt_names = vec![
                SanType::DnsName("api.shop.svc.cluster.local".try_into().unwrap()),
                uri_san("spiffe://other.example/ns/shop/sa/api"),
            ];
        },
        Reason::OtherTrustDomain,
    );
}

#[test]
fn row_3_a_common_name_is_no_identity() {
    let common_name = |params: &mut CertificateParams| {
        params.subject_alt_names.clear();
        params.distinguished_name.push(DnType::CommonName, "spiffe://cluster.local/ns/shop/sa/api");
    };
    check(common_name, Reason::NoUriSan);
    check(
        |params| {
            params.subject_alt_names =
                vec![SanType::DnsName("api.shop.svc.cluster.local".try_into().unwrap())];
        },
        Reason::NoUriSan,
    );
}

#[test]
fn row_4_another_trust_domain_is_refused_though_our_root_signed_it() {
    check_uris(&["spiffe://other.example/ns/shop/sa/api"], Reason::OtherTrustDomain);
    check_uris(&["spiffe://cluster.local.example/ns/shop/sa/api"], Reason::OtherTrustDomain);
}

#[test]
fn row_5_the_right_id_of_another_root_is_refused() {
    let rig = Rig::start();
    let (foreign, certificate) = Signer::foreign("root of cluster.local");
    rig.expect_refused(&foreign.leaf(&svid(), &[]), Reason::UnknownIssuer);
    rig.expect_refused(&foreign.leaf(&svid(), &[certificate]), Reason::UnknownIssuer);
}

#[test]
fn row_5_a_root_of_our_root_s_name_with_another_key_is_refused() {
    let rig = Rig::start();
    let ours = std::fs::read_to_string(rig.folder.path().join("tls.crt")).unwrap();
    let thief =
        Signer { issuer: rcgen::Issuer::from_ca_cert_pem(&ours, KeyPair::generate().unwrap()).unwrap() };
    rig.expect_refused(&thief.leaf(&svid(), &[]), Reason::BadSignature);
}

#[test]
fn row_5_a_self_signed_leaf_is_refused() {
    let rig = Rig::start();
    let key = KeyPair::generate().unwrap();
    let leaf = svid().self_signed(&key).unwrap();
    rig.expect_refused(&certified(vec![leaf.into()], &key), Reason::UnknownIssuer);
}

#[test]
fn row_6_validity_ends_with_the_tolerated_skew() {
    let skew = Settings::default().clock_skew.as_secs();
    check_good(|params| set_validity(params, NOW - 100, NOW - skew));
    check(|params| set_validity(params, NOW - 100, NOW - skew - 1), Reason::Expired);
    check_good(|params| set_validity(params, NOW + skew, NOW + 100));
    check(|params| set_validity(params, NOW + skew + 1, NOW + 100), Reason::NotValidYet);
    check(|params| set_validity(params, NOW + 10, NOW - 10), Reason::BadEncoding);
}

#[test]
fn row_7_extended_key_usage_must_name_both_sides() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, ServerAuth};
    for purposes in
        [vec![], vec![ServerAuth], vec![ClientAuth], vec![CodeSigning], vec![Any], vec![Any, ServerAuth]]
    {
        check(|params| params.extended_key_usages = purposes, Reason::ExtendedKeyUsage);
    }
    check_good(|params| params.extended_key_usages = vec![CodeSigning, ServerAuth, ClientAuth]);
}

#[test]
fn row_8_a_leaf_that_is_an_authority_is_refused() {
    check(|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained), Reason::LeafIsAuthority);
}

#[test]
fn row_8_a_leaf_may_not_sign() {
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyAgreement, KeyCertSign};
    for usages in
        [vec![], vec![KeyAgreement], vec![DigitalSignature, KeyCertSign], vec![DigitalSignature, CrlSign]]
    {
        check(|params| params.key_usages = usages, Reason::KeyUsage);
    }
}

#[test]
fn row_8_key_usage_that_is_not_critical_is_refused() {
    // digitalSignature as DER: BIT STRING, 7 unused bits, 0x80.
    check(
        |params| {
            params.key_usages.clear();
            let usage = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
            params.custom_extensions.push(usage);
        },
        Reason::KeyUsage,
    );
}

#[test]
fn row_8_issuers_of_a_chain_must_be_authorities() {
    let rig = Rig::start();
    let root = rig.root();
    let (good, certificate) = root.intermediate(authority_params("intermediate", None));
    assert_eq!(rig.refusals_of(&good.leaf(&svid(), &[certificate])), [Ok(()), Ok(())]);

    let mut no_ca = authority_params("no authority", None);
    no_ca.is_ca = IsCa::ExplicitNoCa;
    let (signer, certificate) = root.intermediate(no_ca);
    rig.expect_refused(&signer.leaf(&svid(), &[certificate]), Reason::IssuerNotAuthority);

    let mut no_sign = authority_params("may not sign", None);
    no_sign.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let (signer, certificate) = root.intermediate(no_sign);
    rig.expect_refused(&signer.leaf(&svid(), &[certificate]), Reason::IssuerNotAuthority);

    let mut pod = svid();
    pod.distinguished_name.push(DnType::CommonName, "a pod");
    let (signer, certificate) = root.intermediate(pod);
    rig.expect_refused(&signer.leaf(&svid(), &[certificate]), Reason::IssuerNotAuthority);
}

#[test]
fn row_8_the_path_length_of_an_intermediate_holds() {
    let rig = Rig::start();
    let (above, upper) = rig.root().intermediate(authority_params("upper", Some(0)));
    let (below, lower) = above.intermediate(authority_params("lower", None));
    rig.expect_refused(&below.leaf(&svid(), &[lower, upper]), Reason::PathTooLong);
}

#[test]
fn row_9_a_missing_intermediate_is_an_unknown_issuer() {
    let rig = Rig::start();
    let (signer, _) = rig.root().intermediate(authority_params("intermediate", None));
    rig.expect_refused(&signer.leaf(&svid(), &[]), Reason::UnknownIssuer);
}

#[test]
fn row_9_a_deep_chain_is_refused_unread() {
    let rig = Rig::start();
    let (mut signer, mut chain) = (rig.root(), Vec::new());
    for depth in 0..20 {
        let (next, certificate) = signer.intermediate(authority_params(&format!("level {depth}"), None));
        chain.insert(0, certificate);
        signer = next;
    }
    rig.expect_refused(&signer.leaf(&svid(), &chain), Reason::ChainTooLong);
}

#[test]
fn row_9_ten_thousand_intermediates_cost_nothing() {
    let rig = Rig::start();
    let (_, filler) = Signer::foreign("filler");
    let liar = rig.root().leaf(&svid(), &vec![filler; 10_000]);
    // More than one handshake message may have: TLS itself ends it, and no signature is looked at.
    let expected = Err(HandshakeFailure::Malformed);
    assert_eq!(rig.refusals_of(&liar), [expected, expected]);
}

#[test]
fn row_10_every_other_spelling_of_an_id_is_refused() {
    for uri in [
        "SPIFFE://cluster.local/ns/shop/sa/api",
        "spiffe://CLUSTER.LOCAL/ns/shop/sa/api",
        "spiffe://cluster.local/ns/shop/sa/%61pi",
        "spiffe://cluster.local/ns/shop%2fsa/api",
        "spiffe://cluster.local/ns//shop/sa/api",
        "spiffe://cluster.local/ns/shop/sa/api/",
        "spiffe://cluster.local/ns/shop/sa/api?x=1",
        "spiffe://cluster.local/ns/shop/sa/api#x",
        "spiffe://cluster.local/ns/shop/sa/api\0.evil",
        "spiffe://cluster.local\0/ns/shop/sa/api",
        "spiffe://cluster.local:443/ns/shop/sa/api",
        "spiffe://user@cluster.local/ns/shop/sa/api",
        "spiffe://cluster.local/ns/../sa/api",
        "spiffe://cluster.local",
        "spiffe://",
        "",
        "https://cluster.local/ns/shop/sa/api",
    ] {
        check_uris(&[uri], Reason::NotSpiffe);
    }
}

#[test]
fn row_10_an_id_in_a_name_of_another_kind_is_none() {
    let text = "spiffe://cluster.local/ns/shop/sa/api";
    let other_name =
        SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], OtherNameValue::from(text.to_owned())));
    check(|params| params.subject_alt_names = vec![other_name], Reason::NoUriSan);
    let mail = SanType::Rfc822Name(text.try_into().unwrap());
    check(|params| params.subject_alt_names = vec![mail], Reason::NoUriSan);
}

#[test]
fn row_10_a_uri_that_is_no_ia5_string_is_refused() {
    // GeneralNames with one uniformResourceIdentifier [6] whose bytes are not text.
    let names = vec![0x30, 4, 0x86, 2, 0xff, 0xfe];
    check(
        |params| {
            params.subject_alt_names.clear();
            params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], names));
        },
        Reason::BadEncoding,
    );
}

#[test]
fn row_14_weak_algorithms_are_refused() {
    // Made with openssl: a P-256 root, leaves that are good SVIDs of `api` but for one algorithm, and one good.
    let weak = include_bytes!("../../../testdata/identity/weak.pem");
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(weak).collect::<Result<_, _>>().unwrap();
    let [root, sha1, rsa_1024, p_192, good] = certificates.as_slice() else { panic!("five certificates") };
    assert_eq!(verdicts(root, good), [Ok(()), Ok(())], "the fixture itself");
    for (name, leaf, reason) in [
        ("SHA-1", sha1, Reason::UnsupportedAlgorithm),
        ("RSA-1024", rsa_1024, Reason::WeakKey),
        ("P-192", p_192, Reason::WeakKey),
    ] {
        assert_eq!(verdicts(root, leaf), [Err(reason), Err(reason)], "{name}");
    }
}

#[test]
fn row_15_a_large_certificate_is_refused_unread() {
    let padding = |bytes: usize| {
        move |params: &mut CertificateParams| {
            let oid = [1, 3, 6, 1, 4, 1, 99_999, 1];
            params.custom_extensions.push(CustomExtension::from_oid_content(&oid, vec![4; bytes]));
        }
    };
    check_good(padding(1_000));
    check(padding(16 * 1024), Reason::ChainTooLarge);

    let rig = Rig::start();
    let mut params = svid();
    padding(1_000_000)(&mut params);
    let expected = Err(HandshakeFailure::Malformed);
    assert_eq!(rig.refusals_of(&rig.root().leaf(&params, &[])), [expected, expected]);
}

#[test]
fn row_16_a_certificate_without_its_key_is_worth_nothing() {
    let rig = Rig::start();
    let copied = rig.root().leaf(&svid(), &[]);
    let own_key = KeyPair::generate().unwrap();
    let expected = Err(HandshakeFailure::KeyNotHeld);
    assert_eq!(rig.refusals_of(&certified(copied.cert, &own_key)), [expected, expected]);
}

#[test]
fn garbage_in_place_of_a_certificate_is_refused() {
    let rig = Rig::start();
    let key = KeyPair::generate().unwrap();
    let good: CertificateDer<'static> = rig.root().leaf(&svid(), &[]).cert.remove(0);
    for length in [1, 10, good.len() / 2, good.len() - 1] {
        let cut = CertificateDer::from(good[..length].to_vec());
        rig.expect_refused(&certified(vec![cut], &key), Reason::BadEncoding);
    }
    let mut longer = good.to_vec();
    longer.push(0);
    rig.expect_refused(&certified(vec![longer.into()], &key), Reason::BadEncoding);
}

#[test]
fn an_unknown_critical_extension_is_refused() {
    check(
        |params| {
            let oid = [1, 3, 6, 1, 4, 1, 99_999, 2];
            let mut unknown = CustomExtension::from_oid_content(&oid, vec![5, 0]);
            unknown.set_criticality(true);
            params.custom_extensions.push(unknown);
        },
        Reason::UnsupportedExtension,
    );
}

#[test]
fn a_retired_root_vouches_for_what_is_open_and_for_nobody_new() {
    let ((signer, root), (retired, retired_root)) = (Signer::foreign("new"), Signer::foreign("old"));
    let (own, old) = (signer.leaf(&svid(), &[]).cert, retired.leaf(&svid(), &[]).cert);
    let rules = |roots, retired| {
        rules(TrustBundle::new(trust_domain(), roots).unwrap().with_retired(retired).unwrap())
    };
    let with = rules(vec![root.clone()], vec![retired_root, root.clone()]);
    assert_eq!(verdicts_of(&with, &own[0]), [Ok(()), Ok(())]);
    assert_eq!(verdicts_of(&with, &old[0]), [Err(Reason::UnknownIssuer), Err(Reason::UnknownIssuer)]);
    assert_eq!([with.still_holds(&own), with.still_holds(&old)], [Ok(()), Ok(())]);
    let without = rules(vec![root], Vec::new());
    assert_eq!([without.still_holds(&own), without.still_holds(&old)], [Ok(()), Err(Reason::UnknownIssuer)]);
}

fn rules(bundle: TrustBundle) -> Arc<Rules> {
    Arc::new(Rules {
        trust: Trust::new(bundle),
        clock_skew: Settings::default().clock_skew,
        metrics: IdentityMetrics::new(&crate::telemetry::registry::Registry::new()).unwrap(),
        said: crate::telemetry::seldom::Seldom::default(),
    })
}

fn verdicts(root: &CertificateDer<'static>, leaf: &CertificateDer<'static>) -> [Result<(), Reason>; 2] {
    verdicts_of(&rules(TrustBundle::new(trust_domain(), vec![root.clone()]).unwrap()), leaf)
}

/// Asks both verifiers directly, for chains whose keys no TLS library would sign with.
fn verdicts_of(rules: &Arc<Rules>, leaf: &CertificateDer<'static>) -> [Result<(), Reason>; 2] {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let name = ServerName::try_from("api.shop.svc").unwrap();
    let reason = |error: rustls::Error| match HandshakeFailure::of(&error) {
        HandshakeFailure::PeerRefused(reason) => reason,
        other => panic!("{other:?}"),
    };
    let server = ServerVerifier { rules: rules.clone(), expected: id("api") };
    [
        server.verify_server_cert(leaf, &[], &name, &[], now).map(drop).map_err(reason),
        ClientVerifier { rules: rules.clone(), is_mandatory: true }
            .verify_client_cert(leaf, &[], now)
            .map(drop)
            .map_err(reason),
    ]
}
