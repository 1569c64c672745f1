//! The access log: one record per connection or request, on every path, written off the data path.
//!
//! A record is filled while its subject lives and handed over when it is dropped, so that no path can forget it.
//! Handing over takes no lock, no text and no system call while the writer is awake, and it stays awake as long as
//! records come. The first record after a pause wakes it. The queue is bounded: what finds no place is dropped and
//! counted.

mod format;

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use mesh_common::model::{DecisionId, Direction, RequestId, Service, Spoken, Text, Workload};
use mesh_common::policy::PolicyName;
use prometheus::{IntCounter, IntCounterVec, Opts};

use super::labels::{AuditEffect, RecordedProtocol, Verdict};
use super::registry::Registry;
use crate::args::LogFormat;

/// Records that may wait for the writer: a tenth of a second at 80,000 requests per second.
const QUEUE: usize = 8192;

/// How often the writer looks while records come. Waking it for each one would cost the data path a system call.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Text gathered for one write.
const BATCH: usize = 64 * 1024;

/// Takes records. A copy hands them to the same writer.
///
/// What it points to lives as long as the process: every open record holds one, and counting references from every
/// core would make them wait for each other.
#[derive(Clone, Copy, Debug)]
pub struct AccessLog(&'static Intake);

#[derive(Debug)]
struct Intake {
    /// None: nobody wants records.
    queue: Option<SyncSender<Handed>>,
    dropped: IntCounter,
}

/// What is handed over: a record, or nothing but the wish that the writer looks whether it is to stop.
type Handed = Option<Record>;

/// The thread that writes records. Dropped, it writes what is left and ends.
#[derive(Debug)]
pub struct AccessLogWriter {
    thread: Option<JoinHandle<()>>,
    queue: SyncSender<Handed>,
    is_stopping: Arc<AtomicBool>,
}

/// What is said of one connection or request. Fill in what is known; what is absent is left out.
#[derive(Clone, Debug)]
pub struct Record {
    ended: SystemTime,
    duration: Duration,
    /// The caller's address.
    pub source_address: SocketAddr,
    /// The address that the caller dialled; for inbound the pod's.
    pub destination_address: SocketAddr,
    /// Which side this daemon stands on.
    pub direction: Direction,
    /// What was spoken.
    pub protocol: RecordedProtocol,
    /// What its first bytes told of a connection of bytes.
    pub detected: Option<Spoken>,
    /// The name that the application's own TLS asks for.
    pub server_name: Option<Text>,
    /// The caller's pod.
    pub source: Option<Arc<Workload>>,
    /// The principal that the caller proved, without `spiffe://`.
    pub source_identity: Option<Text>,
    /// The Service that was dialled.
    pub service: Option<Arc<Service>>,
    /// The called pod.
    pub destination: Option<Arc<Workload>>,
    /// The principal that the called side proved, without `spiffe://`.
    pub destination_identity: Option<Text>,
    /// The route that was taken.
    pub route: Option<Text>,
    /// The policy, and its rule, that decided.
    pub policy: Option<Box<DecidedBy>>,
    /// What policies that refuse nothing found.
    pub audit: Option<Box<Audited>>,
    /// What policy said.
    pub verdict: Verdict,
    /// What the refusal is called, where policy refused.
    pub decision: Option<DecisionId>,
    /// Why it ended as it did: one of the words that metrics use too.
    pub reason: &'static str,
    /// Bytes from the called side to the caller.
    pub bytes_sent: u64,
    /// Bytes from the caller to the called side.
    pub bytes_received: u64,
    /// What went wrong, for people.
    pub error: Option<Box<str>>,
    /// W3C trace id.
    pub trace_id: Option<[u8; 16]>,
    /// The request, where this is about one.
    pub request: Option<Box<Request>>,
}

/// The policy that decided. Printed as `Kind namespace/name rules[0]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecidedBy {
    /// Its kind and name.
    pub policy: PolicyName,
    /// Which of `spec.rules` it was, counted from 0; `None` if it was the policy as a whole.
    pub rule: Option<usize>,
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.policy)?;
        self.rule.map_or(Ok(()), |rule| write!(formatter, " rules[{rule}]"))
    }
}

/// Findings of policies that refuse nothing, none of which may be left unsaid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// The first of them, each with what it found.
    pub first: Box<[(DecidedBy, AuditEffect)]>,
    /// How many would have refused.
    pub would_deny: usize,
    /// How many of AUDIT policies matched.
    pub matched: usize,
}

impl Audited {
    /// How many are not named.
    pub fn left_off(&self) -> usize {
        (self.would_deny + self.matched).saturating_sub(self.first.len())
    }
}

/// What is said of a request besides; what is empty could not be read.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its method.
    pub method: Box<str>,
    /// Its path, as policy saw it, without the query.
    pub path: Box<str>,
    /// The host that it names.
    pub host: Box<str>,
    /// `x-request-id`: what its caller called it, or what it was called here.
    pub id: Option<RequestId>,
    /// Whom its token speaks of, as `ISSUER/SUBJECT`; `None` without a token that was looked at.
    pub end_user: Option<Text>,
    /// The response's status code; 0 if there was none.
    pub status: u16,
    /// gRPC's status, where the response has one.
    pub grpc_status: Option<u16>,
}

/// A record of something that goes on; handed over when it is dropped.
#[derive(Debug)]
pub struct OpenRecord {
    /// What is known so far.
    pub record: Record,
    log: AccessLog,
    started: Instant,
}

impl AccessLog {
    /// Starts a writer.
    ///
    /// # Errors
    /// If `registry` has the counters of another access log.
    pub fn start(
        registry: &Registry,
        format: LogFormat,
        output: Box<dyn Write + Send>,
    ) -> Result<(Self, AccessLogWriter), prometheus::Error> {
        let (written, dropped) = counters(registry)?;
        let (queue, records) = sync_channel(QUEUE);
        let is_stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_stopping);
        let thread = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_records(&records, format, output, &written, &stop))
            .map_err(|error| prometheus::Error::Msg(format!("start the access log's thread: {error}")))?;
        let writer = AccessLogWriter { thread: Some(thread), queue: queue.clone(), is_stopping };
        Ok((Self::new(Some(queue), dropped), writer))
    }

    /// Returns a log that nobody reads.
    ///
    /// # Errors
    /// If `registry` has the counters of another access log.
    pub fn off(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self::new(None, counters(registry)?.1))
    }

    fn new(queue: Option<SyncSender<Handed>>, dropped: IntCounter) -> Self {
        Self(Box::leak(Box::new(Intake { queue, dropped })))
    }

    /// Begins the record of a connection or request.
    pub fn begin(
        self,
        direction: Direction,
        source_address: SocketAddr,
        destination_address: SocketAddr,
    ) -> OpenRecord {
        OpenRecord {
            record: Record {
                ended: SystemTime::UNIX_EPOCH,
                duration: Duration::ZERO,
                source_address,
                destination_address,
                direction,
                protocol: RecordedProtocol::Tcp,
                detected: None,
                server_name: None,
                source: None,
                source_identity: None,
                service: None,
                destination: None,
                destination_identity: None,
                route: None,
                policy: None,
                audit: None,
                verdict: Verdict::Undecided,
                decision: None,
                reason: "-",
                bytes_sent: 0,
                bytes_received: 0,
                error: None,
                trace_id: None,
                request: None,
            },
            log: self,
            started: Instant::now(),
        }
    }
}

impl Drop for OpenRecord {
    fn drop(&mut self) {
        let Some(queue) = &self.log.0.queue else {
            return;
        };
        let record = Record {
            ended: SystemTime::now(),
            duration: self.started.elapsed(),
            server_name: self.record.server_name.take(),
            source: self.record.source.take(),
            source_identity: self.record.source_identity.take(),
            service: self.record.service.take(),
            destination: self.record.destination.take(),
            destination_identity: self.record.destination_identity.take(),
            route: self.record.route.take(),
            policy: self.record.policy.take(),
            audit: self.record.audit.take(),
            error: self.record.error.take(),
            request: self.record.request.take(),
            ..self.record
        };
        if queue.try_send(Some(record)).is_err() {
            self.log.0.dropped.inc();
        }
    }
}

impl Drop for AccessLogWriter {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // Refused if the queue is full, and then the writer is awake.
            let _ = self.queue.try_send(None);
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the access log's thread panicked");
            }
        }
    }
}

fn counters(registry: &Registry) -> Result<(IntCounter, IntCounter), prometheus::Error> {
    let records = IntCounterVec::new(
        Opts::new(
            "nodemesh_telemetry_access_records_total",
            "Access records, counted when they are written, or dropped because the writer was behind.",
        ),
        &["result"],
    )?;
    registry.register(Box::new(records.clone()))?;
    Ok((records.with_label_values(&["written"]), records.with_label_values(&["dropped"])))
}

fn write_records(
    records: &Receiver<Handed>,
    format: LogFormat,
    output: Box<dyn Write + Send>,
    written: &IntCounter,
    is_stopping: &AtomicBool,
) {
    let mut clock = format::Clock::default();
    let mut batch = Batch { text: Vec::with_capacity(BATCH), output, is_broken: false };
    let mut write = |batch: &mut Batch, record: &Record| {
        format::write(&mut batch.text, &mut clock, record, format);
        written.inc();
        if batch.text.len() >= BATCH {
            batch.flush();
        }
    };
    // Whoever hands over the first record after a pause wakes this thread.
    while let Ok(first) = records.recv() {
        let mut had_some = true;
        first.iter().for_each(|record| write(&mut batch, record));
        while had_some {
            // Read first: what was handed over before the stop is still written.
            let is_last = is_stopping.load(Ordering::Acquire);
            had_some = false;
            for record in records.try_iter().flatten() {
                had_some = true;
                write(&mut batch, &record);
            }
            had_some |= !batch.text.is_empty();
            batch.flush();
            if is_last {
                return;
            }
            if had_some {
                thread::park_timeout(LOOK_EVERY);
            }
        }
    }
}

/// Text on its way out.
struct Batch {
    text: Vec<u8>,
    output: Box<dyn Write + Send>,
    /// The last write failed, and that has been said.
    is_broken: bool,
}

impl Batch {
    fn flush(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let result = self.output.write_all(&self.text).and_then(|()| self.output.flush());
        if let Err(error) = &result
            && !self.is_broken
        {
            tracing::error!(error = %super::chain::Chain(error), "access records are lost: cannot write them");
        }
        self.is_broken = result.is_err();
        self.text.clear();
    }
}

#[cfg(test)]
mod tests;
