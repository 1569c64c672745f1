//! Says what happened, in words that tests compare.

use std::io;
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

/// Writes one event on a line of its own.
pub(crate) fn event(value: &Value) {
    println!("{value}");
}

/// How a connect or a connection ended, in one word.
pub(crate) fn how(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "reset".to_owned(),
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::ConnectionAborted => "aborted".to_owned(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "timeout".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable".to_owned(),
        io::ErrorKind::PermissionDenied => "not permitted".to_owned(),
        io::ErrorKind::BrokenPipe => "broken pipe".to_owned(),
        io::ErrorKind::UnexpectedEof => "eof".to_owned(),
        _ => error.to_string(),
    }
}

/// What `getpeername` and `getsockname` say.
pub(crate) fn addresses(stream: &TcpStream) -> Value {
    let text =
        |address: io::Result<SocketAddr>| address.map_or_else(|error| how(&error), |at| at.to_string());
    json!({ "peer": text(stream.peer_addr()), "local": text(stream.local_addr()) })
}

/// Bytes as text in which every byte is one character (ISO 8859-1), so that none is lost.
pub(crate) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}
