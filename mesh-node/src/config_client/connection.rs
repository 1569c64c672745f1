//! Connections to the controller: found by name, verified by identity, kept alive. The one for certificates shows none, so
//! that whatever is wrong with the agent's own it can have another; the one of a stream shows it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_common::model::Text;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tracing::warn;

use super::roots::Roots;
use crate::identity::{ControllerTrust, HandshakeFailure, OwnCertificate};
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
    /// What is shown, if anything.
    pub(super) own: Option<OwnCertificate>,
    /// Whether the controller ended a connection by an alert, as it does when it does not take our certificate.
    pub(super) is_refused: Arc<AtomicBool>,
}

/// A connection to the controller.
pub(super) type Connected = TokioIo<Noted>;

/// TLS that notes an alert of the other side: what is above it tells of no more than a broken connection.
pub(super) struct Noted {
    tls: TlsStream<TcpStream>,
    is_refused: Arc<AtomicBool>,
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
    /// The same for one stream, with the agent's own certificate.
    pub(super) fn showing(&self, own: OwnCertificate) -> Self {
        Self { own: Some(own), is_refused: Arc::default(), ..self.clone() }
    }

    async fn dial(self) -> io::Result<Connected> {
        match self.roots.of_controller() {
            Ok(bundle) => self.trust.replace(bundle),
            Err(error) => warn!(error = %Chain(&error), "roots cannot be read; keeping the ones before"),
        }
        let tcp = TcpStream::connect(&*self.address).await?;
        tcp.set_nodelay(true)?;
        let host = self.address.rsplit_once(':').map_or(&*self.address, |(host, _)| host);
        let name = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let config = self.trust.client(self.own.as_ref());
        let tls = TlsConnector::from(config).connect(name, tcp).await?;
        Ok(TokioIo::new(Noted { tls, is_refused: self.is_refused }))
    }
}

impl Noted {
    fn note<T>(&self, result: io::Result<T>) -> Poll<io::Result<T>> {
        let failure = |error: &io::Error| Some(HandshakeFailure::of(error.get_ref()?.downcast_ref()?));
        if result.as_ref().err().and_then(failure) == Some(HandshakeFailure::RefusedByPeer) {
            self.is_refused.store(true, Ordering::Relaxed);
        }
        Poll::Ready(result)
    }
}

impl AsyncRead for Noted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.tls).poll_read(context, buffer));
        self.note(result)
    }
}

impl AsyncWrite for Noted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}

impl Service<Uri> for Dialler {
    type Response = Connected;
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
