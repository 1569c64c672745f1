//! The folder of the standalone authority: a `kubernetes.io/tls` Secret as files.
//!
//! | file | what |
//! |---|---|
//! | `tls.key` | the signing key, PEM, mode 0600 |
//! | `tls.crt` | the signing certificate, then those above it if it is not a root |
//! | `ca.crt` | optional: more roots to trust, to stage a change of root or to stand above `tls.crt` |
//! | `crl.pem` | optional: revocation lists of these authorities (RFC 5280 section 5), whose entries are refused |
//! | `.lock` | held while the first three are made |
//!
//! What the folder lacks is made at first start; what is there is never replaced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mesh_common::model::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::{date_of, serial_number};
use super::trust::{is_authority, seconds_of};

/// The most bytes of a file: some hundred certificates.
const MAX_FILE: u64 = 256 * 1024;
/// A root made here is good for ten years.
const ROOT_LIFETIME: u64 = 10 * 365 * 24 * 3600;
/// Its `notBefore` is this much earlier, for nodes whose clocks are late.
const ROOT_BACKDATE: u64 = 3600;

const KEY: &str = "tls.key";
const CERTIFICATE: &str = "tls.crt";
const ROOTS: &str = "ca.crt";
const REVOKED: &str = "crl.pem";
const LOCK: &str = ".lock";

/// What signing needs.
pub(super) struct Material {
    pub(super) key: KeyPair,
    /// The certificate of `key`.
    pub(super) signer: CertificateDer<'static>,
    /// What a chain carries behind the leaf: `tls.crt` without self-signed certificates.
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    /// First and last valid second of `signer`.
    pub(super) validity: (u64, u64),
}

/// What is wrong with a trust folder.
#[derive(Debug, thiserror::Error)]
pub enum TrustDirError {
    /// A file or the folder cannot be used by the system.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The key, or the folder, could be read or replaced by others.
    #[error("{} has mode {mode:04o}, at most {allowed:04o} is safe; run chmod {allowed:04o} on it", path.display())]
    Mode {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The bits that it may have.
        allowed: u32,
    },
    /// The key, or the folder, is somebody else's.
    #[error("{} belongs to user {owner}, the agent runs as user {user}", path.display())]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// A link, a socket, or whatever else is no plain file or folder.
    #[error("{} is not a plain file or folder", path.display())]
    Kind {
        /// What it is called.
        path: PathBuf,
    },
    /// More bytes than are read.
    #[error("{} has more than {MAX_FILE} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not PEM, or nothing of the right kind in it.
    #[error("{} does not decode as PEM with {expected}", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// A certificate without its key: made anew, it would cut off everybody who trusts the old one.
    #[error("{} is there but {KEY} is not; restore the key, or move the certificate away to begin anew", path.display())]
    KeyMissing {
        /// The certificate.
        path: PathBuf,
    },
    /// The key is not the certificate's.
    #[error("{KEY} is not the key of the first certificate in {CERTIFICATE}")]
    KeyMismatch,
    /// The certificate may not sign.
    #[error("the first certificate in {CERTIFICATE} is not a certificate authority")]
    NotAuthority,
    /// The folder belongs to another mesh.
    #[error(
        "the authority is for {found}, this agent is for spiffe://{expected}; set --trust-domain or --trust-dir"
    )]
    ForeignTrustDomain {
        /// The URI in the authority's certificate.
        found: String,
        /// What this agent was told.
        expected: TrustDomain,
    },
    /// The key or root could not be made.
    #[error("make the authority's key and root")]
    Make {
        /// What failed.
        #[source]
        source: rcgen::Error,
    },
    /// The certificate cannot be signed with.
    #[error("use the first certificate in {CERTIFICATE} as issuer")]
    Issuer {
        /// What failed.
        #[source]
        source: rcgen::Error,
    },
}

/// Opens the folder; makes it, the key and the root if they are not there. `now` is UTC seconds since the epoch.
pub(super) fn open(
    directory: &Path,
    trust_domain: &TrustDomain,
    now: u64,
) -> Result<Material, TrustDirError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| TrustDirError::Io {
        operation: "make",
        path: directory.to_owned(),
        source,
    })?;
    check_directory(directory)?;
    let _lock = lock(directory)?;
    let has = |name| directory.join(name).symlink_metadata().is_ok();
    match (has(KEY), has(CERTIFICATE)) {
        (true, true) => {}
        (false, true) => return Err(TrustDirError::KeyMissing { path: directory.join(CERTIFICATE) }),
        // The key comes first and the certificate last, so a start that was cut short is taken up here.
        (true, false) => make_root(directory, &read_key(directory)?, trust_domain, now)?,
        (false, false) => {
            let key = make_key(directory)?;
            make_root(directory, &key, trust_domain, now)?;
            tracing::info!(
                trust_dir = %directory.display(),
                "made a new authority; agents of one mesh have one --trust-dir, or each the roots of the others"
            );
        }
    }
    read(directory, trust_domain)
}

/// The roots to trust: all of `ca.crt`, and the self-signed ones of `tls.crt`.
pub(super) fn roots(directory: &Path) -> Result<Vec<CertificateDer<'static>>, TrustDirError> {
    let mut roots = certificates(&directory.join(CERTIFICATE))?;
    roots.retain(is_self_signed);
    let extra = directory.join(ROOTS);
    if extra.symlink_metadata().is_ok() {
        roots.extend(certificates(&extra)?);
    }
    Ok(roots)
}

/// The revocation lists of `crl.pem`; none if there is no such file.
pub(super) fn revocation_lists(
    directory: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TrustDirError> {
    let path = directory.join(REVOKED);
    let text = match read_file(&path) {
        Ok((text, _)) => text,
        Err(TrustDirError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    match lists {
        Ok(lists) if !lists.is_empty() => Ok(lists),
        _ => Err(TrustDirError::Encoding { path, expected: "revocation lists" }),
    }
}

fn read(directory: &Path, trust_domain: &TrustDomain) -> Result<Material, TrustDirError> {
    let key = read_key(directory)?;
    let path = directory.join(CERTIFICATE);
    let mut chain = certificates(&path)?;
    let signer = chain[0].clone();
    let (_, parsed) = X509Certificate::from_der(&signer)
        .map_err(|_| TrustDirError::Encoding { path: path.clone(), expected: "certificates" })?;
    if !is_authority(&parsed) {
        return Err(TrustDirError::NotAuthority);
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(TrustDirError::KeyMismatch);
    }
    check_trust_domain(&parsed, trust_domain)?;
    let validity = seconds_of(&parsed);
    chain.retain(|certificate| !is_self_signed(certificate));
    Ok(Material { key, signer, intermediates: chain, validity })
}

/// An authority's certificate may name its trust domain (X509-SVID.md section 4.1); if it does, it must be ours.
fn check_trust_domain(
    certificate: &X509Certificate<'_>,
    trust_domain: &TrustDomain,
) -> Result<(), TrustDirError> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Ok(());
    };
    let expected = format!("spiffe://{trust_domain}");
    for name in &names.value.general_names {
        if let GeneralName::URI(uri) = name
            && *uri != expected
        {
            return Err(TrustDirError::ForeignTrustDomain {
                found: (*uri).to_owned(),
                expected: trust_domain.clone(),
            });
        }
    }
    Ok(())
}

fn is_self_signed(certificate: &CertificateDer<'static>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

/// All certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustDirError> {
    let encoding = || TrustDirError::Encoding { path: path.to_owned(), expected: "certificates" };
    let (text, _) = read_file(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(encoding()),
    }
}

fn read_key(directory: &Path) -> Result<KeyPair, TrustDirError> {
    let path = directory.join(KEY);
    let (text, metadata) = read_file(&path)?;
    check_access(&path, &metadata, current_user(), 0o600)?;
    let encoding = || TrustDirError::Encoding { path: path.clone(), expected: "a private key" };
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| encoding())?;
    KeyPair::try_from(&key).map_err(|_| encoding())
}

fn make_key(directory: &Path) -> Result<KeyPair, TrustDirError> {
    let key =
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| TrustDirError::Make { source })?;
    write_file(directory, KEY, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(key)
}

fn make_root(
    directory: &Path,
    key: &KeyPair,
    trust_domain: &TrustDomain,
    now: u64,
) -> Result<(), TrustDirError> {
    let certificate = root_params(trust_domain, now)
        .and_then(|params| params.self_signed(key))
        .map_err(|source| TrustDirError::Make { source })?;
    write_file(directory, CERTIFICATE, certificate.pem().as_bytes(), 0o644)
}

fn root_params(trust_domain: &TrustDomain, now: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    let serial = serial_number()?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Nodemesh");
    // Two roots of one mesh have different names: verification then looks at the right one at once, and a foreign
    // root is told from a forged signature.
    let mark = serial.to_bytes().iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>();
    name.push(DnType::CommonName, format!("root {mark} of {trust_domain}"));
    params.distinguished_name = name;
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    // No intermediates below: it signs leaves only.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial);
    params.not_before = date_of(now.saturating_sub(ROOT_BACKDATE))?;
    params.not_after = date_of(now.saturating_add(ROOT_LIFETIME))?;
    Ok(params)
}

/// One agent at a time; released when the file is closed, also by a crash.
fn lock(directory: &Path) -> Result<File, TrustDirError> {
    let path = directory.join(LOCK);
    let io = |source| TrustDirError::Io { operation: "lock", path: path.clone(), source };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(io)?;
    flock(&file, FlockOperation::LockExclusive).map_err(|error| io(error.into()))?;
    Ok(file)
}

/// Whoever may write into the folder could put another key there.
fn check_directory(directory: &Path) -> Result<(), TrustDirError> {
    let metadata = fs::metadata(directory).map_err(|source| TrustDirError::Io {
        operation: "look at",
        path: directory.to_owned(),
        source,
    })?;
    if !metadata.is_dir() {
        return Err(TrustDirError::Kind { path: directory.to_owned() });
    }
    check_access(directory, &metadata, current_user(), 0o755)
}

fn current_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// `user` must be the owner, and `allowed` the most that anyone may do.
pub(super) fn check_access(
    path: &Path,
    metadata: &fs::Metadata,
    user: u32,
    allowed: u32,
) -> Result<(), TrustDirError> {
    if metadata.uid() != user {
        return Err(TrustDirError::Owner { path: path.to_owned(), owner: metadata.uid(), user });
    }
    let mode = metadata.mode() & 0o7777;
    // Set-id and sticky bits say nothing about who reads.
    if mode & 0o777 & !allowed != 0 {
        return Err(TrustDirError::Mode { path: path.to_owned(), mode, allowed });
    }
    Ok(())
}

/// Reads a plain file, and what the system says of the file that was read.
fn read_file(path: &Path) -> Result<(Vec<u8>, fs::Metadata), TrustDirError> {
    let io = |source| TrustDirError::Io { operation: "read", path: path.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(TrustDirError::Kind { path: path.to_owned() });
    }
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_FILE {
        return Err(TrustDirError::TooLarge { path: path.to_owned() });
    }
    Ok((text, metadata))
}

/// Writes beside, syncs, renames: the file is whole or not there. The lock is held.
fn write_file(directory: &Path, name: &str, text: &[u8], mode: u32) -> Result<(), TrustDirError> {
    let path = directory.join(name);
    let temporary = directory.join(format!(".{name}.new"));
    let io = |source| TrustDirError::Io { operation: "write", path: path.clone(), source };
    // Left by a start that was cut short.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).map_err(io)?;
    file.write_all(text).map_err(io)?;
    file.sync_all().map_err(io)?;
    fs::rename(&temporary, &path).map_err(io)?;
    File::open(directory).and_then(|folder| folder.sync_all()).map_err(io)
}
