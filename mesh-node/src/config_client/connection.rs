//! The one connection to the controller: found by name, verified by identity, kept alive, made again when it breaks.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_common::model::Text;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tracing::warn;

use super::roots::Roots;
use crate::identity::ControllerTrust;
use crate::telemetry::chain::Chain;

/// Until TCP and TLS stand.
const CONNECT: Duration = Duration::from_secs(10);
/// A controller that stands still is noticed after both: as with any peer of the mesh.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(5);
/// The largest token that is read, in bytes.
const MAX_TOKEN: usize = 16 << 10;

/// Dials the controller.
#[derive(Clone)]
pub(super) struct Dialler {
    /// `HOST:PORT`.
    pub(super) address: Text,
    pub(super) roots: Arc<Roots>,
    pub(super) trust: Arc<ControllerTrust>,
}

/// A channel that connects when it is first used, and again whenever it must.
pub(super) fn channel(dialler: Dialler) -> Channel {
    // The name is for the `:authority` field alone: whom we reach, the dialler says.
    Endpoint::from_static("http://nodemesh-controller")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(dialler)
}

impl Dialler {
    async fn dial(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        match self.roots.of_controller() {
            Ok(bundle) => self.trust.replace(bundle),
            Err(error) => warn!(error = %Chain(&error), "roots cannot be read; keeping the ones before"),
        }
        let tcp = TcpStream::connect(&*self.address).await?;
        tcp.set_nodelay(true)?;
        let host = self.address.rsplit_once(':').map_or(&*self.address, |(host, _)| host);
        let name = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let tls = TlsConnector::from(self.trust.client()).connect(name, tcp).await?;
        Ok(TokioIo::new(tls))
    }
}

impl Service<Uri> for Dialler {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}

/// What proves to the controller who we are: the kubelet writes it anew before it expires, so it is read for each call.
pub(super) fn bearer(file: &std::path::Path) -> io::Result<MetadataValue<Ascii>> {
    let token = std::fs::read_to_string(file)?;
    let token = token.trim();
    if token.is_empty() || token.len() > MAX_TOKEN {
        return Err(io::Error::other(format!(
            "a token has 1 to {MAX_TOKEN} bytes, this has {}",
            token.len()
        )));
    }
    format!("Bearer {token}").parse().map_err(io::Error::other)
}
