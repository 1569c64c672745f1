//! One edge-triggered socket: what is known of its readiness, reads and writes that keep it true.

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use crate::transport::connect;
use crate::transport::outcome::ConnectFailure;
use crate::transport::plain::Plain;
use crate::transport::tunnel::Ready;

pub(in crate::transport) struct Socket {
    pub(super) descriptor: Plain,
    connected: bool,
    readable: bool,
    writable: bool,
    hung_up: bool,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Bytes(usize),
    /// Nothing until epoll says so.
    Nothing,
    /// The peer will send no more.
    Ended,
    /// The connection failed.
    Broken,
}

/// Why nothing could be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// The connection was never made.
    Connect(ConnectFailure),
    /// It failed.
    Broken,
}

impl Socket {
    /// One that is connected: it may be readable and writable at once.
    pub(super) fn connected(descriptor: Plain) -> Self {
        Self { descriptor, connected: true, readable: true, writable: true, hung_up: false }
    }

    /// One whose connect is under way.
    pub(super) fn connecting(descriptor: Plain) -> Self {
        Self { descriptor, connected: false, readable: false, writable: false, hung_up: false }
    }

    pub(super) fn note(&mut self, ready: Ready) {
        self.readable |= ready.readable;
        self.writable |= ready.writable;
        self.hung_up |= ready.hung_up;
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether a read may give something.
    pub(super) fn is_readable(&self) -> bool {
        self.connected && self.readable
    }

    /// Looks whether a connect that was under way is over.
    pub(super) fn finish_connect(&mut self) -> Result<bool, ConnectFailure> {
        if !self.connected && self.writable {
            connect::finished(&self.descriptor)?;
            self.connected = true;
        }
        Ok(self.connected)
    }

    pub(super) fn receive(&mut self, room: &mut [u8]) -> Received {
        while self.is_readable() {
            match rustix::net::recv(&self.descriptor, &mut *room, RecvFlags::empty()) {
                Ok((_, 0)) => {
                    self.readable = false;
                    return Received::Ended;
                }
                Ok((_, length)) => {
                    // A short read means drained; an end shows as a hang-up.
                    self.readable = length == room.len() || self.hung_up;
                    return Received::Bytes(length);
                }
                Err(Errno::AGAIN) => self.readable = false,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.readable = false;
                    return Received::Broken;
                }
            }
        }
        Received::Nothing
    }

    /// What a read would give first, left where it is; `None` if nothing is there to be read.
    pub(super) fn peek(&mut self, room: &mut [u8]) -> Option<usize> {
        while self.is_readable() {
            match rustix::net::recv(&self.descriptor, &mut *room, RecvFlags::PEEK) {
                Ok((_, length)) => return Some(length),
                Err(Errno::AGAIN) => self.readable = false,
                Err(Errno::INTR) => {}
                // A read says what is wrong.
                Err(_) => return Some(0),
            }
        }
        None
    }

    /// Nothing is to be read until epoll says so again.
    pub(super) fn wait_for_more(&mut self) {
        self.readable = false;
    }

    /// Whether the peer will send no more.
    pub(super) fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    /// Whether there is nothing to be read now, neither bytes nor an end. Asked of the kernel: what epoll will say of
    /// it may be in the same batch as the request that it is wanted for.
    pub(super) fn is_silent(&self) -> bool {
        let peeked =
            rustix::net::recv(&self.descriptor, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(Errno::AGAIN))
    }

    /// What a read would come to, for as long as nothing is to be read: an end may only be half of one and waits,
    /// a reset does not.
    pub(super) fn look_for_failure(&mut self) -> Received {
        if self.hung_up && matches!(sockopt::socket_error(&self.descriptor), Ok(Err(_)) | Err(_)) {
            return Received::Broken;
        }
        Received::Nothing
    }

    /// Writes as much as the socket takes. Tried also while a connect is under way: over loopback it is done.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<usize, Unsent> {
        let mut sent = 0;
        while sent < bytes.len() && (self.writable || !self.connected) {
            match rustix::net::send(&self.descriptor, &bytes[sent..], SendFlags::NOSIGNAL) {
                Ok(length) => {
                    sent += length;
                    if !self.connected {
                        (self.connected, self.writable) = (true, true);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.writable = false;
                    break;
                }
                Err(_) if !self.connected => {
                    let failure = connect::finished(&self.descriptor).err();
                    return Err(Unsent::Connect(failure.unwrap_or(ConnectFailure::Refused)));
                }
                Err(_) => return Err(Unsent::Broken),
            }
        }
        Ok(sent)
    }

    /// Half-closes.
    pub(super) fn finish(&self) {
        // Fails if the peer is gone, which the next read tells.
        let _ = self.descriptor.finish();
    }
}
