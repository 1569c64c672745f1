//! A controller for tests: objects from a folder, agents known by a table of tokens.
//!
//! The real discovery and the real authority of a `--trust-dir` behind real TLS; what stands for the API server is the
//! folder, for its EndpointSlice controller the snapshot's own endpoints, and for TokenReview the table.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_common::model::endpoint::{EndpointSlice, SlicePort};
use mesh_common::model::{MeshSettings, NamespacedName, SpiffeId};
use mesh_common::snapshot::{Delta, ServiceRecord, Snapshot, Tables};
use mesh_node::control::documents::Reader;
use mesh_node::control::enroller::Enroller;
use mesh_node::control::key_ring::key_orders;
use mesh_node::control::store::Store;
use mesh_node::control::watch_dir::{Content, FolderWatch, Reading};
use mesh_node::controller::agents::{AgentCaller, Authenticate, Authenticating, Refused};
use mesh_node::controller::discovery::{Discovery, DiscoverySettings};
use mesh_node::identity::{
    Authority, AuthoritySettings, CertificateAuthority, Identities, IdentityMetrics, Settings, system_clock,
};
use mesh_node::key_sets::{KeySetMetrics, KeySetSettings, KeySets};
use mesh_node::telemetry::registry::Registry;
use mesh_node::xds::Trust;
use mesh_node::xds::certificates::{
    Answer, CertificateServer, CertificateService, SignRequest, SignResponse,
};
use rustls::ServerConfig;
use rustls::pki_types::CertificateSigningRequestDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tonic::codegen::Service;
use tonic::{Request, Response, Status};

const CONTROLLER: &str = "spiffe://cluster.local/ns/nodemesh-system/sa/nodemesh-controller";
/// In the folder of the authority: while it is there nobody is signed for.
const AWAY: &str = "signs-nothing";
const AGENT: &str = "spiffe://cluster.local/ns/nodemesh-system/sa/nodemesh-agent";
/// Longest time for one TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&Arguments::read()?))
}

/// `LISTEN CONFIG-DIR TRUST-DIR NODE=TOKEN...`
struct Arguments {
    listen: SocketAddr,
    config_dir: PathBuf,
    trust_dir: PathBuf,
    /// Nodes by token.
    tokens: HashMap<String, String>,
}

impl Arguments {
    fn read() -> Result<Self> {
        let mut words = std::env::args().skip(1);
        let mut next = |what: &'static str| words.next().context(what);
        let listen = next("an address to listen on")?.parse()?;
        let config_dir = next("the folder of objects")?.into();
        let trust_dir = next("the folder of the authority")?.into();
        let token = |word: String| match word.split_once('=') {
            Some((node, token)) => Ok((token.to_owned(), node.to_owned())),
            None => bail!("{word} is not NODE=TOKEN"),
        };
        Ok(Self { listen, config_dir, trust_dir, tokens: words.map(token).collect::<Result<_>>()? })
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let clock = system_clock();
    let mesh = Arc::new(MeshSettings::default());
    let settings = AuthoritySettings {
        trust_dir: arguments.trust_dir.clone(),
        trust_domain: mesh.trust_domain.clone(),
        lifetime: Duration::from_secs(24 * 3600),
        backdate: Duration::from_secs(300),
    };
    let authority = Arc::new(Authority::open(settings, &clock)?);
    let metrics = IdentityMetrics::new(&Registry::new())?;
    let own: SpiffeId = CONTROLLER.parse()?;
    let identities = Identities::new(Arc::clone(&authority) as _, Settings::default(), clock, metrics)?;
    identities.ensure(&own).await?;
    let (tls, identities) = (identities.controller(&own)?, Arc::new(identities));

    let discovery = Arc::new(Discovery::new(DiscoverySettings::default()));
    let bundle = authority.bundle()?;
    let roots = bundle.roots().iter().map(|root| root.to_vec()).collect();
    discovery.publish_trust(&Trust {
        trust_domain: mesh.trust_domain.clone(),
        roots,
        revocation_lists: Vec::new(),
        retired: Vec::new(),
    });
    let tokens = Arc::new(Tokens(arguments.tokens.clone()));
    let listener = TcpListener::bind(arguments.listen).await.context("listen")?;
    let away = arguments.trust_dir.join(AWAY);
    let signer = Arc::new(Signer { authority, tokens: Arc::clone(&tokens), away });
    let services = Services { identities, discovery: Arc::clone(&discovery), tokens, signer };
    tokio::spawn(accept(listener, tls, services));
    follow(FolderWatch::new(&arguments.config_dir)?, mesh, &discovery).await
}

/// Publishes what the folder says, and every change of it.
async fn follow(mut folder: FolderWatch, mesh: Arc<MeshSettings>, discovery: &Discovery) -> Result<()> {
    let mut store = Store::new(Reader::new(Arc::clone(&mesh)));
    let mut enroller = Enroller::default();
    let mut endpoints = Endpoints::default();
    let settings = Delta::Settings(mesh);
    endpoints.tables.apply(settings.clone());
    discovery.publish(&[settings]);
    let mut is_begun = false;
    let (mut orders, errands) = key_orders();
    let settings = KeySetSettings {
        refresh: Duration::from_secs(1),
        max_age: Duration::from_secs(24 * 3600),
        roots_file: None,
        own_ports: Vec::new(),
    };
    tokio::spawn(KeySets::new(settings, errands, KeySetMetrics::new(&Registry::new())?)?.run());
    loop {
        let readings = tokio::select! {
            readings = folder.next() => readings,
            news = orders.next() => {
                discovery.publish(&enroller.learn(news));
                continue;
            }
        };
        for Reading { file, content } in readings {
            match content {
                Content::Text(text) => match store.reader(&file).read(&text) {
                    Ok(text) => store.put(&file, text),
                    Err(reason) => store.refuse(&file, reason),
                },
                Content::Refused { reason, seen } => {
                    let refusal = store.reader(&file).refusal(reason, &seen);
                    store.refuse(&file, refusal);
                }
                Content::Gone => store.remove(&file),
            }
        }
        let mut deltas = enroller.apply(store.changes());
        if let Some(wanted) = enroller.take_wanted() {
            orders.place(wanted);
        }
        deltas.extend(endpoints.derived(&deltas));
        discovery.publish(&deltas);
        if !std::mem::replace(&mut is_begun, true) {
            discovery.begin();
        }
    }
}

/// Makes EndpointSlices of Services that have none, as Kubernetes does.
#[derive(Default)]
struct Endpoints {
    tables: Tables,
    given: HashSet<NamespacedName>,
    made: BTreeMap<NamespacedName, EndpointSlice>,
}

impl Endpoints {
    fn derived(&mut self, deltas: &[Delta]) -> Vec<Delta> {
        for delta in deltas {
            if let Delta::UpsertEndpointSlice(slice) = delta {
                self.given.insert(slice.service.clone());
            }
            self.tables.apply(delta.clone());
        }
        let snapshot = self.tables.snapshot();
        let made = self.slices(&snapshot);
        let before = std::mem::replace(&mut self.made, made);
        let gone = before.keys().filter(|name| !self.made.contains_key(name));
        let changed = self.made.iter().filter(|(name, slice)| before.get(name) != Some(slice));
        let upsert = |slice: &EndpointSlice| Delta::UpsertEndpointSlice(Arc::new(slice.clone()));
        let gone = gone.map(|name| Delta::RemoveEndpointSlice(name.clone()));
        changed.map(|(_, slice)| upsert(slice)).chain(gone).collect()
    }

    fn slices(&self, snapshot: &Snapshot) -> BTreeMap<NamespacedName, EndpointSlice> {
        let without = snapshot.services().filter(|record| !self.given.contains(&record.service.name));
        without.map(|record| slice(record)).map(|slice| (slice.name.clone(), slice)).collect()
    }
}

fn slice(record: &ServiceRecord) -> EndpointSlice {
    let service = &record.service;
    let port = |(index, port): (usize, &mesh_common::model::ServicePort)| SlicePort {
        name: port.name.clone(),
        endpoints: record.endpoints_of(index).into(),
    };
    let name = format!("{}-made", service.name.name);
    EndpointSlice {
        name: NamespacedName::new(service.name.namespace.clone(), name),
        service: service.name.clone(),
        ports: service.ports.iter().enumerate().map(port).collect(),
    }
}

/// What agents call.
#[derive(Clone)]
struct Services {
    identities: Arc<Identities>,
    discovery: Arc<Discovery>,
    tokens: Arc<Tokens>,
    signer: Arc<Signer>,
}

async fn accept(listener: TcpListener, tls: Arc<ServerConfig>, services: Services) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let Ok((connection, _)) = listener.accept().await else { continue };
        let served = serve(acceptor.clone(), connection, services.clone());
        tokio::spawn(async move {
            if let Err(error) = served.await {
                eprintln!("a connection ended: {error:#}");
            }
        });
    }
}

async fn serve(acceptor: TlsAcceptor, connection: TcpStream, services: Services) -> Result<()> {
    connection.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE, acceptor.accept(connection)).await.context("handshake")??;
    let chain = stream.get_ref().1.peer_certificates();
    let shown = chain.map(|chain| services.identities.peer(Some(chain))).transpose()?;
    let shown = shown.map(|peer| peer.identity);
    let resources = services.discovery.service(services.tokens.clone());
    let certificates = CertificateServer::new(services.signer);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (mut resources, mut certificates) = (resources.clone(), certificates.clone());
        let refused = services.tokens.refused(&request, shown.as_ref());
        async move {
            if request.uri().path().starts_with("/nodemesh.v1alpha1.CertificateService/") {
                return certificates.call(request).await;
            }
            match refused {
                Some(refused) => Ok(Status::from(&refused).into_http()),
                None => resources.call(request).await,
            }
        }
    });
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service)
        .await
        .context("serve")
}

/// Nodes by token.
struct Tokens(HashMap<String, String>);

impl Tokens {
    fn caller(&self, bearer: &str) -> Result<AgentCaller, Refused> {
        let unknown = || Refused::Unauthenticated("nobody has this token".to_owned());
        let node = self.0.get(bearer).ok_or_else(unknown)?;
        let identity = AGENT.parse().map_err(|_| unknown())?;
        let pod_uid = format!("agent-{node}").into();
        // There is no pod that says it: agents of an earlier build have none.
        Ok(AgentCaller { node: node.as_str().into(), pod_uid, identity, has_certificate: false })
    }

    /// Why a stream is refused; says of one that is not what its connection shows.
    fn refused<T>(&self, request: &http::Request<T>, shown: Option<&SpiffeId>) -> Option<Refused> {
        let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        // Whose token it is the service itself asks.
        let caller = self.caller(header?.strip_prefix("Bearer ")?).ok()?;
        if request.uri().path().ends_with("/DeltaAggregatedResources") {
            let shown =
                shown.map_or("no certificate".to_owned(), |shown| format!("the certificate of {shown}"));
            eprintln!("{} begins a stream and shows {shown}", caller.node);
        }
        caller.may_follow(shown).err()
    }
}

impl Authenticate for Tokens {
    fn authenticate<'a>(&'a self, bearer: &'a str) -> Authenticating<'a> {
        Box::pin(std::future::ready(self.caller(bearer)))
    }
}

/// Signs for every agent that it knows.
struct Signer {
    authority: Arc<Authority>,
    tokens: Arc<Tokens>,
    /// Where a test says that nobody is signed for.
    away: PathBuf,
}

impl CertificateService for Signer {
    fn sign(
        self: Arc<Self>,
        request: Request<SignRequest>,
    ) -> Answer<Result<Response<SignResponse>, Status>> {
        Box::pin(async move {
            let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
            let bearer = header.and_then(|value| value.strip_prefix("Bearer "));
            let caller = bearer.map(|bearer| self.tokens.caller(bearer));
            if !matches!(caller, Some(Ok(_))) {
                return Err(Status::unauthenticated("nobody has this token"));
            }
            if self.away.exists() {
                return Err(Status::unavailable("the authority is away, as a test wants it"));
            }
            let SignRequest { identity, request } = request.into_inner();
            let identity = identity.parse().map_err(|_| Status::invalid_argument("no SPIFFE id"))?;
            let request = CertificateSigningRequestDer::from(request);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let issued = self.authority.sign(&identity, &request, now).await;
            let issued = issued.map_err(|error| Status::permission_denied(error.to_string()))?;
            let chain = issued.chain.iter().map(|certificate| certificate.to_vec()).collect();
            Ok(Response::new(SignResponse { chain }))
        })
    }
}
