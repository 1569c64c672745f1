//! One connection: sends standard input, reads what comes back, says how it ended.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::connection::Connect;
use crate::report::{addresses, event, how, latin1};

/// Received bytes that the report shows; the rest is counted.
const SHOWN: usize = 1 << 20;

/// Flags of `dial`.
#[derive(Args)]
pub(crate) struct Dial {
    #[command(flatten)]
    connect: Connect,
    /// End the sending direction after the last byte
    #[arg(long)]
    shutdown: bool,
    /// Stop reading once this many bytes have come
    #[arg(long)]
    until_bytes: Option<usize>,
    /// Stop reading once this text has come
    #[arg(long)]
    until: Option<String>,
    /// Stop reading when nothing has come for so long, in milliseconds
    #[arg(long)]
    quiet_ms: Option<u64>,
    /// Milliseconds between two reads of 4 KiB: a slow reader
    #[arg(long)]
    slow_ms: Option<u64>,
    /// Close with a reset instead of an end (SO_LINGER 0)
    #[arg(long)]
    abort: bool,
    /// Send the bytes of standard input so often
    #[arg(long, default_value = "1")]
    repeat: usize,
}

impl Dial {
    /// Connects, sends, reads, reports once.
    pub(crate) fn run(&self) -> Result<()> {
        let mut input = Vec::new();
        io::stdin().read_to_end(&mut input)?;
        let start = Instant::now();
        let stream = match self.connect.open() {
            Ok(stream) => stream,
            Err(error) => {
                event(&json!({ "event": "refused", "how": how(&error), "after_ms": millis(start) }));
                return Ok(());
            }
        };
        let connected_ms = millis(start);
        let names = addresses(&stream);
        let sender = stream.try_clone()?;
        let (repeat, shutdown) = (self.repeat, self.shutdown);
        let sending = thread::spawn(move || send(&sender, &input, repeat, shutdown));
        let (received, total, mut ended) = self.receive(&stream)?;
        let after_ms = millis(start);
        if self.abort {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        let sent = (ended == "eof" || ended == "reset").then(|| sending.join());
        if let Some(Ok(Err(error))) = sent {
            event(&json!({ "event": "send failed", "how": how(&error) }));
            // A socket tells of a reset once, here the sender; the reader is told of an end then. After an end in
            // good order the sender would be told of a broken pipe (tcp_reset() of Linux).
            if error.kind() == io::ErrorKind::ConnectionReset {
                ended = how(&error);
            }
        }
        event(&json!({
            "event": "connected", "peer": names["peer"], "local": names["local"], "connected_ms": connected_ms,
            "received": latin1(&received), "received_bytes": total, "ended": ended, "after_ms": after_ms,
        }));
        Ok(())
    }

    /// Reads until one of the conditions holds: the bytes, their number, and why it stopped.
    fn receive(&self, mut stream: &TcpStream) -> Result<(Vec<u8>, usize, String)> {
        if let Some(quiet) = self.quiet_ms {
            stream.set_read_timeout(Some(Duration::from_millis(quiet)))?;
        }
        let (mut received, mut total) = (Vec::new(), 0);
        let mut buffer = vec![0; if self.slow_ms.is_some() { 4096 } else { 65_536 }];
        loop {
            if self.satisfied(&received, total) {
                return Ok((received, total, "satisfied".to_owned()));
            }
            if let Some(pause) = self.slow_ms {
                // The slow reader is the thing that is tested.
                thread::sleep(Duration::from_millis(pause));
            }
            match stream.read(&mut buffer) {
                Ok(0) => return Ok((received, total, "eof".to_owned())),
                Ok(count) => {
                    if total == 0 {
                        event(&json!({ "event": "receiving" }));
                    }
                    total += count;
                    let room = SHOWN.saturating_sub(received.len()).min(count);
                    received.extend_from_slice(&buffer[..room]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok((received, total, how(&error))),
            }
        }
    }

    fn satisfied(&self, received: &[u8], total: usize) -> bool {
        let contains =
            |text: &String| received.windows(text.len().max(1)).any(|window| window == text.as_bytes());
        self.until_bytes.is_some_and(|wanted| total >= wanted) || self.until.as_ref().is_some_and(contains)
    }
}

fn send(mut stream: &TcpStream, input: &[u8], repeat: usize, shutdown: bool) -> io::Result<()> {
    for _ in 0..repeat {
        stream.write_all(input)?;
    }
    if shutdown {
        stream.shutdown(Shutdown::Write)?;
    }
    Ok(())
}

pub(crate) fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}
