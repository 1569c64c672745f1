//! Idle HTTP/1.1 connections of this core to applications, kept for the next request of the same caller.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tokio::time::{Instant, sleep, timeout};

use super::pool::Key;
use super::settings::Settings;
use super::strict::Sender;
use crate::transport::tasks;

/// Idle connections.
pub(super) struct IdlePool {
    idle: RefCell<HashMap<Key, Vec<Idle>>>,
    settings: Rc<Settings>,
    /// Whether the task that closes old ones runs.
    sweeping: Cell<bool>,
}

struct Idle {
    sender: Sender,
    since: Instant,
}

impl IdlePool {
    pub(super) fn new(settings: Rc<Settings>) -> Rc<Self> {
        Rc::new(Self { idle: RefCell::default(), settings, sweeping: Cell::new(false) })
    }

    /// A connection that can take a request now: the one used last.
    pub(super) async fn take(&self, key: &Key) -> Option<Sender> {
        loop {
            let Idle { mut sender, .. } = self.idle.borrow_mut().get_mut(key)?.pop()?;
            if sender.is_ready() {
                return Some(sender);
            }
            // Ready once hyper saw the end of the exchange before: at once, but for the turn that this takes.
            if matches!(timeout(self.settings.connect_timeout, sender.ready()).await, Ok(Ok(()))) {
                return Some(sender);
            }
        }
    }

    /// Keeps a connection whose request and response are both complete.
    pub(super) fn give_back(self: &Rc<Self>, key: Key, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(key).or_default();
        if connections.len() < self.settings.idle_per_application {
            connections.push(Idle { sender, since: Instant::now() });
        }
        drop(idle);
        self.sweep();
    }

    /// Closes connections that were idle for too long, as long as there are any.
    fn sweep(self: &Rc<Self>) {
        if self.sweeping.replace(true) {
            return;
        }
        let pool = self.clone();
        tasks::spawn(async move {
            let period = pool.settings.idle_timeout;
            while !pool.idle.borrow().is_empty() {
                sleep(period / 2).await;
                pool.idle.borrow_mut().retain(|_, connections| {
                    connections.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < period);
                    !connections.is_empty()
                });
            }
            pool.sweeping.set(false);
        });
    }
}
