//! An HTTP/1.1 server that reports every byte that it sees and does as the path says.
//!
//! It is no judge of what is well formed: whatever reaches it is reported, and the test decides. `/bytes/N` and
//! `/chunked/N` answer with N bytes, `/status/N` with a status, `/close` ends the connection, `/trailers` sends one,
//! `/delay/MS` waits, `/early` answers before the body is read, `/twice` answers twice; everything else describes
//! the request. `/unfinished` answers without a length and waits for the caller to go. `/switch` answers with 101 to
//! whoever asks, and sends back what comes then; `/switch/N` with a head that is no valid 101, and waits.
//! `/verbatim/HEX` answers with exactly these bytes, and `/last/HEX` ends the connection after them.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use mesh_test_harness::PLAINTEXT_MARKER;
use serde_json::json;

use crate::report::{event, latin1};

/// Bytes of one connection that are reported as text; the rest is counted.
const SHOWN: usize = 64 * 1024;

/// One connection and what came and was not used yet.
struct Connection<'stream> {
    number: u64,
    stream: &'stream TcpStream,
    bytes: Vec<u8>,
    shown: usize,
    total: u64,
}

/// What of a request's head decides about its body and its answer.
struct Head {
    method: String,
    path: String,
    text: String,
    length: usize,
    chunked: bool,
    expects_continue: bool,
    close: bool,
}

/// Answers requests until the caller ends the connection: the number of bytes that came.
pub(crate) fn serve(number: u64, stream: &TcpStream) -> io::Result<u64> {
    let mut connection = Connection { number, stream, bytes: Vec::new(), shown: 0, total: 0 };
    while let Some(head) = connection.head()? {
        let early = head.path == "/early";
        if head.expects_continue && !early {
            connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = if early { Vec::new() } else { connection.body(&head)? };
        let body_bytes = body.len();
        event(&json!({
            "event": "request", "connection": number, "method": head.method, "path": head.path,
            "head": head.text, "body_bytes": body_bytes, "body": latin1(&body[..body_bytes.min(1024)]),
        }));
        connection.answer(&head, body_bytes)?;
        if head.close || early || head.path == "/close" || head.path.starts_with("/last/") {
            break;
        }
    }
    Ok(connection.total)
}

impl Connection<'_> {
    /// Reads on; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 65_536];
        let count = self.stream.read(&mut buffer)?;
        self.total += count as u64;
        let room = SHOWN.saturating_sub(self.shown).min(count);
        if room > 0 {
            self.shown += room;
            event(&json!({ "event": "bytes", "connection": self.number, "text": latin1(&buffer[..room]) }));
        }
        self.bytes.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next head, or nothing at the end.
    fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.bytes, b"\r\n\r\n") {
                let head: Vec<u8> = self.bytes.drain(..end + 4).collect();
                return Ok(Some(Head::read(&latin1(&head))));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn body(&mut self, head: &Head) -> io::Result<Vec<u8>> {
        if !head.chunked {
            return self.take(head.length);
        }
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
                .map_err(|_| io::ErrorKind::InvalidData)?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size)?);
            self.line()?;
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.bytes, b"\r\n") {
                let line: Vec<u8> = self.bytes.drain(..end + 2).collect();
                return Ok(latin1(&line[..end]));
            }
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.bytes.len() < count {
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.bytes.drain(..count).collect())
    }

    fn answer(&mut self, head: &Head, body_bytes: usize) -> io::Result<()> {
        let (what, number) = head.argument();
        match what {
            "bytes" => self.respond(200, head, &filler(number)),
            "chunked" => self.respond_chunked(&filler(number), ""),
            "trailers" => self.respond_chunked(b"body", "x-trailer: seen\r\n"),
            "status" => {
                let status = u16::try_from(number).unwrap_or(500);
                self.respond(status, head, PLAINTEXT_MARKER.as_bytes())
            }
            "delay" => {
                // The slow answer is the thing that is tested.
                thread::sleep(Duration::from_millis(number as u64));
                self.respond(200, head, PLAINTEXT_MARKER.as_bytes())
            }
            "unfinished" => {
                self.write(format!("HTTP/1.0 200 Test\r\n\r\n{PLAINTEXT_MARKER}").as_bytes())?;
                self.wait_for_the_end()
            }
            "switch" if number == 0 => {
                let head = "HTTP/1.1 101 Test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
                self.write(format!("{head}{PLAINTEXT_MARKER}").as_bytes())?;
                self.echo()
            }
            "switch" => {
                let heads = [
                    "101 Test\r\n",
                    "101 Test\r\nconnection: upgrade\r\n",
                    "101 Test\r\nupgrade: websocket\r\n",
                    "101 Test\r\nconnection: upgrade\r\nupgrade: h2c\r\n",
                    "101 Test\r\nconnection: upgrade\r\nupgrade: websocket, h2c\r\n",
                    "200 Test\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n",
                    "426 Test\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n",
                ];
                self.write(format!("HTTP/1.1 {}\r\n", heads[(number - 1) % heads.len()]).as_bytes())?;
                self.wait_for_the_end()
            }
            "verbatim" | "last" => self.write(&head.verbatim()?),
            "twice" => {
                // At once: what comes after the next request was sent is an answer to that, for all that anybody can tell.
                let asked_for = head.answer(200, PLAINTEXT_MARKER.as_bytes());
                self.write(&[asked_for, head.answer(200, b"smuggled")].concat())
            }
            _ => {
                let text = json!({
                    "marker": PLAINTEXT_MARKER, "method": head.method, "path": head.path,
                    "head": head.text, "body_bytes": body_bytes,
                });
                self.respond(200, head, text.to_string().as_bytes())
            }
        }
    }

    fn echo(&mut self) -> io::Result<()> {
        loop {
            let bytes = std::mem::take(&mut self.bytes);
            self.write(&bytes)?;
            if !self.fill()? {
                return Ok(());
            }
        }
    }

    fn wait_for_the_end(&mut self) -> io::Result<()> {
        while self.fill()? {}
        Ok(())
    }

    fn respond(&mut self, status: u16, head: &Head, body: &[u8]) -> io::Result<()> {
        self.write(&head.answer(status, body))
    }

    fn respond_chunked(&mut self, body: &[u8], trailers: &str) -> io::Result<()> {
        self.write(b"HTTP/1.1 200 Test\r\ntransfer-encoding: chunked\r\n\r\n")?;
        for chunk in body.chunks(10_000) {
            self.write(format!("{:x}\r\n", chunk.len()).as_bytes())?;
            self.write(chunk)?;
            self.write(b"\r\n")?;
        }
        self.write(format!("0\r\n{trailers}\r\n").as_bytes())
    }
}

impl Head {
    /// The whole message that answers it.
    fn answer(&self, status: u16, body: &[u8]) -> Vec<u8> {
        let without_body = matches!(status, 204 | 304);
        let length = if without_body { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let close = if self.path == "/close" || self.close { "connection: close\r\n" } else { "" };
        let mut message =
            format!("HTTP/1.1 {status} Test\r\nx-marker: {PLAINTEXT_MARKER}\r\n{length}{close}\r\n")
                .into_bytes();
        if self.method != "HEAD" && !without_body {
            message.extend_from_slice(body);
        }
        message
    }

    fn read(text: &str) -> Self {
        let field = |name: &str| {
            text.lines()
                .skip(1)
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_ascii_lowercase())
                .unwrap_or_default()
        };
        let mut line = text.lines().next().unwrap_or_default().split(' ');
        Self {
            method: line.next().unwrap_or_default().to_owned(),
            path: line.next().unwrap_or_default().to_owned(),
            text: text.to_owned(),
            length: field("content-length").parse().unwrap_or(0),
            chunked: field("transfer-encoding") == "chunked",
            expects_continue: field("expect") == "100-continue",
            close: field("connection") == "close",
        }
    }

    /// `("bytes", 100)` of `/bytes/100`.
    fn argument(&self) -> (&str, usize) {
        let mut segments = self.path.split('/').skip(1);
        let what = segments.next().unwrap_or_default();
        (what, segments.next().and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// The bytes of `/verbatim/HEX`.
    fn verbatim(&self) -> io::Result<Vec<u8>> {
        let digits = self.path.rsplit('/').next().unwrap_or_default().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.chunks(2).map(byte).collect::<Option<_>>().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Bytes that show the marker again and again.
fn filler(count: usize) -> Vec<u8> {
    PLAINTEXT_MARKER.bytes().cycle().take(count).collect()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
