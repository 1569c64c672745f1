//! The path of a request, in the one form that is matched and forwarded.
//!
//! In: a request target in origin form, as a parser of HTTP hands it over. Out: a [`RequestTarget`], or a
//! [`PathError`] that is answered with 400. The normal form begins with a slash; it has no dot segment, no empty
//! segment and no backslash; unreserved characters stand for themselves and every other escape is in upper case
//! (RFC 3986 section 6.2.2). What is ambiguous beyond repair is refused: control characters, escapes that hide a
//! second escape, escaped bytes that are not UTF-8, an escaped backslash, and dot segments that only show once a
//! parameter (`..;`) or an escaped slash (`..%2F`) is read the way some servers do.
//!
//! Case, `;` parameters, escaped slashes and a trailing slash are kept, because applications give them meaning.
//! They have a second reading, [`NormalPath::plain`], and policy asks both: a DENY matches when either reading
//! does, without regard to case; an ALLOW matches only when both do.

use std::borrow::Cow;

/// The target of a request: path and query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTarget<'a> {
    /// The path, normalised.
    pub path: NormalPath<'a>,
    /// What follows the first `?`, as it came.
    pub query: Option<&'a [u8]>,
}

/// A path in normal form. [`RequestTarget::parse`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    text: Cow<'a, str>,
    plain: Option<Box<str>>,
}

/// Why a target is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    /// Does not begin with a slash: asterisk-form and absolute-form are taken apart before.
    #[error("request target does not begin with a slash")]
    NotOriginForm,
    /// A byte that no target may have: a control character, a space, `#`, `\`, or one that is not ASCII.
    #[error("request target holds byte {byte:#04x}, which must be escaped or may not be there")]
    IllegalByte {
        /// The byte.
        byte: u8,
    },
    /// `%` is not followed by two hexadecimal digits.
    #[error("escape in the path is not two hexadecimal digits")]
    BadEscape,
    /// An escaped control character, a NUL among them.
    #[error("path escapes control character {byte:#04x}")]
    EscapedControl {
        /// The byte.
        byte: u8,
    },
    /// `%5C`: some servers read it as a slash.
    #[error("path escapes a backslash")]
    EscapedBackslash,
    /// `%25` followed by two hexadecimal digits: escaped twice.
    #[error("path is escaped twice")]
    DoubleEscape,
    /// Escaped bytes that are not UTF-8, overlong forms among them.
    #[error("escaped bytes in the path are not UTF-8")]
    NotUtf8,
    /// `..;x` or `..%2F`: a dot segment for some servers, a name for others.
    #[error("path hides a dot segment behind a parameter or an escaped slash")]
    HiddenDotSegment,
}

impl PathError {
    /// The stable code for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotOriginForm => "path_not_origin_form",
            Self::IllegalByte { .. } => "path_illegal_byte",
            Self::BadEscape => "path_bad_escape",
            Self::EscapedControl { .. } => "path_escaped_control",
            Self::EscapedBackslash => "path_escaped_backslash",
            Self::DoubleEscape => "path_double_escape",
            Self::NotUtf8 => "path_not_utf8",
            Self::HiddenDotSegment => "path_hidden_dot_segment",
        }
    }
}

impl<'a> RequestTarget<'a> {
    /// Normalises a target in origin form. Allocates only for a path that is not normal yet, or that has a second
    /// reading.
    ///
    /// # Errors
    /// A [`PathError`] for a target that is answered with 400.
    pub fn parse(target: &'a [u8]) -> Result<Self, PathError> {
        let (path, query) = match target.iter().position(|&byte| byte == b'?') {
            Some(mark) => (&target[..mark], Some(&target[mark + 1..])),
            None => (target, None),
        };
        if let Some(&byte) = query.unwrap_or_default().iter().find(|&&byte| is_illegal_in_query(byte)) {
            return Err(PathError::IllegalByte { byte });
        }
        Ok(Self { path: NormalPath::parse(path)?, query })
    }
}

impl<'a> NormalPath<'a> {
    /// The `*` of an OPTIONS request that is about the server (RFC 9112 section 3.2.4).
    pub const ASTERISK: NormalPath<'static> = NormalPath { text: Cow::Borrowed("*"), plain: None };

    fn parse(path: &'a [u8]) -> Result<Self, PathError> {
        if path.first() != Some(&b'/') {
            return Err(PathError::NotOriginForm);
        }
        if let Some(text) = evidently_normal(path) {
            return Ok(Self { text: Cow::Borrowed(text), plain: None });
        }
        if let Some(&byte) =
            path.iter().find(|&&byte| !byte.is_ascii_graphic() || byte == b'#' || byte == b'\\')
        {
            return Err(PathError::IllegalByte { byte });
        }
        let path = std::str::from_utf8(path).expect("only ASCII passed the check above");
        let unescaped = unescape_unreserved(path)?;
        refuse_double_escape(&unescaped)?;
        let text = match unescaped {
            text if has_only_plain_segments(&text) => text,
            text => Cow::Owned(resolve_segments(&text)),
        };
        let plain = plain_reading(&text)?;
        Ok(Self { text, plain })
    }

    /// The path as it is forwarded.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same path with its own bytes.
    #[must_use]
    pub fn to_static(&self) -> NormalPath<'static> {
        NormalPath { text: Cow::Owned(self.text.clone().into_owned()), plain: self.plain.clone() }
    }

    /// [`Self::plain`], where it differs by more than a slash at the end.
    pub fn second_reading(&self) -> Option<&str> {
        self.plain.as_deref()
    }

    /// The path as a server may read it that drops parameters, takes an escaped slash for a slash and does not
    /// care for a slash at the end.
    pub fn plain(&self) -> &str {
        match &self.plain {
            Some(plain) => plain,
            None if self.text.len() > 1 => self.text.strip_suffix('/').unwrap_or(&self.text),
            None => &self.text,
        }
    }
}

/// Most paths need one look: nothing but characters that stand for themselves, and no slash before a slash or dot.
fn evidently_normal(path: &[u8]) -> Option<&str> {
    let mut after_slash = false;
    for &byte in path {
        if !STANDS_FOR_ITSELF[usize::from(byte)] || after_slash && (byte == b'/' || byte == b'.') {
            return None;
        }
        after_slash = byte == b'/';
    }
    Some(std::str::from_utf8(path).expect("only ASCII stands for itself"))
}

/// RFC 3986 `pchar` and `/`, without escapes and `;`.
const STANDS_FOR_ITSELF: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"/-._~!$&'()*+,=:@";
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
};

fn is_illegal_in_query(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f || byte == b'#'
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Decodes escapes of unreserved characters and puts every other escape in upper case. Borrows what needs neither.
fn unescape_unreserved(path: &str) -> Result<Cow<'_, str>, PathError> {
    let mut normal: Option<String> = None;
    let mut at = 0;
    while let Some(offset) = path[at..].find('%') {
        let start = at + offset;
        if let Some(normal) = &mut normal {
            normal.push_str(&path[at..start]);
        }
        let byte = escaped_byte(path.as_bytes(), start)?;
        at = start + 3 * escaped_length(path.as_bytes(), start, byte)?;
        let source = &path[start..at];
        let stays = !is_unreserved(byte) && !source.bytes().any(|byte| byte.is_ascii_lowercase());
        if stays && normal.is_none() {
            continue;
        }
        let normal = normal.get_or_insert_with(|| path[..start].to_owned());
        if is_unreserved(byte) {
            normal.push(byte.into());
        } else {
            normal.extend(source.chars().map(|character| character.to_ascii_uppercase()));
        }
    }
    Ok(match normal {
        Some(mut normal) => {
            normal.push_str(&path[at..]);
            Cow::Owned(normal)
        }
        None => Cow::Borrowed(path),
    })
}

/// The byte that the escape at `at` stands for.
fn escaped_byte(path: &[u8], at: usize) -> Result<u8, PathError> {
    let digit = |offset| path.get(at + offset).and_then(|&byte| char::from(byte).to_digit(16));
    match (path.get(at), digit(1), digit(2)) {
        (Some(b'%'), Some(high), Some(low)) => Ok((high * 16 + low) as u8),
        _ => Err(PathError::BadEscape),
    }
}

/// How many escapes make up the character that begins with `first`.
fn escaped_length(path: &[u8], at: usize, first: u8) -> Result<usize, PathError> {
    match first {
        0..=0x1f | 0x7f => return Err(PathError::EscapedControl { byte: first }),
        b'\\' => return Err(PathError::EscapedBackslash),
        0x20..=0x7e => return Ok(1),
        0x80.. => {}
    }
    let length = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Err(PathError::NotUtf8),
    };
    let mut bytes = [first; 4];
    for (index, byte) in bytes.iter_mut().enumerate().take(length).skip(1) {
        *byte = escaped_byte(path, at + 3 * index).map_err(|_| PathError::NotUtf8)?;
    }
    std::str::from_utf8(&bytes[..length]).map_err(|_| PathError::NotUtf8)?;
    Ok(length)
}

fn refuse_double_escape(path: &str) -> Result<(), PathError> {
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    for (start, _) in path.match_indices("%25") {
        let rest = &path.as_bytes()[start + 3..];
        if is_hex(rest.first()) && is_hex(rest.get(1)) {
            return Err(PathError::DoubleEscape);
        }
    }
    Ok(())
}

/// Whether no segment is empty, `.` or `..`; a slash at the end is not an empty segment.
fn has_only_plain_segments(path: &str) -> bool {
    let inner = path[1..].strip_suffix('/').unwrap_or(&path[1..]);
    path == "/" || inner.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != "..")
}

/// Merges slashes, then removes dot segments (RFC 3986 section 5.2.4), in that order: `/app//../admin` is `/admin`.
fn resolve_segments(path: &str) -> String {
    let mut resolved = String::with_capacity(path.len());
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" | "." => {}
            ".." => resolved.truncate(resolved.rfind('/').unwrap_or(0)),
            name => {
                resolved.push('/');
                resolved.push_str(name);
                continue;
            }
        }
        if segments.peek().is_none() {
            resolved.push('/');
        }
    }
    if resolved.is_empty() {
        resolved.push('/');
    }
    resolved
}

/// The second reading, where it differs from the first by more than a slash at the end.
fn plain_reading(path: &str) -> Result<Option<Box<str>>, PathError> {
    let differs =
        path.contains(';') || ["%2F", "%3B", "%3F", "%23"].iter().any(|escape| path.contains(escape));
    if !differs {
        return Ok(None);
    }
    // A server that unescapes before it cuts query and fragment off sees the path end there.
    let end = [path.find("%3F"), path.find("%23")].into_iter().flatten().min().unwrap_or(path.len());
    let mut plain = String::with_capacity(end);
    for piece in path[..end].split('/').flat_map(|segment| segment.split("%2F")) {
        let cut = [piece.find(';'), piece.find("%3B")].into_iter().flatten().min().unwrap_or(piece.len());
        match &piece[..cut] {
            "" => {}
            "." | ".." => return Err(PathError::HiddenDotSegment),
            name => {
                plain.push('/');
                plain.push_str(name);
            }
        }
    }
    if plain.is_empty() {
        plain.push('/');
    }
    Ok(Some(plain.into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(target: &str, expected: Result<&str, PathError>) {
        let normal = RequestTarget::parse(target.as_bytes()).map(|target| target.path.as_str().to_owned());
        assert_eq!(normal.as_deref().map_err(|error| *error), expected, "{target}");
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for target in ["/", "/a", "/a/", "/a/b.c/~d", "/caf%C3%A9/%2F;x", "/a%20b?x=%zz&y=//"] {
            let parsed = RequestTarget::parse(target.as_bytes()).unwrap();
            assert!(matches!(parsed.path.text, Cow::Borrowed(_)), "{target}");
        }
    }

    #[test]
    fn every_spelling_has_one_form() {
        for (target, normal) in [
            ("//admin", "/admin"),
            ("/./admin", "/admin"),
            ("/x/../admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/app//../admin", "/admin"),
            ("/%2e%2e/admin", "/admin"),
            ("/../../admin", "/admin"),
            ("/admin?x", "/admin"),
            ("/admin/", "/admin/"),
            ("/admin/.", "/admin/"),
            ("/admin/x/..", "/admin/"),
            ("/admin//", "/admin/"),
            ("//", "/"),
            ("/.", "/"),
            ("/..", "/"),
            ("/a%2fb", "/a%2Fb"),
            ("/%7Euser/%c3%a9", "/~user/%C3%A9"),
            ("/100%25", "/100%25"),
        ] {
            check(target, Ok(normal));
        }
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for (target, error) in [
            ("", PathError::NotOriginForm),
            ("*", PathError::NotOriginForm),
            ("http://h/admin", PathError::NotOriginForm),
            ("/app\\..\\admin", PathError::IllegalByte { byte: b'\\' }),
            ("/admin#x", PathError::IllegalByte { byte: b'#' }),
            ("/admin?x#y", PathError::IllegalByte { byte: b'#' }),
            ("/a b", PathError::IllegalByte { byte: b' ' }),
            ("/a?b\u{1}", PathError::IllegalByte { byte: 1 }),
            ("/é", PathError::IllegalByte { byte: 0xc3 }),
            ("/%5cadmin", PathError::EscapedBackslash),
            ("/admin%00", PathError::EscapedControl { byte: 0 }),
            ("/admin%0d%0a", PathError::EscapedControl { byte: 0x0d }),
            ("/%252e%252e/admin", PathError::DoubleEscape),
            ("/%25%32%65/admin", PathError::DoubleEscape),
            ("/%c0%ae%c0%ae/admin", PathError::NotUtf8),
            ("/%e2%82", PathError::NotUtf8),
            ("/%ed%a0%80", PathError::NotUtf8),
            ("/%zz", PathError::BadEscape),
            ("/%4", PathError::BadEscape),
            ("/app%2f..%2fadmin", PathError::HiddenDotSegment),
            ("/..;/admin", PathError::HiddenDotSegment),
            ("/x/.;a=b/admin", PathError::HiddenDotSegment),
            ("/..%3b/admin", PathError::HiddenDotSegment),
        ] {
            check(target, Err(error));
        }
    }

    #[test]
    fn the_plain_reading_drops_what_servers_disagree_on() {
        for (target, plain) in [
            ("/admin/", "/admin"),
            ("/admin;a=b", "/admin"),
            ("/;/admin", "/admin"),
            ("/admin%2f", "/admin"),
            ("/%2fadmin", "/admin"),
            ("/admin%3bx", "/admin"),
            ("/admin%3Fx", "/admin"),
            ("/admin%23x/y", "/admin"),
            ("/a;x/b;y/", "/a/b"),
            ("/;", "/"),
            ("/", "/"),
            ("/a%20b", "/a%20b"),
        ] {
            assert_eq!(RequestTarget::parse(target.as_bytes()).unwrap().path.plain(), plain, "{target}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(
            target in "(/|\\.|%2e|%2F|%5c|;|%3b|%25|%61|%c3%a9|a|Z|0|~|\\?|%|//|:|@){0,12}"
        ) {
            let target = format!("/{target}");
            if let Ok(first) = RequestTarget::parse(target.as_bytes()) {
                let again = RequestTarget::parse(first.path.as_str().as_bytes()).unwrap();
                prop_assert_eq!(&first.path, &again.path);
                prop_assert!(matches!(again.path.text, Cow::Borrowed(_)));
            }
        }

        #[test]
        fn no_input_leaves_a_dot_segment(target in proptest::collection::vec(any::<u8>(), 0..24)) {
            let target = [b"/".as_slice(), &target].concat();
            if let Ok(parsed) = RequestTarget::parse(&target) {
                for reading in [parsed.path.as_str(), parsed.path.plain()] {
                    prop_assert!(reading.starts_with('/'));
                    prop_assert!(!reading.contains("//"));
                    prop_assert!(!reading.split('/').any(|segment| segment == "." || segment == ".."));
                }
            }
        }
    }
}
