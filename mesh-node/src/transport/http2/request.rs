//! Requests in one form: what is matched is what is sent.
//!
//! h2 has refused already: malformed pseudo-fields, fields of the connection (RFC 9113 section 8.2.2), a body that
//! is not as long as it says. Here the rest of what two readers may read differently is refused or put right.

use std::borrow::Cow;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue, TE};
use http::request::Parts;
use http::uri::{Authority as UriAuthority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};
use mesh_common::http1::{Authority, Refusal, StripList, WEBSOCKET};
use mesh_common::model::path::{NormalPath, RequestTarget};
use mesh_common::model::{HeadEdits, RequestFacts};
use smallvec::SmallVec;

use super::websocket;

/// Brings a request into its one form.
///
/// # Errors
/// [`Refusal`] for a request that is answered and not decided.
pub(super) fn normalise(parts: &mut Parts, strip: &[&str], max_fields: usize) -> Result<(), Refusal> {
    if parts.method == Method::CONNECT {
        websocket::as_get(parts)?;
    }
    if parts.headers.len() > max_fields {
        return Err(Refusal::TooManyFields);
    }
    check_content_length(&parts.headers)?;
    let authority = authority_of(parts)?;
    let path = path_of(parts)?;
    if authority.is_some() || path.is_some() || parts.uri.scheme() != Some(&Scheme::HTTP) {
        parts.uri = rebuilt(parts, authority, path)?;
    }
    join_crumbs(&mut parts.headers);
    strip_fields(&mut parts.headers, strip)
}

/// Shows a request in its one form to `judge`.
///
/// # Panics
/// The request was not brought into its form.
pub(super) fn facts<T>(parts: &Parts, judge: impl FnOnce(&RequestFacts<'_>) -> T) -> T {
    let host = parts.uri.authority().expect("`normalise` set it").as_str().as_bytes();
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = match target {
        "*" => NormalPath::ASTERISK,
        target => RequestTarget::parse(target.as_bytes()).expect("`normalise` wrote it").path,
    };
    let mut headers: SmallVec<[(&[u8], &[u8]); 32]> = SmallVec::new();
    headers.push((b"host", host));
    headers.extend(parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())));
    if websocket::is_handshake(parts) {
        headers.push((b"upgrade", WEBSOCKET.as_bytes()));
    }
    let (method, query) = (parts.method.as_str().as_bytes(), parts.uri.query().map(str::as_bytes));
    judge(&RequestFacts {
        method,
        host,
        path: &path,
        query,
        headers: &headers,
        end_user: None,
        allowed_by: None,
    })
}

/// Changes what a decision asks for of a request in its one form.
pub(super) fn edit(parts: &mut Parts, edits: &HeadEdits) {
    edit_headers(&mut parts.headers, edits);
    let Some(query) = &edits.query else { return };
    let mut target = parts.uri.path().as_bytes().to_vec();
    if let Some(query) = query {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    let target = PathAndQuery::try_from(target).expect("less than before stands in its query");
    uri.path_and_query = Some(target);
    parts.uri = Uri::from_parts(uri).expect("it was whole before");
}

/// Changes the fields of a head.
pub(super) fn edit_headers(headers: &mut HeaderMap, edits: &HeadEdits) {
    let removed: SmallVec<[HeaderName; 4]> =
        headers.keys().filter(|name| edits.removes(name.as_str().as_bytes())).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
    for (name, value) in &edits.added {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(&**name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
}

/// The same request for an application that speaks HTTP/1.1. hyper frames the body by its length or in chunks.
pub(super) fn for_http1<B>((mut parts, body): (Parts, B)) -> Request<B> {
    let authority = parts.uri.authority().expect("`normalise` set it");
    let host = HeaderValue::from_str(authority.as_str()).expect("an authority is visible ASCII");
    parts.headers.insert(HOST, host);
    parts.headers.remove(TE);
    let target = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    parts.uri = Uri::from(target);
    parts.version = Version::HTTP_11;
    Request::from_parts(parts, body)
}

/// Fields of a connection end here; over HTTP/2 they would be malformed (RFC 9113 section 8.2.2).
pub(super) fn remove_connection_fields(headers: &mut HeaderMap) {
    let mut names: SmallVec<[HeaderName; 4]> = headers
        .iter()
        .filter(|(name, value)| is_of_connection(name, value))
        .map(|(name, _)| name.clone())
        .collect();
    if names.is_empty() {
        return;
    }
    for value in headers.get_all(CONNECTION) {
        let named = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.extend(named.filter_map(|name| HeaderName::from_bytes(name).ok()));
    }
    for name in names {
        headers.remove(name);
    }
}

fn is_of_connection(name: &HeaderName, value: &HeaderValue) -> bool {
    match name.as_str() {
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => true,
        // What a caller says of trailers is said end to end over HTTP/2.
        "te" => value != "trailers",
        _ => false,
    }
}

/// Crumbs of a cookie are one field (RFC 9113 section 8.2.3), for rules as for applications.
fn join_crumbs(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// One Content-Length of digits alone, as over HTTP/1.1: some readers take `+5`, `5, 5`, `010` as eight, or the second
/// of two.
fn check_content_length(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    let digits = length.as_bytes();
    let is_decimal = matches!(digits, [b'0'] | [b'1'..=b'9', ..]) && digits.iter().all(u8::is_ascii_digit);
    if lengths.next().is_some() || !is_decimal {
        return Err(Refusal::ContentLength);
    }
    Ok(())
}

/// The authority to write, if it is not written already in its one spelling.
fn authority_of(parts: &mut Parts) -> Result<Option<UriAuthority>, Refusal> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, second) = (hosts.next().cloned(), hosts.next().is_some());
    if second {
        return Err(Refusal::HostRepeated);
    }
    parts.headers.remove(HOST);
    let pseudo = parts.uri.authority();
    let text = match (pseudo, &host) {
        (Some(pseudo), _) => pseudo.as_str().as_bytes(),
        (None, Some(host)) => host.as_bytes(),
        (None, None) => return Err(Refusal::HostMissing),
    };
    let authority = Authority::parse(text)?;
    if let (Some(_), Some(host)) = (pseudo, &host)
        && Authority::parse(host.as_bytes())? != authority
    {
        return Err(Refusal::HostInvalid);
    }
    if pseudo.is_some_and(|pseudo| pseudo.as_str().as_bytes() == authority.as_bytes()) {
        return Ok(None);
    }
    UriAuthority::try_from(authority.as_bytes()).map(Some).map_err(|_| Refusal::HostInvalid)
}

/// The path and query to write, if they are not written already in their normal form.
fn path_of(parts: &Parts) -> Result<Option<PathAndQuery>, Refusal> {
    let text = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if text == "*" && parts.method == Method::OPTIONS {
        return Ok(None);
    }
    let target = RequestTarget::parse(text.as_bytes()).map_err(Refusal::Path)?;
    if text.starts_with(target.path.as_str())
        && text.len() == target.path.as_str().len() + target.query.map_or(0, |query| query.len() + 1)
    {
        return Ok(None);
    }
    let mut normal = Cow::Borrowed(target.path.as_str()).into_owned().into_bytes();
    if let Some(query) = target.query {
        normal.push(b'?');
        normal.extend_from_slice(query);
    }
    PathAndQuery::try_from(normal).map(Some).map_err(|_| Refusal::Target)
}

fn rebuilt(
    parts: &mut Parts,
    authority: Option<UriAuthority>,
    path: Option<PathAndQuery>,
) -> Result<Uri, Refusal> {
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    // Ours ends TLS: behind it there is none.
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = authority.or(uri.authority);
    uri.path_and_query = path.or(uri.path_and_query);
    Uri::from_parts(uri).map_err(|_| Refusal::Target)
}

/// Removes what the sender may not say, and refuses framing fields in disguise.
fn strip_fields(headers: &mut HeaderMap, strip: &[&str]) -> Result<(), Refusal> {
    let list = StripList::of(strip);
    let mut covered: SmallVec<[HeaderName; 4]> = SmallVec::new();
    for name in headers.keys() {
        let bytes = name.as_str().as_bytes();
        if bytes == b"content_length" || bytes == b"transfer_encoding" {
            return Err(Refusal::FieldName);
        }
        if list.covers(bytes) || bytes == b"http2-settings" {
            covered.push(name.clone());
        }
    }
    for name in covered {
        headers.remove(name);
    }
    Ok(())
}
