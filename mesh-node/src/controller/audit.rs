//! One record for each certificate that was signed, and for each that was refused.
//!
//! In: records. Out: lines of JSON, written by a thread of its own. The queue is bounded: what cannot be recorded in
//! time is not signed.

use std::io::Write;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::error;

/// Records that wait to be written.
const QUEUE: usize = 1024;
/// How long a record may wait for a place.
const PATIENCE: Duration = Duration::from_secs(2);

/// A record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Record {
    /// When, RFC 3339.
    pub time: String,
    /// `certificate_issued` or `certificate_refused`.
    pub event: &'static str,
    /// The caller's node, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The uid of the caller's pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_pod: Option<String>,
    /// For whom a certificate was asked, shortened.
    pub identity: String,
    /// A stable word, as `no_pod_on_node`; empty if it was issued.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
    /// The same for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Serial number of the certificate, lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its last valid second, UTC since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<u64>,
    /// Refusals of this kind since the last record of one, that were not recorded each.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: u64,
}

// serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A record could not be written in time.
#[derive(Debug, thiserror::Error)]
#[error("the audit log takes no record: whoever reads standard output is stuck or gone")]
pub struct Stuck;

/// Where records go. A clone is the same log.
#[derive(Clone, Debug)]
pub struct Audit {
    records: mpsc::Sender<Record>,
}

impl Audit {
    /// Begins to write records to `out`, until every clone is gone.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn start(mut out: Box<dyn Write + Send>) -> std::io::Result<Self> {
        let (records, mut queue) = mpsc::channel::<Record>(QUEUE);
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            while let Some(record) = queue.blocking_recv() {
                let line = serde_json::to_string(&record).unwrap_or_default() + "\n";
                if let Err(error) = out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
                    error!(%error, "audit records cannot be written any more: no certificate is signed");
                    return;
                }
            }
        })?;
        Ok(Self { records })
    }

    /// Takes a record.
    ///
    /// # Errors
    /// [`Stuck`] if it cannot be written.
    pub async fn record(&self, record: Record) -> Result<(), Stuck> {
        let record = Record { time: now(), ..record };
        match timeout(PATIENCE, self.records.send(record)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stuck),
        }
    }
}

fn now() -> String {
    OffsetDateTime::from(SystemTime::now()).format(&Rfc3339).unwrap_or_default()
}
