//! A client of our own, for what the daemon asks on a pod's behalf: HTTP/2 over a socket whose other end is served as that
//! pod's own connections are.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;

use super::runtime::OnThisCore;
use crate::transport::tasks;

/// Sends requests. A clone sends on the same connection.
pub type OwnClient = SendRequest<Full<Bytes>>;

/// Most bytes of an answer's head.
const MAX_HEAD: u32 = 32 << 10;

/// A client, and the socket to be served for it.
///
/// # Errors
/// The system gives no socket, or HTTP did not come about.
pub async fn own_client(serve: impl FnOnce(OwnedFd)) -> io::Result<OwnClient> {
    let (ours, served) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    served.set_nonblocking(true)?;
    serve(served.into());
    let ours = TokioIo::new(UnixStream::from_std(ours)?);
    let mut builder = Builder::new(OnThisCore);
    builder.timer(TokioTimer::new()).max_header_list_size(MAX_HEAD);
    let (client, connection) = builder.handshake(ours).await.map_err(io::Error::other)?;
    tasks::spawn(Box::pin(async move {
        // How it ended is told to the requests that it carried.
        let _: Result<(), hyper::Error> = connection.await;
    }));
    Ok(client)
}
