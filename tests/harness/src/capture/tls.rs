//! Reads the unencrypted part of TLS: what a client offers and what a server chose.
//!
//! RFC 8446 section 4.1 (hellos) and 5.1 (records).

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
const TLS13: u16 = 0x0304;

/// What a client offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Application protocols, in the client's order.
    pub alpn: Vec<String>,
    /// TLS versions.
    pub versions: Vec<u16>,
    /// Server name, if it sends one.
    pub server_name: Option<String>,
}

/// Reads bytes from the front; every read fails behind the end.
struct Reader<'bytes>(&'bytes [u8]);

impl ClientHello {
    /// Reads the ClientHello at the beginning of a stream, if there is one.
    pub(super) fn read(stream: &[u8]) -> Option<Self> {
        let message = handshake(stream, CLIENT_HELLO)?;
        let mut reader = Reader(&message);
        reader.take(2 + 32)?;
        let session = reader.u8()?;
        reader.take(session.into())?;
        let suites = reader.u16()?;
        reader.take(suites.into())?;
        let compressions = reader.u8()?;
        reader.take(compressions.into())?;
        let mut hello = Self::default();
        for (kind, body) in extensions(&mut reader)? {
            let mut body = Reader(body);
            match kind {
                EXTENSION_ALPN => hello.alpn = body.alpn()?,
                EXTENSION_SUPPORTED_VERSIONS => hello.versions = body.versions()?,
                EXTENSION_SERVER_NAME => {
                    body.take(3)?;
                    let length = body.u16()?;
                    hello.server_name = Some(String::from_utf8_lossy(body.take(length.into())?).into_owned());
                }
                _ => {}
            }
        }
        Some(hello)
    }

    /// Whether TLS 1.3 is the only version offered.
    pub fn is_tls13_only(&self) -> bool {
        self.versions == [TLS13]
    }
}

/// Whether a stream begins with a ServerHello that chose TLS 1.3.
pub(super) fn is_tls13_server_hello(stream: &[u8]) -> bool {
    chosen_version(stream) == Some(TLS13)
}

/// Whether a stream begins as TLS does: a handshake record of any 1.x version.
pub(super) fn is_tls(stream: &[u8]) -> bool {
    matches!(stream, [HANDSHAKE_RECORD, 3, 0..=4, ..])
}

fn chosen_version(stream: &[u8]) -> Option<u16> {
    let message = handshake(stream, SERVER_HELLO)?;
    let mut reader = Reader(&message);
    reader.take(2 + 32)?;
    let session = reader.u8()?;
    reader.take(session.into())?;
    reader.take(2 + 1)?;
    let found =
        extensions(&mut reader)?.into_iter().find(|(kind, _)| *kind == EXTENSION_SUPPORTED_VERSIONS)?;
    Reader(found.1).u16()
}

/// The body of the first handshake message, which may span several records.
fn handshake(stream: &[u8], wanted: u8) -> Option<Vec<u8>> {
    let mut reader = Reader(stream);
    let mut message = Vec::new();
    loop {
        if reader.u8()? != HANDSHAKE_RECORD {
            return None;
        }
        reader.take(2)?;
        let length = reader.u16()?;
        message.extend_from_slice(reader.take(length.into())?);
        if let [kind, a, b, c, body @ ..] = message.as_slice() {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if *kind != wanted {
                return None;
            }
            if let Some(body) = body.get(..length) {
                return Some(body.to_vec());
            }
        }
    }
}

fn extensions<'bytes>(reader: &mut Reader<'bytes>) -> Option<Vec<(u16, &'bytes [u8])>> {
    let length = reader.u16()?;
    let mut list = Reader(reader.take(length.into())?);
    let mut found = Vec::new();
    while !list.0.is_empty() {
        let (kind, length) = (list.u16()?, list.u16()?);
        found.push((kind, list.take(length.into())?));
    }
    Some(found)
}

impl<'bytes> Reader<'bytes> {
    fn take(&mut self, count: usize) -> Option<&'bytes [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn alpn(&mut self) -> Option<Vec<String>> {
        self.u16()?;
        let mut names = Vec::new();
        while !self.0.is_empty() {
            let length = self.u8()?;
            names.push(String::from_utf8_lossy(self.take(length.into())?).into_owned());
        }
        Some(names)
    }

    fn versions(&mut self) -> Option<Vec<u16>> {
        self.u8()?;
        let mut versions = Vec::new();
        while !self.0.is_empty() {
            versions.push(self.u16()?);
        }
        Some(versions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_hello() -> Vec<u8> {
        let alpn = [&[0, 16, 0, 16, 0, 14, 13][..], b"nodemesh/mux1"].concat();
        let versions = [0, 43, 0, 3, 2, 3, 4];
        let extensions = [&alpn[..], &versions[..]].concat();
        let mut body = vec![3, 3];
        body.extend([0; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let length = u8::try_from(body.len()).unwrap();
        [&[CLIENT_HELLO, 0, 0, length][..], &body].concat()
    }

    fn record(bytes: &[u8]) -> Vec<u8> {
        [&[HANDSHAKE_RECORD, 3, 1, 0, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    #[test]
    fn a_hello_in_two_records_is_read() {
        let message = client_hello();
        let (first, second) = message.split_at(50);
        let hello = ClientHello::read(&[record(first), record(second)].concat()).unwrap();
        assert_eq!(hello.alpn, ["nodemesh/mux1"]);
        assert!(hello.is_tls13_only());
    }

    #[test]
    fn plaintext_is_no_tls() {
        assert!(!is_tls(b"GET / HTTP/1.1\r\n"));
        assert!(ClientHello::read(b"GET / HTTP/1.1\r\n").is_none());
    }
}
