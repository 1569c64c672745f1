//! Serves agents: gRPC over TLS, on one port.
//!
//! In: connections. Out: calls of the services, from agents that have shown whose token they have, and streams of those
//! whose connection shows their certificate besides. Connections, calls and bytes are bounded for each address, so that one
//! that floods delays no other. Never: what a service decides.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_common::model::SpiffeId;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::server::NamedService as _;
use tracing::{debug, warn};

use super::agents::{AgentCaller, Refused};
use super::certificates::{Admission, Certificates};
use super::discovery::{Discovery, DiscoveryService};
use super::metrics::{Metrics, StreamOutcome};
use super::tokens::Tokens;
use crate::identity::{Identities, Reason};
use crate::system::pause_accepting;
use crate::telemetry::seldom::Seldom;
use crate::xds::certificates::CertificateServer;

/// Connections at a time: twice the nodes of the largest cluster, each with one for its stream and one for certificates.
const MAX_CONNECTIONS: usize = 20_000;
/// Of one address: an agent has two, and there may be a proxy before some of them.
const MAX_PER_ADDRESS: usize = 32;
/// Calls of one connection at a time.
const MAX_CALLS: u32 = 32;
/// Bytes of one call that wait to be read: an agent whose turn to begin has not come asks for certificates beside it.
const MAX_UNREAD: u32 = 1024 * 1024;
/// A token, and little else.
const MAX_HEADERS: u32 = 32 * 1024;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Between two signs of life that are asked of an agent, and for one.
const PING: Duration = Duration::from_secs(20);
/// Who asks for too much has its answer after this: its connections bound how often it can ask.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// What is served, and as whom.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) identities: Arc<Identities>,
    /// The controller's own identity.
    pub(super) local: SpiffeId,
    pub(super) tokens: Arc<Tokens>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) discovery: Arc<Discovery>,
    pub(super) metrics: Metrics,
    /// When it was last said that an agent has no certificate.
    pub(super) said: Arc<Seldom>,
}

/// Where a call comes from: the address, and whom the connection's certificate names.
#[derive(Clone)]
struct Origin {
    from: IpAddr,
    certificate: Option<Arc<SpiffeId>>,
}

/// Accepts connections for ever.
pub(super) async fn serve(listener: TcpListener, services: Services) {
    let places = Places::default();
    let said = Seldom::default();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a connection of an agent is not accepted");
                pause_accepting().await;
                continue;
            }
        };
        let Some(place) = places.take(from.ip()) else {
            if said.is_time() {
                warn!(%from, "refused a connection: too many are open from there, or in all");
            }
            continue;
        };
        let services = services.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(stream, from, services).await {
                debug!(%from, %error, "a connection of an agent failed");
            }
            drop(place);
        });
    }
}

/// Carries one connection to its end.
async fn connection(stream: TcpStream, from: SocketAddr, services: Services) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let config = services.identities.controller(&services.local).map_err(io::Error::other)?;
    let stream = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await??;
    let (identities, chain) = (Arc::clone(&services.identities), chain_of(&stream));
    let certificate = match &chain {
        Some(chain) => Some(Arc::new(identities.peer(Some(chain)).map_err(io::Error::other)?.identity)),
        None => None,
    };
    let origin = Origin { from: from.ip(), certificate };
    let service = service_fn(move |request| {
        let (origin, services) = (origin.clone(), services.clone());
        async move { Ok::<_, Infallible>(answer(request, origin, services).await) }
    });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(MAX_UNREAD)
        .initial_connection_window_size(2 * MAX_UNREAD)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = serving => served.map_err(io::Error::other),
        reason = until_over(&identities, chain.as_deref()) => Err(io::Error::other(reason)),
    }
}

/// The certificates that the peer showed, which the handshake has verified.
fn chain_of(stream: &TlsStream<TcpStream>) -> Option<Vec<CertificateDer<'static>>> {
    let (_, tls) = stream.get_ref();
    tls.peer_certificates().map(|chain| chain.iter().map(|one| one.clone().into_owned()).collect())
}

/// Ends when nothing vouches for the certificate of a connection any more; never, if it has none.
async fn until_over(identities: &Identities, chain: Option<&[CertificateDer<'_>]>) -> Reason {
    match chain {
        Some(chain) => identities.until_over(chain).await,
        None => std::future::pending().await,
    }
}

async fn answer(mut request: Request<Incoming>, origin: Origin, services: Services) -> Response<Body> {
    let Origin { from, certificate } = origin;
    let token = bearer(request.headers()).unwrap_or_default();
    let Some(admission) = services.tokens.admit(token, from).await else {
        sleep(PAUSE).await;
        let reason = format!("{from} showed too many unknown tokens: try again in some seconds");
        return Status::resource_exhausted(reason).into_http();
    };
    let path = request.uri().path();
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
    let Ok(response) = match service {
        Some(CertificateServer::<Certificates>::NAME) => {
            let is_shown = |caller: AgentCaller| caller.is_shown_by(certificate.as_deref()).map(|()| caller);
            // Refused there if need be, for the record.
            request.extensions_mut().insert(Admission(admission.and_then(is_shown)));
            CertificateServer::new(services.certificates).call(request).await
        }
        Some(AggregatedDiscoveryServiceServer::<DiscoveryService>::NAME) => {
            match services.lets_in(admission, certificate.as_deref()) {
                Ok(()) => services.discovery.service(services.tokens).call(request).await,
                Err(refused) => Ok(Status::from(&refused).into_http()),
            }
        }
        _ => Ok(Status::unimplemented("this is a controller of a mesh; it has no such service").into_http()),
    };
    response
}

impl Services {
    /// Whether a stream is served; counts it.
    fn lets_in(
        &self,
        admission: Result<AgentCaller, Refused>,
        certificate: Option<&SpiffeId>,
    ) -> Result<(), Refused> {
        let caller = admission.and_then(|caller| Ok((caller.may_follow(certificate)?, caller)));
        let outcome = match &caller {
            Ok((true, _)) => StreamOutcome::Mutual,
            Ok((false, caller)) => {
                if self.said.is_time() {
                    let seen = "nodemesh_controller_streams_total counts all of them";
                    warn!(node = %caller.node, seen, "an agent shows no certificate: it is of an earlier version");
                }
                StreamOutcome::WithoutCertificate
            }
            Err(_) => StreamOutcome::Refused,
        };
        self.metrics.stream(outcome);
        caller.map(drop)
    }
}

/// The bearer token of a call.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Places for connections.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One that is taken, until it is dropped.
struct Place {
    places: Places,
    address: IpAddr,
}

impl Places {
    fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.lock();
        let mine = taken.by_address.get(&address).copied().unwrap_or_default();
        if taken.all >= MAX_CONNECTIONS || mine >= MAX_PER_ADDRESS {
            return None;
        }
        taken.all += 1;
        taken.by_address.insert(address, mine + 1);
        drop(taken);
        Some(Place { places: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        match taken.by_address.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_so_many_places_and_takes_no_others() {
        let places = Places::default();
        let [flood, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let taken: Vec<Place> = (0..100).filter_map(|_| places.take(flood)).collect();
        assert_eq!(taken.len(), MAX_PER_ADDRESS);
        assert!(places.take(other).is_some());
        drop(taken);
        assert!(places.lock().all == 0 && places.lock().by_address.is_empty());
    }
}
