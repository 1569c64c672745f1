//! Messages to an engine from other threads.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::event::{EventfdFlags, eventfd};

use super::conductor::Conductor;
use super::engine::Engine;

/// Something to be done on the engine's own thread, inside a turn.
pub type Message<C> = Box<dyn FnOnce(&mut Engine<C>) + Send>;

/// Sends messages to one core's engine. Cheap to clone; works from any thread.
pub struct Handle<C: Conductor> {
    sender: Sender<Message<C>>,
    bell: Arc<OwnedFd>,
}

pub(super) struct Mailbox<C: Conductor> {
    receiver: Receiver<Message<C>>,
    pub(super) bell: Arc<OwnedFd>,
    sender: Sender<Message<C>>,
}

impl<C: Conductor> Clone for Handle<C> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bell: self.bell.clone() }
    }
}

impl<C: Conductor> Handle<C> {
    /// Has `message` run by the engine, in its next turn. Messages of one sender keep their order. Returns whether
    /// the engine still lives.
    pub fn send(&self, message: impl FnOnce(&mut Engine<C>) + Send + 'static) -> bool {
        if self.sender.send(Box::new(message)).is_err() {
            return false;
        }
        // Fails only when 2^64 - 1 messages wait; the bell rings anyway then.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        true
    }
}

impl<C: Conductor> Mailbox<C> {
    pub(super) fn new() -> io::Result<Self> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (sender, receiver) = channel();
        Ok(Self { receiver, bell, sender })
    }

    pub(super) fn handle(&self) -> Handle<C> {
        Handle { sender: self.sender.clone(), bell: self.bell.clone() }
    }

    /// Silences the bell and takes what is there.
    pub(super) fn take(&self) -> Vec<Message<C>> {
        let mut count = [0; 8];
        // Empty if somebody else's ring was already counted.
        let _ = rustix::io::read(&self.bell, &mut count);
        self.receiver.try_iter().collect()
    }
}
