//! Whoever breaks HTTP/2, as an application and as a caller. A message that is not whole is never taken for one, what is held for it
//! goes, and others are served.

use std::cell::Cell;
use std::future::poll_fn;

use h2::Reason;
use http::StatusCode;
use mesh_common::model::Protocol;
use tokio::io::AsyncWriteExt;

use super::frames::*;
use super::world::*;
use crate::transport::http2::Ending;

/// What the caller of an application has whose answer is no valid one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// An error of ours: nothing of it had been passed on.
    Error,
    /// What had been passed on has no end.
    NoEnd,
    /// It was whole before the fault, which is of its connection: all of it, or none of its end.
    WholeOrNoEnd,
}

/// What an application answers on a stream: its name, the frames, what becomes of them.
type Fault = (&'static str, fn(u32) -> Vec<u8>, Wanted);
/// What a caller asks: its name, the frames.
type Said = (&'static str, fn() -> Vec<u8>);

fn faults() -> Vec<Fault> {
    use Wanted::*;
    vec![
        ("data before the head", |id| [frame(DATA, 0, id, b"ok"), last_head(id, OK)].concat(), Error),
        ("an interim answer that ends", |id| last_head(id, HINTS), Error),
        (
            "an interim answer that ends, and an answer",
            |id| [last_head(id, HINTS), last_head(id, OK)].concat(),
            Error,
        ),
        ("a head without a status", |id| last_head(id, &field("x", "1")), Error),
        (
            "a head of another protocol's connection",
            |id| last_head(id, &[OK, &field("connection", "close")].concat()),
            Error,
        ),
        ("a change of protocol", |id| [head(id, b"\x08\x03101"), last_head(id, OK)].concat(), Error),
        (
            "an interim answer after the head",
            |id| [head(id, OK), head(id, HINTS), frame(DATA, END_STREAM, id, b"ok")].concat(),
            NoEnd,
        ),
        (
            "a second head",
            |id| [head(id, OK), head(id, OK), frame(DATA, END_STREAM, id, b"ok")].concat(),
            NoEnd,
        ),
        (
            "trailers that end nothing",
            |id| [head(id, OK), frame(DATA, 0, id, b"ok"), head(id, &field("x", "1"))].concat(),
            NoEnd,
        ),
        (
            "a reset without an error",
            |id| [head(id, OK), frame(DATA, 0, id, b"ok"), reset(id, Reason::NO_ERROR)].concat(),
            NoEnd,
        ),
        (
            "data after the end",
            |id| {
                [head(id, OK), frame(DATA, END_STREAM, id, b"ok"), frame(DATA, END_STREAM, id, b"more")]
                    .concat()
            },
            WholeOrNoEnd,
        ),
        (
            "a head after the end",
            |id| [head(id, OK), frame(DATA, END_STREAM, id, b"ok"), last_head(id, OK)].concat(),
            WholeOrNoEnd,
        ),
        (
            "a stream that nobody asked for",
            |id| [head(id, OK), frame(DATA, 0, id, b"ok"), last_head(id + 2, OK)].concat(),
            NoEnd,
        ),
        (
            "a promise",
            |id| {
                [head(id, OK), frame(5, END_HEADERS, id, &[&2_u32.to_be_bytes()[..], &asks(GET)].concat())]
                    .concat()
            },
            NoEnd,
        ),
        (
            "an error of the connection",
            |id| {
                [head(id, OK), frame(DATA, 0, id, b"ok"), goaway(id, Reason::PROTOCOL_ERROR), b"?".to_vec()]
                    .concat()
            },
            NoEnd,
        ),
    ]
}

#[test]
fn an_answer_that_is_no_valid_one_is_an_error_or_has_no_end() {
    on_one_core(async {
        for (name, frames, wanted) in faults() {
            let world = World::start(Protocol::Http2).await;
            // Once; then it answers as it should.
            let is_faulty = Cell::new(true);
            let valid = |id| [head(id, OK), frame(DATA, END_STREAM, id, b"ok")].concat();
            let frames = move |id| if is_faulty.replace(false) { frames(id) } else { valid(id) };
            world.application.set(answers(frames).await.0);
            let (answer, _send) = asked(&world, b"a request", true).await;
            match (wanted, &answer) {
                (Wanted::Error, Answer::Whole(502 | 503, ..))
                | (Wanted::NoEnd | Wanted::WholeOrNoEnd, Answer::Broken) => {}
                // What had not been passed on yet when it broke.
                (Wanted::NoEnd, Answer::Whole(502 | 503, ..)) => {}
                (Wanted::WholeOrNoEnd, answer) if *answer == whole(200, "ok") => {}
                _ => panic!("{name}: {answer:?}"),
            }
            eventually("nothing is held of it", || {
                (world.source.bodies(), world.destination.bodies()) == (0, 0)
            })
            .await;
            assert_eq!(asked(&world, b"another", true).await.0, whole(200, "ok"), "{name}");
        }
    });
}

#[test]
fn trailers_have_no_pseudo_fields() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let (application, seen) = answers(|id| {
            let trailers = [OK, &field(":path", "/other"), &field("x", "1")].concat();
            [head(id, OK), frame(DATA, 0, id, b"ok"), last_head(id, &trailers)].concat()
        })
        .await;
        world.application.set(application);
        // h2 leaves them out, and the rest passes, or it resets the stream: what is sent on is written anew.
        match asked(&world, b"", true).await.0 {
            Answer::Whole(200, _, Some(trailers)) => {
                let names: Vec<_> = trailers.keys().map(http::HeaderName::as_str).collect();
                assert_eq!(names, ["x"]);
            }
            answer => assert_eq!(answer, Answer::Broken),
        }
        seen.borrow_mut().clear();
        let mut raw = world.raw_caller().await;
        let trailers = [&[0x84], &field(":status", "200")[..], &field("x", "1")].concat();
        let said = [
            PREFACE,
            &frame(SETTINGS, 0, 0, b""),
            &head(1, &asks(POST)),
            &frame(DATA, 0, 1, b"a request"),
            &last_head(1, &trailers),
        ];
        raw.write_all(&said.concat()).await.unwrap();
        while let Some(came) = next(&mut raw).await {
            if came.stream == 1 && (came.kind == RESET || came.flags & END_STREAM != 0) {
                break;
            }
        }
        for came in seen.borrow().iter().filter(|came| came.kind == HEADERS && came.flags & END_STREAM != 0) {
            let text = String::from_utf8_lossy(&came.payload).into_owned();
            assert!(!text.contains("status") && !text.contains('\u{4}'), "{text:?}");
        }
    });
}

#[test]
fn a_request_that_is_no_valid_one_is_never_whole() {
    let not_whole: [Said; 5] = [
        ("a second head", || [head(1, &asks(POST)), head(1, &asks(POST))].concat()),
        ("trailers that end nothing", || {
            [head(1, &asks(POST)), frame(DATA, 0, 1, b"x"), head(1, &field("x", "1"))].concat()
        }),
        ("a status", || last_head(1, &[&asks(GET)[..], OK].concat())),
        ("another length", || {
            [head(1, &[asks(POST), field("content-length", "5")].concat()), frame(DATA, END_STREAM, 1, b"x")]
                .concat()
        }),
        ("a reset without an error", || {
            [head(1, &asks(POST)), frame(DATA, 0, 1, b"x"), reset(1, Reason::NO_ERROR)].concat()
        }),
    ];
    on_one_core(async {
        for (name, said) in not_whole {
            let world = World::start(Protocol::Http2).await;
            // It answers what has no body.
            let (application, seen) = answers_head(|head| match head.flags & END_STREAM {
                0 => Vec::new(),
                _ => last_head(head.stream, OK),
            })
            .await;
            world.application.set(application);
            let mut raw = world.raw_caller().await;
            raw.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b""), &said()].concat()).await.unwrap();
            raw.write_all(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
            // What stands before it was read then.
            while let Some(came) = next(&mut raw).await {
                if came.kind == PING && came.flags & ACK != 0 {
                    break;
                }
            }
            eventually("nothing is held of it", || {
                (world.source.bodies(), world.destination.bodies()) == (0, 0)
            })
            .await;
            let is_end = |came: &&Came| matches!(came.kind, DATA | HEADERS) && came.flags & END_STREAM != 0;
            assert_eq!(seen.borrow().iter().find(is_end), None, "{name}");
            assert_eq!(
                world.caller().await.ask(get("/good")).await.unwrap().status,
                StatusCode::OK,
                "{name}"
            );
        }
    });
}

#[test]
fn what_comes_after_the_end_of_a_request_is_not_of_it() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let mut raw = world.raw_caller().await;
        let said = [
            PREFACE,
            &frame(SETTINGS, 0, 0, b""),
            &head(1, &asks(POST)),
            &frame(DATA, END_STREAM, 1, b"a request"),
            &frame(DATA, END_STREAM, 1, b"more"),
        ];
        raw.write_all(&said.concat()).await.unwrap();
        let mut echoed = Vec::new();
        while let Some(came) = next(&mut raw).await {
            if came.kind == DATA {
                echoed.extend_from_slice(&came.payload);
            }
            if matches!(came.kind, RESET | GOAWAY) || came.flags & END_STREAM != 0 && came.stream == 1 {
                break;
            }
        }
        assert!(b"a request".starts_with(&echoed), "{}", String::from_utf8_lossy(&echoed));
        drop(raw);
        eventually("nothing is held of it", || (world.source.bodies(), world.destination.bodies()) == (0, 0))
            .await;
    });
}

#[test]
fn an_answer_before_the_body_is_whole_and_the_body_goes_no_further() {
    on_one_core(async {
        // RFC 9113 section 8.1: whoever has answered may have no more of the request.
        let world = World::start(Protocol::Http2).await;
        let early =
            |id| [head(id, OK), frame(DATA, END_STREAM, id, b"early"), reset(id, Reason::NO_ERROR)].concat();
        world.application.set(answers(early).await.0);
        for _ in 0..3 {
            let (answer, mut send) = asked(&world, b"the beginning", false).await;
            assert_eq!(answer, whole(200, "early"));
            // It is told to send no more, and that nothing went wrong.
            let told = poll_fn(|context| send.poll_reset(context)).await;
            assert_eq!(told.ok(), Some(Reason::NO_ERROR));
            eventually("no body is held", || (world.source.bodies(), world.destination.bodies()) == (0, 0))
                .await;
        }
        eventually("the records", || world.records.borrow().len() == 6).await;
        assert!(world.records.borrow().iter().all(|record| record.end.ending == Ending::Complete));
    });
}
