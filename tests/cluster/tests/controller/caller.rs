//! An agent's connection: it asks for certificates, and begins streams.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use hyper_util::rt::TokioIo;
use mesh_common::model::{SpiffeId, TrustDomain};
use mesh_node::controller::CONTROLLER;
use mesh_node::identity::{ControllerTrust, IdentityMetrics, TrustBundle, server_name, system_clock};
use mesh_node::telemetry::registry::Registry;
use mesh_node::xds::certificates::{SignRequest, sign};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tower::service_fn;

/// For an answer: the machine does other work too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node's agent, connected.
#[derive(Clone)]
pub struct Agent {
    channel: Channel,
    token: String,
}

impl Agent {
    pub async fn connect(
        address: SocketAddr,
        token: &str,
        roots: Vec<CertificateDer<'static>>,
        shown: Option<Arc<CertifiedKey>>,
    ) -> Result<Self> {
        Self::connect_by(move || TcpStream::connect(address), address.ip(), token, roots, shown).await
    }

    /// The same, to a controller at an address that not everybody reaches: somebody else dials.
    pub async fn connect_by<D: Future<Output = io::Result<TcpStream>> + Send + 'static>(
        dial: impl Fn() -> D + Clone + Send + Sync + 'static,
        address: IpAddr,
        token: &str,
        roots: Vec<CertificateDer<'static>>,
        shown: Option<Arc<CertifiedKey>>,
    ) -> Result<Self> {
        let domain = TrustDomain::parse("cluster.local")?;
        let expected = SpiffeId::new(&domain, "nodemesh-system", CONTROLLER)?;
        let bundle = TrustBundle::new(domain, roots)?;
        let metrics = IdentityMetrics::new(&Registry::new())?;
        let trust = ControllerTrust::new(bundle, expected, &system_clock(), metrics);
        let mut config = Arc::unwrap_or_clone(trust.client(None));
        if let Some(shown) = shown {
            config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(shown));
        }
        let connector = TlsConnector::from(Arc::new(config));
        let connect = service_fn(move |_| {
            let (connector, dialled) = (connector.clone(), dial());
            async move {
                let stream = connector.connect(server_name(None, address), dialled.await?).await?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        let channel = Endpoint::from_static("http://controller").connect_with_connector(connect).await?;
        Ok(Self { channel, token: token.to_owned() })
    }

    /// Begins a stream, and asks for nothing on it.
    pub async fn follow(&mut self) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
        let request = self.proven(futures_util::stream::pending())?;
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel.clone());
        let begun = timeout(PATIENCE, client.delta_aggregated_resources(request)).await;
        Ok(begun.map_err(|_| Status::internal("no answer in time"))??.into_inner())
    }

    /// Something that is asked of a controller, with what the agent shows with each call.
    pub fn proven<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        let bearer = format!("Bearer {}", self.token).parse().map_err(|_| Status::internal("no header"))?;
        request.metadata_mut().insert("authorization", bearer);
        Ok(request)
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub async fn sign(&mut self, identity: &str, request: Vec<u8>) -> Result<Vec<Vec<u8>>, Status> {
        let request = self.proven(SignRequest { identity: identity.to_owned(), request })?;
        let answer = timeout(PATIENCE, sign(self.channel.clone(), request)).await;
        Ok(answer.map_err(|_| Status::internal("no answer in time"))??.chain)
    }
}
