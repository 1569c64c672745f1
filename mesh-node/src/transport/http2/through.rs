//! A connection of which what is read is changed on its way, and what is written passes as it is.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is done to what is read.
pub(super) trait Reading {
    /// As [`AsyncRead::poll_read`] of `stream`, after the change.
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>>;
}

/// What was written anew of what came, until it is read.
#[derive(Debug, Default)]
pub(super) struct Rebuilt {
    pub(super) bytes: Vec<u8>,
    given: usize,
}

/// Such a connection.
#[derive(Debug)]
pub(super) struct Through<S, R> {
    pub(super) stream: S,
    pub(super) reading: R,
}

impl Rebuilt {
    /// Gives on as much as there is room for; whether that was anything.
    pub(super) fn give(&mut self, room: &mut ReadBuf<'_>) -> bool {
        let waiting = &self.bytes[self.given..];
        let count = waiting.len().min(room.remaining());
        room.put_slice(&waiting[..count]);
        self.given += count;
        if self.given == self.bytes.len() {
            self.bytes.clear();
            self.given = 0;
        }
        count > 0
    }

    /// What nobody read.
    pub(super) fn into_rest(mut self) -> Vec<u8> {
        self.bytes.split_off(self.given)
    }
}

impl<S: AsyncRead + Unpin, R: Reading + Unpin> AsyncRead for Through<S, R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, reading } = self.get_mut();
        reading.poll_read(stream, context, room)
    }
}

impl<S: AsyncWrite + Unpin, R: Unpin> AsyncWrite for Through<S, R> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
