//! A peer that is no daemon of ours: it speaks the tunnel by hand and says whatever a test wants it to say.
//!
//! In: a certificate, good or bad, made with the mesh's own authority, and what OPEN shall claim. Out: what the
//! destination's daemon answered. It is what an attacker can be who took over a pod's node, or a pod's key.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use mesh_common::tunnel::frame::kind;
use mesh_common::tunnel::{ALPN, Frame, HEADER, Open, StreamId, StreamKind, StreamToken, frames};
use mesh_test_harness::pod::Pod;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use time::OffsetDateTime;

/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_secs(5);

/// A certificate to show, and its key.
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Credentials {
    /// SHA-256 of the certificate, in hexadecimal.
    pub fn hash(&self) -> String {
        let hash = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, &self.chain[0]);
        hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What is unusual about a certificate.
#[derive(Clone, Debug)]
pub struct Unusual {
    /// URIs in the subject's alternative names.
    pub uris: Vec<String>,
    /// Seconds from now until it is valid, then until it no longer is.
    pub validity: (i64, i64),
    /// Extended key usages.
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    /// Whether the leaf is an authority.
    pub is_authority: bool,
}

impl Unusual {
    /// A certificate with nothing unusual about it.
    pub fn nothing(spiffe_id: &str) -> Self {
        Self {
            uris: vec![spiffe_id.to_owned()],
            validity: (-60, 3600),
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            is_authority: false,
        }
    }
}

/// An established tunnel.
pub struct Peer {
    stream: StreamOwned<ClientConnection, TcpStream>,
    next: u32,
}

/// What came back on one stream.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Payload of DATA.
    pub bytes: Vec<u8>,
    /// Whether the stream ended in good order.
    pub finished: bool,
    /// The stable word of RESET's reason.
    pub reset: Option<String>,
    /// Whether the tunnel itself ended.
    pub closed: bool,
}

impl Answer {
    /// The bytes as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Makes a certificate that the mesh's own authority signed.
///
/// # Errors
/// The trust folder cannot be read.
pub fn signed_by_the_mesh(trust_dir: &Path, unusual: &Unusual) -> Result<Credentials> {
    let issuer = authority(trust_dir)?;
    sign(unusual, |params, key| params.signed_by(key, &issuer))
}

/// A revocation list of the mesh's own authority with one serial number, as PEM.
///
/// # Errors
/// The trust folder cannot be read.
pub fn revocation_list(trust_dir: &Path, serial: &[u8]) -> Result<String> {
    let now = OffsetDateTime::now_utc();
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: now,
        next_update: now + time::Duration::hours(1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(&authority(trust_dir)?)?.pem()?)
}

/// Makes a certificate that another authority signed, which has the same name.
///
/// # Errors
/// No key can be made.
pub fn signed_by_another(unusual: &Unusual) -> Result<Credentials> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "nodemesh");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    sign(unusual, |params, key| params.signed_by(key, &issuer))
}

/// Makes a certificate that signed itself.
///
/// # Errors
/// No key can be made.
pub fn signed_by_itself(unusual: &Unusual) -> Result<Credentials> {
    sign(unusual, |params, key| params.self_signed(key))
}

fn authority(trust_dir: &Path) -> Result<Issuer<'static, KeyPair>> {
    let read = |name: &str| {
        fs::read_to_string(trust_dir.join(name)).with_context(|| format!("read {name} of the trust folder"))
    };
    let key = KeyPair::from_pem(&read("tls.key")?).context("read the authority's key")?;
    Issuer::from_ca_cert_pem(&read("tls.crt")?, key).context("read the authority")
}

fn sign(
    unusual: &Unusual,
    sign: impl FnOnce(CertificateParams, &KeyPair) -> Result<rcgen::Certificate, rcgen::Error>,
) -> Result<Credentials> {
    let mut params = CertificateParams::default();
    for uri in &unusual.uris {
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().context("a URI is ASCII")?));
    }
    // A name that is no identity: only the URI may count.
    params.distinguished_name.push(DnType::CommonName, "spiffe://cluster.local/ns/shop/sa/client");
    let now = OffsetDateTime::now_utc();
    params.not_before = now + time::Duration::seconds(unusual.validity.0);
    params.not_after = now + time::Duration::seconds(unusual.validity.1);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages.clone_from(&unusual.usages);
    params.is_ca =
        if unusual.is_authority { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
    let key = KeyPair::generate()?;
    let certificate = sign(params, &key)?;
    Ok(Credentials { chain: vec![certificate.der().clone()], key: key.serialize_der() })
}

impl Peer {
    /// Opens a tunnel from a pod's network namespace, past every hook, to a pod's port.
    ///
    /// # Errors
    /// The connection or the handshake fails, or the destination ends it at once: that is how it refuses.
    pub fn connect(from: &Pod, to: SocketAddr, credentials: Option<&Credentials>) -> Result<Self> {
        let tcp = from.place().netns().run(|| Ok(TcpStream::connect_timeout(&to, LIMIT)?))?;
        tcp.set_read_timeout(Some(LIMIT))?;
        let connection =
            ClientConnection::new(Arc::new(client_config(credentials, ALPN)?), ServerName::from(to.ip()))?;
        let mut stream = StreamOwned::new(connection, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).context("handshake")?;
        }
        Ok(Self { stream, next: 1 })
    }

    /// Opens a stream, sends bytes and the end, and reads until the destination is done with it.
    ///
    /// # Errors
    /// The tunnel cannot be written to.
    pub fn ask(
        &mut self,
        kind: StreamKind,
        dialled: SocketAddr,
        source_port: u16,
        bytes: &[u8],
    ) -> Result<Answer> {
        let stream = self.open(kind, dialled, source_port)?;
        if !bytes.is_empty() {
            self.send(kind::DATA, stream, bytes)?;
        }
        self.send(kind::FIN, stream, &[])?;
        Ok(self.answer(stream))
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// The tunnel cannot be written to.
    pub fn open(&mut self, kind: StreamKind, dialled: SocketAddr, source_port: u16) -> Result<StreamId> {
        let stream = StreamId(self.next);
        self.next += 1;
        let mut token = [7; 16];
        token[0] = u8::try_from(stream.0 % 256)?;
        let mut payload = Vec::new();
        Open { token: StreamToken(token), kind, dialled, source_port }.write(&mut payload);
        self.send(kind::OPEN, stream, &payload)?;
        Ok(stream)
    }

    /// Sends one frame, in a record of its own.
    ///
    /// # Errors
    /// The tunnel cannot be written to.
    pub fn send(&mut self, frame: u8, stream: StreamId, payload: &[u8]) -> Result<()> {
        let mut bytes = stream.0.to_be_bytes().to_vec();
        bytes.push(frame);
        bytes.extend(&u32::try_from(payload.len())?.to_be_bytes()[1..]);
        assert_eq!(bytes.len(), HEADER);
        bytes.extend(payload);
        self.stream.write_all(&bytes)?;
        self.stream.flush()?;
        Ok(())
    }

    /// Reads until a stream or the tunnel is over, or nothing comes any more.
    pub fn answer(&mut self, stream: StreamId) -> Answer {
        let (mut received, mut buffer) = (Vec::new(), vec![0; 32_768]);
        loop {
            let answer = read_frames(&received, stream);
            if answer.finished || answer.reset.is_some() || answer.closed {
                return answer;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Answer { closed: true, ..answer },
                Ok(count) => received.extend_from_slice(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return answer;
                }
                Err(_) => return Answer { closed: true, ..answer },
            }
        }
    }
}

/// Everything that concerns one stream. Frames never span records, so what was read is whole or about to be.
fn read_frames(received: &[u8], wanted: StreamId) -> Answer {
    let mut answer = Answer::default();
    for frame in frames(received) {
        match frame {
            Ok(Frame::Data(stream, bytes)) if stream == wanted => answer.bytes.extend_from_slice(bytes),
            Ok(Frame::Fin(stream)) if stream == wanted => answer.finished = true,
            Ok(Frame::Reset(stream, reason)) if stream == wanted => {
                answer.reset = Some(format!("{reason:?}"))
            }
            Ok(Frame::GoAway { .. }) => answer.closed = true,
            Ok(_) => {}
            Err(_) => return answer,
        }
    }
    answer
}

/// What a peer offers: TLS 1.3 with a certificate and an ALPN, to whatever server.
///
/// # Errors
/// The certificate cannot be used.
pub fn client_config(credentials: Option<&Credentials>, alpn: &[u8]) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut config = match credentials {
        Some(Credentials { chain, key }) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
            builder.with_client_auth_cert(chain.clone(), key).map_err(|error| anyhow!("{error}"))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// An attacker does not care whom it attacks.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
