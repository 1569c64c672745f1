//! Servers inside pods, and what they say that they saw.
//!
//! In: a pod, a kind of server, an address. Out: a guard with the server's events.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::eventually::{PATIENCE, eventually};
use crate::pod::Pod;
use crate::process::{Place, Process};

/// What a server does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sends back what comes.
    Echo,
    /// Answers only after the end of what comes.
    HalfClose,
    /// Speaks first, then echoes.
    Banner,
    /// Reads and says nothing.
    Sink,
    /// Resets after the first byte.
    Reset,
    /// HTTP/1.1, reporting every byte.
    Http,
    /// HTTP/2 without TLS, reporting every request; gRPC is echoed.
    Http2,
    /// HTTP/2 without TLS, with the interim answers that a path names, as `/103/102`.
    Interims,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    process: Process,
}

/// The addresses that a server saw of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What `accept` returned.
    pub accept: String,
    /// What `getpeername` says.
    pub peer: String,
    /// What `getsockname` says.
    pub local: String,
}

impl Accepted {
    /// What `getpeername` says, an IPv4-mapped address as IPv4.
    ///
    /// # Errors
    /// It is no address.
    pub fn caller(&self) -> Result<SocketAddr> {
        let peer: SocketAddr = self.peer.parse().with_context(|| format!("read {}", self.peer))?;
        Ok(SocketAddr::new(peer.ip().to_canonical(), peer.port()))
    }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::HalfClose => "half-close",
            Self::Banner => "banner",
            Self::Sink => "sink",
            Self::Reset => "reset",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Interims => "interims",
        }
    }
}

impl Pod {
    /// Serves on every address of the pod, IPv4 and IPv6.
    ///
    /// # Errors
    /// The port is taken.
    pub fn serve(&self, kind: Kind, port: u16) -> Result<Server> {
        self.serve_with(kind, &format!("[::]:{port}"), &[])
    }

    /// Serves on one address, with more flags of `mesh-test-pod serve`.
    ///
    /// # Errors
    /// The address is taken, or not the pod's.
    pub fn serve_with(&self, kind: Kind, listen: &str, flags: &[&str]) -> Result<Server> {
        Server::start(self.place(), &format!("{}-{}", self.name(), kind.word()), kind, listen, flags)
    }
}

impl Server {
    /// Serves anywhere, as on the node itself.
    ///
    /// # Errors
    /// The address is taken.
    pub fn start(place: &Place, name: &str, kind: Kind, listen: &str, flags: &[&str]) -> Result<Self> {
        let mut arguments = vec!["serve", kind.word(), "--listen", listen];
        arguments.extend(flags);
        let mut server = Self { process: place.spawn(name, Pod::test_program()?, &arguments)? };
        eventually(&format!("{name} listens"), PATIENCE, || {
            (!server.events("listening").is_empty() || server.process.ended().is_some()).then_some(())
        })?;
        if let Some(status) = server.process.ended() {
            anyhow::bail!("{name} ended with {status}: {}", server.process.stderr());
        }
        Ok(server)
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Every event of one kind so far.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        events(&self.process.stdout(), kind)
    }

    /// Waits for the event number `count` (from 1) of a kind.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn event(&self, kind: &str, count: usize, limit: Duration) -> Result<Value> {
        let reason = format!("{} says {kind:?} {count} times", self.process.name());
        eventually(&reason, limit, || self.events(kind).get(count - 1).cloned())
    }

    /// The addresses of connection number `count` (from 1).
    ///
    /// # Errors
    /// There is no such connection.
    pub fn accepted(&self, count: usize) -> Result<Accepted> {
        let event = self.event("accepted", count, PATIENCE)?;
        let text = |key: &str| event[key].as_str().map(str::to_owned).context("accepted has addresses");
        Ok(Accepted { accept: text("accept")?, peer: text("peer")?, local: text("local")? })
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.events("accepted").len()
    }

    /// Every byte that an HTTP server saw, of all connections in the order of reading (ISO 8859-1).
    pub fn bytes_seen(&self) -> String {
        self.events("bytes").iter().filter_map(|event| event["text"].as_str()).collect()
    }

    /// Stops it.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn stop(mut self) -> Result<()> {
        self.process.kill()
    }
}

/// The events of one kind in the output of `mesh-test-pod`. A line that is being written is left out.
pub fn events(output: &str, kind: &str) -> Vec<Value> {
    output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["event"] == kind)
        .collect()
}
