//! A client's connection through its exchanges: order, reuse, retries, refusals, upgrades.

use proptest::prelude::*;

use super::bench::*;
use crate::http1::relay::*;
use crate::http1::*;

#[test]
fn exchanges_follow_each_other_on_kept_connections() {
    let mut bench = Bench::connection();
    for path in ["/1", "/2"] {
        bench.client(&get(path)).took(&[ACQUIRE, Command::FinishUpstream]);
        bench.acquire(false).upstream(OK).took(&[REUSE, finished(path, 200, 2, Ending::Complete)]);
    }
    assert_eq!(bench.down, OK_SENT.repeat(2));
    assert_eq!(bench.up, [get("/1"), get("/2")].concat());
    assert_eq!((bench.relay.waiting(), bench.relay.held()), (Waiting::Request, 0));
}

#[test]
fn what_is_said_of_the_caller_goes_with_each_request() {
    let mut bench = Bench::connection();
    bench.client(&[get("/called-by/web"), get("/2")].concat()).acquire(false).upstream(OK).acquire(true);
    let said = "GET /called-by/web HTTP/1.1\r\n";
    assert!(bench.up.starts_with(said), "{}", bench.up);
    assert_eq!(bench.up.matches("x-forwarded-client-cert: web\r\n").count(), 1, "{}", bench.up);
    assert!(bench.up.find("client-cert") < bench.up.find("GET /2"), "{}", bench.up);
}

#[test]
fn what_rules_write_is_not_taken_from_trailers() {
    let mut bench = Bench::connection();
    let trailers = "X_User: admin\r\nx-user: admin\r\nx-checksum: 1\r\n";
    bench.client(&format!(
        "POST /edited HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{trailers}\r\n"
    ));
    bench.acquire(false);
    assert!(bench.up.ends_with("0\r\nx-checksum: 1\r\n\r\n"), "{}", bench.up);
    assert!(bench.up.contains("x-user: web\r\n"), "{}", bench.up);
}

#[test]
fn pipelined_requests_wait_for_their_turn() {
    let mut bench = Bench::connection();
    bench.client(&[get("/1"), get("/denied"), get("/2")].concat()).took(&[ACQUIRE, Command::FinishUpstream]);
    assert!(!bench.relay.wants_client());
    bench.acquire(false);
    assert_eq!(bench.up, get("/1"));
    bench.upstream(OK).took(&[
        REUSE,
        finished("/1", 200, 2, Ending::Complete),
        ACQUIRE,
        Command::FinishUpstream,
    ]);
    assert!(bench.down.starts_with(OK_SENT) && bench.status() == 403, "{}", bench.down);
    bench.acquire(true);
    assert_eq!(bench.up, [get("/1"), get("/2")].concat());
}

#[test]
fn a_denied_request_keeps_the_connection_if_its_body_is_small_and_known() {
    let mut bench = Bench::connection();
    bench.client("POST /denied HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab").took(&[]);
    assert_eq!(bench.status(), 403);
    bench.client(&format!("c{}", get("/1"))).took(&[ACQUIRE, Command::FinishUpstream]);
    assert_eq!(bench.relay.plan().unwrap(), "/1");
}

#[test]
fn a_denied_request_with_any_other_body_ends_the_connection() {
    for fields in
        ["Transfer-Encoding: chunked", "Content-Length: 100000", "Expect: 100-continue\r\nContent-Length: 3"]
    {
        let mut bench = Bench::connection();
        bench.client(&format!("POST /denied HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{}", get("/smuggled")));
        bench.took(&[Command::CloseClient(Close::Linger)]);
        assert!(bench.down.contains("connection: close") && bench.relay.plan().is_none(), "{fields}");
        bench.client(&get("/more")).took(&[]);
    }
}

#[test]
fn a_refused_head_is_answered_and_ends_the_connection() {
    let mut bench = Bench::connection();
    bench.client(
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let refused = Command::Refused(Refusal::ContentLength, AskedFor::new(b"GET", b"/"));
    bench.took(&[refused, Command::CloseClient(Close::Linger)]);
    assert_eq!((bench.status(), bench.relay.waiting()), (400, Waiting::Nothing));
}

#[test]
fn an_answer_to_what_was_refused_names_the_refusal() {
    let id = "4k2nd-9xq1-7h3mz0v8w5rc";
    let post = |rest: &str| format!("POST /1 HTTP/1.1\r\nHost: a\r\n{rest}");
    for (sent, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(), 400),
        (post("Transfer-Encoding: chunked\r\n\r\n0x1\r\n"), 400),
        (post("Content-Length: 9\r\n\r\nx"), 408),
    ] {
        let mut bench = Bench::connection();
        bench.decision = Some(id.parse().unwrap());
        bench.client(&sent);
        if bench.down.is_empty() {
            bench.act(|relay, _| relay.timed_out());
        }
        assert_eq!(bench.status(), status, "{sent:?}");
        assert_eq!(
            bench.down.matches(&format!("\r\nx-nodemesh-decision-id: {id}\r\n")).count(),
            1,
            "{}",
            bench.down
        );
    }
}

#[test]
fn a_bad_first_chunk_never_reaches_the_upstream() {
    let mut bench = Bench::connection();
    bench.client("POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nZ");
    let refused = Ending::BadRequest(Refusal::ChunkSize);
    bench.took(&[finished("/1", 400, 0, refused), Command::CloseClient(Close::Linger)]);
    assert_eq!(bench.status(), 400);
}

#[test]
fn a_bad_later_chunk_aborts_the_upstream() {
    let mut bench = Bench::connection();
    bench
        .client("POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nZ\r\n")
        .took(&[ACQUIRE]);
    bench.acquire(false).client("+1\r\n");
    let summary = Summary {
        status: 400,
        bytes: BodyBytes { request: 1, response: 0 },
        ending: Ending::BadRequest(Refusal::ChunkSize),
    };
    bench.took(&[ABORT, Command::Finished("/1".to_owned(), summary), Command::CloseClient(Close::Linger)]);
    assert!(!bench.up.contains("0\r\n\r\n"), "{}", bench.up);
}

#[test]
fn an_answer_before_the_request_is_complete_ends_both_connections() {
    let mut bench = Bench::connection();
    bench.client("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").acquire(true);
    bench.commands.clear();
    bench.upstream("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n");
    let summary =
        Summary { status: 413, bytes: BodyBytes { request: 3, response: 0 }, ending: Ending::Early };
    bench.took(&[ABORT, Command::Finished("/1".to_owned(), summary), Command::CloseClient(Close::Linger)]);
    assert!(bench.down.contains("connection: close"), "{}", bench.down);
}

#[test]
fn a_request_on_a_pooled_connection_that_just_closed_is_sent_once_more() {
    let mut bench = Bench::connection();
    bench.client(&get("/1")).acquire(true);
    bench.commands.clear();
    bench.upstream_end().took(&[ABORT, Command::Acquire { fresh: true }, Command::FinishUpstream]);
    bench.acquire(false);
    assert_eq!(bench.up, get("/1").repeat(2));
    bench.upstream_end();
    bench.took(&[ABORT, finished("/1", 503, 42, Ending::UpstreamGone)]);
    assert_eq!((bench.status(), bench.relay.waiting()), (503, Waiting::Request));
}

#[test]
fn a_request_is_not_sent_again_if_it_may_have_been_seen() {
    // On a fresh connection, with a method that may not be repeated, or after the first byte of an answer.
    let post = "POST /1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    for (request, reused, answer) in
        [(get("/1"), false, ""), (post, true, ""), (get("/1"), true, "HTTP/1.1 2")]
    {
        let mut bench = Bench::connection();
        bench.client(&request).acquire(reused).upstream(answer);
        bench.commands.clear();
        bench.upstream_end().took(&[ABORT, finished("/1", 503, 42, Ending::UpstreamGone)]);
    }
}

#[test]
fn a_request_that_nobody_looked_at_is_tried_once_elsewhere() {
    let refused =
        LocalAnswer { status: 503, text: "connection refused", reason: "connect_refused", decision: None };
    let mut bench = Bench::connection();
    bench.client("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc").took(&[ACQUIRE]);
    bench.act(|relay, _| relay.upstream_failed(Failure::Untouched(refused)));
    bench.took(&[Command::Reroute(Failure::Untouched(refused))]);
    bench.act(|relay, _| {
        "/elsewhere".clone_into(relay.plan_mut().unwrap());
        relay.retry()
    });
    bench.took(&[Command::Acquire { fresh: true }]).client("de");
    bench.act(|relay, _| relay.upstream_failed(Failure::Untouched(refused)));
    assert_eq!(bench.status(), 503);
    let bytes = BodyBytes { request: 5, response: 18 };
    let summary = Summary { status: 503, bytes, ending: Ending::Answered("connect_refused") };
    bench.took(&[Command::FinishUpstream, ABORT, Command::Finished("/elsewhere".to_owned(), summary)]);
}

#[test]
fn what_is_pipelined_behind_a_request_that_failed_has_its_turn() {
    const GONE: LocalAnswer<'static> =
        LocalAnswer { status: 503, text: "gone", reason: "gone", decision: None };
    let fails: [fn(&mut Bench); 4] = [
        |bench| bench.act(|relay, _| relay.upstream_failed(Failure::Lost(GONE))),
        |bench| bench.act(|relay, _| relay.upstream_broke()),
        |bench| bench.act(|relay, _| relay.cut(GONE)),
        |bench| bench.act(|relay, court| relay.upstream_bytes(b"SSH-2.0-x\r\n\r\n", court)),
    ];
    for fail in fails {
        let mut bench = Bench::connection();
        bench.client(&[get("/1"), get("/2")].concat()).acquire(false);
        assert!(!bench.relay.is_owed());
        fail(&mut bench);
        assert!(bench.status() >= 502 && bench.relay.is_owed(), "{}", bench.down);
        bench.commands.clear();
        bench.client("").took(&[ACQUIRE, Command::FinishUpstream]);
        assert_eq!((bench.relay.plan().unwrap().as_str(), bench.relay.is_owed()), ("/2", false));
    }
}

#[test]
fn a_request_too_large_to_keep_is_not_tried_elsewhere() {
    let refused = LocalAnswer { status: 503, text: "", reason: "connect_refused", decision: None };
    let mut bench = Bench::connection();
    bench
        .client("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        .client(&"x".repeat(MAX_REPLAY));
    bench.commands.clear();
    bench.act(|relay, _| relay.upstream_failed(Failure::Untouched(refused)));
    assert!(matches!(
        bench.commands[..],
        [ABORT, Command::Finished(..), Command::CloseClient(Close::Linger)]
    ));
}

const WEBSOCKET: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[test]
fn bytes_after_an_offer_to_upgrade_wait_for_101() {
    let mut bench = Bench::connection();
    bench.client(&format!("{WEBSOCKET}early")).took(&[ACQUIRE]);
    bench.acquire(true);
    assert!(!bench.up.contains("early") && !bench.relay.wants_client(), "{}", bench.up);
    bench.upstream(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
    );
    bench.send_up().client("more").send_up();
    assert!(bench.up.ends_with("\r\n\r\nearlymore"), "{}", bench.up);
    assert!(bench.down.ends_with("\r\n\r\nhello"), "{}", bench.down);
    bench.took(&[]).upstream_end().took(&[Command::FinishClient]);
    bench.act(|relay, _| relay.client_ended());
    let summary =
        Summary { status: 101, bytes: BodyBytes { request: 9, response: 5 }, ending: Ending::Complete };
    bench.took(&[
        Command::FinishUpstream,
        Command::Release(Release::Close),
        Command::Finished("/ws".to_owned(), summary),
        Command::CloseClient(Close::Finish),
    ]);
}

#[test]
fn without_101_what_follows_a_handshake_is_nobodys_request() {
    for (answer, status) in [
        ("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", 426),
        ("HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", 200),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n", 502),
    ] {
        let mut bench = Bench::connection();
        bench.client(&format!("{WEBSOCKET}{}", get("/early"))).acquire(false);
        bench.upstream(answer);
        assert_eq!(bench.status(), status);
        assert!(bench.down.contains("connection: close\r\n"), "{}", bench.down);
        assert!(!bench.commands.contains(&REUSE), "nor is it used for another one: {:?}", bench.commands);
        assert_eq!(bench.commands.last(), Some(&Command::CloseClient(Close::Finish)));
        bench.commands.clear();
        bench.client(&get("/late")).took(&[]);
        assert_eq!((bench.relay.waiting(), bench.up.matches("HTTP/1.1").count()), (Waiting::Nothing, 1));
    }
}

#[test]
fn what_follows_a_handshake_that_goes_nowhere_is_dropped_too() {
    let denied = WEBSOCKET.replace("/ws", "/denied");
    let malformed = WEBSOCKET.replace("13", "8");
    for (handshake, status) in [(denied, 403), (malformed, 426)] {
        let mut bench = Bench::connection();
        bench.client(&format!("{handshake}{}", get("/early")));
        assert_eq!((bench.status(), bench.relay.waiting()), (status, Waiting::Nothing));
        assert_eq!((bench.up.as_str(), bench.down.matches("HTTP/1.1").count()), ("", 1), "{}", bench.down);
    }
    let mut bench = Bench::connection();
    bench.client(&WEBSOCKET.replace("13", "8"));
    assert!(bench.down.contains("sec-websocket-version: 13\r\n"), "{}", bench.down);
}

#[test]
fn an_offer_of_another_protocol_is_answered_and_closed() {
    let mut bench = Bench::connection();
    bench.client("GET /1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nGET /early HTTP/1.1\r\nHost: a\r\n\r\n");
    bench.acquire(false).upstream(OK);
    assert_eq!((bench.status(), bench.relay.waiting()), (200, Waiting::Nothing));
    assert_eq!(bench.up, get("/1"));
}

#[test]
fn a_stream_of_one_exchange_carries_one() {
    let mut bench = Bench::new(ClientKind::Exchange);
    bench.client(&[get("/1"), get("/2")].concat()).acquire(true);
    bench.commands.clear();
    bench.upstream(OK).took(&[
        REUSE,
        finished("/1", 200, 2, Ending::Complete),
        Command::CloseClient(Close::Finish),
    ]);
    assert_eq!((bench.down.as_str(), bench.up), (OK_SENT, get("/1")));
}

#[test]
fn a_client_that_goes_away_aborts_its_exchange() {
    let mut bench = Bench::connection();
    bench.client("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").acquire(false);
    bench.commands.clear();
    bench.act(|relay, _| relay.client_ended());
    bench.took(&[ABORT, finished("/1", 0, 0, Ending::ClientGone), Command::CloseClient(Close::Abort)]);
}

#[test]
fn a_client_that_only_ended_its_side_gets_its_answer() {
    let mut bench = Bench::connection();
    bench.client(&get("/1")).acquire(false);
    bench.commands.clear();
    bench.act(|relay, _| relay.client_ended());
    bench.took(&[]).upstream(OK);
    bench.took(&[REUSE, finished("/1", 200, 2, Ending::Complete), Command::CloseClient(Close::Finish)]);
    assert!(bench.down.ends_with("ok") && bench.down.contains("connection: close"), "{}", bench.down);
}

#[test]
fn a_client_that_said_so_is_closed_at_once() {
    const LAST: &str = "GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for (sent, close) in [(LAST.to_owned(), Close::Done), (format!("{LAST}GET /2"), Close::Finish)] {
        let mut bench = Bench::connection();
        bench.client(&sent).acquire(false).upstream(OK);
        assert!(bench.down.contains("connection: close"), "{}", bench.down);
        assert_eq!(bench.commands.last(), Some(&Command::CloseClient(close)), "{sent:?}");
    }
}

#[test]
fn each_deadline_has_its_answer() {
    let mut bench = Bench::connection();
    bench.act(|relay, _| relay.timed_out());
    bench.took(&[Command::CloseClient(Close::Finish)]);
    for (sent, waiting, status) in [
        ("GET / HT".to_owned(), Waiting::Head, 408),
        ("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx".to_owned(), Waiting::Body, 408),
        ("POST /denied HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx".to_owned(), Waiting::Body, 403),
        (get("/1"), Waiting::Response, 504),
    ] {
        let mut bench = Bench::connection();
        bench.client(&sent).acquire(false);
        assert_eq!(bench.relay.waiting(), waiting);
        bench.act(|relay, _| relay.timed_out());
        assert_eq!(bench.status(), status, "{sent:?}");
    }
}

#[test]
fn who_waits_for_the_word_of_somebody_is_told_what_its_engine_says_of_the_deadline() {
    let mut bench = Bench::connection();
    bench.decision = Some("4k2nd-9xq1-7h3mz0v8w5rc".parse().unwrap());
    bench.client(&get("/asked"));
    assert_eq!((bench.commands.as_slice(), bench.relay.waiting()), (&[Command::Ask][..], Waiting::Response));
    bench.commands.clear();
    bench.act(|relay, _| relay.timed_out());
    bench.took(&[Command::Unanswered, Command::CloseClient(Close::Linger)]);
    assert_eq!(bench.status(), UNANSWERED.status);
    assert!(bench.down.contains("x-nodemesh-decision-id: 4k2nd-9xq1-7h3mz0v8w5rc\r\n"), "{}", bench.down);
    assert!(bench.down.contains(UNANSWERED.reason), "{}", bench.down);
}

#[test]
fn an_upload_is_waited_for_until_the_response_begins() {
    let mut bench = Bench::connection();
    bench.client("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx").acquire(false);
    bench.upstream("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(bench.relay.waiting(), Waiting::Body);
    bench.upstream("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
    assert_eq!(bench.relay.waiting(), Waiting::Response, "both sides go on");
}

#[test]
fn the_body_of_an_answer_of_ours_is_counted_where_it_is_given() {
    let denied = LocalAnswer { status: 403, text: "RBAC: access denied", reason: "policy", decision: None };
    for (method, bytes) in [("GET", 19), ("HEAD", 0)] {
        let mut bench = Bench::connection();
        bench.client(&get("/1").replace("GET", method)).acquire(false);
        bench.commands.clear();
        bench.act(|relay, _| relay.cut(denied));
        assert_eq!(bench.commands[1], finished("/1", 403, bytes, Ending::Cut), "{method}");
    }
}

#[test]
fn a_drained_relay_ends_after_its_exchange() {
    let mut bench = Bench::connection();
    bench.client(&get("/1")).acquire(false);
    bench.act(|relay, _| relay.drain());
    bench.upstream(OK);
    assert!(bench.down.contains("connection: close"), "{}", bench.down);
    assert_eq!(bench.commands.last(), Some(&Command::CloseClient(Close::Finish)));
}

#[test]
fn a_cut_exchange_is_answered_if_it_was_not_yet() {
    let denied = LocalAnswer { status: 403, text: "RBAC: access denied", reason: "policy", decision: None };
    let mut bench = Bench::connection();
    bench.client(&get("/1")).acquire(false).act(|relay, _| relay.cut(denied));
    assert_eq!(bench.status(), 403);
    let mut bench = Bench::connection();
    bench.client(&get("/1")).acquire(false).upstream(&OK[..OK.len() - 1]).act(|relay, _| relay.cut(denied));
    assert_eq!(bench.commands.last(), Some(&Command::CloseClient(Close::Abort)));
}

/// Feeds one side in pieces of the given sizes.
fn pieces<'t>(text: &'t str, sizes: &'t [usize]) -> impl Iterator<Item = &'t str> {
    let mut rest = text;
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        let size = (sizes.next()? % 40 + 1).min(rest.len());
        let (piece, after) = rest.split_at(size);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

proptest! {
    #[test]
    fn any_fragmentation_gives_the_same_exchanges(up in prop::collection::vec(0_usize..40, 1..8), down in prop::collection::vec(0_usize..40, 1..8)) {
        let requests = format!(
            "{}POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello{}{}",
            get("/1"), get("/denied"), get("/3")
        );
        let responses = ["HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", OK, OK];
        let mut bench = Bench::connection();
        for piece in pieces(&requests, &up) {
            bench.client(piece);
        }
        for response in responses {
            bench.acquire(false);
            for piece in pieces(response, &down) {
                bench.upstream(piece);
            }
        }
        let expected = [
            get("/1"), "POST /2 HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\n\r\nhello".to_owned(), get("/3"),
        ];
        prop_assert_eq!(&bench.up, &expected.concat());
        prop_assert_eq!(bench.down.matches("HTTP/1.1 200 OK").count(), 3);
        let statuses: Vec<&str> = bench.down.split("HTTP/1.1 ").skip(1).map(|text| &text[..3]).collect();
        prop_assert_eq!(statuses, ["100", "200", "200", "403", "200"]);
        let finished = bench.commands.iter().filter(|command| matches!(command, Command::Finished(..))).count();
        prop_assert_eq!(finished, 3);
    }
}
