//! The keys of issuers that publish them: fetched by whoever runs the reconciler, a controller or a standalone agent. Agents
//! of a controller never fetch.
//!
//! In: the URIs that RequestAuthentications name. Out: the keys there, or why there are none. `schedule` says when, and
//! what is kept; `control::translate::key_address` says from where; `fetch` does it. A server that hangs, drips or floods holds
//! up nothing else: every fetch has a time, a size and a place of its own. Never: a look at a token.

mod error;
mod fetch;
mod metrics;
mod schedule;
mod target;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use mesh_common::model::Text;
use mesh_common::token::KeySet;
use tokio::time::sleep_until;
use tracing::{info, warn};

pub use self::metrics::KeySetMetrics;

use self::error::FetchError;
use self::fetch::Client;
use self::schedule::{Ages, Fetch, Moment, Schedule};
use crate::control::key_ring::{KeyErrands, KeyNews};
use crate::identity::{RootError, roots_of_pem, web_client};
use crate::telemetry::chain::Chain;

/// How keys are fetched.
#[derive(Clone, Debug)]
pub struct KeySetSettings {
    /// Between two fetches of the same keys.
    pub refresh: Duration,
    /// How long keys are used that cannot be fetched again; at least twice `refresh`.
    pub max_age: Duration,
    /// Roots of servers besides the web's, PEM.
    pub roots_file: Option<PathBuf>,
    /// Ports that we listen on: nobody is asked there.
    pub own_ports: Vec<u16>,
}

/// Why keys cannot be fetched at all.
#[derive(Debug, thiserror::Error)]
pub enum KeySetsError {
    /// The file of `--jwks-roots` is not there, or cannot be read.
    #[error("read the file of --jwks-roots, {file}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("use the file of --jwks-roots, {file}", file = file.display())]
    Roots {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: RootError,
    },
}

/// Fetches what is wanted.
pub struct KeySets {
    client: Client,
    schedule: Schedule,
    errands: KeyErrands,
    metrics: KeySetMetrics,
}

/// How a fetch ended.
type Ended = (Text, Result<KeySet, FetchError>);

impl KeySets {
    /// Fetches nothing before [`run`](Self::run).
    ///
    /// # Errors
    /// [`KeySetsError`] if there are no roots where a flag says.
    pub fn new(
        settings: KeySetSettings,
        errands: KeyErrands,
        metrics: KeySetMetrics,
    ) -> Result<Self, KeySetsError> {
        let KeySetSettings { refresh, max_age, roots_file, own_ports } = settings;
        let more = match roots_file {
            None => Vec::new(),
            Some(file) => match std::fs::read(&file) {
                Err(source) => return Err(KeySetsError::File { file, source }),
                Ok(text) => roots_of_pem(&text).map_err(|source| KeySetsError::Roots { file, source })?,
            },
        };
        let tls = web_client(&more);
        let tls = tls.map_err(|source| KeySetsError::Roots { file: PathBuf::new(), source })?;
        let schedule = Schedule::new(Ages { refresh, longest: max_age });
        Ok(Self { client: Client::new(tls, own_ports.into()), schedule, errands, metrics })
    }

    /// Fetches until nobody wants to know any more.
    pub async fn run(mut self) {
        let mut fetches = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            let expired = self.schedule.expire(now);
            fetches.extend(self.schedule.due(now).into_iter().map(|fetch| self.fetch(fetch)));
            self.metrics.observe(self.schedule.counts());
            let news = if expired.is_empty() {
                tokio::select! {
                    changed = self.errands.wanted.changed() => match changed {
                        Ok(()) => self.want(),
                        Err(_) => return,
                    },
                    Some(ended) = fetches.next() => self.took(ended),
                    () = until(self.schedule.next(now)) => Vec::new(),
                }
            } else {
                expired
            };
            for news in news {
                if self.errands.news.send(news).await.is_err() {
                    return;
                }
            }
        }
    }

    fn fetch(&self, Fetch { uri, timeout }: Fetch) -> impl Future<Output = Ended> + Send + use<> {
        let client = self.client.clone();
        async move {
            let result = client.fetch(&uri, timeout).await;
            (uri, result)
        }
    }

    fn want(&mut self) -> Vec<KeyNews> {
        let wanted = Arc::clone(&self.errands.wanted.borrow_and_update());
        self.schedule.want(&wanted, moment())
    }

    fn took(&mut self, (uri, result): Ended) -> Vec<KeyNews> {
        self.metrics.fetched(result.as_ref().map_or_else(FetchError::code, |_| "fetched"));
        let result = result.map_err(|error| Chain(&error).to_string());
        let news = self.schedule.took(&uri, result, moment(), fastrand::f64());
        if let Some(KeyNews { uri, state }) = &news {
            match &state.failure {
                Some(failure) => warn!(%uri, reason = failure.reason, "keys of an issuer were not fetched"),
                None => {
                    let keys = state.keys.as_ref().map_or(0, |keys| keys.len());
                    info!(%uri, keys, "keys of an issuer were fetched");
                }
            }
        }
        news.into_iter().collect()
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(next) => sleep_until(next.into()).await,
        None => std::future::pending().await,
    }
}

fn moment() -> Moment {
    Moment { at: Instant::now(), time: SystemTime::now() }
}
