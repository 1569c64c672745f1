//! What a TLS client says in the clear: its ClientHello.
//!
//! In: the first bytes of a connection, as many as have arrived, in as many records as they take. Out: the name that it
//! asks for and the protocols that it offers, or that more bytes are needed. Bounded by [`MAX_HELLO`]; keeps no TLS
//! state. RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3, RFC 7301 section 3.1.

use super::name::Text;

/// The longest ClientHello that is looked at, with its record headers.
pub const MAX_HELLO: usize = 16 * 1024;

/// The longest name that DNS has, without the dot at its end (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const HOST_NAME: u8 = 0;

/// A whole ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    body: Vec<u8>,
}

/// Why there is no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHello {
    /// It may still become one.
    Incomplete,
    /// It begins like one, and is longer than is looked at or than TLS allows.
    Malformed,
    /// It is something else.
    Foreign,
}

/// The name that a TLS client asks for (SNI), as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServerName {
    /// Nobody has looked, or what was seen cannot be told for sure. Rules about names take it for whatever refuses.
    #[default]
    Unknown,
    /// It asks for none, or does not begin with TLS.
    Absent,
    /// In lower case, without a dot at its end.
    Name(Text),
}

impl ServerName {
    /// The name, if there is one.
    pub fn name(&self) -> Option<&Text> {
        match self {
            Self::Name(name) => Some(name),
            Self::Unknown | Self::Absent => None,
        }
    }
}

impl ClientHello {
    /// Reads the first bytes of a connection.
    ///
    /// # Errors
    /// [`NoHello`].
    pub fn read(bytes: &[u8]) -> Result<Self, NoHello> {
        match body(bytes) {
            Ok(body) => Ok(Self { body }),
            Err(NoHello::Incomplete) if bytes.len() >= MAX_HELLO => Err(NoHello::Malformed),
            Err(none) => Err(none),
        }
    }

    /// The name that it asks for. One that is not well formed, or that is there twice, is not known: two parties may
    /// read it differently.
    pub fn server_name(&self) -> ServerName {
        let mut found = ServerName::Absent;
        for extension in self.extensions() {
            match extension {
                Some((EXTENSION_SERVER_NAME, value)) if found == ServerName::Absent => {
                    match host_name(value) {
                        Some(name) => found = ServerName::Name(name),
                        None => return ServerName::Unknown,
                    }
                }
                Some((EXTENSION_SERVER_NAME, _)) | None => return ServerName::Unknown,
                Some(_) => {}
            }
        }
        found
    }

    /// The protocols that it offers by ALPN, in their order, as far as they are well formed.
    pub fn protocols(&self) -> impl Iterator<Item = &[u8]> {
        let mut extensions = self.extensions().map_while(|extension| extension);
        let offered = extensions.find(|(kind, _)| *kind == EXTENSION_ALPN);
        let mut names = offered.and_then(|(_, mut value)| vector::<2>(&mut value)).unwrap_or_default();
        std::iter::from_fn(move || if names.is_empty() { None } else { vector::<1>(&mut names) })
    }

    /// Extensions with their types; `None`, as the last one, where what follows is not well formed.
    fn extensions(&self) -> impl Iterator<Item = Option<(u16, &[u8])>> {
        let all = extensions_of(&self.body);
        let mut rest = all.unwrap_or_default();
        let well_formed = std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let extension = extension(&mut rest);
            if extension.is_none() {
                rest = &[];
            }
            Some(extension)
        });
        well_formed.chain(all.is_none().then_some(None))
    }
}

/// The body of the ClientHello, put together from as many records as it takes.
fn body(mut bytes: &[u8]) -> Result<Vec<u8>, NoHello> {
    let mut message = Vec::new();
    loop {
        let prefix = [HANDSHAKE, 3];
        let foreign = if message.is_empty() { NoHello::Foreign } else { NoHello::Malformed };
        if bytes.iter().zip(prefix).any(|(byte, expected)| *byte != expected) {
            return Err(foreign);
        }
        let Some((&[_, _, minor, l0, l1], rest)) = bytes.split_first_chunk::<5>() else {
            return Err(NoHello::Incomplete);
        };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        // The versions that a first record may name; an empty handshake record is not allowed.
        if minor > 4 || length == 0 || length > 16_384 {
            return Err(foreign);
        }
        message.extend_from_slice(&rest[..length.min(rest.len())]);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(NoHello::Foreign);
        }
        if let Some((&[_, m0, m1, m2], rest)) = message.split_first_chunk::<4>() {
            let expected = u32::from_be_bytes([0, m0, m1, m2]) as usize;
            if expected > MAX_HELLO {
                return Err(NoHello::Malformed);
            }
            if rest.len() >= expected {
                return Ok(rest[..expected].to_vec());
            }
        }
        if rest.len() < length {
            return Err(NoHello::Incomplete);
        }
        bytes = &rest[length..];
    }
}

/// The extensions of a body, none of which TLS before 1.3 need have; `None` if it is not well formed.
fn extensions_of(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body.get(2 + 32..)?;
    vector::<1>(&mut rest)?;
    vector::<2>(&mut rest)?;
    vector::<1>(&mut rest)?;
    if rest.is_empty() {
        return Some(rest);
    }
    let extensions = vector::<2>(&mut rest)?;
    rest.is_empty().then_some(extensions)
}

fn extension<'a>(extensions: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let (kind, after) = extensions.split_first_chunk::<2>()?;
    *extensions = after;
    Some((u16::from_be_bytes(*kind), vector::<2>(extensions)?))
}

/// The one name of the extension: a list, in which nothing but one host name has ever been defined.
fn host_name(mut value: &[u8]) -> Option<Text> {
    let list = vector::<2>(&mut value)?;
    let (kind, mut rest) = list.split_first()?;
    let name = vector::<2>(&mut rest)?;
    if *kind != HOST_NAME || !rest.is_empty() || !value.is_empty() {
        return None;
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    let is_good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.iter().all(is_good) {
        return None;
    }
    Some(std::str::from_utf8(name).ok()?.to_ascii_lowercase().into())
}

/// Takes a vector with a length of `N` bytes off the front.
fn vector<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<N>()?;
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (value, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some(value)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn with_length<const N: usize>(value: &[u8]) -> Vec<u8> {
        let length = (value.len() as u64).to_be_bytes();
        [&length[8 - N..], value].concat()
    }

    fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &with_length::<2>(value)].concat()
    }

    fn named(kind: u8, name: &[u8]) -> Vec<u8> {
        extension(0, &with_length::<2>(&[&[kind][..], &with_length::<2>(name)].concat()))
    }

    /// A ClientHello with these extensions, as a message of the handshake.
    pub(crate) fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
        let body = [
            &[3, 3][..],
            &[7; 32],
            &with_length::<1>(&[9; 32]),
            &with_length::<2>(&[0x13, 1]),
            &with_length::<1>(&[0]),
            &with_length::<2>(&extensions.concat()),
        ]
        .concat();
        [&[1][..], &with_length::<3>(&body)].concat()
    }

    /// The extension that offers protocols.
    pub(crate) fn alpn(names: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> = names.iter().flat_map(|name| with_length::<1>(name)).collect();
        extension(16, &with_length::<2>(&list))
    }

    /// A message in records of this size.
    pub(crate) fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &with_length::<2>(part)].concat()).collect()
    }

    /// The first bytes of a client that asks for a name.
    pub(crate) fn asking_for(name: &[u8]) -> Vec<u8> {
        records(&message(&[extension(43, &[2, 3, 4]), named(0, name), alpn(&[b"h2"])]), 4096)
    }

    fn name_in(bytes: &[u8]) -> ServerName {
        ClientHello::read(bytes).unwrap().server_name()
    }

    #[test]
    fn the_name_is_in_lower_case_and_has_no_dot_at_its_end() {
        for (asked, expected) in [
            (&b"api.shop"[..], "api.shop"),
            (b"API.Shop.", "api.shop"),
            (b"10.0.0.1", "10.0.0.1"),
            (b"_x.xn--bcher-kva.example", "_x.xn--bcher-kva.example"),
        ] {
            assert_eq!(name_in(&asking_for(asked)), ServerName::Name(expected.into()));
        }
    }

    #[test]
    fn a_client_that_asks_for_no_name_says_so() {
        assert_eq!(name_in(&records(&message(&[alpn(&[b"h2"])]), 4096)), ServerName::Absent);
        let without_extensions = [&[3, 1][..], &[7; 32], &[0], &[0, 2, 0, 47], &[1, 0]].concat();
        let old = [&[1][..], &with_length::<3>(&without_extensions)].concat();
        assert_eq!(name_in(&records(&old, 4096)), ServerName::Absent);
    }

    #[test]
    fn what_two_parties_may_read_differently_is_not_known() {
        let twice = message(&[named(0, b"a.example"), named(0, b"b.example")]);
        let same_twice = message(&[named(0, b"a.example"), named(0, b"a.example")]);
        let two = [&[0][..], &with_length::<2>(b"a"), &[0], &with_length::<2>(b"b")].concat();
        let two_in_one = message(&[extension(0, &with_length::<2>(&two))]);
        let other_kind = message(&[named(1, b"a.example")]);
        let empty = message(&[named(0, b"")]);
        let empty_list = message(&[extension(0, &[0, 0])]);
        let rest_in_list =
            message(&[extension(0, &[&with_length::<2>(&[0, 0, 1, b'a'])[..], b"x"].concat())]);
        let cut = message(&[named(0, b"a.example"), vec![0, 43, 0, 9, 1]]);
        for message in [twice, same_twice, two_in_one, other_kind, empty, empty_list, rest_in_list, cut] {
            assert_eq!(name_in(&records(&message, 4096)), ServerName::Unknown, "{message:?}");
        }
        for name in [&b"a\0.example"[..], b"a b", b"a\n", "b\u{fc}cher".as_bytes(), b"[::1]", &[b'a'; 254]] {
            assert_eq!(name_in(&asking_for(name)), ServerName::Unknown);
        }
    }

    #[test]
    fn bytes_after_the_extensions_make_all_of_it_unknown() {
        let mut body = message(&[named(0, b"a.example")])[4..].to_vec();
        body.push(0);
        let longer = [&[1][..], &with_length::<3>(&body)].concat();
        assert_eq!(name_in(&records(&longer, 4096)), ServerName::Unknown);
    }

    #[test]
    fn any_cut_into_segments_and_records_waits_for_the_rest() {
        let message = message(&[named(0, b"api.shop"), alpn(&[b"h2", b"http/1.1"])]);
        for size in [1, 2, 3, 50, 4096] {
            let bytes = records(&message, size);
            for end in 0..bytes.len() {
                assert_eq!(ClientHello::read(&bytes[..end]), Err(NoHello::Incomplete), "{end} of {size}");
            }
            let hello = ClientHello::read(&bytes).unwrap();
            assert_eq!(hello.server_name(), ServerName::Name("api.shop".into()));
            assert_eq!(hello.protocols().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
        }
    }

    #[test]
    fn one_that_never_ends_is_given_up() {
        let endless = records(&[&[1, 0, 0xff, 0xff][..], &[0; 20_000]].concat(), 16_384);
        assert_eq!(ClientHello::read(&endless), Err(NoHello::Malformed));
        let long = records(&[&[1, 0, 0x3f, 0xff][..], &[0; 16_000]].concat(), 1);
        assert_eq!(ClientHello::read(&long[..MAX_HELLO]), Err(NoHello::Malformed));
        assert_eq!(ClientHello::read(b"GET / HTTP/1.1\r\n"), Err(NoHello::Foreign));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300), extensions in any::<bool>()) {
            let bytes = if extensions { records(&message(&[bytes]), 7) } else { bytes };
            if let Ok(hello) = ClientHello::read(&bytes) {
                let _ = (hello.server_name(), hello.protocols().count());
            }
        }
    }
}
