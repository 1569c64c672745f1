//! A server of HTTP/2 that serves nobody: no stream is allowed (SETTINGS_MAX_CONCURRENT_STREAMS=0), then GOAWAY.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use mesh_test_harness::attacks::frames::{ACK, GOAWAY, SETTINGS, frame, setting};
use serde_json::json;

use crate::report::event;

/// RFC 9113 section 6.5.2.
const MAX_CONCURRENT_STREAMS: u16 = 3;
/// How long a client is left with its settings before it is told to go.
const PATIENCE: Duration = Duration::from_millis(50);

/// Flags of `turn-away`.
#[derive(Args, Clone)]
pub(crate) struct TurnAway {
    /// Address and port
    #[arg(long)]
    listen: SocketAddr,
}

impl TurnAway {
    /// Serves until the process ends.
    pub(crate) fn run(&self) -> Result<()> {
        let listener =
            TcpListener::bind(self.listen).with_context(|| format!("listen on {}", self.listen))?;
        event(&json!({ "event": "listening" }));
        for (number, stream) in listener.incoming().enumerate() {
            event(&json!({ "event": "accepted", "connection": number }));
            let Ok(stream) = stream else { continue };
            std::thread::spawn(move || {
                // However the client takes it: that is what is looked at, on its side.
                let _ = turn_away(stream);
            });
        }
        Ok(())
    }
}

fn turn_away(mut stream: TcpStream) -> io::Result<()> {
    let settings = [setting(MAX_CONCURRENT_STREAMS, 0), frame(SETTINGS, ACK, 0, &[])].concat();
    stream.write_all(&settings)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 16 << 10];
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
    stream.write_all(&frame(GOAWAY, 0, 0, &[0; 8]))
}
