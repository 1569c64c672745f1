//! Header fields: which ones end here, and which ones go on.

use smallvec::SmallVec;

use super::Refusal;
use crate::model::Text;

/// A field that goes on: its name as the sender spelled it, its value without white space around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// A token.
    pub name: &'a [u8],
    /// No control character but tab; bytes of 0x80 and above are passed on as they are (obs-text).
    pub value: &'a [u8],
}

/// The fields that go on, in their order. Host, the framing and everything hop-by-hop are not among them.
pub type Fields<'a> = SmallVec<[Field<'a>; 24]>;

/// The trailer fields that go on.
pub type Trailers<'a> = SmallVec<[Field<'a>; 2]>;

/// Names that a sender may not set. `_` counts as `-` and case does not count: CGI and WSGI join both spellings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StripList<'r> {
    /// Names in lower case, or a prefix with `*` at its end.
    pub names: &'r [&'r str],
    /// Whole names in lower case: fields that rules about the request write.
    pub also: &'r [Text],
}

/// Says who the caller is, by the certificate that it showed; written as Envoy writes it.
pub const CLIENT_CERTIFICATE: &str = "x-forwarded-client-cert";

/// What only a mesh may say of a caller: removed from everybody.
pub const IDENTITY_FIELDS: &[&str] = &[CLIENT_CERTIFICATE, "l5d-client-id", "x-nodemesh-*"];

/// Besides [`IDENTITY_FIELDS`], what an unknown caller may not say either.
pub const FORWARDING_FIELDS: &[&str] = &[
    CLIENT_CERTIFICATE,
    "l5d-client-id",
    "x-nodemesh-*",
    "x-envoy-*",
    "x-forwarded-*",
    "forwarded",
    "x-real-ip",
    "baggage",
];

/// What frames a message, says where it goes or belongs to one connection: only who sends the message writes it.
pub const FRAMING_FIELDS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "sec-websocket-accept",
    "sec-websocket-key",
    "sec-websocket-version",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

/// Whether a field is one of [`FRAMING_FIELDS`], in any spelling, or a pseudo-field.
pub fn is_framing(name: &[u8]) -> bool {
    name.starts_with(b":") || StripList::of(FRAMING_FIELDS).covers(name)
}

/// Whether only the mesh writes a field of a message: nothing that is configured, and no server that is asked, may. It is
/// one of [`FRAMING_FIELDS`] or of [`IDENTITY_FIELDS`], in any spelling.
pub fn is_own(name: &[u8]) -> bool {
    is_framing(name) || StripList::of(IDENTITY_FIELDS).covers(name)
}

impl<'r> StripList<'r> {
    /// Some names, and no others.
    pub const fn of(names: &'r [&'r str]) -> Self {
        Self { names, also: &[] }
    }

    /// Whether a field of this name is left out.
    pub fn covers(&self, name: &[u8]) -> bool {
        self.also.iter().any(|entry| alike(name, entry.as_bytes()))
            || self.names.iter().any(|entry| match entry.strip_suffix('*') {
                Some(prefix) => name.len() >= prefix.len() && alike(&name[..prefix.len()], prefix.as_bytes()),
                None => alike(name, entry.as_bytes()),
            })
    }
}

/// Equal without regard to case, `_` as `-`.
fn alike(name: &[u8], lower: &[u8]) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == lower.len() && name.iter().zip(lower).all(|(left, right)| fold(*left) == *right)
}

/// Fields that mean something to this codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    /// `keep-alive`, `proxy-connection`, `te`, `http2-settings`: end at the next hop.
    HopByHop,
    /// A spelling of a framing field with `_`: some application would take it for the real one.
    Disguised,
}

impl Known {
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        let is = |lower: &[u8]| name.eq_ignore_ascii_case(lower);
        match name.len() {
            2 if is(b"te") => Some(Self::HopByHop),
            4 if is(b"host") => Some(Self::Host),
            6 if is(b"expect") => Some(Self::Expect),
            7 if is(b"upgrade") => Some(Self::Upgrade),
            10 if is(b"connection") => Some(Self::Connection),
            10 if is(b"keep-alive") => Some(Self::HopByHop),
            14 if is(b"content-length") => Some(Self::ContentLength),
            14 if is(b"http2-settings") => Some(Self::HopByHop),
            14 if alike(name, b"content-length") => Some(Self::Disguised),
            16 if is(b"proxy-connection") => Some(Self::HopByHop),
            17 if is(b"transfer-encoding") => Some(Self::TransferEncoding),
            17 if alike(name, b"transfer-encoding") => Some(Self::Disguised),
            _ => None,
        }
    }
}

/// What the Connection fields of a head say (RFC 9110 section 7.6.1).
#[derive(Debug, Default)]
pub(super) struct ConnectionTokens<'a> {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    nominated: SmallVec<[&'a [u8]; 4]>,
}

/// More tokens than any honest Connection field has.
const MAX_TOKENS: usize = 32;

impl<'a> ConnectionTokens<'a> {
    /// Takes one Connection field.
    pub(super) fn take(&mut self, value: &'a [u8]) -> Result<(), Refusal> {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if !token.is_empty() {
                self.nominate(token)?;
            }
        }
        Ok(())
    }

    fn nominate(&mut self, token: &'a [u8]) -> Result<(), Refusal> {
        let carries_framing = matches!(
            Known::of(token),
            Some(
                Known::Host
                    | Known::ContentLength
                    | Known::TransferEncoding
                    | Known::Disguised
                    | Known::Expect
            )
        );
        if carries_framing
            || !token.iter().all(|byte| is_token_byte(*byte))
            || self.nominated.len() >= MAX_TOKENS
        {
            return Err(Refusal::Connection);
        }
        self.nominated.push(token);
        Ok(())
    }

    /// Leaves out what was nominated as hop-by-hop.
    pub(super) fn remove_nominated(&self, fields: &mut Fields<'a>) {
        if !self.nominated.is_empty() {
            fields.retain(|field| !self.nominated.iter().any(|name| name.eq_ignore_ascii_case(field.name)));
        }
    }
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a trailer field may pass: nothing that frames, routes, authenticates or describes the body
/// (RFC 9110 section 6.5.1). Such a field is dropped.
pub fn is_trailer_allowed(name: &[u8]) -> bool {
    const FORBIDDEN: &[&[u8]] = &[
        b"age",
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"cookie",
        b"date",
        b"expires",
        b"location",
        b"max-forwards",
        b"pragma",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"range",
        b"retry-after",
        b"set-cookie",
        b"te",
        b"trailer",
        b"vary",
        b"warning",
        b"www-authenticate",
    ];
    Known::of(name).is_none()
        && !FORBIDDEN.iter().any(|forbidden| alike(name, forbidden))
        && !(name.len() >= 3 && alike(&name[..3], b"if-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_identity_field_is_covered() {
        let list = StripList::of(IDENTITY_FIELDS);
        for name in [
            "x-forwarded-client-cert",
            "X-Forwarded-Client-Cert",
            "x_forwarded_client_cert",
            "X-FORWARDED_client-cert",
            "l5d-client-id",
            "x-nodemesh-source",
            "X_Nodemesh_",
        ] {
            assert!(list.covers(name.as_bytes()), "{name}");
        }
        assert!(!list.covers(b"x-forwarded-for"));
        assert!(!list.covers(b"x-forwarded-client-cert2"));
        assert!(StripList::of(FORWARDING_FIELDS).covers(b"X-Forwarded-For"));
    }

    #[test]
    fn what_frames_or_identifies_is_written_by_the_mesh_alone() {
        for name in FRAMING_FIELDS.iter().chain(IDENTITY_FIELDS) {
            let name = name.replace('*', "reason");
            for spelling in [name.to_ascii_uppercase(), name.replace('-', "_"), name] {
                assert!(is_own(spelling.as_bytes()), "{spelling}");
            }
        }
        assert!(is_own(b":path"));
        for name in ["x-user", "x-nodemes", "x-forwarded-for", "authorization", "connection-id", ""] {
            assert!(!is_own(name.as_bytes()), "{name}");
        }
        assert!(!is_framing(b"x-forwarded-client-cert"));
    }

    #[test]
    fn connection_may_not_nominate_what_frames_the_message() {
        for value in ["content-length", "close, Host", "transfer-encoding", "a b", "Content_Length", "x;y"] {
            let read = ConnectionTokens::default().take(value.as_bytes());
            assert_eq!(read, Err(Refusal::Connection), "{value}");
        }
    }

    #[test]
    fn trailers_do_not_carry_what_heads_decide_on() {
        for name in ["Content-Length", "host", "Authorization", "Set-Cookie", "If-Match", "transfer_encoding"]
        {
            assert!(!is_trailer_allowed(name.as_bytes()), "{name}");
        }
        assert!(is_trailer_allowed(b"grpc-status"));
    }
}
