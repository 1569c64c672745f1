//! Where tokens stand in a request.

use smallvec::SmallVec;

use crate::model::request_authentication::TokenLocation;
use crate::model::{HeadEdits, RequestFacts, Text};

/// A token, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found<'a> {
    pub(super) location: &'a TokenLocation,
    pub(super) token: &'a [u8],
}

/// Every token of a request that stands at one of these places. Fields that only rules may write are not looked at.
pub(super) fn locate<'a>(
    locations: impl Iterator<Item = &'a TokenLocation>,
    request: &RequestFacts<'a>,
    edits: &HeadEdits,
) -> SmallVec<[Found<'a>; 2]> {
    let mut all: SmallVec<[Found<'a>; 2]> = SmallVec::new();
    for location in locations {
        if all.iter().any(|known| known.location == location) {
            continue;
        }
        let mut add = |token: &'a [u8]| all.push(Found { location, token });
        match location {
            TokenLocation::Header { name, .. } if edits.removes(name.as_bytes()) => {}
            TokenLocation::Header { name, prefix } => {
                fields(request, name).filter_map(|value| behind(value, prefix)).for_each(&mut add);
            }
            TokenLocation::Parameter(name) => {
                let values = request.query.into_iter().flat_map(pairs);
                values.filter(|(key, _)| is_named(key, name)).for_each(|(_, value)| add(value));
            }
            TokenLocation::Cookie(name) => {
                let cookies = fields(request, "cookie").flat_map(crumbs);
                cookies.filter(|(key, _)| *key == name.as_bytes()).for_each(|(_, value)| add(value));
            }
        }
    }
    all
}

fn fields<'a>(request: &RequestFacts<'a>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let is_meant = move |field: &&(&[u8], &[u8])| field.0.eq_ignore_ascii_case(name.as_bytes());
    request.headers.iter().filter(is_meant).map(|(_, value)| value.trim_ascii())
}

/// What stands behind a prefix. A scheme of authorization is one in any case (RFC 9110 section 11.1).
fn behind<'a>(value: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    let start = value.get(..prefix.len())?;
    start.eq_ignore_ascii_case(prefix.as_bytes()).then(|| value[prefix.len()..].trim_ascii())
}

/// The parameters of a query, each as it stands there and cut at its first `=`.
fn pairs(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    query.split(|byte| *byte == b'&').map(cut)
}

fn cut(pair: &[u8]) -> (&[u8], &[u8]) {
    let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
    (&pair[..end], pair.get(end + 1..).unwrap_or_default())
}

/// Whether the name of a parameter is this one, however it is escaped: an application would read the token behind it.
fn is_named(key: &[u8], name: &str) -> bool {
    let mut key = key.iter().copied();
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    let mut unescaped = std::iter::from_fn(|| match key.next()? {
        b'%' => Some(u8::try_from(digit(key.next())? * 16 + digit(key.next())?).unwrap_or(b'%')),
        b'+' => Some(b' '),
        byte => Some(byte),
    });
    name.bytes().all(|byte| unescaped.next() == Some(byte)) && unescaped.next().is_none()
}

/// The cookies of a field.
fn crumbs(field: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    field.split(|byte| *byte == b';').map(|crumb| cut(crumb.trim_ascii()))
}

/// A query without the parameters of some names; `None` if nothing is left.
pub(super) fn query_without(query: &[u8], names: &[&Text]) -> Option<Box<[u8]>> {
    let goes = |pair: &&[u8]| !names.iter().any(|name| is_named(cut(pair).0, name));
    let left: SmallVec<[&[u8]; 8]> = query.split(|byte| *byte == b'&').filter(goes).collect();
    (!left.is_empty()).then(|| left.join(&b'&').into())
}

/// The cookies of a request without those of some names; `None` if nothing is left.
pub(super) fn cookies_without(request: &RequestFacts<'_>, names: &[&Text]) -> Option<Box<[u8]>> {
    let crumbs = fields(request, "cookie").flat_map(|field| field.split(|byte| *byte == b';'));
    let crumbs = crumbs.map(<[u8]>::trim_ascii).filter(|crumb| !crumb.is_empty());
    let goes = |crumb: &&[u8]| !names.iter().any(|name| cut(crumb).0 == name.as_bytes());
    let left: SmallVec<[&[u8]; 8]> = crumbs.filter(goes).collect();
    (!left.is_empty()).then(|| left.join(&b"; "[..]).into())
}
