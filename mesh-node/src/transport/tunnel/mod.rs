//! The engine: one event loop per core over its own epoll, tunnels of TLS, streams in them.
//!
//! In: listeners inside pods' namespaces ([`NewListener`]), and the decisions of a [`Conductor`]. Out: bytes moved,
//! an [`Outcome`](super::Outcome) per connection. Never decides; knows no policy, no service and no key. The wire is
//! `docs/wire.md`; its codec and stream states are [`mesh_common::tunnel`].
//!
//! # One turn
//! [`Engine::turn`] asks epoll once, serves what is ready, then what was queued, and at its end seals and writes
//! everything that came of it. Sockets are edge-triggered and registered once; a short read means drained. Nobody
//! moves more than a budget at a time, what is bulk waits in the queue behind what is not, and a turn ends when the
//! queue has moved its budget: so a small message waits for one turn, never for a stream. Buffers are lent for the
//! turn; an idle connection keeps none.
//!
//! # Files
//! | file | what |
//! |---|---|
//! | [`engine`](Engine) | the parts, a turn, what may be asked from outside |
//! | `conductor` | what is asked of and told to whoever decides |
//! | `accept`, `begin` | sockets become connections: first bytes, courses, a second try |
//! | `connection`, `pump`, `joined`, `look` | kinds of connections; HTTP/1.1 is in [`http1`](super::http1) |
//! | `watch` | what first bytes tell while they pass |
//! | `tunnels`, `link`, `tls` | the life of tunnels; one tunnel; its TLS |
//! | `streams` | frames to connections and back |
//! | `core`, `reactor`, `timers`, `slots` | what everything uses |
//! | `mailbox`, `neighbours` | other threads; which of them has a new connection |
//! | `counters`, `settings` | numbers; limits |
//!
//! # Two ways to run it
//! [`Engine::drive`] turns it inside a tokio current-thread runtime, through its epoll descriptor; [`Engine::run`] on
//! a thread of its own. It is not `Send`-bound to either: other threads reach it by its [`Handle`].

mod accept;
mod age;
mod begin;
mod conductor;
mod connection;
mod core;
mod counters;
mod engine;
mod held;
mod joined;
mod link;
mod look;
mod mailbox;
mod neighbours;
mod pump;
mod reactor;
mod settings;
mod slots;
mod streams;
#[cfg(test)]
pub(in crate::transport) mod tests;
mod timers;
mod tls;
mod tunnels;
mod watch;

pub use accept::{ListenerId, NewListener};
pub use conductor::{
    Accepted, Caller, Conductor, Course, FirstBytes, Identified, Inbound, LostTunnel, Outbound, Refusal,
    Speaks, TunnelKey, TunnelPlan,
};
pub use connection::ConnectionId;
pub use counters::{Counter, Counters, register_metrics};
pub use engine::{Engine, LiveConnection, Next};
pub use mailbox::{Handle, Message};
pub use neighbours::Neighbour;
pub use settings::Settings;

pub(in crate::transport) use connection::{Connection, Kind, StreamEvent, StreamKey};
pub(in crate::transport) use core::{Core, NEVER};
pub(in crate::transport) use link::Link;
pub(in crate::transport) use reactor::{Ready, Token};
pub(in crate::transport) use settings::BUDGET;
pub(in crate::transport) use slots::{Key, Slots};
pub(in crate::transport) use timers::{Tick, Timed};
pub(in crate::transport) use watch::Watch;
