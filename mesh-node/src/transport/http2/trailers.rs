//! Trailers of what is sent over HTTP/1.1: all of them pass, as Envoy passes them.
//!
//! hyper writes only those that the head names in `Trailer`, which no sender has to (RFC 9110 section 6.6.2). So they are kept
//! from it: it ends the chunks as if there were none, and that end is written anew with them. A message that says its length
//! has no place for trailers over HTTP/1.1 (RFC 9112 section 7.1.2): there they are left out.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The end of chunks without trailers.
const END: &[u8] = b"0\r\n\r\n";

/// The trailers of the message that is being written to a connection, from when its body has ended: written lines. Shared by
/// both, which are of this thread; but hyper changes the protocol of nothing that may not go to another.
#[derive(Clone, Debug, Default)]
pub(super) struct Trailers(Arc<Mutex<Vec<u8>>>);

/// A body that gives its trailers to its connection.
pub(super) struct Aside<B> {
    body: B,
    /// `None` where the message has no place for them.
    trailers: Option<Trailers>,
}

/// A connection that ends chunks with the trailers that it has.
#[derive(Debug)]
pub(super) struct WithTrailers<S> {
    stream: S,
    trailers: Trailers,
    /// The rest of a message with trailers, once its body has ended: of what hyper wrote, then with them.
    held: Vec<u8>,
    written: usize,
    is_complete: bool,
}

impl Trailers {
    fn lines(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("nothing panics while it is held")
    }

    /// Nothing of an earlier message is left.
    pub(super) fn begin(&self) {
        self.lines().clear();
    }

    fn end_with(&self, trailers: &HeaderMap) {
        let mut lines = self.lines();
        for (name, value) in trailers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                lines.extend_from_slice(part);
            }
        }
    }
}

impl<B> Aside<B> {
    /// `trailers`: of the connection that it is sent on, if the message is sent in chunks.
    pub(super) fn new(body: B, trailers: Option<Trailers>) -> Self {
        Self { body, trailers }
    }

    pub(super) fn into_inner(self) -> B {
        self.body
    }
}

impl<B: Body + Unpin> Body for Aside<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match frame.transpose()?.map(Frame::into_trailers) {
            None => Poll::Ready(None),
            Some(Err(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Ok(trailers)) => {
                if let Some(aside) = &self.trailers {
                    aside.end_with(&trailers);
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<S> WithTrailers<S> {
    pub(super) fn new(stream: S, trailers: Trailers) -> Self {
        Self { stream, trailers, held: Vec::new(), written: 0, is_complete: false }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Whether what is written now is the rest of a message that ends with trailers.
    fn holds(&self) -> bool {
        !self.held.is_empty() || !self.trailers.lines().is_empty()
    }

    /// Puts the trailers into the end that hyper wrote.
    fn complete(&mut self) -> io::Result<()> {
        let Some(before) = self.held.strip_suffix(END).map(<[u8]>::len) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "chunks end as they do not"));
        };
        self.held.truncate(before);
        self.held.extend_from_slice(b"0\r\n");
        self.held.append(&mut self.trailers.lines());
        self.held.extend_from_slice(b"\r\n");
        self.is_complete = true;
        Ok(())
    }
}

impl<S: AsyncWrite + Unpin> WithTrailers<S> {
    /// Writes what is held. Whoever flushes has written all of its message: its body has ended.
    fn poll_held(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if !self.is_complete {
            self.complete()?;
        }
        while self.written < self.held.len() {
            let rest = &self.held[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        (self.held, self.written, self.is_complete) = (Vec::new(), 0, false);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WithTrailers<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, room)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithTrailers<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_complete {
            // The next message; its connection flushes before it, but nothing says that it must.
            ready!(this.poll_held(context))?;
        }
        if !this.holds() {
            return Pin::new(&mut this.stream).poll_write_vectored(context, pieces);
        }
        // As much as hyper had not written when the body ended, which is bounded by its own buffer.
        let before = this.held.len();
        pieces.iter().for_each(|piece| this.held.extend_from_slice(piece));
        Poll::Ready(Ok(this.held.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_held(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_held(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use bytes::Bytes;
    use http::{HeaderMap, HeaderName, HeaderValue, Request};
    use http_body_util::{BodyExt, Full};
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, duplex};
    use tokio::time::timeout;

    use super::*;

    /// A body in pieces of seven bytes, with trailers.
    struct Pieces(usize, Option<HeaderMap>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.0 > 0 {
                self.0 -= 1;
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"0\r\n\r\n!")))));
            }
            Poll::Ready(self.1.take().map(|trailers| Ok(Frame::trailers(trailers))))
        }
    }

    /// A POST with such a body is written so that it ends with `end`, to somebody who reads so much at a time.
    async fn check(pieces: usize, trailers: &[(&'static str, &'static [u8])], room: usize, end: &[u8]) {
        let (here, mut there) = duplex(room);
        let aside = Trailers::default();
        let stream = TokioIo::new(WithTrailers::new(here, aside.clone()));
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        let fields = trailers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap()));
        let body = Pieces(pieces, Some(fields.collect()));
        let request = Request::post("/x").body(Aside::new(body, Some(aside))).unwrap();
        let mut seen = Vec::new();
        let look = async {
            let mut bytes = [0; 64];
            while !seen.ends_with(end) {
                let count = there.read(&mut bytes).await.unwrap();
                seen.extend_from_slice(&bytes[..count]);
            }
        };
        // Long for what is written at once, in pieces of a byte.
        let seen_in_time = timeout(Duration::from_secs(10), async {
            tokio::select! {
                () = look => {}
                ended = connection => panic!("{ended:?}"),
                answered = sender.send_request(request) => panic!("{answered:?}"),
            }
        });
        assert!(seen_in_time.await.is_ok(), "{pieces} {room}: {}", seen.escape_ascii());
    }

    #[tokio::test]
    async fn all_of_them_end_the_chunks_however_slowly_it_is_read() {
        for pieces in [0, 1, 2, 300] {
            let chunks = b"6\r\n0\r\n\r\n!\r\n".repeat(pieces);
            for room in [1, 2, 5, 13, 64, 4096, 1 << 20] {
                let with = [&b"\r\n\r\n"[..], &chunks, b"0\r\nx-sum: 7\r\ny: \x85\xff\r\n\r\n"].concat();
                check(pieces, &[("x-sum", b"7"), ("y", b"\x85\xff")], room, &with).await;
                let without = [&b"\r\n\r\n"[..], &chunks, END].concat();
                check(pieces, &[], room, &without).await;
            }
        }
    }

    #[tokio::test]
    async fn a_message_without_a_place_for_them_goes_without() {
        let full = Full::new(Bytes::from_static(b"ok")).with_trailers(async {
            Some(Ok(HeaderMap::from_iter([(HeaderName::from_static("x"), HeaderValue::from_static("1"))])))
        });
        let collected = Aside::new(Box::pin(full), None).collect().await.unwrap();
        assert_eq!(collected.trailers(), None);
        assert_eq!(collected.to_bytes(), "ok");
    }
}
