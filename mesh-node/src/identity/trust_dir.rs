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
use rcgen::KeyPair;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::material::{self, CERTIFICATE, KEY, Material, MaterialError, ROOTS};

/// The most bytes of a file: some hundred certificates.
const MAX_FILE: u64 = 256 * 1024;
const REVOKED: &str = "crl.pem";
const LOCK: &str = ".lock";

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
    /// What the files say cannot be signed with.
    #[error(transparent)]
    Material(MaterialError),
}

impl TrustDirError {
    /// What is wrong with what the files say; of one that does not decode, with its path.
    fn in_folder(directory: &Path) -> impl Fn(MaterialError) -> Self {
        move |error| match error {
            MaterialError::Encoding { part, expected } => {
                Self::Encoding { path: directory.join(part), expected }
            }
            other => Self::Material(other),
        }
    }
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
    let (certificates, _) = read_file(&directory.join(CERTIFICATE))?;
    let extra = directory.join(ROOTS);
    let extra = match extra.symlink_metadata() {
        Ok(_) => Some(read_file(&extra)?.0),
        Err(_) => None,
    };
    material::roots(&certificates, extra.as_deref()).map_err(TrustDirError::in_folder(directory))
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
    let (certificates, _) = read_file(&directory.join(CERTIFICATE))?;
    Material::read(key, &certificates, trust_domain).map_err(TrustDirError::in_folder(directory))
}

fn read_key(directory: &Path) -> Result<KeyPair, TrustDirError> {
    let path = directory.join(KEY);
    let (text, metadata) = read_file(&path)?;
    check_access(&path, &metadata, current_user(), 0o600)?;
    material::key_of(&text).map_err(TrustDirError::in_folder(directory))
}

fn make_key(directory: &Path) -> Result<KeyPair, TrustDirError> {
    let key = material::make_key().map_err(TrustDirError::in_folder(directory))?;
    write_file(directory, KEY, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(key)
}

fn make_root(
    directory: &Path,
    key: &KeyPair,
    trust_domain: &TrustDomain,
    now: u64,
) -> Result<(), TrustDirError> {
    let root = material::make_root(key, trust_domain, now).map_err(TrustDirError::in_folder(directory))?;
    write_file(directory, CERTIFICATE, root.as_bytes(), 0o644)
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
