//! The client that behaves: one connection, one call at a time, at a pace that leaves the machine idle.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::grpc::{call, connect};

/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the client saw.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Paced {
    /// Calls that were answered well.
    pub answered: u64,
    /// All others.
    pub failed: u64,
    /// Median, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
}

impl Paced {
    /// Calls every `pause` for as long as it is told. A latency counts from when the call was due, so that one slow
    /// answer is not one slow figure but as many as it held up.
    ///
    /// # Errors
    /// There is no connection at all.
    pub async fn measure(address: SocketAddr, pause: Duration, length: Duration) -> Result<Self> {
        let uri = format!("http://{address}/bench.Echo/Unary");
        let mut client = connect(address).await?;
        // The first one opens what is behind.
        call(&mut client, &uri).await.context("the first call")?;
        let (start, mut failed, mut micros) = (Instant::now(), 0, Vec::<u32>::new());
        let mut due = start;
        while start.elapsed() < length {
            tokio::time::sleep_until(due.into()).await;
            match tokio::time::timeout(PATIENCE, call(&mut client, &uri)).await {
                Ok(Ok(())) => micros.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX)),
                Ok(Err(_)) | Err(_) => {
                    failed += 1;
                    client = connect(address).await?;
                }
            }
            due += pause;
        }
        micros.sort_unstable();
        let at = |share: f64| {
            let last = micros.len().saturating_sub(1);
            micros.get((last as f64 * share) as usize).map_or(f64::INFINITY, |value| f64::from(*value))
        };
        Ok(Self { answered: micros.len() as u64, failed, p50_us: at(0.5), p99_us: at(0.99) })
    }

    /// For the process that started it.
    pub fn json(&self) -> Value {
        json!({"answered": self.answered, "failed": self.failed, "p50_us": self.p50_us, "p99_us": self.p99_us})
    }
}
