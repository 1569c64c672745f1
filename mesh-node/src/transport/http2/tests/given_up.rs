//! Messages that their sender gives up with NO_ERROR, which some take for their end (RFC 9113 section 8.1 has it only for what
//! comes after a whole one).

use std::rc::Rc;

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use mesh_common::model::Protocol;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::world::*;

/// How an application saw a request's body: its bytes, and whether it ended.
type Heard = (Bytes, Result<(), Option<Reason>>);

async fn heard(mut body: RecvStream) -> Heard {
    let mut came = Vec::new();
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => came.extend_from_slice(&data),
            Err(error) => return (came.into(), Err(error.reason())),
        }
    }
    (came.into(), Ok(()))
}

/// An application that answers one request with `part` of a body, gives the answer up with this reason when it is told to, and
/// then says how it heard the request.
async fn application(world: &World, give_up: oneshot::Receiver<Reason>, tell: oneshot::Sender<Heard>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.application.set(listener.local_addr().unwrap());
    spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        spawn_local(async move { while connection.accept().await.is_some() {} });
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        send.send_data(Bytes::from_static(b"part"), false).unwrap();
        spawn_local(async move { tell.send(heard(request.into_body()).await) });
        match give_up.await {
            Ok(reason) => send.send_reset(reason),
            // It goes on until its caller ends it.
            Err(_) => drop(std::future::poll_fn(|context| send.poll_reset(context)).await),
        }
    });
}

/// A request of which `part` is sent, and what its answer begins with.
async fn begun(world: &Rc<World>) -> (h2::SendStream<Bytes>, RecvStream) {
    let (mut sender, connection) = h2::client::handshake(world.raw_caller().await).await.unwrap();
    spawn_local(async move { drop(connection.await) });
    let request = Request::post("http://api.shop/x").body(()).unwrap();
    let (response, mut send) = sender.send_request(request, false).unwrap();
    send.send_data(Bytes::from_static(b"part"), false).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "part");
    (send, body)
}

#[test]
fn an_answer_that_is_given_up_is_never_whole() {
    on_one_core(async {
        for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
            let world = World::start(Protocol::Http2).await;
            let (give_up, gives_up) = oneshot::channel();
            application(&world, gives_up, oneshot::channel().0).await;
            let (_send, mut body) = begun(&world).await;
            give_up.send(reason).unwrap();
            let end = body.data().await.expect("it has no end").unwrap_err();
            assert!(end.is_reset() && end.reason() != Some(Reason::NO_ERROR), "{reason:?}: {end:?}");
        }
    });
}

#[test]
fn a_request_that_is_given_up_is_never_whole() {
    on_one_core(async {
        for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
            let world = World::start(Protocol::Http2).await;
            let (_never, gives_up) = oneshot::channel();
            let (tell, told) = oneshot::channel();
            application(&world, gives_up, tell).await;
            let (mut send, _body) = begun(&world).await;
            send.send_reset(reason);
            let (came, end) = told.await.unwrap();
            assert_eq!(came, "part");
            let end = end.expect_err("the application takes it for a whole one");
            assert_ne!(end, Some(Reason::NO_ERROR), "{reason:?}");
        }
    });
}

/// An application that begins its answer and has never room for the request; how it heard that.
async fn without_room(world: &World) -> oneshot::Receiver<Heard> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.application.set(listener.local_addr().unwrap());
    let (tell, told) = oneshot::channel();
    spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut builder = h2::server::Builder::new();
        let mut connection = builder.initial_window_size(0).handshake::<_, Bytes>(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        spawn_local(async move { while connection.accept().await.is_some() {} });
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        send.send_data(Bytes::from_static(b"part"), false).unwrap();
        let _ = tell.send(heard(request.into_body()).await);
        drop(send);
    });
    told
}

/// There may never be room.
#[test]
fn a_request_that_waits_for_room_ends_with_its_permission_and_with_its_caller() {
    on_one_core(async {
        for is_cut in [true, false] {
            let world = World::start(Protocol::Http2).await;
            let told = without_room(&world).await;
            let (mut send, _body) = begun(&world).await;
            // More than any has room for before it says how much that is.
            send.send_data(vec![b'x'; 200 << 10].into(), false).unwrap();
            // What asks after it, on the way that the agents share, is refused after it came.
            for _ in 0..2 {
                drop(world.caller().await.ask(get("/after")).await);
            }
            if is_cut {
                world.cuts.borrow()[1].now();
            } else {
                send.send_reset(Reason::CANCEL);
            }
            let (came, end) = told.await.unwrap();
            assert_eq!(came, "part", "of the rest it has no room for anything");
            let why = if is_cut { Reason::INTERNAL_ERROR } else { Reason::CANCEL };
            assert_eq!(end, Err(Some(why)), "cut: {is_cut}");
        }
    });
}
