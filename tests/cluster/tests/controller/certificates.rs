//! Certificates, against a real API server and its tokens: who gets which, and who gets none.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use data_encoding::BASE64URL_NOPAD;
use mesh_node::controller::world::Known;
use mesh_test_harness::figure;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384, SanType};
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::Instant;
use tonic::Code;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::agents::{self, Stand, WEB, request};
use super::flood::Flood;

/// What `openssl req -new -newkey rsa:512` makes.
const RSA_512: &[u8] = b"\
-----BEGIN CERTIFICATE REQUEST-----
MIG5MGUCAQAwADBcMA0GCSqGSIb3DQEBAQUAA0sAMEgCQQDhGBDSmvS4ldcZyp5T
cMX6LfHQC+RwhNp2Wzx1mkpoaobRxgrJZzxuRFIQ79Cb2NOX7B3/y179OWLiLN7h
p7QzAgMBAAGgADANBgkqhkiG9w0BAQsFAANBAJnLPsvtgMP0K7e1LktLkauhJgYc
Rjj8jMD5kWqy+Qk36fNCKfOsrR9yHmiHR8MCMwqNj9DEQX+3FgvdCbXNaf8=
-----END CERTIFICATE REQUEST-----
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_gets_what_its_node_needs_and_nothing_else() -> Result<()> {
    let stand = Stand::start().await?;
    let token = stand.token("agent-a", &[])?;
    let chain = stand.sign(&token, WEB, request()).await?;
    ensure!(identity_of(&chain[0])? == WEB);
    stand.sign(&token, "spiffe://cluster.local/ns/nodemesh-system/sa/nodemesh-agent", request()).await?;

    for (identity, code, reason) in [
        // Its only pod is on the other node.
        ("spiffe://cluster.local/ns/shop/sa/other", Code::PermissionDenied, "no_pod_on_node"),
        ("spiffe://cluster.local/ns/shop/sa/nobody", Code::PermissionDenied, "no_pod_on_node"),
        // Its pod is here and not enrolled.
        ("spiffe://cluster.local/ns/shop/sa/plain", Code::PermissionDenied, "no_pod_on_node"),
        ("spiffe://cluster.local/ns/shop/sa/host", Code::PermissionDenied, "no_pod_on_node"),
        // Its pod is here, and the account has gone.
        ("spiffe://cluster.local/ns/shop/sa/gone", Code::PermissionDenied, "no_service_account"),
        (
            "spiffe://cluster.local/ns/nodemesh-system/sa/nodemesh-controller",
            Code::PermissionDenied,
            "no_pod_on_node",
        ),
        ("spiffe://other.example/ns/shop/sa/web", Code::InvalidArgument, "other_trust_domain"),
        ("https://cluster.local/ns/shop/sa/web", Code::InvalidArgument, "not_spiffe"),
        ("spiffe://cluster.local/ns/shop/sa/web/", Code::InvalidArgument, "not_spiffe"),
        ("", Code::InvalidArgument, "not_spiffe"),
    ] {
        stand.refused(&token, identity, request(), code, reason).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_that_pods_on_that_node_is_refused() -> Result<()> {
    let stand = Stand::start().await?;
    // Another node's agent.
    let other = stand.token("agent-b", &[])?;
    stand.refused(&other, WEB, request(), Code::PermissionDenied, "no_pod_on_node").await?;
    // Another audience: the API server's own.
    let foreign = stand.token("agent-a", &["--audience", "https://kubernetes.default.svc.cluster.local"])?;
    stand.turned_away(&foreign, Code::Unauthenticated).await?;
    // Another service account, also on the node.
    let web = stand.token_of("shop", "web", "web", "nodemesh")?;
    stand.turned_away(&web, Code::FailedPrecondition).await?;
    // The agents' account, bound to no pod: it names no node.
    let unbound = stand.kubectl(&[
        "create",
        "token",
        "nodemesh-agent",
        "-n",
        "nodemesh-system",
        "--audience",
        "nodemesh",
    ])?;
    stand.turned_away(unbound.trim(), Code::FailedPrecondition).await?;
    for junk in ["", "x", "a.b.c", &"x".repeat(20_000)] {
        stand.turned_away(junk, Code::Unauthenticated).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_its_pod() -> Result<()> {
    let stand = Stand::start().await?;
    let token = stand.token("agent-a", &[])?;
    let never_shown = stand.token("agent-a", &[])?;
    stand.sign(&token, WEB, request()).await?;
    stand.delete_pod("nodemesh-system", "agent-a").await?;
    // Neither the one that was taken before nor the other.
    for token in [&token, &never_shown] {
        let status = stand.sign(token, WEB, request()).await.expect_err("its pod is gone");
        ensure!(matches!(status.code(), Code::Unauthenticated | Code::Unavailable), "{status:?}");
    }
    // A pod of the same name is another one.
    stand.apply(&agents::agent("agent-a", "a"))?;
    stand.until_known("agent-a").await?;
    for token in [&token, &never_shown] {
        let status = stand.sign(token, WEB, request()).await.expect_err("it is another pod's");
        ensure!(matches!(status.code(), Code::Unauthenticated | Code::Unavailable), "{status:?}");
    }
    stand.sign(&stand.token("agent-a", &[])?, WEB, request()).await?;
    Ok(())
}

/// A token with other claims, signed with a key of which the API server takes tokens, or with another.
fn signed_anew(token: &str, key: &str, change: impl Fn(&mut Value)) -> Result<String> {
    let (head, rest) = token.split_once('.').context("a token has three parts")?;
    let (claims, _) = rest.split_once('.').context("a token has three parts")?;
    let mut claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes())?)?;
    change(&mut claims);
    let said = format!("{head}.{}", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
    let key = KeyPair::from_pem(key)?.serialize_der();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key)?;
    let signature = key.sign(&SystemRandom::new(), said.as_bytes())?;
    Ok(format!("{said}.{}", BASE64URL_NOPAD.encode(signature.as_ref())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_over_or_that_somebody_else_made_is_refused() -> Result<()> {
    let stand = Stand::start().await?;
    let token = stand.token("agent-a", &[])?;
    let own = std::fs::read_to_string(stand.kubeconfig().with_file_name("service-accounts.key"))?;
    // As it is, signed by the cluster's key: what is refused below is refused for what it says.
    stand.sign(&signed_anew(&token, &own, |_| {})?, WEB, request()).await?;
    let ended = |seconds: i64| {
        move |claims: &mut Value| {
            let now = OffsetDateTime::now_utc().unix_timestamp();
            for (claim, before) in [("iat", 3600), ("nbf", 3600), ("exp", 0)] {
                claims[claim] = (now - before - seconds).into();
            }
        }
    };
    // API servers take clocks for a minute late.
    for seconds in [75, 24 * 3600] {
        stand.turned_away(&signed_anew(&token, &own, ended(seconds))?, Code::Unauthenticated).await?;
    }
    let other = KeyPair::generate()?.serialize_pem();
    stand.turned_away(&signed_anew(&token, &other, |_| {})?, Code::Unauthenticated).await?;
    // Claims of another node, signed by nobody anew.
    let [head, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        bail!("not three parts")
    };
    let text = String::from_utf8(BASE64URL_NOPAD.decode(claims.as_bytes())?)?;
    let moved = BASE64URL_NOPAD.encode(text.replace(r#""name":"a""#, r#""name":"b""#).as_bytes());
    ensure!(moved != claims, "the token names no node: {text}");
    stand.turned_away(&format!("{head}.{moved}.{signature}"), Code::Unauthenticated).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_ends_with_its_last_pod() -> Result<()> {
    let stand = Stand::start().await?;
    let token = stand.token("agent-a", &[])?;
    stand.sign(&token, WEB, request()).await?;
    stand.delete_pod("shop", "web").await?;
    stand.refused(&token, WEB, request(), Code::PermissionDenied, "no_pod_on_node").await?;
    // One that has run to its end is there, and is nobody.
    let again = "apiVersion: v1\nkind: Pod\nmetadata: {name: again, namespace: shop}\nspec: {nodeName: a, \
                 serviceAccountName: web, containers: [{name: a, image: a}]}\n";
    stand.apply(again)?;
    stand.until_known("again").await?;
    stand.sign(&token, WEB, request()).await?;
    let ends = [
        "patch",
        "pod",
        "again",
        "-n",
        "shop",
        "--subresource=status",
        "-p",
        r#"{"status":{"phase":"Failed"}}"#,
    ];
    stand.kubectl(&ends)?;
    let has_again = |known: &Known| known.snapshot().workloads().any(|pod| &*pod.name.name == "again");
    stand.until("its end is known", |known| !has_again(known)).await?;
    ensure!(stand.kubectl(&["get", "pod", "again", "-n", "shop", "-o", "name"])?.contains("again"));
    stand.refused(&token, WEB, request(), Code::PermissionDenied, "no_pod_on_node").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_writes_every_field_itself() -> Result<()> {
    let stand = Stand::start().await?;
    let token = stand.token("agent-a", &[])?;
    let key = KeyPair::generate()?;
    let mut wants = CertificateParams::new(vec!["admin.example".to_owned()])?;
    wants.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/shop/sa/other".try_into()?));
    wants.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/kube-system/sa/admin".try_into()?));
    wants.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let greedy = wants.serialize_request(&key)?.der().to_vec();
    let chain = stand.sign(&token, WEB, greedy).await?;
    let (_, certificate) = X509Certificate::from_der(&chain[0])?;
    ensure!(identity_of(&chain[0])? == WEB && !certificate.is_ca());
    let left = certificate.validity().not_after.timestamp() - OffsetDateTime::now_utc().unix_timestamp();
    ensure!((23 * 3600..=24 * 3600).contains(&left), "{left} s");

    let weak = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
    let other_kind = CertificateParams::default().serialize_request(&weak)?.der().to_vec();
    let mut unsigned = request();
    *unsigned.last_mut().context("a request has bytes")? ^= 1;
    let short = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(RSA_512)?.to_vec();
    for request in [other_kind, unsigned, short, Vec::new(), vec![0; 8000]] {
        stand.refused(&token, WEB, request, Code::InvalidArgument, "bad_request").await?;
    }
    // What no message may be as large as is not read, and the next one is answered.
    let mut agent = stand.agent(&token).await?;
    let status = agent.sign(WEB, vec![0; 64 << 20]).await.expect_err("it is signed");
    ensure!(status.code() != Code::Ok, "{status:?}");
    stand.sign(&token, WEB, request()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_that_start_at_once_have_one_authority() -> Result<()> {
    let stand = Stand::start().await?;
    let second = stand.second_controller().await?;
    let token = stand.token("agent-a", &[])?;
    // The root that agents mount vouches for both: each connection checks it.
    stand.sign(&token, WEB, request()).await?;
    stand.sign_at(second, &token, WEB, request()).await?;
    Ok(())
}

/// Signs in a row, as an agent does; the time that each took.
async fn times(stand: &Stand, token: &str, identity: &str, count: usize) -> Result<Vec<Duration>> {
    let mut agent = stand.agent(token).await?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        agent.sign(identity, request()).await?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_floods_delays_no_other() -> Result<()> {
    const COUNT: usize = 100;
    let stand = Stand::start().await?;
    let (flooder, other) = (stand.token("agent-b", &[])?, stand.token("agent-a", &[])?);
    let quiet = times(&stand, &other, WEB, COUNT).await?;
    let flood = Flood::start(&stand, &flooder, "spiffe://cluster.local/ns/shop/sa/other").await?;
    let beside = times(&stand, &other, WEB, COUNT).await?;
    let (asked, refused) = flood.end().await;
    let at = |times: &[Duration], percent: usize| times[COUNT * percent / 100].as_secs_f64() * 1e3;
    let (before, during, half) = (at(&quiet, 99), at(&beside, 99), at(&beside, 50));
    figure(&format!(
        "a certificate takes {before:.1} ms at p99, and {during:.1} ms beside a node that asked {asked} times and was \
         refused {refused} of them"
    ));
    ensure!(refused > 0, "the flood met its bound");
    // A queue behind the flood would hold every one of them; the slowest of a hundred says more of a busy machine.
    ensure!(half < 500.0, "half of them take {half} ms and more beside a flood, {before} ms at p99 without");
    ensure!(during < 20.0 * 500.0, "{during} ms beside a flood, {before} ms without");
    Ok(())
}

/// The only URI of a certificate, which has no other name.
fn identity_of(der: &[u8]) -> Result<String> {
    let (_, certificate) = X509Certificate::from_der(der)?;
    let names = certificate.subject_alternative_name()?.context("it has names")?;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => Ok((*uri).to_owned()),
        other => anyhow::bail!("{other:?}"),
    }
}
