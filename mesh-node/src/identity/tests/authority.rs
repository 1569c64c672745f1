//! The standalone authority: its folder, and what it signs (RELIABILITY 2.8).

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::model::{SpiffeId, TrustDomain};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SanType,
};
use rustls_pki_types::CertificateSigningRequestDer;
use tempfile::TempDir;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::rig::*;
use crate::identity::trust_dir::check_access;
use crate::identity::*;

const DAY: Duration = Duration::from_secs(86_400);

fn clock() -> Clock {
    Arc::new(SetClock(NOW.into()))
}

fn open(folder: &TempDir) -> Result<Authority, AuthorityError> {
    Authority::open(authority_settings(folder, DAY), &clock())
}

fn opened(folder: &TempDir) -> Authority {
    open(folder).unwrap()
}

/// What is wrong with a folder that was good until `spoil`.
fn spoilt(spoil: impl FnOnce(&Path)) -> TrustDirError {
    let folder = tempfile::tempdir().unwrap();
    opened(&folder);
    spoil(folder.path());
    match open(&folder).map(drop) {
        Err(AuthorityError::TrustDir { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

fn request(params: &CertificateParams, key: &KeyPair) -> CertificateSigningRequestDer<'static> {
    params.serialize_request(key).unwrap().der().clone()
}

fn sign(
    authority: &Authority,
    identity: &SpiffeId,
    request: &CertificateSigningRequestDer<'_>,
) -> Result<Issued, AuthorityError> {
    wait(authority.sign(identity, request, NOW))
}

#[test]
fn the_first_start_makes_a_key_that_only_its_owner_reads() {
    let parent = tempfile::tempdir().unwrap();
    let settings =
        AuthoritySettings { trust_dir: parent.path().join("deep/trust"), ..authority_settings(&parent, DAY) };
    Authority::open(settings.clone(), &clock()).unwrap();
    let mode = |name: &str| fs::metadata(settings.trust_dir.join(name)).unwrap().mode() & 0o777;
    assert_eq!((mode("tls.key"), mode(".")), (0o600, 0o700));
}

#[test]
fn a_second_start_uses_the_same_root() {
    let folder = tempfile::tempdir().unwrap();
    let first = opened(&folder).bundle().unwrap();
    assert_eq!(opened(&folder).bundle().unwrap().roots(), first.roots());
}

#[test]
fn agents_that_start_at_once_agree_on_one_root() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let roots: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| opened(&folder).bundle().unwrap())).collect();
            starts.into_iter().map(|start| start.join().unwrap().roots().to_vec()).collect()
        });
        assert!(roots.iter().all(|root| *root == roots[0]), "more than one root");
    }
}

#[test]
fn a_start_that_was_cut_short_is_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    opened(&folder);
    let key = fs::read(folder.path().join("tls.key")).unwrap();
    fs::remove_file(folder.path().join("tls.crt")).unwrap();
    fs::write(folder.path().join(".tls.crt.new"), "half a certi").unwrap();

    opened(&folder);

    assert_eq!(fs::read(folder.path().join("tls.key")).unwrap(), key);
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    for mode in [0o644, 0o640, 0o604, 0o660, 0o700] {
        let error = spoilt(|folder| {
            fs::set_permissions(folder.join("tls.key"), Permissions::from_mode(mode)).unwrap();
        });
        assert!(matches!(error, TrustDirError::Mode { allowed: 0o600, .. }), "{error}");
        assert!(error.to_string().contains(&format!("has mode {mode:04o}")), "{error}");
    }
}

#[test]
fn a_folder_that_others_may_write_is_refused() {
    let error = spoilt(|folder| fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap());
    assert!(matches!(error, TrustDirError::Mode { allowed: 0o755, .. }), "{error}");
}

#[test]
fn a_key_of_another_user_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    opened(&folder);
    let key = folder.path().join("tls.key");
    let metadata = fs::metadata(&key).unwrap();
    let stranger = metadata.uid() + 1;

    let error = check_access(&key, &metadata, stranger, 0o600).unwrap_err();

    assert!(matches!(error, TrustDirError::Owner { user, .. } if user == stranger), "{error}");
}

#[test]
fn a_link_in_place_of_the_key_is_refused() {
    let error = spoilt(|folder| {
        fs::rename(folder.join("tls.key"), folder.join("elsewhere")).unwrap();
        symlink(folder.join("elsewhere"), folder.join("tls.key")).unwrap();
    });
    assert!(matches!(error, TrustDirError::Io { operation: "read", .. }), "{error}");
}

#[test]
fn a_certificate_without_its_key_is_never_replaced() {
    let error = spoilt(|folder| fs::remove_file(folder.join("tls.key")).unwrap());
    assert!(matches!(error, TrustDirError::KeyMissing { .. }), "{error}");
}

#[test]
fn a_key_of_another_authority_is_refused() {
    let other = tempfile::tempdir().unwrap();
    opened(&other);
    let error = spoilt(|folder| {
        fs::copy(other.path().join("tls.key"), folder.join("tls.key")).unwrap();
    });
    assert!(matches!(error, TrustDirError::Material(MaterialError::KeyMismatch)), "{error}");
}

#[test]
fn every_damage_to_a_file_is_refused_and_nothing_panics() {
    for name in ["tls.key", "tls.crt"] {
        for text in [
            "",
            "\0\0\0",
            "-----BEGIN CERTIFICATE-----\n",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            let error = spoilt(|folder| fs::write(folder.join(name), text).unwrap());
            assert!(matches!(error, TrustDirError::Encoding { .. }), "{name}: {error}");
        }
        let error = spoilt(|folder| fs::write(folder.join(name), vec![b'x'; 300_000]).unwrap());
        assert!(matches!(error, TrustDirError::TooLarge { .. }), "{name}: {error}");
        let whole = {
            let folder = tempfile::tempdir().unwrap();
            opened(&folder);
            fs::read(folder.path().join(name)).unwrap()
        };
        for length in (0..whole.len() - 30).step_by(7) {
            spoilt(|folder| fs::write(folder.join(name), &whole[..length]).unwrap());
        }
    }
}

#[test]
fn a_folder_of_another_trust_domain_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    opened(&folder);
    let settings = AuthoritySettings {
        trust_domain: TrustDomain::parse("other.example").unwrap(),
        ..authority_settings(&folder, DAY)
    };
    let error = Authority::open(settings, &clock()).map(drop).unwrap_err();
    let AuthorityError::TrustDir { source, .. } = error else { panic!("{error}") };
    assert_eq!(
        source.to_string(),
        "the authority is for spiffe://cluster.local, this mesh is spiffe://other.example; \
         set --trust-domain or change the authority"
    );
}

#[test]
fn a_leaf_in_place_of_the_authority_is_refused() {
    let error = spoilt(|folder| {
        let key = KeyPair::from_pem(&fs::read_to_string(folder.join("tls.key")).unwrap()).unwrap();
        fs::write(folder.join("tls.crt"), svid().self_signed(&key).unwrap().pem()).unwrap();
    });
    assert!(matches!(error, TrustDirError::Material(MaterialError::NotAuthority)), "{error}");
}

#[test]
fn an_authority_below_another_root_sends_itself_along() {
    let rig = Rig::start();
    let below = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let intermediate = authority_params("intermediate", Some(0)).signed_by(&key, &rig.root().issuer).unwrap();
    let write = |name: &str, text: &str| fs::write(below.path().join(name), text).unwrap();
    write("tls.key", &key.serialize_pem());
    fs::set_permissions(below.path().join("tls.key"), Permissions::from_mode(0o600)).unwrap();
    write("tls.crt", &intermediate.pem());
    write("ca.crt", &fs::read_to_string(rig.folder.path().join("tls.crt")).unwrap());

    let (api, _, _) = node(&below, DAY, clock());
    wait(api.ensure(&id("api"))).unwrap();
    let client = rig.identities.client(&id("web"), &id("api"), Alpn::Mux1).unwrap();
    let ended = handshake(client, api.server(&id("api"), Alpn::Mux1).unwrap());

    assert_eq!((ended.client, ended.server), (Ok(()), Ok(())));
    assert_eq!(ended.client_side.peer_certificates().unwrap().len(), 2);
}

#[test]
fn of_a_request_only_the_key_counts() {
    let folder = tempfile::tempdir().unwrap();
    let authority = opened(&folder);
    let key = KeyPair::generate().unwrap();
    let mut wish = CertificateParams::default();
    wish.distinguished_name.push(rcgen::DnType::CommonName, "cluster admin");
    wish.subject_alt_names = vec![
        uri_san("spiffe://cluster.local/ns/kube-system/sa/admin"),
        uri_san("spiffe://other.example/ns/shop/sa/web"),
        SanType::DnsName("kubernetes.default.svc".try_into().unwrap()),
    ];
    wish.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    wish.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];

    let issued = sign(&authority, &id("web"), &request(&wish, &key)).unwrap();

    assert_eq!(issued.chain.len(), 1);
    assert_eq!((issued.not_before, issued.not_after), (NOW - 300, NOW + 86_400));
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]);
    assert!(names.critical && leaf.subject().iter().next().is_none());
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.flags == 1, "digitalSignature alone");
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.code_signing);
    assert_eq!(leaf.validity().not_after.timestamp(), (NOW + 86_400).cast_signed());
    assert_eq!(leaf.raw_serial().len(), 16);
    assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
}

#[test]
fn serial_numbers_do_not_repeat() {
    let folder = tempfile::tempdir().unwrap();
    let authority = opened(&folder);
    let request = request(&CertificateParams::default(), &KeyPair::generate().unwrap());
    let serials: std::collections::HashSet<Vec<u8>> = (0..100)
        .map(|_| {
            let issued = sign(&authority, &id("web"), &request).unwrap();
            X509Certificate::from_der(&issued.chain[0]).unwrap().1.raw_serial().to_vec()
        })
        .collect();
    assert_eq!(serials.len(), 100);
}

#[test]
fn requests_that_prove_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let authority = opened(&folder);
    let empty = {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
    };
    let good = request(&empty, &KeyPair::generate().unwrap());
    assert!(sign(&authority, &id("web"), &good).is_ok());

    let mut wrong_signature = good.to_vec();
    *wrong_signature.last_mut().unwrap() ^= 1;
    let mut large = empty.clone();
    large
        .custom_extensions
        .push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 3], vec![4; 5_000]));
    let p_384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let refused: [CertificateSigningRequestDer<'static>; 5] = [
        wrong_signature.into(),
        request(&large, &KeyPair::generate().unwrap()),
        request(&empty, &p_384),
        good[..good.len() / 2].to_vec().into(),
        Vec::new().into(),
    ];
    for (index, request) in refused.iter().enumerate() {
        let result = sign(&authority, &id("web"), request);
        assert!(matches!(result, Err(AuthorityError::BadRequest)), "request {index}: {result:?}");
    }
}

#[test]
fn a_foreign_trust_domain_is_not_signed_for() {
    let folder = tempfile::tempdir().unwrap();
    let authority = opened(&folder);
    let request = request(&CertificateParams::default(), &KeyPair::generate().unwrap());
    let foreign = "spiffe://other.example/ns/shop/sa/web".parse().unwrap();
    let result = sign(&authority, &foreign, &request);
    assert!(matches!(result, Err(AuthorityError::ForeignIdentity { .. })), "{result:?}");
}

#[test]
fn a_leaf_ends_with_its_authority_and_an_expired_one_signs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let authority = opened(&folder);
    let request = request(&CertificateParams::default(), &KeyPair::generate().unwrap());
    let last = NOW + 10 * 365 * 86_400;

    let issued = wait(authority.sign(&id("web"), &request, last - 100)).unwrap();
    let expired = wait(authority.sign(&id("web"), &request, last + 1));

    assert_eq!(issued.not_after, last);
    assert!(matches!(expired, Err(AuthorityError::Expired { .. })), "{expired:?}");
}
