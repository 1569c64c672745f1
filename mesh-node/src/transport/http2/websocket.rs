//! A WebSocket's handshake over HTTP/2 (RFC 8441), and what it is over HTTP/1.1 (RFC 6455).
//!
//! Here inside a handshake is a GET, as rules know it from HTTP/1.1 and from Envoy, with `:protocol` kept beside it. It is
//! put into the form of whoever it goes to: extended CONNECT over HTTP/2, an upgrade over HTTP/1.1. Whoever wants no
//! WebSocket answers as to any request; what opens the way is 200 over HTTP/2 and a valid 101 over HTTP/1.1.

use aws_lc_rs::digest;
use data_encoding::BASE64;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use mesh_common::http1::{Refusal, WEBSOCKET, WEBSOCKET_VERSION};

use super::connect::ConnectFailure;
use super::incoming::Incoming;

/// Appended to the key before it is hashed (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Reads an extended CONNECT, and makes it the GET that it stands for.
///
/// # Errors
/// It is a plain CONNECT, or asks for something else than a WebSocket of version 13.
pub(super) fn as_get(parts: &mut Parts) -> Result<(), Refusal> {
    let protocol = parts.extensions.get::<Protocol>().ok_or(Refusal::Connect)?;
    if !protocol.as_str().eq_ignore_ascii_case(WEBSOCKET) {
        return Err(Refusal::Protocol);
    }
    let mut versions = parts.headers.get_all(SEC_WEBSOCKET_VERSION).iter();
    let is_known = versions.next().is_some_and(|version| version.as_bytes() == WEBSOCKET_VERSION.as_bytes());
    if !is_known || versions.next().is_some() {
        return Err(Refusal::WebSocketVersion);
    }
    // RFC 8441 section 5: of no use here; what an application is told of them is made anew. A body has no place.
    for name in [SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_ACCEPT, CONTENT_LENGTH, CONTENT_TYPE] {
        parts.headers.remove(name);
    }
    parts.method = Method::GET;
    Ok(())
}

/// Whether a request in its one form is a WebSocket's handshake.
pub(super) fn is_handshake(parts: &Parts) -> bool {
    // HTTP/2 has `:protocol` on CONNECT alone.
    parts.extensions.get::<Protocol>().is_some()
}

/// The form for HTTP/2.
pub(super) fn as_connect(parts: &mut Parts) {
    parts.method = Method::CONNECT;
    parts.extensions.insert(Protocol::from_static(WEBSOCKET));
}

/// The form for HTTP/1.1, with a key of our own, which is returned.
pub(super) fn as_upgrade(headers: &mut HeaderMap) -> HeaderValue {
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).expect("the system has randomness");
    let key = BASE64.encode(&nonce);
    let key = HeaderValue::from_str(&key).expect("base64 is visible ASCII");
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    headers.insert(SEC_WEBSOCKET_KEY, key.clone());
    key
}

/// What a response to a handshake over HTTP/1.1 comes to: 200 for a valid 101, anything else as it is.
///
/// # Errors
/// [`ConnectFailure::NoSwitch`] for a 101 that does not fit.
pub(super) fn switched<B>(
    mut response: Response<B>,
    key: &HeaderValue,
) -> Result<Response<B>, ConnectFailure> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // Over HTTP/2 this would open the way.
        return if response.status().is_success() { Err(ConnectFailure::NoSwitch) } else { Ok(response) };
    }
    let headers = response.headers_mut();
    let says_so = headers.get_all(CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    let is_websocket = only(headers, UPGRADE).is_some_and(|to| to.eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
    let accepts = only(headers, SEC_WEBSOCKET_ACCEPT) == Some(accept_of(key.as_bytes()).as_bytes());
    if !(says_so && is_websocket && accepts) {
        return Err(ConnectFailure::NoSwitch);
    }
    headers.remove(SEC_WEBSOCKET_ACCEPT);
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

/// A response that may be given to the caller of a handshake, or of any other request.
///
/// # Errors
/// [`ConnectFailure::NoSwitch`] for a success that opens nothing, which the caller would take for one that does; for a 101
/// that nobody asked for.
pub(super) fn proper(
    response: Response<Incoming>,
    to_handshake: bool,
) -> Result<Response<Incoming>, ConnectFailure> {
    let has_way = response.body().is_way() || response.extensions().get::<OnUpgrade>().is_some();
    let opens = response.status() == StatusCode::OK && has_way;
    let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if is_switch || to_handshake && response.status().is_success() && !opens {
        return Err(ConnectFailure::NoSwitch);
    }
    Ok(response)
}

/// The only value of a field.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.as_bytes())
}

/// What answers a key (RFC 6455 section 4.2.2).
fn accept_of(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    BASE64.encode(hash.finish().as_ref())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(
        method: Method,
        protocol: Option<&'static str>,
        fields: &[(&'static str, &'static str)],
    ) -> Parts {
        let mut request = Request::builder().method(method).uri("http://a/ws");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        if let Some(protocol) = protocol {
            parts.extensions.insert(Protocol::from_static(protocol));
        }
        parts
    }

    #[test]
    fn only_a_websocket_of_version_13_is_one() {
        let version = ("sec-websocket-version", "13");
        for (protocol, fields, expected) in [
            (Some("websocket"), &[version][..], None),
            (Some("WebSocket"), &[version], None),
            (None, &[version], Some(Refusal::Connect)),
            (Some("connect-udp"), &[version], Some(Refusal::Protocol)),
            (Some(""), &[version], Some(Refusal::Protocol)),
            (Some("websocket"), &[], Some(Refusal::WebSocketVersion)),
            (Some("websocket"), &[version, version], Some(Refusal::WebSocketVersion)),
            (Some("websocket"), &[("sec-websocket-version", "8")], Some(Refusal::WebSocketVersion)),
        ] {
            let mut parts = parts(Method::CONNECT, protocol, fields);
            assert_eq!(as_get(&mut parts).err(), expected, "{protocol:?} {fields:?}");
            let method = if expected.is_some() { Method::CONNECT } else { Method::GET };
            assert_eq!(parts.method, method, "{protocol:?} {fields:?}");
        }
    }

    #[test]
    fn what_has_no_place_in_a_handshake_is_left_out() {
        let fields = [
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "x"),
            ("content-length", "0"),
            ("content-type", "application/grpc"),
            ("origin", "http://b"),
        ];
        let mut parts = parts(Method::CONNECT, Some("websocket"), &fields);
        as_get(&mut parts).unwrap();
        let names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["sec-websocket-version", "origin"]);
        assert!(is_handshake(&parts));
    }

    #[test]
    fn a_key_is_answered_as_the_standard_has_it() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn only_a_101_that_answers_the_key_opens_the_way() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        let answer = |status: u16, fields: &[(&str, &str)]| {
            let mut response = Response::builder().status(status);
            for (name, value) in fields {
                response = response.header(*name, *value);
            }
            switched(response.body(()).unwrap(), &key).map(|response| response.status().as_u16()).ok()
        };
        assert_eq!(answer(101, &good), Some(200));
        assert_eq!(answer(200, &good), None);
        assert_eq!(answer(204, &[]), None);
        assert_eq!(answer(426, &good), Some(426));
        assert_eq!(answer(302, &[]), Some(302));
        for left_out in 0..good.len() {
            let fields: Vec<_> =
                (0..good.len()).filter(|index| *index != left_out).map(|index| good[index]).collect();
            assert_eq!(answer(101, &fields), None, "without {:?}", good[left_out]);
            assert_eq!(answer(101, &[&good[..], &[good[left_out]]].concat()), (left_out == 0).then_some(200));
        }
        assert_eq!(answer(101, &[good[0], ("upgrade", "h2c"), good[2]]), None);
        assert_eq!(answer(101, &[good[0], good[1], ("sec-websocket-accept", "x")]), None);
    }
}
