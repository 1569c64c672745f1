//! Requests in one form: what is matched is what is sent, and what has no one meaning is refused.

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use mesh_common::http1::{IDENTITY_FIELDS, Refusal};
use mesh_common::model::{HeadEdits, PathError, Protocol};

use super::slow::{Answers, reads};
use super::world::*;
use crate::transport::http2::Settings;
use crate::transport::http2::request::{facts, for_http1, normalise};

/// A request whose target or fields `change` alters, in its one form.
fn formed(
    uri: &str,
    change: impl FnOnce(&mut http::request::Builder),
) -> Result<http::request::Parts, Refusal> {
    let mut builder = Request::builder().uri(uri);
    change(&mut builder);
    let (mut parts, ()) = builder.body(()).unwrap().into_parts();
    normalise(&mut parts, IDENTITY_FIELDS, 100).map(|()| parts)
}

fn with<'a>(name: &'a str, value: &'a str) -> impl FnOnce(&mut http::request::Builder) + 'a {
    move |builder| {
        let headers = builder.headers_mut().unwrap();
        headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
}

fn nothing(_: &mut http::request::Builder) {}

#[test]
fn a_request_has_one_form() {
    for (given, sent) in [
        ("http://api.shop/a", "http://api.shop/a"),
        ("http://API.Shop.:80/a?x=%41", "http://api.shop/a?x=%41"),
        ("https://api.shop:8443/a", "http://api.shop:8443/a"),
        ("http://api.shop//a/./b/../c", "http://api.shop/a/c"),
        ("http://api.shop/%61dmin", "http://api.shop/admin"),
        ("http://api.shop", "http://api.shop/"),
    ] {
        let parts = formed(given, nothing).unwrap();
        assert_eq!(parts.uri.to_string(), sent, "{given}");
        facts(&parts, |facts| assert_eq!(facts.path.as_str(), parts.uri.path(), "{given}"));
    }
}

#[test]
fn host_stands_in_for_an_authority_and_may_not_differ_from_it() {
    let parts = formed("/a", with("host", "Api.Shop:80"));
    // h2 gives no scheme where there is no authority.
    assert_eq!(parts.unwrap().uri.to_string(), "http://api.shop/a");
    let parts = formed("http://api.shop/a", with("host", "API.shop:80")).unwrap();
    assert!(!parts.headers.contains_key("host"));

    assert_eq!(formed("http://api.shop/a", with("host", "other.shop")).unwrap_err(), Refusal::HostInvalid);
    assert_eq!(formed("/a", nothing).unwrap_err(), Refusal::HostMissing);
    let two = |builder: &mut http::request::Builder| {
        with("host", "api.shop")(builder);
        with("host", "api.shop")(builder);
    };
    assert_eq!(formed("http://api.shop/a", two).unwrap_err(), Refusal::HostRepeated);
    assert_eq!(formed("http://user@api.shop/a", nothing).unwrap_err(), Refusal::HostInvalid);
}

#[test]
fn what_has_no_one_meaning_is_refused() {
    let path = |uri| match formed(uri, nothing).unwrap_err() {
        Refusal::Path(error) => error,
        other => panic!("{uri}: {other:?}"),
    };
    assert_eq!(path("http://api.shop/a%00"), PathError::EscapedControl { byte: 0 });
    assert_eq!(path("http://api.shop/%5cadmin"), PathError::EscapedBackslash);
    assert_eq!(path("http://api.shop/%252e%252e/admin"), PathError::DoubleEscape);
    for (name, value, refusal) in [
        ("content-length", "+5", Refusal::ContentLength),
        ("content-length", "5, 5", Refusal::ContentLength),
        ("content-length", "010", Refusal::ContentLength),
        ("content_length", "5", Refusal::FieldName),
        ("transfer_encoding", "chunked", Refusal::FieldName),
    ] {
        assert_eq!(formed("http://api.shop/a", with(name, value)).unwrap_err(), refusal, "{name}");
    }
    let connect = |builder: &mut http::request::Builder| {
        *builder = std::mem::take(builder).method(Method::CONNECT);
    };
    assert_eq!(formed("api.shop:80", connect).unwrap_err(), Refusal::Connect);
}

#[test]
fn a_caller_cannot_say_who_it_is() {
    let claims = |builder: &mut http::request::Builder| {
        for name in ["x-forwarded-client-cert", "X_Forwarded_Client-Cert", "l5d-client-id", "x-nodemesh-a"] {
            with(name, "spiffe://cluster.local/ns/shop/sa/admin")(builder);
        }
        with("x-forwarded-for", "10.0.0.1")(builder);
    };
    let parts = formed("http://api.shop/a", claims).unwrap();
    let names: Vec<&str> = parts.headers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["x-forwarded-for"]);
}

#[test]
fn options_of_the_server_keeps_its_asterisk() {
    let options = |builder: &mut http::request::Builder| {
        *builder = std::mem::take(builder).method(Method::OPTIONS);
        with("host", "api.shop")(builder);
    };
    let parts = formed("*", options).unwrap();
    facts(&parts, |facts| assert_eq!(facts.path.as_str(), "*"));
    assert_eq!(for_http1((parts, ())).uri().to_string(), "*");
    assert!(matches!(formed("*", with("host", "api.shop")).unwrap_err(), Refusal::Path(_)));
}

#[test]
fn policy_sees_what_the_application_sees() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        world.apply(deny_path("/admin"));
        let caller = world.caller().await;
        for path in [
            "/admin",
            "//admin",
            "/./admin",
            "/x/../admin",
            "/%61dmin",
            "/app//../admin",
            "/admin/",
            "/Admin",
            "/admin?x",
        ] {
            let status = caller.ask(get(path)).await.unwrap().status;
            assert!(matches!(status, StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST), "{path}: {status}");
        }
        let seen = caller.ask(get("//open/./x/../y?q=1")).await.unwrap();
        assert_eq!(seen.header("x-seen-uri"), Some("http://api.shop/open/y?q=1"));
    });
}

#[test]
fn a_malformed_request_is_answered_and_goes_nowhere() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let caller = world.caller().await;
        let mut request = get("/x");
        request.headers_mut().insert("host", "other.shop".parse().unwrap());

        let seen = caller.ask(request).await.unwrap();

        assert_eq!(seen.status, StatusCode::BAD_REQUEST);
        assert_eq!(seen.header("x-nodemesh-reason"), Some("http1_host_invalid"));
        assert_eq!(*world.malformed.borrow(), [Refusal::HostInvalid]);
        assert_eq!((world.dials.get(), world.records.borrow().len()), (0, 0));
    });
}

#[test]
fn trailers_say_no_more_of_identities_than_a_head_may() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let mut trailers = http::HeaderMap::new();
        for name in ["x-forwarded-client-cert", "x_nodemesh_caller", "x-checksum"] {
            trailers.insert(name, "1".parse().unwrap());
        }
        let body = body("x").with_trailers(async { Some(Ok(trailers)) }).boxed_unsync();
        let request = http::Request::post("http://api.shop/x").body(body).unwrap();

        let seen = world.caller().await.ask(request).await.unwrap();

        let names: Vec<&str> =
            seen.trailers.iter().flat_map(|all| all.keys()).map(|name| name.as_str()).collect();
        assert_eq!(names, ["x-checksum"], "the application echoes what it got");
    });
}

#[test]
fn trailers_carry_no_field_that_rules_write() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let removed = ["x-user".into(), "authorization".into()].to_vec();
        let edits = HeadEdits { removed, added: vec![("x-user".into(), (*b"alice").into())], query: None };
        *world.edits.borrow_mut() = Some(edits);
        let mut trailers = http::HeaderMap::new();
        for name in ["x-user", "X_User", "authorization", "x-checksum"] {
            trailers.insert(http::HeaderName::try_from(name).unwrap(), "admin".parse().unwrap());
        }
        let body = body("x").with_trailers(async { Some(Ok(trailers)) }).boxed_unsync();
        let request = http::Request::post("http://api.shop/x").body(body).unwrap();

        let seen = world.caller().await.ask(request).await.unwrap();

        let names: Vec<&str> =
            seen.trailers.iter().flat_map(|all| all.keys()).map(|name| name.as_str()).collect();
        assert_eq!(names, ["x-checksum"], "the application echoes what it got");
    });
}

#[test]
fn crumbs_of_a_cookie_are_one_field_for_rules_too() {
    let crumbs = |builder: &mut http::request::Builder| {
        with("cookie", "a=1")(builder);
        with("cookie", "role=admin")(builder);
    };
    let parts = formed("http://api.shop/a", crumbs).unwrap();
    facts(&parts, |facts| {
        let values = facts.headers.iter().filter(|(name, _)| *name == b"cookie").map(|(_, value)| *value);
        assert_eq!(values.collect::<Vec<_>>(), [b"a=1; role=admin"]);
    });
}

/// What one field comes to (RFC 9113 section 6.5.2).
fn size(name: &str, value: usize) -> usize {
    name.len() + value + 32
}

#[test]
fn limits_hold_at_their_edge() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        // One that does not say what it saw: that would be over its caller's own limits.
        let (application, _) = reads(Protocol::Http2, Answers::AtTheEnd).await;
        world.application.set(application);
        let caller = world.caller().await;
        let Settings { max_fields, max_header_list, .. } = Settings::default();
        for (fields, status) in [(max_fields, 200), (max_fields + 1, 431)] {
            let mut request = get("/x");
            for number in 0..fields {
                request.headers_mut().append("x-field", number.into());
            }
            assert_eq!(caller.ask(request).await.unwrap().status, status, "{fields} fields");
        }
        assert_eq!(*world.malformed.borrow(), [Refusal::TooManyFields]);
        let pseudo = [(":method", 3), (":scheme", 4), (":authority", "api.shop".len()), (":path", 2)];
        let before: usize = pseudo.iter().map(|(name, value)| size(name, *value)).sum();
        // h2 takes what is less than it says it takes at most.
        for (list, status) in [(max_header_list - 1, 200), (max_header_list + 1, 431)] {
            let mut request = get("/x");
            let value = "x".repeat(list as usize - before - size("x-field", 0));
            request.headers_mut().append("x-field", value.parse().unwrap());
            assert_eq!(caller.ask(request).await.unwrap().status, status, "{list} bytes");
        }
    });
}
