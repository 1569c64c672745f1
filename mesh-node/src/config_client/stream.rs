//! One stream, on a connection of its own as the agent itself: requests for every type, and an answer to each response.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tracing::info;

use super::ConfigClient;
use super::asking::{self, Asking};
use super::connection::{bearer, channel};
use super::world::{Taken, Unasked, World};
use crate::identity::{Identities, IssueError};
use crate::xds::{MAX_MESSAGE, ResourceType};

/// Connecting and authentication together.
const BEGIN: Duration = Duration::from_secs(30);
/// How long a controller may take to tell all that there is, before a person is told.
const TOLD: Duration = Duration::from_secs(30);
const SILENT: &str = "the controller let the agent in, and has not told all: many agents begin at once, or it does not reach its API server";
/// Requests that wait to be written: the first of each type, and an answer to each response under way.
const QUEUE: usize = 32;
/// How long a request may wait to be written.
pub(super) const WRITTEN: Duration = Duration::from_secs(30);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("read the agent's token {}", path.display())]
    Token {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the agent has no certificate to show")]
    NoCertificate(#[source] Arc<IssueError>),
    #[error("the controller does not take the agent's certificate; asking for another one")]
    Refused,
    #[error("the controller let nobody in for {} s", BEGIN.as_secs())]
    NotBegun,
    #[error("{}", reason_of(.0))]
    Status(Box<Status>),
    #[error("the controller ended the stream")]
    Closed,
    #[error("the controller reads no answer")]
    Unread,
    #[error(transparent)]
    Unasked(#[from] Unasked),
}

/// How a stream ended, or that the client cannot go on.
pub(super) enum Failure {
    Stream(Ended),
    Client(JoinError),
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Self {
        Self::Stream(ended)
    }
}

impl Ended {
    /// Whether a controller of an earlier version refused to be asked about a type that it does not know.
    fn is_of_newest_type(&self) -> bool {
        let Self::Status(status) = self else { return false };
        let newest = ResourceType::RequestAuthentication.type_url();
        status.code() == Code::InvalidArgument && status.message().contains(&newest)
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        Self::Client(error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Stream(Ended::Status(Box::new(status)))
    }
}

/// What a status says, and what it comes from.
pub(super) fn reason_of(status: &Status) -> String {
    let mut text = status.message().to_owned();
    if text.is_empty() {
        text = status.code().to_string();
    }
    let mut source = status.source();
    while let Some(error) = source {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        source = error.source();
    }
    text
}

impl ConfigClient {
    /// Follows one stream to its end: why it ended, and whether everything was current once.
    pub(super) async fn stream(&mut self, identities: &Identities) -> Result<(Ended, bool), JoinError> {
        let mut was_current = false;
        match self.proven(identities, &mut was_current).await {
            Ok(ended) | Err(Failure::Stream(ended)) => {
                if ended.is_of_newest_type() {
                    self.aside(World::leave_out_newest).await?;
                }
                Ok((ended, was_current))
            }
            Err(Failure::Client(error)) => Err(error),
        }
    }

    /// Follows a stream on a connection that shows the agent's certificate, and notes whether that was refused. In TLS 1.3 a
    /// client learns that once it takes the handshake for finished.
    async fn proven(&mut self, identities: &Identities, was_current: &mut bool) -> Result<Ended, Failure> {
        let own = identities.own(&self.own.identity, self.own.is_refused).await;
        let own = own.map_err(Ended::NoCertificate)?;
        let dialler = self.dialler.showing(own);
        let alert = Arc::clone(&dialler.is_refused);
        let followed = self.follow(channel(dialler), was_current).await;
        self.own.is_refused = alert.load(Ordering::Relaxed);
        match followed {
            Err(Failure::Stream(_)) | Ok(_) if self.own.is_refused => Ok(Ended::Refused),
            followed => followed,
        }
    }

    async fn follow(&mut self, channel: Channel, was_current: &mut bool) -> Result<Ended, Failure> {
        let (answers, mut responses) = self.begin(channel.clone()).await?;
        info!(controller = %self.settings.address, "stream from the controller begun");
        self.metrics.begun();
        let late = Instant::now() + TOLD;
        loop {
            let is_silent = !*was_current && self.trouble.stream.as_deref() != Some(SILENT);
            let is_current = *was_current;
            tokio::select! {
                response = responses.message() => match response? {
                    Some(response) => *was_current |= self.take(response, &answers).await?,
                    None => return Ok(Ended::Closed),
                },
                turn = self.saver.turn() => self.save(turn).await?,
                batch = asking::batch(&mut self.asking, is_current) => self.ask(batch, &answers).await?,
                () = sleep_until(late), if is_silent => {
                    self.trouble.stream = Some(SILENT.to_owned());
                    self.report();
                }
            }
        }
    }

    async fn begin(
        &mut self,
        channel: Channel,
    ) -> Result<(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>), Failure> {
        let path = &self.settings.token_file;
        let token = bearer(path).map_err(|source| Ended::Token { path: path.clone(), source })?;
        let (answers, requests) = mpsc::channel(QUEUE);
        let questions = self.asking.as_mut().map(Asking::begin).unwrap_or_default();
        for request in self.aside(move |world| world.begin(&questions)).await? {
            // There is room for one of each type.
            answers.try_send(request).map_err(|_| Ended::Unread)?;
        }
        let mut request = Request::new(ReceiverStream::new(requests));
        request.metadata_mut().insert("authorization", token);
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let begun = timeout(BEGIN, client.delta_aggregated_resources(request)).await;
        let begun = begun.map_err(|_| Ended::NotBegun)?;
        Ok((answers, begun?.into_inner()))
    }

    /// Takes a response in, and answers it: the last one of a round once the round is in force.
    async fn take(
        &mut self,
        response: DeltaDiscoveryResponse,
        answers: &mpsc::Sender<DeltaDiscoveryRequest>,
    ) -> Result<bool, Failure> {
        let taken = self.aside(move |world| world.take(response)).await?;
        let Taken { answer, is_whole } = taken.map_err(Ended::Unasked)?;
        if is_whole {
            self.commit().await?;
        }
        match timeout(WRITTEN, answers.send(answer)).await {
            Ok(Ok(())) => Ok(is_whole),
            Ok(Err(_)) => Err(Ended::Closed.into()),
            Err(_) => Err(Ended::Unread.into()),
        }
    }
}
