//! Connections to applications: in use by one exchange, or pooled for the next one of the same caller.

use std::collections::HashMap;
use std::time::Duration;

use super::PoolScope;
use super::socket::Socket;
use crate::transport::tunnel::{Key, NEVER, Slots, Tick};

/// A connection to an application.
pub(in crate::transport) struct Application {
    pub(super) socket: Socket,
    /// The connection whose exchange it serves; `None` while it waits in the pool.
    pub(super) user: Option<Key>,
    scope: Option<PoolScope>,
    idle_since: Tick,
}

/// The connections to applications of one core.
pub(in crate::transport) struct Applications {
    slots: Slots<Application>,
    /// Those that wait, the one that was used last at the end.
    pool: HashMap<PoolScope, Vec<Key>, foldhash::fast::RandomState>,
    waiting: usize,
    /// When the one that waited longest is looked at.
    pub(super) scheduled: Tick,
}

/// How many may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) per_scope: usize,
    pub(super) in_all: usize,
}

impl Default for Applications {
    fn default() -> Self {
        Self { slots: Slots::new(), pool: HashMap::default(), waiting: 0, scheduled: NEVER }
    }
}

impl Applications {
    pub(super) fn insert(&mut self, socket: Socket, user: Key, scope: Option<PoolScope>) -> Key {
        self.slots.insert(Application { socket, user: Some(user), scope, idle_since: Tick::default() })
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Application> {
        self.slots.get_mut(key)
    }

    /// Closes one, in use or not.
    pub(super) fn remove(&mut self, key: Key) -> Option<Socket> {
        let application = self.slots.remove(key)?;
        if application.user.is_none()
            && let Some(scope) = &application.scope
        {
            self.leave_pool(scope, key);
        }
        Some(application.socket)
    }

    /// Takes the one that was used last: the least likely to be closed just now. One that has ended, or said
    /// something that nobody asked for, is closed: it would pass for the answer to what comes next.
    pub(super) fn take(&mut self, scope: &PoolScope, user: Key) -> Option<Key> {
        loop {
            let pooled = self.pool.get_mut(scope)?;
            let key = pooled.pop()?;
            if pooled.is_empty() {
                self.pool.remove(scope);
            }
            self.waiting -= 1;
            if let Some(application) = self.slots.get_mut(key)
                && application.socket.is_silent()
            {
                application.user = Some(user);
                return Some(key);
            }
            self.slots.remove(key);
        }
    }

    /// Lets one wait for the next exchange. Without a scope, or without room, it is closed.
    pub(super) fn put_back(&mut self, key: Key, room: Room, now: Tick) {
        let Some(application) = self.slots.get_mut(key) else { return };
        let taken = application.scope.as_ref().and_then(|scope| self.pool.get(scope)).map_or(0, Vec::len);
        let Some(scope) = application.scope.clone().filter(|_| taken < room.per_scope) else {
            self.slots.remove(key);
            return;
        };
        if self.waiting >= room.in_all {
            self.slots.remove(key);
            return;
        }
        application.user = None;
        application.idle_since = now;
        self.pool.entry(scope).or_default().push(key);
        self.waiting += 1;
    }

    /// Closes what has waited for as long as `wait`; says when to look again, if anything waits.
    pub(super) fn expire(&mut self, now: Tick, wait: Duration) -> Option<Tick> {
        self.scheduled = NEVER;
        let mut next: Option<Tick> = None;
        for key in self.pool.values().flatten().copied().collect::<Vec<_>>() {
            match self.slots.get(key).map(|application| application.idle_since.after(wait)) {
                Some(end) if end <= now => drop(self.remove(key)),
                Some(end) => next = Some(next.map_or(end, |next| next.min(end))),
                None => {}
            }
        }
        next
    }

    fn leave_pool(&mut self, scope: &PoolScope, key: Key) {
        let Some(pooled) = self.pool.get_mut(scope) else { return };
        let before = pooled.len();
        pooled.retain(|other| *other != key);
        self.waiting -= before - pooled.len();
        if pooled.is_empty() {
            self.pool.remove(scope);
        }
    }
}
