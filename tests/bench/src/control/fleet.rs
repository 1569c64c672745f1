//! Agents of many nodes in one process, as far as a controller sees them: each has an address, a token and a stream of its
//! own, asks for every type and answers each response. What they are told they do not keep.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use mesh_node::identity::server_name;
use mesh_node::xds::ResourceType;
use rustls::ClientConfig;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tonic::Request;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::objects;

const STREAM: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// As agents do.
const MAX_MESSAGE: usize = 8 << 20;
/// For an agent to be told all, on a machine that does all the others' work too.
const PATIENCE: Duration = Duration::from_secs(1800);
/// To be let in.
const BEGIN: Duration = Duration::from_secs(30);

/// Between two tries of an agent that is not let in.
const AGAIN: Duration = Duration::from_millis(200);

/// `DeltaDiscoveryRequest`, as far as it is needed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Ask {
    #[prost(message, optional, tag = "1")]
    node: Option<NodeId>,
    #[prost(string, tag = "2")]
    type_url: String,
    #[prost(string, tag = "6")]
    response_nonce: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct NodeId {
    #[prost(string, tag = "1")]
    id: String,
}

/// `DeltaDiscoveryResponse`: of resources the name alone, what they are is skipped.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Told {
    #[prost(string, tag = "1")]
    system_version_info: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Named>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Named {
    #[prost(string, tag = "3")]
    name: String,
}

/// What an agent has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All that there was to be told, with so many resources.
    Whole(usize),
    /// The change that is waited for.
    Change,
    /// The end of its stream.
    End,
}

/// Who saw it, and when.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub at: Instant,
    pub seen: Seen,
}

/// What all agents share.
pub struct Fleet {
    /// Where the controller is.
    pub address: SocketAddr,
    /// How it proves who it is.
    pub trust: Arc<ClientConfig>,
    /// The resource whose change is waited for.
    pub changing: String,
    pub events: mpsc::UnboundedSender<Event>,
    /// Streams that had to be begun again.
    pub begun_again: AtomicUsize,
    /// Ends every agent when it is dropped.
    pub over: watch::Receiver<()>,
}

impl Fleet {
    /// Follows the controller as the agent of a node, until all is over or the stream ends.
    pub async fn follow(self: Arc<Self>, number: usize, token: Arc<str>) {
        let mut over = self.over.clone();
        tokio::select! {
            ended = self.let_in(number, &token) => {
                if let Err(error) = ended {
                    eprintln!("agent {number}: {error:#}");
                }
                self.saw(Seen::End);
            }
            _ = over.changed() => {}
        }
    }

    /// Begins again until it was told all once, as agents do that are not let in, or not in time.
    async fn let_in(&self, number: usize, token: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let mut is_whole = false;
            let ended = self.stream(number, token, &mut is_whole).await;
            if is_whole || start.elapsed() > PATIENCE {
                return ended;
            }
            self.begun_again.fetch_add(1, Ordering::Relaxed);
            sleep(AGAIN).await;
        }
    }

    async fn stream(&self, number: usize, token: &str, is_whole: &mut bool) -> Result<()> {
        let channel = timeout(BEGIN, self.connect(number)).await.context("connect in time")??;
        let (asks, requests) = mpsc::channel(32);
        for kind in ResourceType::OF_EVERYBODY {
            let node = Some(NodeId { id: objects::node(number) });
            asks.send(Ask { node, type_url: kind.type_url(), ..Ask::default() }).await?;
        }
        let mut request = Request::new(ReceiverStream::new(requests));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
        grpc.ready().await?;
        let codec = ProstCodec::<Ask, Told>::default();
        let streaming = grpc.streaming(request, PathAndQuery::from_static(STREAM), codec);
        let mut responses = timeout(BEGIN, streaming).await.context("be let in in time")??.into_inner();
        let mut missing: BTreeSet<String> = ResourceType::OF_EVERYBODY.map(ResourceType::type_url).into();
        let mut resources = 0;
        while let Some(told) = responses.message().await? {
            let is_first = !missing.is_empty();
            if is_first {
                resources += told.resources.len();
                missing.remove(&told.type_url);
                if missing.is_empty() && told.system_version_info.ends_with('+') {
                    // The last type has more to come.
                    missing.insert(told.type_url.clone());
                } else if missing.is_empty() {
                    *is_whole = true;
                    self.saw(Seen::Whole(resources));
                }
            } else if told.resources.iter().any(|resource| resource.name == self.changing) {
                self.saw(Seen::Change);
            }
            let answer = Ask { type_url: told.type_url, response_nonce: told.nonce, ..Ask::default() };
            asks.send(answer).await?;
        }
        bail!("the controller ended the stream")
    }

    /// From an address of its own, as a node has one: what an address may do is bounded.
    async fn connect(&self, number: usize) -> Result<Channel> {
        let number = u32::try_from(number)?;
        let own = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + number);
        let (address, connector) = (self.address, TlsConnector::from(self.trust.clone()));
        let connect = service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = dial(own, address).await?;
                let stream = connector.connect(server_name(None, address.ip()), stream).await?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        Ok(Endpoint::from_static("http://controller").connect_with_connector(connect).await?)
    }

    fn saw(&self, seen: Seen) {
        // Nobody listens at the end.
        let _ = self.events.send(Event { at: Instant::now(), seen });
    }
}

async fn dial(own: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((own, 0).into())?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
