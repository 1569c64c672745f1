//! The certificates of a cluster: one authority, a server's, and clients' as kubeconfigs.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

/// A test cluster is gone long before.
const LIFETIME: Duration = Duration::days(30);

/// The authority of a cluster, and the folder that everything it makes goes to.
pub struct Certificates {
    folder: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    /// Makes the authority and the key that signs service accounts' tokens.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn make(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let mut params = params("test-cluster", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let made = Self { folder: folder.to_owned(), authority };
        made.write("ca.crt", &made.authority.pem())?;
        let accounts = KeyPair::generate()?;
        made.write("service-accounts.key", &accounts.serialize_pem())?;
        made.write("service-accounts.pub", &accounts.public_key_pem())?;
        Ok(made)
    }

    /// A file of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// `NAME.crt` and `NAME.key` of a server at `addresses`, which its name and the API server's names lead to as well.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn server(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let mut params = params(name, None);
        let names = [name, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let names = names.iter().map(|name| Ok(SanType::DnsName((*name).try_into()?)));
        params.subject_alt_names = names.collect::<Result<_, rcgen::Error>>()?;
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        self.sign(name, params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// The kubeconfig of a client that the API server at `url` knows as `user` of `group`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn client(&self, name: &str, user: &str, group: Option<&str>, url: &str) -> Result<PathBuf> {
        self.client_pair(name, user, group)?;
        let file = |ending: &str| self.file(&format!("{name}.{ending}")).display().to_string();
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": url, "certificate-authority": self.file("ca.crt").display().to_string(),
            }}],
            "users": [{"name": name, "user": {
                "client-certificate": file("crt"), "client-key": file("key"),
            }}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        });
        self.write(&format!("{name}.kubeconfig"), &format!("{config:#}\n"))
    }

    /// `NAME.crt` and `NAME.key` of a client that is `user` of `group`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn client_pair(&self, name: &str, user: &str, group: Option<&str>) -> Result<()> {
        self.sign(name, params(user, group), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, name: &str, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<()> {
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.authority)?;
        self.write(&format!("{name}.crt"), &certificate.pem())?;
        self.write(&format!("{name}.key"), &key.serialize_pem())?;
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.file(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

fn params(name: &str, organisation: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(organisation) = organisation {
        params.distinguished_name.push(DnType::OrganizationName, organisation);
    }
    let now = OffsetDateTime::now_utc();
    // Clocks of one machine agree; a second covers that certificates count whole ones.
    (params.not_before, params.not_after) = (now - Duration::SECOND, now + LIFETIME);
    params
}
