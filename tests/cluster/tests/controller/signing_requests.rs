//! Certificates that the signer of a CertificateSigningRequest signs, in the controller's place.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Code;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::agents::{PATIENCE, Stand, WEB};

const SIGNER_NAME: &str = "signer.example/mesh";

/// What a signer does with a request.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Sign,
    Deny,
    /// Signs, for an identity of its own choice.
    SignOther,
    /// Signs, for a key of its own choice.
    SignOtherKey,
    /// Signs, with a key that the mesh does not trust.
    SignUntrusted,
}

/// A company's authority, which knows nothing of the mesh.
struct Company {
    root: CertifiedIssuer<'static, KeyPair>,
}

impl Company {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the company's root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Self { root: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// Answers the next request that is approved.
    async fn answer(&self, stand: &Stand, answer: Answer) -> Result<()> {
        let request = timeout(PATIENCE, async {
            loop {
                if let Some(request) = requests(stand)?.into_iter().find(is_open) {
                    break anyhow::Ok(request);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let request = request.await.context("wait for an approved request")??;
        let usages = &request["spec"]["usages"];
        ensure!(*usages == json!(["digital signature", "server auth", "client auth"]), "{usages}");
        let name = request["metadata"]["name"].as_str().context("it has a name")?;
        let status = match answer {
            Answer::Deny => {
                let denial = json!({"type": "Failed", "status": "True", "reason": "Policy", "message": "not on a Sunday"});
                let approved = request["status"]["conditions"][0].clone();
                json!({"conditions": [approved, denial]})
            }
            signs => {
                let ByteString(pem) = serde_json::from_value(request["spec"]["request"].clone())?;
                let chain = self.signed(std::str::from_utf8(&pem)?, signs)?;
                json!({"certificate": ByteString(chain.into_bytes())})
            }
        };
        let patch = json!({ "status": status }).to_string();
        stand.kubectl(&["patch", "csr", name, "--subresource=status", "--type=merge", "-p", &patch]).map(drop)
    }

    /// The chain for a request, root included, as some signers have it.
    fn signed(&self, request: &str, answer: Answer) -> Result<String> {
        let mut request = CertificateSigningRequestParams::from_pem(request)?;
        request.params.is_ca = IsCa::ExplicitNoCa;
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if matches!(answer, Answer::SignOther) {
            let other = "spiffe://cluster.local/ns/shop/sa/other".try_into()?;
            request.params.subject_alt_names = vec![SanType::URI(other)];
        }
        let foreign = Self::new()?;
        let root = if matches!(answer, Answer::SignUntrusted) { &foreign.root } else { &self.root };
        let leaf = match answer {
            Answer::SignOtherKey => request.params.signed_by(&KeyPair::generate()?, root)?,
            _ => request.signed_by(root)?,
        };
        Ok(leaf.pem() + &root.pem())
    }
}

/// A request of the mesh that is approved and not answered.
fn is_open(request: &Value) -> bool {
    let status = &request["status"];
    request["spec"]["signerName"] == SIGNER_NAME
        && status["conditions"][0]["type"] == "Approved"
        && status["conditions"][1].is_null()
        && status["certificate"].is_null()
}

fn requests(stand: &Stand) -> Result<Vec<Value>> {
    let list: Value = serde_json::from_str(&stand.kubectl(&["get", "csr", "-o", "json"])?)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// An agent's request for a certificate that is to have these names.
fn request_with(names: &[&str]) -> Result<Vec<u8>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for name in names {
        params.subject_alt_names.push(SanType::URI((*name).try_into()?));
    }
    Ok(params.serialize_request(&KeyPair::generate()?)?.der().to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_signer_signs_what_the_controller_permits() -> Result<()> {
    let company = Company::new()?;
    let mut roots = tempfile::NamedTempFile::new()?;
    roots.write_all(company.root.pem().as_bytes())?;
    let stand = Stand::signed_by(SIGNER_NAME, roots.path()).await?;
    // The controller's own: without it nobody can ask.
    company.answer(&stand, Answer::Sign).await?;
    let token = stand.token("agent-a", &[])?;

    let request = request_with(&[WEB])?;
    let (chain, answered) =
        tokio::join!(stand.sign(&token, WEB, request.clone()), company.answer(&stand, Answer::Sign));
    answered?;
    let chain = chain?;
    ensure!(chain.len() == 1, "who trusts the root has it");
    let (_, leaf) = X509Certificate::from_der(&chain[0])?;
    let (_, root) = X509Certificate::from_der(company.root.der())?;
    leaf.verify_signature(Some(root.public_key()))?;
    let gone = || requests(&stand).ok().filter(Vec::is_empty);
    stand.eventually("an answered request is gone", gone).await?;

    // What another signer might copy is refused before anybody is asked.
    let other = "spiffe://cluster.local/ns/shop/sa/other";
    for names in [&[][..], &[other], &[WEB, other]] {
        stand.refused(&token, WEB, request_with(names)?, Code::InvalidArgument, "bad_request").await?;
    }
    ensure!(requests(&stand)?.is_empty(), "nobody was asked");
    // Nor is anybody asked for what the caller may not have.
    stand.refused(&token, other, request_with(&[other])?, Code::PermissionDenied, "no_pod_on_node").await?;

    for (answer, code, said) in [
        // Of this identity alone; what follows would be wrong with any.
        (Answer::Deny, Code::PermissionDenied, "not on a Sunday"),
        (Answer::SignOther, Code::Unavailable, "it is for spiffe://cluster.local/ns/shop/sa/other"),
        (Answer::SignOtherKey, Code::Unavailable, "it is for another key"),
        // Its root has the name of the trusted one.
        (Answer::SignUntrusted, Code::Unavailable, "bad_signature"),
    ] {
        let refused = stand.refused(&token, WEB, request.clone(), code, "authority");
        let (refused, answered) = tokio::join!(refused, company.answer(&stand, answer));
        answered?;
        refused?;
        let record = stand.records().pop().context("it is on record")?;
        ensure!(
            record["message"].as_str().is_some_and(|message| message.contains(said)),
            "{answer:?}: {record}"
        );
    }
    Ok(())
}
