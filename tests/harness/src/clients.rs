//! Clients inside pods: one connection, a held connection, HTTP load, curl.
//!
//! In: a pod and an address. Out: what the client saw.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{ChildStdin, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::PLAINTEXT_MARKER;
use crate::eventually::{PATIENCE, eventually};
use crate::pod::Pod;
use crate::process::{Place, Process};
use crate::servers::events;

/// One connection to be made.
#[derive(Clone, Debug)]
pub struct Dial<'place> {
    place: &'place Place,
    name: String,
    to: SocketAddr,
    flags: Vec<String>,
    input: Vec<u8>,
    limit: Duration,
}

/// What became of a connection.
#[derive(Clone, Debug)]
pub enum Dialled {
    /// `connect` failed, and how: `refused`, `not permitted`, `timeout`, `reset`, ...
    Refused {
        /// How, in one word.
        how: String,
        /// After how many milliseconds.
        after_ms: f64,
    },
    /// `connect` succeeded.
    Connected(Connected),
}

/// What a client saw of a connection.
#[derive(Clone, Debug, Deserialize)]
pub struct Connected {
    /// What `getpeername` says.
    pub peer: String,
    /// What `getsockname` says.
    pub local: String,
    /// How long `connect` took.
    pub connected_ms: f64,
    /// The bytes that came, at most 1 MiB of them (ISO 8859-1).
    pub received: String,
    /// How many bytes came.
    pub received_bytes: usize,
    /// Why reading stopped: `eof`, `reset`, `timeout`, `satisfied`.
    pub ended: String,
    /// Milliseconds from before `connect` until reading stopped.
    pub after_ms: f64,
}

/// A connection that is read from until it ends.
#[derive(Debug)]
pub struct Reading {
    process: Process,
    limit: Duration,
}

/// A connection to an echo server that is kept busy.
#[derive(Debug)]
pub struct Held {
    process: Process,
    stdin: Option<ChildStdin>,
}

/// HTTP requests that go on until they are stopped.
#[derive(Debug)]
pub struct Load {
    process: Process,
    stdin: Option<ChildStdin>,
}

/// What became of the requests of a [`Load`].
#[derive(Clone, Debug, Deserialize)]
pub struct Loaded {
    /// Answered with 200.
    pub answered: u64,
    /// Everything else.
    pub failed: u64,
    /// What everything else was.
    pub reasons: std::collections::BTreeMap<String, u64>,
    /// Longest time without an answer on one connection.
    pub longest_gap_ms: f64,
}

/// A gRPC call that goes on until it is ended.
#[derive(Debug)]
pub struct OpenCall {
    process: Process,
    stdin: Option<ChildStdin>,
}

/// How a gRPC call ended.
#[derive(Clone, Debug, Deserialize)]
pub struct Called {
    /// The HTTP status; nothing without a response.
    pub status: Option<u16>,
    /// The value of `grpc-status`.
    pub grpc_status: Option<String>,
    /// How many messages came back.
    #[serde(default)]
    pub rounds: u64,
    /// `eof`, or what HTTP/2 said.
    pub ended: String,
    /// When, in milliseconds since the epoch.
    #[serde(default)]
    pub at_ms: u64,
}

/// An HTTP response as curl saw it.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status; 0 without a response.
    pub status: u16,
    /// The body.
    pub body: String,
    /// How curl ended; 0 is success, 56 a reset.
    pub exit: i32,
}

impl Pod {
    /// A connection to be made from this pod.
    pub fn dial(&self, to: SocketAddr) -> Dial<'_> {
        Dial::new(self.place(), &format!("{}-dial", self.name()), to)
    }

    /// Sends the marker to an echo server and reads it back.
    ///
    /// # Errors
    /// Anything but the marker came back.
    pub fn echo(&self, to: SocketAddr) -> Result<Connected> {
        let connected =
            self.dial(to).send(PLAINTEXT_MARKER).until_bytes(PLAINTEXT_MARKER.len()).connected()?;
        if connected.received != PLAINTEXT_MARKER {
            bail!("echo of {to} gave {connected:?}");
        }
        Ok(connected)
    }

    /// Sends the bytes of one or more HTTP requests and reads until the connection ends or is quiet for a second.
    ///
    /// # Errors
    /// The connection cannot be opened.
    pub fn http_bytes(&self, to: SocketAddr, request: impl Into<Vec<u8>>) -> Result<Connected> {
        self.dial(to).send(request).quiet(Duration::from_secs(1)).connected()
    }

    /// Requests a URL with curl; `flags` may name a method, headers, a body.
    ///
    /// # Errors
    /// Curl cannot be started.
    pub fn curl(&self, url: &str, flags: &[&str]) -> Result<Response> {
        let marker = format!("x-marker: {PLAINTEXT_MARKER}");
        let mut arguments =
            vec!["-sS", "--max-time", "10", "--noproxy", "*", "-H", &marker, "-w", "\n%{http_code}"];
        arguments.extend(flags);
        arguments.push(url);
        let ended = self.output("curl", &arguments, Duration::from_secs(15))?;
        let (body, status) = ended.stdout.rsplit_once('\n').unwrap_or(("", "0"));
        Ok(Response {
            status: status.trim().parse().unwrap_or(0),
            body: body.to_owned(),
            exit: ended.status.code().unwrap_or(-1),
        })
    }

    /// Opens a connection to an echo server and keeps it busy.
    ///
    /// # Errors
    /// The first echo does not come.
    pub fn hold(&self, to: SocketAddr) -> Result<Held> {
        self.hold_with(to, &[])
    }

    /// Like [`Pod::hold`], with more flags of `mesh-test-pod hold`.
    ///
    /// # Errors
    /// The first echo does not come.
    pub fn hold_with(&self, to: SocketAddr, flags: &[&str]) -> Result<Held> {
        let name = format!("{}-hold", self.name());
        let to = to.to_string();
        let (process, stdin) = start(self.place(), &name, &[&["hold", "--to", &to], flags].concat())?;
        let held = Held { process, stdin };
        eventually(&format!("{name} holds a connection"), PATIENCE, || held.first("held"))?;
        Ok(held)
    }

    /// Calls a gRPC method so many times on one connection.
    ///
    /// # Errors
    /// The client cannot be run, or does not end in time.
    pub fn call(&self, to: SocketAddr, path: &str, calls: u32) -> Result<Vec<Called>> {
        let (to, calls) = (to.to_string(), calls.to_string());
        let arguments = ["call", "--to", &to, "--path", path, "--calls", &calls];
        let (process, stdin) = start(self.place(), &format!("{}-call", self.name()), &arguments)?;
        let output = process.wait(PATIENCE)?.success("a call")?;
        drop(stdin);
        let called = events(&output, "called").into_iter();
        called.map(|event| serde_json::from_value(event).context("read the report of a call")).collect()
    }

    /// Opens a gRPC call with messages both ways.
    ///
    /// # Errors
    /// The first message does not come back.
    pub fn open_call(&self, to: SocketAddr, path: &str) -> Result<OpenCall> {
        self.open_call_with(to, path, &[])
    }

    /// The same; `flags` are those of `mesh-test-pod call`.
    ///
    /// # Errors
    /// The first message does not come back.
    pub fn open_call_with(&self, to: SocketAddr, path: &str, flags: &[&str]) -> Result<OpenCall> {
        let name = format!("{}-call", self.name());
        let to = to.to_string();
        let arguments = [&["call", "--to", &to, "--path", path, "--hold"][..], flags].concat();
        let (process, stdin) = start(self.place(), &name, &arguments)?;
        let call = OpenCall { process, stdin };
        eventually(&format!("{name} has a message back"), PATIENCE, || {
            events(&call.process.stdout(), "held").pop()
        })?;
        Ok(call)
    }

    /// Starts HTTP load; `flags` are those of `mesh-test-pod load`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn load(&self, to: SocketAddr, flags: &[&str]) -> Result<Load> {
        let to = to.to_string();
        let mut arguments = vec!["load", "--to", &to];
        arguments.extend(flags);
        let (process, stdin) = start(self.place(), &format!("{}-load", self.name()), &arguments)?;
        Ok(Load { process, stdin })
    }
}

fn start(place: &Place, name: &str, arguments: &[&str]) -> Result<(Process, Option<ChildStdin>)> {
    let mut process = place.spawn_with(name, Pod::test_program()?, |command| {
        command.args(arguments).stdin(Stdio::piped());
    })?;
    let stdin = process.take_stdin();
    Ok((process, stdin))
}

impl<'place> Dial<'place> {
    /// A connection from anywhere, as from the node itself.
    pub fn new(place: &'place Place, name: &str, to: SocketAddr) -> Self {
        Self {
            place,
            name: name.to_owned(),
            to,
            flags: Vec::new(),
            input: Vec::new(),
            limit: Duration::from_secs(30),
        }
    }

    /// What is sent.
    #[must_use]
    pub fn send(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// More flags of `mesh-test-pod dial`.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// Ends the sending direction after the last byte.
    #[must_use]
    pub fn shutdown(self) -> Self {
        self.flags(&["--shutdown"])
    }

    /// Stops reading after so many bytes.
    #[must_use]
    pub fn until_bytes(self, count: usize) -> Self {
        self.flags(&["--until-bytes", &count.to_string()])
    }

    /// Stops reading when nothing comes for so long.
    #[must_use]
    pub fn quiet(self, time: Duration) -> Self {
        self.flags(&["--quiet-ms", &time.as_millis().to_string()])
    }

    /// Bounds the connect and every wait.
    #[must_use]
    pub fn timeout(self, time: Duration) -> Self {
        self.flags(&["--timeout-ms", &time.as_millis().to_string()])
    }

    /// Bounds the whole.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Makes the connection and waits for its end.
    ///
    /// # Errors
    /// The client cannot be run, or does not end in time.
    pub fn run(self) -> Result<Dialled> {
        self.start()?.finish()
    }

    /// Begins to make the connection.
    ///
    /// # Errors
    /// The client cannot be run.
    pub fn start(self) -> Result<Reading> {
        let to = self.to.to_string();
        let mut arguments = vec!["dial", "--to", &to];
        arguments.extend(self.flags.iter().map(String::as_str));
        let (process, stdin) = start(self.place, &self.name, &arguments)?;
        stdin.context("stdin was asked for")?.write_all(&self.input).context("write to the client")?;
        Ok(Reading { process, limit: self.limit })
    }

    /// Makes the connection; it must open.
    ///
    /// # Errors
    /// It does not.
    pub fn connected(self) -> Result<Connected> {
        let to = self.to;
        match self.run()? {
            Dialled::Connected(connected) => Ok(connected),
            Dialled::Refused { how, after_ms } => bail!("connect to {to}: {how} after {after_ms:.1} ms"),
        }
    }
}

impl Reading {
    /// Waits until bytes have come.
    ///
    /// # Errors
    /// None come in time.
    pub fn receives(&self) -> Result<()> {
        let reason = format!("{} receives", self.process.name());
        eventually(&reason, PATIENCE, || events(&self.process.stdout(), "receiving").pop()).map(drop)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn finish(self) -> Result<Dialled> {
        let name = self.process.name().to_owned();
        let output = self.process.wait(self.limit)?.success(&name)?;
        if let Some(event) = events(&output, "connected").pop() {
            return Ok(Dialled::Connected(serde_json::from_value(event).context("read the report")?));
        }
        let event = events(&output, "refused").pop().with_context(|| format!("no report in {output:?}"))?;
        Ok(Dialled::Refused {
            how: event["how"].as_str().unwrap_or_default().to_owned(),
            after_ms: event["after_ms"].as_f64().unwrap_or_default(),
        })
    }
}

impl Dialled {
    /// How the connection was refused, be it by `connect` or by an end without one byte.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { how, .. } => Some(how),
            Self::Connected(connected) if connected.received_bytes == 0 => Some(&connected.ended),
            Self::Connected(_) => None,
        }
    }
}

impl Held {
    fn first(&self, kind: &str) -> Option<Value> {
        events(&self.process.stdout(), kind).into_iter().next()
    }

    /// How the connection broke, and when in milliseconds since the epoch; nothing while it is whole.
    pub fn broken(&self) -> Option<(String, u64)> {
        let event = self.first("broken")?;
        Some((event["how"].as_str()?.to_owned(), event["at_ms"].as_u64()?))
    }

    /// Ends it in good order.
    ///
    /// # Errors
    /// It broke before; the text says how.
    pub fn finish(mut self) -> Result<u64> {
        drop(self.stdin.take());
        let output = self.process.wait(PATIENCE)?.success("a held connection")?;
        match events(&output, "whole").pop() {
            Some(event) => event["rounds"].as_u64().context("rounds is a number"),
            None => bail!("the held connection broke: {output}"),
        }
    }
}

impl OpenCall {
    /// How it ended; nothing while it goes on.
    pub fn ended(&self) -> Option<Called> {
        serde_json::from_value(events(&self.process.stdout(), "called").pop()?).ok()
    }

    /// Ends it in good order.
    ///
    /// # Errors
    /// The client does not end in time.
    pub fn finish(mut self) -> Result<Called> {
        drop(self.stdin.take());
        let output = self.process.wait(PATIENCE)?.success("an open call")?;
        let event = events(&output, "called").pop().context("the call reports")?;
        serde_json::from_value(event).context("read the report of a call")
    }
}

impl Load {
    /// Ends the load and counts.
    ///
    /// # Errors
    /// The client does not end in time.
    pub fn finish(mut self) -> Result<Loaded> {
        drop(self.stdin.take());
        let output = self.process.wait(Duration::from_secs(30))?.success("load")?;
        let event = events(&output, "loaded").pop().context("load reports")?;
        serde_json::from_value(event).context("read the report of load")
    }
}
