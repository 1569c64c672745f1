//! A TCP connection in the clear, whose end in good order somebody takes for the end of what was said.
//!
//! Nothing in opaque bytes, or in an HTTP answer without a length, says whether they are complete: only the way in
//! which the connection ends does. So an end in good order has to be meant. Here it is the exception: a [`Plain`]
//! that is dropped, or that the kernel closes because the process is gone, resets its connection (SO_LINGER 0).
//! [`finish`](Plain::finish) and [`let_go`](Plain::let_go) are what ends it well. TLS and HTTP/2 say themselves where
//! they end, and need none of this.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::Shutdown;

use super::connect;
use super::outcome::CloseReason;

/// A connection with an application, or with a stranger, in the clear.
#[derive(Debug)]
pub struct Plain(OwnedFd);

impl Plain {
    /// From now on every end that is not meant is a reset.
    pub fn new(socket: OwnedFd) -> Self {
        connect::reset_on_close(&socket);
        Self(socket)
    }

    /// One on which this side's messages say themselves where they end, as requests do: closed as any other, until
    /// [`guard`](Self::guard).
    pub fn framed(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The same as from [`new`](Self::new) on: messages have given way to bytes.
    pub fn guard(&self) {
        connect::reset_on_close(self);
    }

    /// Says that nothing more comes from this side; the other one may go on. What the other side has not taken yet
    /// reaches it, and then the end, whatever becomes of this process.
    ///
    /// # Errors
    /// It is not connected any more.
    pub fn finish(&self) -> Result<(), Errno> {
        self.end_in_good_order();
        rustix::net::shutdown(&self.0, Shutdown::Write)
    }

    /// Closes it in good order: what the other side has not taken yet reaches it.
    pub fn let_go(self) {
        self.end_in_good_order();
    }

    /// Closes it in the way in which what it carried ended: anything but an orderly end is passed on as a reset.
    pub fn end(self, reason: CloseReason) {
        match reason {
            CloseReason::Completed => self.let_go(),
            _ => self.reset(),
        }
    }

    /// Closes it with a reset, also after [`finish`](Self::finish).
    pub fn reset(self) {
        connect::reset_on_close(&self);
    }

    /// Gives the socket to whoever says where what it sends ends.
    pub fn into_framed(self) -> OwnedFd {
        self.end_in_good_order();
        self.0
    }

    fn end_in_good_order(&self) {
        connect::end_on_close(&self.0);
    }
}

impl AsFd for Plain {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// More than the sockets of both sides hold: most of it is unsent when the connection is closed.
    const MUCH: usize = 8 << 20;

    /// A connection with much to be read, and how many bytes that is.
    fn full() -> (Plain, TcpStream, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut writer, _) = listener.accept().unwrap();
        writer.set_nonblocking(true).unwrap();
        let block = vec![7; MUCH];
        let mut written = 0;
        while let Ok(length) = writer.write(&block) {
            written += length;
        }
        (Plain::new(writer.into()), reader, written)
    }

    fn read(mut reader: TcpStream) -> Result<usize, ErrorKind> {
        let mut read = Vec::new();
        reader.read_to_end(&mut read).map_err(|error| error.kind())
    }

    #[test]
    fn one_that_is_dropped_does_not_end_in_good_order() {
        let (plain, reader, _) = full();
        drop(plain);
        assert_eq!(read(reader), Err(ErrorKind::ConnectionReset));
    }

    #[test]
    fn what_is_unsent_arrives_after_a_good_end() {
        let (plain, reader, written) = full();
        plain.let_go();
        assert_eq!(read(reader), Ok(written));
        let (plain, reader, written) = full();
        plain.finish().unwrap();
        // As if the process had died just after.
        drop(plain);
        assert_eq!(read(reader), Ok(written));
        let (plain, reader, written) = full();
        drop(plain.into_framed());
        assert_eq!(read(reader), Ok(written));
    }

    #[test]
    fn a_reset_is_one_after_a_half_close_too() {
        let (plain, reader, _) = full();
        plain.finish().unwrap();
        plain.reset();
        assert_eq!(read(reader), Err(ErrorKind::ConnectionReset));
    }

    #[test]
    fn messages_that_gave_way_to_bytes_are_guarded() {
        let (plain, reader, written) = full();
        drop(Plain::framed(plain.into_framed()));
        assert_eq!(read(reader), Ok(written));
        let (plain, reader, _) = full();
        let plain = Plain::framed(plain.into_framed());
        plain.guard();
        drop(plain);
        assert_eq!(read(reader), Err(ErrorKind::ConnectionReset));
    }
}
