//! Every row on requests of the attack list, with its answer.

use crate::http1::*;
use crate::model::path::NormalPath;

fn read(input: &str) -> Result<Option<RequestHead<'_>>, Refusal> {
    read_bytes(input.as_bytes())
}

fn read_bytes(input: &[u8]) -> Result<Option<RequestHead<'_>>, Refusal> {
    RequestHead::read(input, &mut HeadScan::default(), &ReadRules::default())
}

fn good(input: &str) -> RequestHead<'_> {
    read(input).unwrap_or_else(|refusal| panic!("{input:?}: {refusal}")).expect("head is complete")
}

fn check(input: &str, expected: Refusal, status: u16) {
    let refusal = read(input).map(|head| format!("{head:?}")).expect_err(input);
    assert_eq!((refusal, refusal.status()), (expected, status), "{input:?}");
}

fn rebuilt(head: &RequestHead<'_>) -> String {
    let mut out = Vec::new();
    write_request(head, &Authority::parse(b"10.0.0.1:8080").unwrap(), &[], &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn two_framings_are_refused() {
    let post = "POST / HTTP/1.1\r\nHost: a\r\n";
    for fields in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
    ] {
        check(&format!("{post}{fields}"), Refusal::LengthAndCoding, 400);
    }
}

#[test]
fn only_one_exact_chunked_is_a_transfer_encoding() {
    let post = "POST / HTTP/1.1\r\nHost: a\r\n";
    for value in [
        "chunked\r\nTransfer-Encoding: chunked",
        ",chunked",
        "chunked,",
        "chunked, chunked",
        "xchunked",
        "chunked, identity",
        "identity",
        "",
        "chunked;q=1",
        "\"chunked\"",
        "chun ked",
        "gzip",
        "chunked, gzip",
        "xgzip, chunked",
        "chunked\r\nTransfer-Encoding: identity",
        "\x0bchunked",
    ] {
        let input = format!("{post}Transfer-Encoding: {value}\r\n\r\n");
        assert!(read(&input).is_err_and(|refusal| refusal.status() == 400), "{value:?}");
    }
    check(&format!("{post}Transfer-Encoding: gzip, chunked\r\n\r\n"), Refusal::TransferCoding, 501);
    check("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::TransferEncoding, 400);
    check(&format!("{post}Transfer_Encoding: chunked\r\n\r\n"), Refusal::FieldName, 400);
    let head = good("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n");
    assert_eq!(head.framing, BodyFraming::Chunked);
}

#[test]
fn a_length_is_one_plain_number() {
    for value in [
        "+5",
        "5, 5",
        "",
        "010",
        "00",
        "-0",
        "5\r\nContent-Length: 5",
        "5\r\nContent-Length: 6",
        "0x5",
        "5 5",
        "1_0",
        "5;",
        "٥",
        "18446744073709551616",
        "99999999999999999999",
    ] {
        check(
            &format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {value}\r\n\r\n"),
            Refusal::ContentLength,
            400,
        );
    }
    check("POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n", Refusal::FieldName, 400);
    let head = good("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(head.framing, BodyFraming::Length(0));
}

#[test]
fn a_line_ends_in_cr_lf() {
    check("GET / HTTP/1.1\nHost: a\n\n", Refusal::BareLineFeed, 400);
    check("GET / HTTP/1.1\r\nUseless:\n\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BareLineFeed, 400);
    check("GET / HTTP/1.1\r\nHost: a\n\r\n", Refusal::BareLineFeed, 400);
    check("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Refusal::FieldValue, 400);
    check("GET / HTTP/1.1\r\nHost: a\r\n\n", Refusal::BareLineFeed, 400);
    check("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BareLineFeed, 400);
    check("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::StartLine, 400);
    assert_eq!(good("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").length, 29);
}

#[test]
fn fields_are_not_folded() {
    check("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", Refusal::ObsoleteFolding, 400);
    check(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
        Refusal::ObsoleteFolding,
        400,
    );
    check("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Refusal::ObsoleteFolding, 400);
    check("GET / HTTP/1.1\r\nHost: a\r\n\tX: b\r\n\r\n", Refusal::ObsoleteFolding, 400);
}

#[test]
fn a_field_name_is_a_token() {
    for line in ["Host : a", ": a", "X\tY: a", "X Y: a", "no colon", "X(: a", "X: \u{0}a".trim_end(), "é: a"]
    {
        let input = format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
        assert!(read(&input).is_err_and(|refusal| refusal.status() == 400), "{line:?}");
    }
    for name in [&b"\x85x"[..], b"x\xa0"] {
        let input = [b"GET / HTTP/1.1\r\nHost: a\r\n", name, b": v\r\n\r\n"].concat();
        assert_eq!(read_bytes(&input).unwrap_err(), Refusal::FieldName);
    }
}

#[test]
fn a_field_value_holds_no_control_character_and_keeps_obs_text() {
    for byte in (0..0x20).filter(|byte| *byte != b'\t').chain([0x7f]) {
        let input = [b"GET / HTTP/1.1\r\nHost: a\r\nX: a", &[byte][..], b"b\r\n\r\n"].concat();
        assert!(read_bytes(&input).is_err_and(|refusal| refusal.status() == 400), "{byte:#x}");
    }
    let head = read_bytes(b"GET / HTTP/1.1\r\nHost: a\r\nX: \x85admin\xa0\r\n\r\n").unwrap().unwrap();
    assert_eq!(head.fields[0].value, b"\x85admin\xa0");
}

#[test]
fn exactly_one_host_counts() {
    check("GET / HTTP/1.1\r\n\r\n", Refusal::HostMissing, 400);
    check("GET http://b/ HTTP/1.1\r\n\r\n", Refusal::HostMissing, 400);
    check("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Refusal::HostRepeated, 400);
    check("GET http://b/ HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", Refusal::HostRepeated, 400);
    for host in ["", "a b", "a/b", "u@a", "a:0", "a,b", "a:80:80", "[::1", "a\u{e9}"] {
        check(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), Refusal::HostInvalid, 400);
    }
}

#[test]
fn an_absolute_target_wins_over_host_and_is_sent_as_origin_form() {
    let head = good("GET http://B.example:80/x?y=http://c/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(rebuilt(&head), "GET /x?y=http://c/ HTTP/1.1\r\nHost: b.example\r\n\r\n");
    let head = good("GET HTTP://b?q HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(rebuilt(&head), "GET /?q HTTP/1.1\r\nHost: b\r\n\r\n");
    let head = good("OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(rebuilt(&head), "OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n");
    check("GET https://b/ HTTP/1.1\r\nHost: b\r\n\r\n", Refusal::Scheme, 400);
    check("GET http://u@b/ HTTP/1.1\r\nHost: b\r\n\r\n", Refusal::HostInvalid, 400);
    check("GET http:///x HTTP/1.1\r\nHost: b\r\n\r\n", Refusal::HostInvalid, 400);
}

#[test]
fn a_target_has_one_of_its_forms() {
    for target in ["*", "!", "a", "b/c", "http:/x", "http:x", "//", "?"] {
        let input = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        match target {
            "//" => assert_eq!(good(&input).path.as_str(), "/"),
            _ => check(&input, Refusal::Target, 400),
        }
    }
    check("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Fragment, 400);
    check("GET http://h/a#b HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Fragment, 400);
    check("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::StartLine, 400);
    check("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::StartLine, 400);
    check("GET / \r\nHost: a\r\n\r\n", Refusal::StartLine, 400);
    check("GET /\r\n\r\n", Refusal::StartLine, 400);
    check("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::StartLine, 400);
    check("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Refusal::StartLine, 400);
    assert_eq!(good("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path, NormalPath::ASTERISK);
}

#[test]
fn connect_is_not_served() {
    check("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", Refusal::Connect, 501);
    check("CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Connect, 501);
}

#[test]
fn other_versions_are_refused() {
    check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refusal::Version, 505);
    check("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Refusal::Version, 505);
    check("GET / HTTP/0.9\r\nHost: a\r\n\r\n", Refusal::Version, 505);
    check("GET / http/1.1\r\nHost: a\r\n\r\n", Refusal::StartLine, 400);
    check("GET / HTTP/1.1.1\r\nHost: a\r\n\r\n", Refusal::StartLine, 400);
    check("GET / HTTP/11\r\nHost: a\r\n\r\n", Refusal::StartLine, 400);
}

#[test]
fn an_upgrade_to_h2c_is_not_passed_on() {
    let head = good(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    );
    assert_eq!(rebuilt(&head), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(head.offer, Offer::None, "its sender waits for the answer");
}

#[test]
fn an_upgrade_counts_only_with_its_connection_token_and_in_http_1_1() {
    for head in [
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        assert_eq!(good(head).offer, Offer::None, "{head}");
        assert!(!rebuilt(&good(head)).to_lowercase().contains("upgrade"), "{head}");
    }
    for value in ["web socket", "", "websocket,", &["x"; 33].join(",")] {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {value}\r\n\r\n");
        check(&head, Refusal::Upgrade, 400);
    }
}

#[test]
fn what_is_no_websocket_is_left_out() {
    for value in ["SPDY/3.1", "TLS/1.0, HTTP/2.0", "h2c, tcp", "websocket/13", "websockets"] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {value}\r\n\r\n");
        assert_eq!(good(&head).offer, Offer::Unknown, "{value}");
        assert_eq!(rebuilt(&good(&head)), "POST / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";

#[test]
fn a_valid_handshake_is_rebuilt() {
    for (connection, upgrade) in [
        ("Upgrade", "websocket"),
        ("keep-alive, Upgrade", "WebSocket"),
        ("upgrade, HTTP2-Settings", "h2c, websocket"),
        ("UPGRADE", "foo/1\r\nUpgrade: websocket, websocket"),
    ] {
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\nUpgrade: {upgrade}\r\n{KEY}{VERSION}\r\n"
        );
        assert_eq!(good(&head).offer, Offer::WebSocket, "{head}");
        assert_eq!(
            rebuilt(&good(&head)),
            format!(
                "GET /ws HTTP/1.1\r\nHost: a\r\n{KEY}{VERSION}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
        );
        let dialled = Authority::parse(b"a").unwrap();
        good(&head).facts(&dialled, |facts| {
            assert!(
                facts.headers.contains(&(&b"upgrade"[..], &b"websocket"[..])),
                "rules see it as it is sent"
            );
        });
    }
}

#[test]
fn any_other_handshake_is_refused() {
    let key = |value: &str| format!("Sec-WebSocket-Key: {value}\r\n{VERSION}");
    let version = |value: &str| format!("{KEY}Sec-WebSocket-Version: {value}\r\n");
    for (fields, expected, status) in [
        (VERSION.to_owned(), Refusal::WebSocketKey, 400),
        (format!("{KEY}{KEY}{VERSION}"), Refusal::WebSocketKey, 400),
        (key(""), Refusal::WebSocketKey, 400),
        (key("dGhlIHNhbXBsZSBub25jZQ="), Refusal::WebSocketKey, 400),
        (key("dGhlIHNhbXBsZSBub25jZ==="), Refusal::WebSocketKey, 400),
        (key("dGhlIHNhbXBsZSBub25jZ!=="), Refusal::WebSocketKey, 400),
        (key("dGhlIHNhbXBsZSBub25jZQ==, x"), Refusal::WebSocketKey, 400),
        (key("SGVsbG8sIHdvcmxkIQ=="), Refusal::WebSocketKey, 400),
        (KEY.to_owned(), Refusal::WebSocketVersion, 426),
        (version("8"), Refusal::WebSocketVersion, 426),
        (version("013"), Refusal::WebSocketVersion, 426),
        (version("13, 8"), Refusal::WebSocketVersion, 426),
        (version("13\r\nSec-WebSocket-Version: 13"), Refusal::WebSocketVersion, 426),
        (format!("Connection: Sec-WebSocket-Key\r\n{KEY}{VERSION}"), Refusal::WebSocketKey, 400),
        (format!("Content-Length: 2\r\n{KEY}{VERSION}"), Refusal::WebSocketRequest, 400),
        (format!("Transfer-Encoding: chunked\r\n{KEY}{VERSION}"), Refusal::WebSocketRequest, 400),
    ] {
        let offer = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        check(&format!("GET / HTTP/1.1\r\nHost: a\r\n{offer}{fields}\r\n"), expected, status);
    }
    let post = "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for method in ["POST", "get", "HEAD"] {
        check(&format!("{method} / HTTP/1.1\r\n{post}{KEY}{VERSION}\r\n"), Refusal::WebSocketRequest, 400);
    }
}

#[test]
fn hop_by_hop_fields_end_here() {
    let head = good(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\nX-Hop: 1\r\nx-hop: 2\r\nX-End: 3\r\n\r\n",
    );
    assert_eq!(rebuilt(&head), "GET / HTTP/1.1\r\nHost: a\r\nX-End: 3\r\n\r\n");
    check("GET / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\n\r\n", Refusal::Connection, 400);
}

#[test]
fn stripped_fields_are_neither_seen_nor_sent() {
    let input = "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded-Client-CERT: me\r\nConnection: x-forwarded-client-cert\r\nx-forwarded-client-cert: By=1\r\nX-Role: user\r\nX-Role: admin\r\n\r\n";
    let rules = ReadRules { strip: StripList::of(IDENTITY_FIELDS), ..ReadRules::default() };
    let head = RequestHead::read(input.as_bytes(), &mut HeadScan::default(), &rules).unwrap().unwrap();
    let dialled = Authority::parse(b"b").unwrap();
    let seen = head.facts(&dialled, |facts| {
        facts
            .headers
            .iter()
            .map(|(name, value)| {
                (String::from_utf8_lossy(name).into(), String::from_utf8_lossy(value).into())
            })
            .collect::<Vec<(String, String)>>()
    });
    let expected = [("host", "a"), ("X-Role", "user"), ("X-Role", "admin")];
    assert_eq!(seen, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(rebuilt(&head), "GET / HTTP/1.1\r\nHost: a\r\nX-Role: user\r\nX-Role: admin\r\n\r\n");
}

#[test]
fn expect_is_100_continue_or_417() {
    check("POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n", Refusal::Expect, 417);
    assert!(
        good("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n")
            .expects_continue
    );
    assert!(
        !good("POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
            .expects_continue
    );
    assert!(!good("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").expects_continue);
}

#[test]
fn keep_alive_is_the_default_of_1_1_and_asked_for_in_1_0() {
    for (version, connection, expected) in [
        ("1.1", "X: y", true),
        ("1.1", "Connection: close", false),
        ("1.1", "Connection: Keep-Alive, CLOSE", false),
        ("1.0", "X: y", false),
        ("1.0", "Connection: keep-alive", true),
        ("1.0", "Connection: keep-alive\r\nConnection: close", false),
    ] {
        let input = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n\r\n");
        assert_eq!(good(&input).keep_alive, expected, "{version} {connection}");
    }
}

#[test]
fn http_1_0_without_host_gets_the_dialled_one() {
    assert_eq!(rebuilt(&good("GET / HTTP/1.0\r\n\r\n")), "GET / HTTP/1.1\r\nHost: 10.0.0.1:8080\r\n\r\n");
}

#[test]
fn limits_hold_at_their_edge() {
    let limits = Limits::default();
    let line = |length: usize| {
        let path = "a".repeat(length - "GET / HTTP/1.1\r".len());
        format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n")
    };
    good(&line(limits.start_line));
    check(&line(limits.start_line + 1), Refusal::StartLineTooLong, 414);
    check(&"G".repeat(limits.start_line + 1), Refusal::StartLineTooLong, 414);
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    good(&fields(limits.fields));
    check(&fields(limits.fields + 1), Refusal::TooManyFields, 431);
    let block = |length: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "y".repeat(length - start.len() - 4))
    };
    good(&block(limits.head));
    check(&block(limits.head + 1), Refusal::HeadTooLarge, 431);
    check(&block(limits.head + 1)[..limits.head], Refusal::HeadTooLarge, 431);
}

#[test]
fn pipelined_requests_are_read_one_by_one() {
    let input = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
    let first = good(input);
    assert_eq!((first.path.as_str(), good(&input[first.length..]).path.as_str()), ("/1", "/2"));
}

/// The spellings of `/admin` of the attack list, with the form that is matched and sent on; `None` is 400.
#[test]
fn every_spelling_of_a_path_is_normalised_or_refused() {
    for (target, expected) in [
        ("//admin", Some("/admin")),
        ("/./admin", Some("/admin")),
        ("/x/../admin", Some("/admin")),
        ("/%61dmin", Some("/admin")),
        ("/app//../admin", Some("/admin")),
        ("/admin?x", Some("/admin?x")),
        ("/admin/", Some("/admin/")),
        ("http://h/admin", Some("/admin")),
        ("http://h//x/%2e%2e/admin", Some("/admin")),
        ("/app%2f..%2fadmin", None),
        ("/app\\..\\admin", None),
        ("/%5cadmin", None),
        ("/admin%00", None),
        ("/%252e%252e/admin", None),
        ("/%c0%ae%c0%ae/admin", None),
        ("/..;/admin", None),
        ("/admin#x", None),
    ] {
        let input = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let sent = read(&input).map(|head| rebuilt(&head.unwrap()));
        let line = expected.map(|path| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(sent.as_ref().map_err(|refusal| refusal.status()).ok(), line.as_ref(), "{target}");
        assert!(sent.is_ok() || sent.is_err_and(|refusal| refusal.status() == 400), "{target}");
    }
}
