//! What an upstream answers through a relay: interim, doubled, cut short, malformed, without a length.

use super::bench::*;
use crate::http1::relay::*;
use crate::http1::*;

#[test]
fn interim_responses_pass_and_are_bounded() {
    let mut bench = Bench::connection();
    bench
        .client("POST /1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .acquire(false);
    assert!(bench.up.contains("Expect: 100-continue"), "{}", bench.up);
    bench.upstream("HTTP/1.1 100 Continue\r\n\r\n").client("hi").send_up().upstream(OK);
    assert_eq!(bench.down, format!("HTTP/1.1 100 Continue\r\n\r\n{OK_SENT}"));
    let mut bench = Bench::connection();
    bench.client(&get("/1")).acquire(false);
    bench.commands.clear();
    bench.upstream(&"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100));
    let ending = Ending::BadResponse(Refusal::TooManyInterim);
    bench.took(&[ABORT, finished("/1", 502, 30, ending)]);
    assert_eq!(bench.status(), 502);
}

#[test]
fn a_bad_preface_of_http_2_gets_no_answer_and_a_bad_request_does() {
    let opened = |bytes: &str| {
        let mut bench = Bench::connection();
        bench.relay.expect_http2();
        bench.client(bytes);
        assert_eq!(bench.commands.last(), Some(&Command::CloseClient(Close::Linger)), "{bytes}");
        bench.down
    };
    assert_eq!(opened("INVALID CONNECTION PREFACE\r\n\r\n"), "");
    assert_eq!(opened("PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n")[..13], *"HTTP/1.1 505 ");
    assert_eq!(opened("GET / HTTP/1.1\r\n\r\n")[..13], *"HTTP/1.1 400 ");
    let mut bench = Bench::connection();
    bench.relay.expect_http2();
    bench.client(&get("/denied")).client("INVALID CONNECTION PREFACE\r\n\r\n");
    assert!(bench.down.contains("HTTP/1.1 400 "), "it has spoken HTTP/1 before: {}", bench.down);
}

#[test]
fn interim_responses_are_not_for_1_0() {
    let mut bench = Bench::connection();
    bench.client("GET /1 HTTP/1.0\r\nHost: a\r\n\r\n").acquire(false);
    bench.upstream(&format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}"));
    assert_eq!(bench.down, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    assert_eq!(bench.commands.last(), Some(&Command::CloseClient(Close::Done)));
}

#[test]
fn two_responses_to_one_request_cost_the_upstream_its_place() {
    let mut bench = Bench::connection();
    bench.client(&get("/1")).acquire(false);
    bench.commands.clear();
    bench.upstream(&OK.repeat(2));
    bench.took(&[Command::Release(Release::Close), finished("/1", 200, 2, Ending::Complete)]);
    assert_eq!(bench.down, OK_SENT);
}

#[test]
fn bodies_where_none_may_be_cost_the_upstream_its_place() {
    let mut bench = Bench::connection();
    bench.client("HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n").acquire(false);
    bench.commands.clear();
    bench.upstream(OK).took(&[Command::Release(Release::Close), finished("/1", 200, 0, Ending::Complete)]);
    assert_eq!(bench.down, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n");
    let mut bench = Bench::connection();
    bench
        .client(&get("/1"))
        .acquire(false)
        .upstream("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(bench.status(), 502);
}

#[test]
fn a_response_that_is_cut_short_is_not_passed_for_a_whole_one() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
    ] {
        let mut bench = Bench::connection();
        bench.client(&get("/1")).acquire(false).upstream(response);
        bench.commands.clear();
        bench.upstream_end();
        bench.took(&[
            ABORT,
            finished("/1", 200, 2, Ending::UpstreamGone),
            Command::CloseClient(Close::Abort),
        ]);
    }
}

#[test]
fn a_malformed_response_is_502_or_a_reset() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let mut bench = Bench::connection();
        bench.client(&get("/1")).acquire(false).upstream(response);
        assert_eq!((bench.status(), bench.relay.waiting()), (502, Waiting::Request), "{response:?}");
    }
    let mut bench = Bench::connection();
    bench
        .client(&get("/1"))
        .acquire(false)
        .upstream("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n");
    assert_eq!(bench.commands.last(), Some(&Command::CloseClient(Close::Abort)));
}

#[test]
fn a_body_until_close_is_sent_in_chunks_and_ends_the_upstream_only() {
    let mut bench = Bench::connection();
    bench.client(&get("/1")).acquire(false).upstream("HTTP/1.0 200 OK\r\n\r\nhello");
    bench.commands.clear();
    bench.upstream_end().took(&[Command::Release(Release::Close), finished("/1", 200, 5, Ending::Complete)]);
    assert_eq!(bench.down, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
}

#[test]
fn a_body_until_close_that_ends_in_a_reset_is_not_whole() {
    let mut bench = Bench::connection();
    bench.client(&get("/1")).acquire(false).upstream("HTTP/1.0 200 OK\r\n\r\nhello");
    bench.commands.clear();
    bench.act(|relay, _| relay.upstream_broke());
    bench.took(&[ABORT, finished("/1", 200, 5, Ending::UpstreamGone), Command::CloseClient(Close::Abort)]);
}
