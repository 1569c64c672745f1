//! HTTP requests or gRPC calls from several connections until standard input ends, counted by what became of them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use mesh_test_harness::PLAINTEXT_MARKER;
use serde_json::json;

use crate::connection::Connect;
use crate::hold::stop_at_end_of_input;
use crate::http2::Calls;
use crate::report::{event, how};

/// Flags of `load`.
#[derive(Args, Clone)]
pub(crate) struct Load {
    #[command(flatten)]
    connect: Connect,
    /// Connections at the same time
    #[arg(long, default_value = "4")]
    connections: usize,
    /// A new connection for every request
    #[arg(long)]
    fresh: bool,
    /// Milliseconds between two requests of one connection
    #[arg(long, default_value = "2")]
    every_ms: u64,
    /// Path of the requests
    #[arg(long, default_value = "/")]
    path: String,
    /// Calls gRPC over HTTP/2 instead
    #[arg(long)]
    grpc: bool,
}

/// An open connection.
enum Open {
    Http1(TcpStream),
    Grpc(Calls),
}

/// What became of the requests of one connection.
#[derive(Default)]
struct Tally {
    answered: u64,
    failed: BTreeMap<String, u64>,
    /// Longest time between two answers.
    longest_gap: Duration,
}

impl Load {
    /// Loads, then reports once.
    pub(crate) fn run(&self) -> Result<()> {
        let stop = stop_at_end_of_input();
        event(&json!({ "event": "loading" }));
        let tallies: Vec<Tally> = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.connections).map(|_| scope.spawn(|| self.work(&stop))).collect();
            workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
        });
        let mut failed = BTreeMap::<String, u64>::new();
        for tally in &tallies {
            for (reason, count) in &tally.failed {
                *failed.entry(reason.clone()).or_default() += count;
            }
        }
        let longest = tallies.iter().map(|tally| tally.longest_gap).max().unwrap_or_default();
        event(&json!({
            "event": "loaded",
            "answered": tallies.iter().map(|tally| tally.answered).sum::<u64>(),
            "failed": failed.values().sum::<u64>(),
            "reasons": failed,
            "longest_gap_ms": longest.as_secs_f64() * 1000.0,
        }));
        Ok(())
    }

    fn work(&self, stop: &AtomicBool) -> Tally {
        let mut tally = Tally::default();
        let mut open = None;
        let mut last = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            match self.request(&mut open) {
                Ok(200) => {
                    tally.answered += 1;
                    tally.longest_gap = tally.longest_gap.max(last.elapsed());
                    last = Instant::now();
                }
                Ok(status) => *tally.failed.entry(format!("status {status}")).or_default() += 1,
                Err(error) => {
                    open = None;
                    *tally.failed.entry(how(&error)).or_default() += 1;
                }
            }
            if self.fresh {
                open = None;
            }
            // The pace of the load, not a wait for something.
            thread::sleep(Duration::from_millis(self.every_ms));
        }
        tally
    }

    /// Sends one request, over the connection that is there or a new one: the status.
    fn request(&self, open: &mut Option<Open>) -> io::Result<u16> {
        match open.take() {
            // One that was told to go ends in good order.
            Some(Open::Grpc(calls)) if calls.is_open() => self.call(calls, open),
            _ if self.grpc => self.call(Calls::open(&self.connect)?, open),
            Some(Open::Http1(stream)) => self.get(stream, open),
            _ => self.get(self.connect.open()?, open),
        }
    }

    fn call(&self, mut calls: Calls, open: &mut Option<Open>) -> io::Result<u16> {
        let status = calls.call(&self.path)?;
        *open = Some(Open::Grpc(calls));
        Ok(status)
    }

    fn get(&self, mut connection: TcpStream, open: &mut Option<Open>) -> io::Result<u16> {
        let head = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\nx-marker: {PLAINTEXT_MARKER}\r\n\r\n",
            self.path, self.connect.to
        );
        connection.write_all(head.as_bytes())?;
        let (status, reusable) = read_response(&mut connection)?;
        if reusable {
            *open = Some(Open::Http1(connection));
        }
        Ok(status)
    }
}

/// Reads a response with a `content-length`: its status, and whether the connection may be used again.
fn read_response(stream: &mut TcpStream) -> io::Result<(u16, bool)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length: usize =
                field(&head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
                let status = status.ok_or(io::ErrorKind::InvalidData)?;
                return Ok((status, field(&head, "connection") != Some("close")));
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn field<'head>(head: &'head str, name: &str) -> Option<&'head str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim())
}
