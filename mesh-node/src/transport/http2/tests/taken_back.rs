//! Requests that are taken back, and connections that are left, in each state: nothing is left of them, and what costs is counted.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use mesh_common::model::Protocol;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::frames::*;
use super::interims::{ending, hints};
use super::world::*;
use crate::transport::http2::{Ending, Settings};
use crate::transport::tasks;

/// How far an application goes with each request before it waits for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Nothing,
    Interim,
    Head,
    PartOfAnswer,
}

/// An application of this kind, and the reasons for which its streams were reset.
async fn stops_at(stage: Stage) -> (SocketAddr, mpsc::UnboundedReceiver<Option<Reason>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            spawn_local(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let tell = tell.clone();
                    spawn_local(async move {
                        let _request = request;
                        if stage != Stage::Nothing {
                            let interim = Response::builder().status(103).body(()).unwrap();
                            respond.send_informational(interim).unwrap();
                        }
                        let reason = if matches!(stage, Stage::Nothing | Stage::Interim) {
                            poll_fn(|context| respond.poll_reset(context)).await
                        } else {
                            let mut send = respond.send_response(Response::new(()), false).unwrap();
                            if stage == Stage::PartOfAnswer {
                                send.send_data(Bytes::from_static(b"part"), false).unwrap();
                            }
                            poll_fn(|context| send.poll_reset(context)).await
                        };
                        let _ = tell.send(reason.ok());
                    });
                }
            });
        }
    });
    (address, told)
}

/// Asks, and goes as far as the application does.
async fn gone_to(
    sender: &mut h2::client::SendRequest<Bytes>,
    stage: Stage,
) -> (SendStream<Bytes>, h2::client::ResponseFuture, Option<RecvStream>) {
    let request = Request::post("http://api.shop/x").body(()).unwrap();
    let (mut response, mut send) = sender.send_request(request, false).unwrap();
    send.send_data(Bytes::from_static(b"part"), false).unwrap();
    let mut body = None;
    if stage != Stage::Nothing {
        poll_fn(|context| response.poll_informational(context)).await.unwrap().unwrap();
    }
    if matches!(stage, Stage::Head | Stage::PartOfAnswer) {
        let mut came = (&mut response).await.unwrap().into_body();
        if stage == Stage::PartOfAnswer {
            assert_eq!(came.data().await.unwrap().unwrap(), "part");
        }
        body = Some(came);
    }
    (send, response, body)
}

#[test]
fn a_request_that_is_taken_back_leaves_nothing_whenever_that_is() {
    on_one_core(async {
        for stage in [Stage::Nothing, Stage::Interim, Stage::Head, Stage::PartOfAnswer] {
            let world = World::start(Protocol::Http2).await;
            let (application, mut told) = stops_at(stage).await;
            world.application.set(application);
            let mut sender = caller(&world).await;
            let mut before = None;
            for turn in 1..=3 {
                let (mut send, response, body) = gone_to(&mut sender, stage).await;
                eventually("both agents have it", || world.cuts.borrow().len() == 2 * turn).await;
                // So that the application has it, too.
                eventually("its body is on its way", || world.destination.bodies() == 1).await;
                if stage == Stage::Nothing && turn == 1 {
                    eventually("the application is connected", || world.dials.get() == 2).await;
                }
                send.send_reset(Reason::CANCEL);
                drop((send, response, body));
                eventually("both records", || world.records.borrow().len() == 2 * turn).await;
                eventually("no body is held", || {
                    (world.source.bodies(), world.destination.bodies()) == (0, 0)
                })
                .await;
                if stage != Stage::Nothing {
                    assert_eq!(told.recv().await.unwrap(), Some(Reason::CANCEL), "{stage:?}");
                }
                // With the connections that stay there are as many tasks as the first time.
                let most = *before.get_or_insert_with(|| tasks::counter().read());
                eventually("no task is left", || tasks::counter().read() <= most).await;
            }
            let endings: Vec<_> = world.records.borrow().iter().map(|record| record.end.ending).collect();
            assert_eq!(endings, [Ending::CallerGone; 6], "{stage:?}");
            assert_eq!(world.dials.get(), 2, "its connections are not the stream's: {stage:?}");
        }
    });
}

#[test]
fn a_caller_that_goes_with_its_connection_leaves_nothing_either() {
    on_one_core(async {
        for stage in [Stage::Interim, Stage::Head, Stage::PartOfAnswer] {
            let world = World::start(Protocol::Http2).await;
            let (application, mut told) = stops_at(stage).await;
            world.application.set(application);
            let (mut sender, connection) = h2::client::handshake(world.raw_caller().await).await.unwrap();
            let running = spawn_local(async move { drop(connection.await) });
            let open = [gone_to(&mut sender, stage).await, gone_to(&mut sender, stage).await];
            running.abort();
            for _ in 0..2 {
                // Its body broke off, or its answer is wanted no more, whichever is seen first.
                let told = told.recv().await.unwrap();
                assert!(matches!(told, Some(Reason::CANCEL | Reason::INTERNAL_ERROR)), "{stage:?} {told:?}");
            }
            drop((open, sender));
            eventually("the records", || world.records.borrow().len() == 4).await;
            eventually("no body is held", || (world.source.bodies(), world.destination.bodies()) == (0, 0))
                .await;
            eventually("it is served no longer", || world.served.borrow().len() == 1).await;
        }
    });
}

#[test]
fn what_a_goaway_lets_through_is_answered_whichever_side_says_it() {
    on_one_core(async {
        // The application: before the answer, in it, and in place of what comes after.
        let said: [fn(u32) -> Vec<u8>; 3] = [
            |id| [goaway(id, Reason::NO_ERROR), head(id, OK), frame(DATA, END_STREAM, id, b"ok")].concat(),
            |id| [head(id, OK), goaway(id, Reason::NO_ERROR), frame(DATA, END_STREAM, id, b"ok")].concat(),
            |id| {
                [
                    head(id, HINTS),
                    goaway(id, Reason::NO_ERROR),
                    head(id, OK),
                    frame(DATA, END_STREAM, id, b"ok"),
                ]
                .concat()
            },
        ];
        for (number, frames) in said.into_iter().enumerate() {
            let world = World::start(Protocol::Http2).await;
            world.application.set(answers(frames).await.0);
            for turn in 1..=2 {
                assert_eq!(asked(&world, b"a request", true).await.0, whole(200, "ok"), "{number}");
                eventually("both records", || world.records.borrow().len() == 2 * turn).await;
            }
            assert_eq!(world.dials.get(), 3, "nothing more is asked on that connection: {number}");
        }
        // The caller: what it has open goes on, and then its connection ends.
        let world = World::start(Protocol::Http2).await;
        let mut raw = world.raw_caller().await;
        let begun = [PREFACE, &frame(SETTINGS, 0, 0, b""), &head(1, &asks(POST)), &frame(DATA, 0, 1, b"be")];
        raw.write_all(&begun.concat()).await.unwrap();
        eventually("both agents have it", || world.cuts.borrow().len() == 2).await;
        raw.write_all(&[goaway(0, Reason::NO_ERROR), frame(DATA, END_STREAM, 1, b"fore")].concat())
            .await
            .unwrap();
        let (mut echoed, mut has_ended) = (Vec::new(), false);
        while let Some(came) = next(&mut raw).await {
            has_ended |= came.stream == 1 && came.flags & END_STREAM != 0;
            if came.kind == DATA {
                echoed.extend_from_slice(&came.payload);
            }
        }
        assert_eq!((&echoed[..], has_ended), (&b"before"[..], true));
    });
}

#[test]
fn interim_answers_buy_nobody_more_requests_that_are_taken_back() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        // An application that plays along.
        let interims = (0..4).map(|_| hints("</a>")).collect();
        let never = Rc::new(tokio::sync::Semaphore::new(0));
        world.application.set(ending(interims, &never, None).await);
        let mut raw = world.raw_caller().await;
        raw.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await.unwrap();
        let mut asked = 0;
        let over = async {
            while asked < 2_000 {
                let id = 2 * asked + 1;
                // With the one before, which was told of: a request of its own for each would wait for the network.
                let taken_back = if asked == 0 { vec![] } else { reset(id - 2, Reason::CANCEL) };
                raw.write_all(&[taken_back, last_head(id, &asks(GET))].concat()).await.ok()?;
                asked += 1;
                let mut told = 0;
                while told < 4 {
                    let came = next(&mut raw).await?;
                    if came.kind == GOAWAY {
                        return Some(came);
                    }
                    told += u32::from(came.kind == HEADERS && came.stream == id);
                }
            }
            panic!("2,000 requests were taken back");
        };
        let came = over.await;
        let told = came.map(|came| u32::from_be_bytes(came.payload[4..8].try_into().unwrap()));
        assert!(matches!(told, None | Some(ENHANCE_YOUR_CALM)), "{told:?}");
        // Its burst, and what is allowed each second meanwhile.
        assert!((200..1_000).contains(&asked), "{asked}");
        eventually("the end is told", || !world.served.borrow().is_empty()).await;
        assert_eq!(world.served.take(), [Some(true)]);
    });
}

#[test]
fn a_caller_that_was_told_to_go_is_held_to_the_same() {
    on_one_core(async {
        let settings = Settings { idle_timeout: Duration::from_millis(200), ..Settings::default() };
        let world = World::start_with(Protocol::Http2, settings).await;
        let mut peer = world.raw_peer().await;
        peer.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b""), &last_head(1, &asks(GET))].concat())
            .await
            .unwrap();
        while next(&mut peer).await.expect("it is told to go").kind != GOAWAY {}
        // Broken off by a connection that ends: that is the point.
        let _ = peer.write_all(&frame(PING, 0, 0, &[1; 8]).repeat(3_000)).await;
        eventually("it is told why", || *world.ended.borrow() == ["tunnel_violation"]).await;
    });
}
