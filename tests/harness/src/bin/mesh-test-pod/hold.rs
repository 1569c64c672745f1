//! One long connection to an echo server: says when it opened and when and how it broke.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;
use mesh_test_harness::PLAINTEXT_MARKER;
use serde_json::json;

use crate::connection::Connect;
use crate::report::{addresses, event, how};

/// Flags of `hold`.
#[derive(Args)]
pub(crate) struct Hold {
    #[command(flatten)]
    connect: Connect,
    /// Milliseconds between two lines
    #[arg(long, default_value = "10")]
    every_ms: u64,
}

impl Hold {
    /// Sends a line and reads it back, again and again, until standard input ends or the connection breaks.
    pub(crate) fn run(&self) -> Result<()> {
        let stream = match self.connect.open() {
            Ok(stream) => stream,
            Err(error) => {
                event(&json!({ "event": "refused", "how": how(&error) }));
                return Ok(());
            }
        };
        let stop = stop_at_end_of_input();
        let mut rounds = 0_u64;
        let failure = loop {
            if stop.load(Ordering::Relaxed) {
                break None;
            }
            if let Err(error) = round(&stream) {
                break Some(error);
            }
            rounds += 1;
            if rounds == 1 {
                event(&json!({ "event": "held", "addresses": addresses(&stream) }));
            }
            // The pace of the load, not a wait for something.
            thread::sleep(Duration::from_millis(self.every_ms));
        };
        match failure {
            Some(error) => event(&json!({
                "event": "broken", "how": how(&error), "rounds": rounds, "at_ms": unix_millis(),
            })),
            None => event(&json!({ "event": "whole", "rounds": rounds })),
        }
        Ok(())
    }
}

fn round(mut stream: &TcpStream) -> io::Result<()> {
    let line = PLAINTEXT_MARKER.as_bytes();
    stream.write_all(line)?;
    let mut echo = [0; PLAINTEXT_MARKER.len()];
    stream.read_exact(&mut echo)?;
    if echo != line { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) }
}

/// Turns true when standard input ends.
pub(crate) fn stop_at_end_of_input() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        flag.store(true, Ordering::Relaxed);
    });
    stop
}

/// Milliseconds since the epoch: comparable between the processes of one machine.
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .unwrap_or_default()
}
