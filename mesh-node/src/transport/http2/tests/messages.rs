//! Messages of calls are counted as they pass, and nothing else is.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use mesh_common::model::Protocol;
use tokio::sync::mpsc::channel;

use super::world::*;

/// A message of so many bytes, as gRPC frames it.
fn message(length: u32) -> Vec<u8> {
    [&[0][..], &length.to_be_bytes(), &vec![b'x'; length as usize]].concat()
}

async fn counted(world: &World) -> Vec<[u64; 2]> {
    eventually("both records", || world.records.borrow().len() == 2).await;
    world.records.borrow().iter().map(|record| record.messages).collect()
}

#[test]
fn a_call_of_one_message_has_one_each_way() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let seen = world.caller().await.ask(grpc("/e/U", "\0\0\0\0\u{2}ok")).await.unwrap();
        assert_eq!(seen.trailer("grpc-status"), Some("0"));
        assert_eq!(counted(&world).await, [[1, 1]; 2]);
    });
}

#[test]
fn messages_are_counted_wherever_frames_cut_them() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let (send, receive) = channel(1);
        let request = grpc("/e/S", "").map(|_| channel_body(receive));
        let mut echoed = world.caller().await.0.send_request(request).await.unwrap().into_body();
        // One large one, three in a frame, one in two frames.
        let (large, three, two) = (message(100_000), message(0).repeat(3), message(50));
        for sent in [&large[..], &three, &two[..3], &two[3..]] {
            send.send(Bytes::copy_from_slice(sent)).await.unwrap();
            let mut back = 0;
            while back < sent.len() {
                back += echoed.frame().await.unwrap().unwrap().into_data().unwrap().len();
            }
        }
        drop(send);
        assert!(echoed.frame().await.unwrap().unwrap().is_trailers());
        assert_eq!(counted(&world).await, [[5, 5]; 2]);
    });
}

#[test]
fn messages_of_a_client_that_streams_are_counted_before_anything_is_answered() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let (send, receive) = channel(1);
        let request = grpc("/e/Collect", "").map(|_| channel_body(receive));
        let caller = world.caller().await;
        let answered = tokio::task::spawn_local(async move { caller.ask(request).await.unwrap() });
        for sent in 1..=3 {
            send.send(Bytes::from(message(2).repeat(2))).await.unwrap();
            eventually("both agents count them", || world.messages.get() == [4 * sent, 0]).await;
        }
        drop(send);
        assert_eq!(answered.await.unwrap().trailer("grpc-status"), Some("0"));
        assert_eq!(counted(&world).await, [[6, 6]; 2]);
    });
}

#[test]
fn what_is_no_call_has_no_messages() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let request = http::Request::post("http://api.shop/x").body(body("\0\0\0\0\0")).unwrap();
        assert_eq!(world.caller().await.ask(request).await.unwrap().status, StatusCode::OK);
        assert_eq!(counted(&world).await, [[0, 0]; 2]);
    });
}

/// More than h2 takes on a connection in all its life: the application's has every one of them, as has the caller's.
const EMPTY_FRAMES: usize = 250;

#[test]
fn frames_that_hold_nothing_end_no_connection() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let caller = world.caller().await;
        // Its end is a frame of its own, which the application sends back before its trailers.
        for _ in 0..EMPTY_FRAMES {
            let (send, receive) = channel(1);
            send.send(Bytes::from(message(2))).await.unwrap();
            drop(send);
            let seen = caller.ask(grpc("/e/U", "").map(|_| channel_body(receive))).await.unwrap();
            assert_eq!(seen.trailer("grpc-status"), Some("0"));
        }
        // A caller that has one with each message.
        let (send, receive) = channel(1);
        let request = grpc("/e/S", "").map(|_| channel_body(receive));
        let mut echoed = caller.0.clone().send_request(request).await.unwrap().into_body();
        for _ in 0..EMPTY_FRAMES {
            for sent in [message(2).into(), Bytes::new()] {
                send.send(sent).await.unwrap();
            }
            assert_eq!(echoed.frame().await.unwrap().unwrap().into_data().unwrap().len(), 7);
        }
        drop(send);
        while let Some(frame) = echoed.frame().await {
            assert!(frame.unwrap().data_ref().is_none_or(Bytes::is_empty));
        }
    });
}
