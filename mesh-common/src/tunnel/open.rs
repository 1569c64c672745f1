//! What OPEN says (`docs/wire.md` section 3): fields as type (1 byte), length (2 bytes) and value.
//!
//! In: the payload of an OPEN frame. Out: an [`Open`]. Nothing in it is believed here: the destination decides
//! what counts. A field of an unknown type is skipped, so that a newer peer may say more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest payload of OPEN that is read, in bytes.
pub const MAX_OPEN: usize = 1024;

/// 128 random bits that name a stream wherever it is carried, so that it can be resumed on another tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamToken(pub [u8; 16]);

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// The bytes of one TCP connection, as they are.
    Opaque,
    /// One HTTP/1.1 exchange: a request one way, its response the other, both in exact message form (RFC 9112).
    Http1,
}

/// The facts of a new stream, as its opener states them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Names the stream; random.
    pub token: StreamToken,
    /// What it carries.
    pub kind: StreamKind,
    /// The address that the application dialled: of a Service, or of the pod itself.
    pub dialled: SocketAddr,
    /// The port that the application's connection comes from. Its address is the tunnel's.
    pub source_port: u16,
}

/// Why the payload of OPEN cannot be read. The stream is refused, the tunnel goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Longer than [`MAX_OPEN`].
    #[error("OPEN has {length} bytes, at most {MAX_OPEN} are read")]
    TooLong {
        /// Bytes found.
        length: usize,
    },
    /// The payload ends inside a field.
    #[error("OPEN ends inside a field")]
    CutShort,
    /// A field with a size that its type does not have.
    #[error("OPEN field {field} has {length} bytes")]
    FieldSize {
        /// The field's type.
        field: u8,
        /// Bytes found.
        length: usize,
    },
    /// A kind that this version does not carry.
    #[error("stream kind {kind} is not known")]
    UnknownKind {
        /// The kind.
        kind: u8,
    },
    /// The same field twice.
    #[error("OPEN field {field} is given twice")]
    Repeated {
        /// The field's type.
        field: u8,
    },
    /// A field that every OPEN has is not there.
    #[error("OPEN lacks field {field}")]
    Missing {
        /// The field's type.
        field: u8,
    },
}

/// Field types.
pub mod field {
    /// 16 bytes.
    pub const TOKEN: u8 = 1;
    /// 1 byte: 0 opaque, 1 HTTP/1.1 exchange.
    pub const KIND: u8 = 2;
    /// 4 or 16 bytes of address, 2 bytes of port.
    pub const DIALLED: u8 = 3;
    /// 2 bytes.
    pub const SOURCE_PORT: u8 = 4;
    /// Reserved for trace flags and context; skipped by this version.
    pub const TRACE: u8 = 5;
    /// Reserved for what a resumed stream says; skipped by this version.
    pub const RESUME: u8 = 6;
}

impl Open {
    /// Reads the payload of OPEN.
    ///
    /// # Errors
    /// [`OpenError`]: too long, cut short, a known field twice or of the wrong size, or not there.
    pub fn parse(payload: &[u8]) -> Result<Self, OpenError> {
        if payload.len() > MAX_OPEN {
            return Err(OpenError::TooLong { length: payload.len() });
        }
        let (mut token, mut kind, mut dialled, mut source_port) = (None, None, None, None);
        let mut rest = payload;
        while !rest.is_empty() {
            let (&[name, l0, l1], after) = rest.split_first_chunk::<3>().ok_or(OpenError::CutShort)?;
            let length = usize::from(u16::from_be_bytes([l0, l1]));
            let (value, after) = after.split_at_checked(length).ok_or(OpenError::CutShort)?;
            rest = after;
            match name {
                field::TOKEN => once(name, &mut token, StreamToken(sized(name, value)?))?,
                field::KIND => once(name, &mut kind, StreamKind::from_code(sized::<1>(name, value)?[0])?)?,
                field::DIALLED => once(name, &mut dialled, address(name, value)?)?,
                field::SOURCE_PORT => {
                    once(name, &mut source_port, u16::from_be_bytes(sized(name, value)?))?;
                }
                _ => {}
            }
        }
        Ok(Self {
            token: token.ok_or(OpenError::Missing { field: field::TOKEN })?,
            kind: kind.ok_or(OpenError::Missing { field: field::KIND })?,
            dialled: dialled.ok_or(OpenError::Missing { field: field::DIALLED })?,
            source_port: source_port.ok_or(OpenError::Missing { field: field::SOURCE_PORT })?,
        })
    }

    /// Appends the payload of OPEN to `out`: at most 49 bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        put(out, field::TOKEN, &self.token.0);
        put(out, field::KIND, &[self.kind.code()]);
        let port = self.dialled.port().to_be_bytes();
        match self.dialled.ip().to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                put(out, field::DIALLED, &[a, b, c, d, port[0], port[1]]);
            }
            IpAddr::V6(address) => {
                let mut value = [0; 18];
                value[..16].copy_from_slice(&address.octets());
                value[16..].copy_from_slice(&port);
                put(out, field::DIALLED, &value);
            }
        }
        put(out, field::SOURCE_PORT, &self.source_port.to_be_bytes());
    }
}

impl StreamKind {
    fn code(self) -> u8 {
        match self {
            Self::Opaque => 0,
            Self::Http1 => 1,
        }
    }

    fn from_code(kind: u8) -> Result<Self, OpenError> {
        match kind {
            0 => Ok(Self::Opaque),
            1 => Ok(Self::Http1),
            kind => Err(OpenError::UnknownKind { kind }),
        }
    }
}

impl std::fmt::Debug for StreamToken {
    /// Only its first four bytes: who knows a token may one day resume the stream.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(formatter, "{a:02x}{b:02x}{c:02x}{d:02x}..")
    }
}

fn put(out: &mut Vec<u8>, name: u8, value: &[u8]) {
    out.push(name);
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

fn once<T>(name: u8, slot: &mut Option<T>, value: T) -> Result<(), OpenError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(OpenError::Repeated { field: name }),
    }
}

fn sized<const N: usize>(name: u8, value: &[u8]) -> Result<[u8; N], OpenError> {
    value.try_into().map_err(|_| OpenError::FieldSize { field: name, length: value.len() })
}

/// Canonical: an IPv4-mapped address is read as the IPv4 address that it is.
fn address(name: u8, value: &[u8]) -> Result<SocketAddr, OpenError> {
    let wrong = OpenError::FieldSize { field: name, length: value.len() };
    let (address, port) = value.split_last_chunk::<2>().ok_or(wrong)?;
    let ip = match *address {
        [a, b, c, d] => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(address).map_err(|_| wrong)?)).to_canonical(),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}
