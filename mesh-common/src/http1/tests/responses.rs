//! Every row on responses of the attack list, and how responses are rewritten for their client.

use crate::http1::*;

fn read(input: &str, to: ResponseTo) -> Result<Option<ResponseHead<'_>>, Refusal> {
    ResponseHead::read(input.as_bytes(), &mut HeadScan::default(), &ReadRules::default(), to)
}

fn good(input: &str) -> ResponseHead<'_> {
    read(input, ResponseTo::default()).unwrap().expect("head is complete")
}

fn check(input: &str, expected: Refusal) {
    let refusal = read(input, ResponseTo::default()).map(|head| format!("{head:?}")).expect_err(input);
    assert_eq!(refusal, expected, "{input:?}");
}

const TO_11: ResponseFor = ResponseFor { version: Version::Http11, keep_alive: true, head: false };

fn rebuilt(input: &str, to: ResponseFor) -> (String, bool) {
    let mut out = Vec::new();
    let (_, keep_alive) = write_response(&good(input), None, to, &mut out);
    (String::from_utf8(out).unwrap(), keep_alive)
}

#[test]
fn a_doubtful_framing_is_refused() {
    check(
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        Refusal::LengthAndCoding,
    );
    check("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", Refusal::ContentLength);
    check("HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", Refusal::ContentLength);
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Refusal::TransferEncoding);
    check("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::TransferEncoding);
    check("HTTP/1.1 200 OK\nContent-Length: 1\n\n", Refusal::BareLineFeed);
    check("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", Refusal::ObsoleteFolding);
    check("HTTP/1.1 200 OK\r\nX : a\r\n\r\n", Refusal::FieldName);
    check("HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", Refusal::FieldValue);
    check("\r\nHTTP/1.1 200 OK\r\n\r\n", Refusal::StartLine);
    check("HTTP/1.1 20 OK\r\n\r\n", Refusal::StartLine);
    check("HTTP/1.1 099 OK\r\n\r\n", Refusal::StartLine);
    check("HTTP/2.0 200 OK\r\n\r\n", Refusal::Version);
    check("ICY 200 OK\r\n\r\n", Refusal::Version);
}

#[test]
fn a_status_without_body_announces_none() {
    for status in ["100 Continue", "103 Early Hints", "204 No Content"] {
        check(&format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello"), Refusal::ForbiddenBody);
        check(&format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n"), Refusal::ForbiddenBody);
    }
    let head = good("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(head.framing, BodyFraming::None);
    assert_eq!(
        rebuilt("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", TO_11).0,
        "HTTP/1.1 204 No Content\r\n\r\n"
    );
}

#[test]
fn head_and_304_have_a_length_without_a_body() {
    let to = ResponseTo { head: true, websocket: false };
    let input = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let head = read(input, to).unwrap().unwrap();
    assert_eq!((head.framing, head.content_length), (BodyFraming::None, Some(5)));
    let mut out = Vec::new();
    write_response(&head, None, ResponseFor { head: true, ..TO_11 }, &mut out);
    assert_eq!(out, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(good("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n").framing, BodyFraming::None);
}

#[test]
fn switching_protocols_needs_an_offer_and_its_fields() {
    let offered = ResponseTo { head: false, websocket: true };
    let good = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\n";
    let head = read(good, offered).unwrap().unwrap();
    let mut out = Vec::new();
    write_response(&head, None, TO_11, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    assert_eq!(read(good, ResponseTo::default()).unwrap_err(), Refusal::Status, "unasked for");
    let fields = [
        "",
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\n",
        "Connection: upgrade\r\nUpgrade: marker\r\n",
        "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n",
        "Connection: keep-alive\r\nUpgrade: websocket\r\n",
    ];
    for fields in fields {
        let input = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
        assert_eq!(read(&input, offered).unwrap_err(), Refusal::Status, "{fields:?}");
    }
}

#[test]
fn a_body_until_close_becomes_chunks_for_1_1_and_stays_for_1_0() {
    let input = "HTTP/1.0 200 OK\r\nServer: x\r\n\r\n";
    assert_eq!(
        rebuilt(input, TO_11),
        ("HTTP/1.1 200 OK\r\nServer: x\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), true)
    );
    let to_10 = ResponseFor { version: Version::Http10, ..TO_11 };
    assert_eq!(
        rebuilt(input, to_10),
        ("HTTP/1.1 200 OK\r\nServer: x\r\nconnection: close\r\n\r\n".to_owned(), false)
    );
    assert!(!good(input).keep_alive);
}

#[test]
fn chunks_are_not_sent_to_1_0() {
    let to_10 = ResponseFor { version: Version::Http10, ..TO_11 };
    let (text, keep_alive) = rebuilt("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", to_10);
    assert_eq!((text.as_str(), keep_alive), ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", false));
}

#[test]
fn persistence_is_said_in_the_words_of_each_hop() {
    let input = "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\n";
    assert!(!good(input).keep_alive);
    assert_eq!(rebuilt(input, TO_11).0, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n");
    let to_10 = ResponseFor { version: Version::Http10, ..TO_11 };
    assert_eq!(
        rebuilt(input, to_10).0,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\n"
    );
}

#[test]
fn a_local_answer_has_its_length_and_no_body_for_head() {
    let answer = LocalAnswer { status: 403, text: "RBAC: access denied", reason: "policy", decision: None };
    let mut out = Vec::new();
    assert!(write_local_answer(answer, TO_11, &mut out));
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("HTTP/1.1 403 Forbidden\r\ncontent-length: 19\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\nRBAC: access denied"), "{text}");
    let mut out = Vec::new();
    write_local_answer(answer, ResponseFor { head: true, keep_alive: false, ..TO_11 }, &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.ends_with("connection: close\r\n\r\n"), "{text}");
}

#[test]
fn a_refusal_names_itself() {
    let id = "4k2nd-9xq1-7h3mz0v8w5rc";
    let decision = Some(id.parse().unwrap());
    let answer = LocalAnswer { status: 403, text: "RBAC: access denied", reason: "policy", decision };
    let mut out = Vec::new();
    write_local_answer(answer, TO_11, &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains(&format!("\r\nx-nodemesh-decision-id: {id}\r\n")), "{text}");
}
