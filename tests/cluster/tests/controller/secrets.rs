//! The authority's Secret as it comes to be: made by two replicas at once, written by cert-manager below an intermediate, or of
//! no use at all.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use mesh_node::identity::{SigningPem, roots_of_pem};
use mesh_test_cluster::api_server::ApiServer;
use mesh_test_harness::figure;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::agents::{DAY, Stand, WEB, api_server, controllers_own, request};
use super::between::Between;
use super::mutual_tls::{AGENT, signed};
use super::rotation::{event, made, put};

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// What an authority's certificate says: a name, until how many minutes from now it is good, and whether it may sign.
fn params(name: &str, until: i64, is_ca: IsCa) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = is_ca;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::minutes(60);
    params.not_after = now + time::Duration::minutes(until);
    params
}

const CA: IsCa = IsCa::Ca(BasicConstraints::Unconstrained);

fn root(name: &str) -> Result<Issuer> {
    Ok(CertifiedIssuer::self_signed(params(name, 600, CA), KeyPair::generate()?)?)
}

fn below(name: &str, issuer: &Issuer) -> Result<Issuer> {
    Ok(CertifiedIssuer::signed_by(params(name, 600, CA), KeyPair::generate()?, issuer)?)
}

/// What signs, and what is between it and the root.
fn pair(signer: &Issuer, above: &[&Issuer]) -> SigningPem {
    let certificates: String = [&[signer], above].concat().into_iter().map(|issuer| issuer.pem()).collect();
    SigningPem { key: signer.key().serialize_pem().into_bytes(), certificates: certificates.into_bytes() }
}

/// Makes the Secret before any controller is there, as cert-manager does for a Certificate whose `isCA` is true.
fn give(server: &ApiServer, signing: &SigningPem, root: Option<String>) -> Result<()> {
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone());
    let mut data =
        serde_json::json!({"tls.key": text(&signing.key)?, "tls.crt": text(&signing.certificates)?});
    if let Some(root) = root {
        data["ca.crt"] = root.into();
    }
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "stringData": data,
        "metadata": {
            "name": "nodemesh-ca", "namespace": "nodemesh-system",
            "annotations": {
                "cert-manager.io/certificate-name": "nodemesh-ca", "cert-manager.io/issuer-name": "company",
                "cert-manager.io/issuer-kind": "ClusterIssuer", "cert-manager.io/common-name": "issuing",
            },
            "labels": {"controller.cert-manager.io/fao": "true"},
        },
    });
    let file = tempfile::Builder::new().suffix(".json").tempfile()?;
    std::fs::write(file.path(), secret.to_string())?;
    server.kubectl(&["create", "-f", &file.path().display().to_string()]).map(drop)
}

/// Whose key signed a certificate, by name, if `issuer` is what signed it.
fn issuer_of(certificate: &[u8], issuer: &[u8]) -> Result<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate)?;
    let (_, issuer) = X509Certificate::from_der(issuer)?;
    certificate.verify_signature(Some(issuer.public_key())).context("somebody else signed it")?;
    Ok(certificate.issuer().as_raw().to_vec())
}

/// The roots that agents are told.
fn told(stand: &Stand) -> Result<Vec<Vec<u8>>> {
    let roots = roots_of_pem(stand.roots_pem()?.as_bytes())?;
    Ok(roots.iter().map(|root| root.to_vec()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_that_find_no_secret_one_makes_it_and_both_sign_with_it() -> Result<()> {
    let server = api_server("base")?;
    // Neither hears that there is none before both have asked.
    let between = Between::racing(controllers_own(&server, None)?.path(), 2).await?;
    let kubeconfig = controllers_own(&server, Some(&between.url()))?;
    let stand = Stand::with(server, kubeconfig, None, DAY).await?;
    let second = stand.second_controller().await?;
    stand.populate().await?;
    let token = stand.token("agent-a", &[])?;
    let (roots, mut issuers) =
        (stand.eventually("the roots are written", || told(&stand).ok()).await?, Vec::new());
    ensure!(roots.len() == 1, "{} roots", roots.len());
    for controller in [stand.address(), second] {
        let chain = stand.sign_at(controller, &token, WEB, request()).await?;
        issuers.push(issuer_of(&chain[0], &roots[0])?);
    }
    ensure!(issuers[0] == issuers[1]);
    let mut made = between.made();
    made.sort_unstable();
    ensure!(made == [201, 409], "the API server answered those who made one with {made:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_an_intermediate_of_cert_manager_peers_are_sent_the_chain_and_trust_the_root_alone()
-> Result<()> {
    let root = root("company root")?;
    let policy = below("company policy", &root)?;
    let issuing = below("issuing", &policy)?;
    let server = api_server("base")?;
    give(&server, &pair(&issuing, &[&policy]), Some(root.pem()))?;
    let kubeconfig = controllers_own(&server, None)?;
    let stand = Stand::with(server, kubeconfig, None, DAY).await?;
    stand.populate().await?;
    let token = stand.token("agent-a", &[])?;
    // The controller's own certificate is of the same chain, and was verified by its root for this.
    let chain = stand.sign(&token, WEB, request()).await?;
    ensure!(told(&stand)? == [root.der().to_vec()], "agents trust more than the root");
    ensure!(chain[1..] == [issuing.der().to_vec(), policy.der().to_vec()], "{} certificates", chain.len());
    issuer_of(&chain[0], issuing.der())?;

    // Both sides: the controller verifies what an agent shows as agents verify each other.
    let own = signed(&stand, &token, AGENT).await?;
    stand.agent_showing(&token, Arc::clone(&own)).await?.follow().await?;
    for too_few in [1, 2] {
        let cut = CertifiedKey::new(own.cert[..too_few].to_vec(), Arc::clone(&own.key));
        let refused = match stand.agent_showing(&token, Arc::new(cut)).await {
            Ok(mut agent) => agent.follow().await.is_err(),
            Err(_) => true,
        };
        ensure!(refused, "it was verified without what is between");
    }

    // Renewed with another key below the same root, it signs at once.
    let renewed = below("issuing", &policy)?;
    put(&stand, ["tls.key", "tls.crt"], &pair(&renewed, &[&policy]))?;
    let begun = Instant::now();
    loop {
        let chain = stand.sign(&token, WEB, request()).await?;
        if chain[1] == renewed.der().to_vec() {
            break;
        }
        issuer_of(&chain[0], issuing.der())?;
        ensure!(begun.elapsed() < super::agents::PATIENCE, "the one before signs on");
    }
    figure(&format!(
        "a renewed intermediate signs {:.1} s after it was written",
        begun.elapsed().as_secs_f64()
    ));
    ensure!(told(&stand)? == [root.der().to_vec()], "the roots changed");
    Ok(())
}

/// Secrets of no use: what is wrong, and what people are told of it.
fn bad() -> Result<Vec<(&'static str, SigningPem, &'static str)>> {
    let (one, other) = (made()?, made()?);
    let expired = CertifiedIssuer::self_signed(params("expired", -5, CA), KeyPair::generate()?)?;
    let leaf = CertifiedIssuer::self_signed(params("leaf", 600, IsCa::ExplicitNoCa), KeyPair::generate()?)?;
    let lonely = below("lonely", &root("unknown")?)?;
    let garbage = |text: &str| text.as_bytes().to_vec();
    let key = one.key.clone();
    let cut = one.certificates[..one.certificates.len() / 2].to_vec();
    Ok(vec![
        (
            "the key of another",
            SigningPem { key: one.key.clone(), certificates: other.certificates },
            "tls.key is not the key of the first certificate in tls.crt",
        ),
        ("expired", pair(&expired, &[]), "the authority's certificate is valid from"),
        ("no authority", pair(&leaf, &[]), "is not a certificate authority"),
        ("without its root", pair(&lonely, &[]), "the bundle has no root"),
        ("cut short", SigningPem { key: key.clone(), certificates: cut }, "tls.crt does not decode as PEM"),
        (
            "no key",
            SigningPem { key: garbage("a key"), ..one },
            "tls.key does not decode as PEM with a private key",
        ),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_of_no_use_is_named_in_an_event_and_the_one_before_signs_on() -> Result<()> {
    let stand = Stand::start().await?;
    let token = stand.token("agent-a", &[])?;
    let before = stand.sign(&token, WEB, request()).await?;
    let roots = told(&stand)?;
    let issuer = issuer_of(&before[0], &roots[0])?;
    let words = ["get", "secret", "nodemesh-ca", "-n", "nodemesh-system", "-o", "jsonpath={.data}"];
    for (what, given, said) in bad()? {
        put(&stand, ["tls.key", "tls.crt"], &given)?;
        let data = stand.kubectl(&words)?;
        event(&stand, "CannotSign", said).await.with_context(|| what.to_owned())?;
        let chain = stand.sign(&token, WEB, request()).await?;
        ensure!(issuer_of(&chain[0], &roots[0])? == issuer, "{what}: it signs");
        ensure!(told(&stand)? == roots, "{what}: agents are told other roots");
        ensure!(stand.kubectl(&words)? == data, "{what}: the Secret was changed");
    }
    // Another that is good takes its steps from there.
    let good = made()?;
    put(&stand, ["tls.key", "tls.crt"], &good)?;
    event(&stand, "AnotherRoot", "the key before signs on").await?;
    let both = || told(&stand).ok().filter(|roots| roots.len() == 2);
    let both = stand.eventually("agents are told both roots", both).await?;
    let chain = stand.sign(&token, WEB, request()).await?;
    ensure!(both.contains(&roots[0]) && issuer_of(&chain[0], &roots[0])? == issuer);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_secret_of_no_use_is_named_in_an_event_until_another_one_is_given() -> Result<()> {
    let server = api_server("base")?;
    let (_, expired, said) = bad()?.swap_remove(1);
    give(&server, &expired, None)?;
    let kubeconfig = controllers_own(&server, None)?;
    let stand = Stand::with(server, kubeconfig, None, DAY).await?;
    event(&stand, "CannotSign", said).await?;
    ensure!(stand.roots_pem().is_err(), "agents are told a root of no use");
    let good = made()?;
    put(&stand, ["tls.key", "tls.crt"], &good)?;
    stand.populate().await?;
    let token = stand.token("agent-a", &[])?;
    let chain = stand.sign(&token, WEB, request()).await?;
    issuer_of(&chain[0], &told(&stand)?[0])?;
    Ok(())
}
