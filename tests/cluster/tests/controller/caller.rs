//! An agent's connection, as far as it asks for certificates.

use std::io;
use std::net::SocketAddr;

use anyhow::Result;
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
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tower::service_fn;

use super::agents::PATIENCE;

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
    ) -> Result<Self> {
        let domain = TrustDomain::parse("cluster.local")?;
        let expected = SpiffeId::new(&domain, "nodemesh-system", CONTROLLER)?;
        let bundle = TrustBundle::new(domain, roots)?;
        let metrics = IdentityMetrics::new(&Registry::new())?;
        let trust = ControllerTrust::new(bundle, expected, &system_clock(), metrics);
        let connector = TlsConnector::from(trust.client());
        let connect = service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let stream = connector.connect(server_name(None, address.ip()), stream).await?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        let channel = Endpoint::from_static("http://controller").connect_with_connector(connect).await?;
        Ok(Self { channel, token: token.to_owned() })
    }

    pub async fn sign(&mut self, identity: &str, request: Vec<u8>) -> Result<Vec<Vec<u8>>, Status> {
        let mut request = Request::new(SignRequest { identity: identity.to_owned(), request });
        let bearer = format!("Bearer {}", self.token).parse().map_err(|_| Status::internal("no header"))?;
        request.metadata_mut().insert("authorization", bearer);
        let answer = timeout(PATIENCE, sign(self.channel.clone(), request)).await;
        Ok(answer.map_err(|_| Status::internal("no answer in time"))??.chain)
    }
}
