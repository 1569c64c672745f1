//! Connections that are opened, used once, and then left idle until standard input ends.

use std::io::Read;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Opens `count` connections, has one request answered on each, prints `holding`, and keeps them.
///
/// # Errors
/// A connection cannot be made, or its request is not answered with 200.
pub async fn hold(address: SocketAddr, count: usize) -> Result<()> {
    let mut held = Vec::with_capacity(count);
    for number in 0..count {
        held.push(open(address).await.with_context(|| format!("connection {number} to {address}"))?);
    }
    println!("holding");
    // Blocks the only thread: the connections have nothing to do.
    std::io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of standard input")?;
    Ok(())
}

async fn open(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /ok HTTP/1.1\r\nHost: bench\r\n\r\n").await?;
    let mut answer = [0; 4096];
    let read = stream.read(&mut answer).await?;
    ensure!(answer[..read].starts_with(b"HTTP/1.1 200"), "the answer is {:?}", &answer[..read]);
    Ok(stream)
}
