//! A node that asks for certificates as fast as it can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::timeout;

use super::agents::{PATIENCE, Stand, request};
use super::caller::Agent;

/// Its connections, and calls of each at a time.
const FLOOD: [usize; 2] = [16, 16];

/// A node that floods.
#[derive(Clone, Default)]
pub struct Flood {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Flood {
    /// Asks over connections of its own, until it is ended.
    pub async fn start(stand: &Stand, token: &str, identity: &str) -> Result<Self> {
        let flood = Self::default();
        let [connections, calls] = FLOOD;
        for _ in 0..connections {
            let agent = stand.agent(token).await?;
            for _ in 0..calls {
                tokio::spawn(flood.clone().ask(agent.clone(), identity.to_owned()));
            }
        }
        let meets_its_bound = async {
            while flood.refused.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, meets_its_bound).await.context("wait until the flood is refused something")?;
        Ok(flood)
    }

    async fn ask(self, mut agent: Agent, identity: String) {
        let request = request();
        while !self.over.load(Ordering::Relaxed) {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if agent.sign(&identity, request.clone()).await.is_err() {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Ends it; returns how often it asked, and was refused.
    pub async fn end(self) -> (usize, usize) {
        self.over.store(true, Ordering::Relaxed);
        (self.asked.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }
}
