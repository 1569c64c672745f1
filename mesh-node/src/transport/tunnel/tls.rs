//! One TLS connection by rustls's unbuffered API: bytes in, records out, nothing kept in between.
//!
//! In: bytes of the wire, and records to seal. Out: the plaintext of whole records, and bytes for the wire. Knows
//! nothing of sockets, frames or who may speak.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};

/// What TLS adds to a record at most (RFC 8446 section 5.2): header, content type, tag.
pub(super) const OVERHEAD: usize = 5 + 1 + 16;

/// The plaintext of records, one after another. Lent for a turn.
#[derive(Debug, Default)]
pub(super) struct Plaintext {
    pub(super) bytes: Vec<u8>,
    /// Where each record ends.
    pub(super) ends: Vec<usize>,
}

pub(super) enum Tls {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What came of a batch of bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Bytes that are done with; the rest is an incomplete record.
    pub(super) taken: usize,
    /// The handshake is complete.
    pub(super) ready: bool,
    /// The peer said close_notify.
    pub(super) closed: bool,
}

/// Runs one `process_tls_records` state machine until it wants more bytes. A macro because the two connection
/// types share their methods but no trait.
macro_rules! process {
    ($connection:expr, $input:expr, $plaintext:expr, $out:expr) => {{
        let mut progress = Progress::default();
        let mut failed = None;
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                $connection.process_tls_records(&mut $input[progress.taken..]);
            let mut waits = false;
            let state = match (state, &failed) {
                (Ok(state), _) => state,
                (Err(error), None) => {
                    // Asked once more, with what is left, for the alert that tells the peer.
                    progress.taken += discard;
                    failed = Some(error);
                    continue;
                }
                (Err(_), Some(_)) => break Err(failed.expect("matched above")),
            };
            match state {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        $plaintext.bytes.extend_from_slice(record.payload);
                        $plaintext.ends.push($plaintext.bytes.len());
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    append($out, 1024, |room| match data.encode(room) {
                        Ok(length) => Ok(Ok(length)),
                        Err(EncodeError::InsufficientSize(short)) => Err(short.required_size),
                        Err(EncodeError::AlreadyEncoded) => Ok(Ok(0)),
                    })?;
                }
                // The caller sends everything in the order in which it was appended.
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => progress.closed = true,
                ConnectionState::WriteTraffic(_) => {
                    progress.ready = true;
                    waits = true;
                }
                // 0-RTT is never offered nor accepted; what else may come waits for bytes.
                _ => waits = true,
            }
            progress.taken += discard;
            if let Some(error) = failed {
                break Err(error);
            }
            if waits {
                break Ok(progress);
            }
        }
    }};
}

/// Runs `$act` on the write half of a connection whose handshake is complete.
macro_rules! writing {
    ($connection:expr, $out:expr, $act:expr) => {
        loop {
            let UnbufferedStatus { state, .. } = $connection.process_tls_records(&mut []);
            match state? {
                ConnectionState::WriteTraffic(mut traffic) => break $act(&mut traffic),
                // A key update goes before what it is for.
                ConnectionState::EncodeTlsData(mut data) => {
                    append($out, 1024, |room| match data.encode(room) {
                        Ok(length) => Ok(Ok(length)),
                        Err(EncodeError::InsufficientSize(short)) => Err(short.required_size),
                        Err(EncodeError::AlreadyEncoded) => Ok(Ok(0)),
                    })?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => {}
                _ => break Err(rustls::Error::HandshakeNotComplete),
            }
        }
    };
}

impl Tls {
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self::Client(Box::new(UnbufferedClientConnection::new(config, name)?)))
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self::Server(Box::new(UnbufferedServerConnection::new(config)?)))
    }

    /// Takes bytes of the wire. Appends the plaintext of whole records, and to `out` what TLS itself has to say.
    ///
    /// After an error `out` has the alert that tells the peer.
    pub(super) fn receive(
        &mut self,
        input: &mut [u8],
        plaintext: &mut Plaintext,
        out: &mut Vec<u8>,
    ) -> Result<Progress, rustls::Error> {
        match self {
            Self::Client(connection) => process!(connection, input, plaintext, out),
            Self::Server(connection) => process!(connection, input, plaintext, out),
        }
    }

    /// Appends one sealed record.
    pub(super) fn seal(&mut self, record: &[u8], out: &mut Vec<u8>) -> Result<(), rustls::Error> {
        macro_rules! encrypt {
            ($connection:expr) => {
                writing!($connection, out, |traffic: &mut rustls::unbuffered::WriteTraffic<'_, _>| {
                    append(out, record.len() + OVERHEAD, |room| match traffic.encrypt(record, room) {
                        Ok(length) => Ok(Ok(length)),
                        Err(EncryptError::InsufficientSize(short)) => Err(short.required_size),
                        Err(EncryptError::EncryptExhausted) => Ok(Err(rustls::Error::EncryptError)),
                    })
                })
            };
        }
        match self {
            Self::Client(connection) => encrypt!(connection),
            Self::Server(connection) => encrypt!(connection),
        }
    }

    /// Appends close_notify.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), rustls::Error> {
        macro_rules! close {
            ($connection:expr) => {
                writing!($connection, out, |traffic: &mut rustls::unbuffered::WriteTraffic<'_, _>| {
                    append(out, 64, |room| match traffic.queue_close_notify(room) {
                        Ok(length) => Ok(Ok(length)),
                        Err(EncryptError::InsufficientSize(short)) => Err(short.required_size),
                        Err(EncryptError::EncryptExhausted) => Ok(Err(rustls::Error::EncryptError)),
                    })
                })
            };
        }
        match self {
            Self::Client(connection) => close!(connection),
            Self::Server(connection) => close!(connection),
        }
    }

    /// The peer's certificates; only there once the handshake is complete.
    pub(super) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match self {
            Self::Client(connection) => connection.peer_certificates(),
            Self::Server(connection) => connection.peer_certificates(),
        }
    }

    /// The protocol that both agreed on.
    pub(super) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Client(connection) => connection.alpn_protocol(),
            Self::Server(connection) => connection.alpn_protocol(),
        }
    }
}

impl Plaintext {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Lets `write` append to `out`, growing it until it fits: `Err` is the size that is needed.
fn append(
    out: &mut Vec<u8>,
    size: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<Result<usize, rustls::Error>, usize>,
) -> Result<(), rustls::Error> {
    let start = out.len();
    let mut size = size;
    loop {
        out.resize(start + size, 0);
        match write(&mut out[start..]) {
            Ok(Ok(length)) => {
                out.truncate(start + length);
                return Ok(());
            }
            Ok(Err(error)) => {
                out.truncate(start);
                return Err(error);
            }
            Err(required) => size = required.max(size + 1),
        }
    }
}
