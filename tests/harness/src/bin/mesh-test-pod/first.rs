//! What a program does that connects in its first instruction, and does not give up.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use crate::dial::millis;
use crate::report::{event, how};

/// Between two tries: less than anything that is waited for takes.
const PAUSE: Duration = Duration::from_millis(1);

/// Flags of `first`.
#[derive(Args)]
pub(crate) struct First {
    /// Address and port of an echo server
    #[arg(long)]
    to: SocketAddr,
    /// What is sent as soon as a connect succeeds; without it nothing is, and the first refusal is what is waited for
    #[arg(long)]
    send: Option<String>,
    /// Longest time for all of it, in milliseconds
    #[arg(long)]
    limit_ms: u64,
}

impl First {
    /// Connects again and again; reports once.
    pub(crate) fn run(&self) -> Result<()> {
        let (start, limit) = (Instant::now(), Duration::from_millis(self.limit_ms));
        let (mut refused, mut passed, mut last) = (0, 0, String::new());
        while start.elapsed() < limit {
            let outcome = match &self.send {
                Some(text) => echo(self.to, text, limit),
                None => TcpStream::connect(self.to).map(drop),
            };
            match (outcome, &self.send) {
                (Ok(()), Some(_)) => {
                    event(&json!({ "event": "first", "refused": refused, "after_ms": millis(start) }));
                    return Ok(());
                }
                (Ok(()), None) => passed += 1,
                (Err(error), None) if error.kind() == io::ErrorKind::PermissionDenied => {
                    event(&json!({ "event": "first", "passed": passed, "after_ms": millis(start) }));
                    return Ok(());
                }
                (Err(error), _) => {
                    refused += 1;
                    last = how(&error);
                }
            }
            // Others want the cores too, those among them who are waited for.
            thread::sleep(PAUSE);
        }
        bail!("{refused} refusals, the last: {last}; {passed} connects went well, in {} ms", self.limit_ms)
    }
}

fn echo(to: SocketAddr, text: &str, limit: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    if answer == text.as_bytes() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}
