//! Servers: each connection on a thread of its own, each address that the server sees reported.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use mesh_test_harness::PLAINTEXT_MARKER;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::http;
use crate::http2;
use crate::interims;
use crate::report::{addresses, event, how};

/// Flags of `serve`.
#[derive(Args, Clone)]
pub(crate) struct Serve {
    /// What is done with a connection
    what: What,
    /// Address and port
    #[arg(long)]
    listen: SocketAddr,
    /// Interface to bind to (SO_BINDTODEVICE)
    #[arg(long)]
    device: Option<String>,
    /// Milliseconds between two reads: a slow server
    #[arg(long)]
    slow_ms: Option<u64>,
}

/// What is done with a connection.
#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Sends back what comes
    Echo,
    /// Answers only after the end of what comes: `N bytes`
    HalfClose,
    /// Speaks first, then echoes
    Banner,
    /// Reads and says nothing
    Sink,
    /// Resets after the first byte
    Reset,
    /// HTTP/1.1
    Http,
    /// HTTP/2 without TLS, and gRPC echoes
    Http2,
    /// HTTP/2 without TLS, with interim answers
    Interims,
}

impl Serve {
    /// Serves until it is killed.
    pub(crate) fn run(self) -> Result<()> {
        let socket = Socket::new(Domain::for_address(self.listen), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if let Some(device) = &self.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        socket.bind(&self.listen.into())?;
        socket.listen(1024)?;
        event(&json!({ "event": "listening" }));
        for number in 1_u64.. {
            let (accepted, address) = socket.accept()?;
            let accepted_from = address.as_socket().map(|at| at.to_string());
            let stream = TcpStream::from(accepted);
            let names = addresses(&stream);
            event(&json!({
                "event": "accepted", "connection": number, "accept": accepted_from,
                "peer": names["peer"], "local": names["local"],
            }));
            let server = self.clone();
            thread::spawn(move || server.serve(number, stream));
        }
        Ok(())
    }

    fn serve(&self, number: u64, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let result = match self.what {
            What::Echo => self.echo(&stream),
            What::HalfClose => self.count(&stream).and_then(|count| answer_after_the_end(&stream, count)),
            What::Banner => greet(&stream).and_then(|()| self.echo(&stream)),
            What::Sink => self.count(&stream),
            What::Reset => reset(&stream),
            What::Http => http::serve(number, &stream),
            What::Http2 => http2::serve(number, &stream),
            What::Interims => interims::serve(number, &stream),
        };
        let (received, ended) = match result {
            Ok(received) => (received, "eof".to_owned()),
            Err(error) => (0, how(&error)),
        };
        event(&json!({ "event": "closed", "connection": number, "received": received, "ended": ended }));
    }

    fn echo(&self, mut stream: &TcpStream) -> io::Result<u64> {
        let mut total = 0;
        let mut buffer = [0; 65_536];
        loop {
            self.pause();
            match stream.read(&mut buffer)? {
                0 => break,
                count => {
                    stream.write_all(&buffer[..count])?;
                    total += count as u64;
                }
            }
        }
        stream.shutdown(Shutdown::Write)?;
        Ok(total)
    }

    fn count(&self, mut stream: &TcpStream) -> io::Result<u64> {
        let mut total = 0;
        let mut buffer = [0; 65_536];
        loop {
            self.pause();
            match stream.read(&mut buffer)? {
                0 => return Ok(total),
                count => total += count as u64,
            }
        }
    }

    fn pause(&self) {
        if let Some(pause) = self.slow_ms {
            // The slow server is the thing that is tested.
            thread::sleep(Duration::from_millis(pause));
        }
    }
}

fn answer_after_the_end(mut stream: &TcpStream, count: u64) -> io::Result<u64> {
    stream.write_all(format!("{count} bytes {PLAINTEXT_MARKER}").as_bytes())?;
    Ok(count)
}

fn greet(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(format!("220 {PLAINTEXT_MARKER}\r\n").as_bytes())
}

fn reset(mut stream: &TcpStream) -> io::Result<u64> {
    stream.read_exact(&mut [0; 1])?;
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    Ok(1)
}
