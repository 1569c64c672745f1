//! What one core decides, without a kernel or a network: connections to a pod that has gone meanwhile.

use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_common::model::{CertificateHash, SpiffeId, TrustDomain, WorkloadUid};
use mesh_common::snapshot::Tables;
use mesh_common::tunnel::{Open, ResetReason, StreamKind, StreamToken};
use serde_json::Value;

use super::*;
use crate::args::LogFormat;
use crate::capture::Namespace;
use crate::config::LimitConfig;
use crate::identity::{Authority, AuthoritySettings, Identities, IdentityMetrics, system_clock};
use crate::kernel::{CallerWriter, OriginalDstReader};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::registry::Registry;
use crate::telemetry::traffic::TrafficMetrics;

const CALLER: &str = "10.0.0.1:40000";
const CALLED: &str = "10.0.0.2:80";

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn identities(trust_dir: &Path, registry: &Registry) -> Arc<Identities> {
    let clock = system_clock();
    let settings = AuthoritySettings {
        trust_dir: trust_dir.to_owned(),
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        lifetime: Duration::from_secs(3600),
        backdate: Duration::ZERO,
    };
    let authority = Arc::new(Authority::open(settings, &clock).unwrap());
    let metrics = IdentityMetrics::new(registry).unwrap();
    Arc::new(Identities::new(authority, crate::identity::Settings::default(), clock, metrics).unwrap())
}

/// Has a core of which the tables are empty decide something for a pod that it still listens for; gives the records and
/// the metrics.
fn records(decide: impl FnOnce(&Proxy, &PodHandle)) -> (Vec<Value>, String) {
    let (registry, folder, output) = (Registry::new(), tempfile::tempdir().unwrap(), Output::default());
    let (access_log, writer) =
        AccessLog::start(&registry, LogFormat::Json, Box::new(output.clone())).unwrap();
    let limits = LimitConfig {
        connections: 10,
        connections_per_namespace: 10,
        connections_per_pod: 10,
        abuse_penalty: Duration::ZERO,
        drain_timeout: Duration::ZERO,
    };
    let places = limits::Places::new(&limits);
    let namespace = Namespace::open(Path::new("/proc/thread-self/ns/net")).unwrap();
    let pod = PodHandle::new(WorkloadUid("gone".into()), namespace, places.pod(&"shop".into()));
    let shared = Arc::new(Shared {
        snapshots: Arc::new(ArcSwap::from_pointee(Tables::default().snapshot())),
        identities: identities(folder.path(), &registry),
        places,
        abuse_penalty: Duration::ZERO,
        traffic: TrafficMetrics::new(1, 100),
        access_log,
        original_dsts: OriginalDstReader::of_nothing(),
        callers: CallerWriter::of_nothing(),
        learned: Learned::default(),
        asker: None,
        origin: Origin::new("a", 1),
        metrics: ProxyMetrics::new(&registry).unwrap(),
    });
    let settings = transport::http2::Settings::default();
    decide(&Proxy::new(shared, 0, settings, Handshakes::default()), &pod);
    drop(writer);
    let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), registry.render().unwrap())
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

#[test]
fn a_connection_and_a_stream_to_a_pod_that_has_gone_are_refused_and_recorded() {
    let (records, metrics) = records(|proxy, pod| {
        let socket = std::fs::File::open("/dev/null").unwrap();
        let accepted = Accepted { socket: socket.as_fd(), peer: at(CALLER), local: at(CALLED) };
        let Err(Refusal(reason)) = proxy.begin_inbound(pod, &accepted) else { panic!("it is let in") };
        assert_eq!(reason, ResetReason::Unreachable);

        let identity = SpiffeId::new(&TrustDomain::parse("cluster.local").unwrap(), "shop", "web").unwrap();
        let certificate = Arc::new(CertificateHash([0; 32]));
        let caller = Caller { identity, certificate, peer: at(CALLER), local: at(CALLED) };
        let open = Open {
            token: StreamToken([1; 16]),
            kind: StreamKind::Opaque,
            dialled: at(CALLED),
            source_port: 40_001,
        };
        let Err(Refusal(reason)) = proxy.stream(pod, &caller, &open) else { panic!("it is let in") };
        assert_eq!(reason, ResetReason::Unreachable);
    });
    let said: Vec<_> = records.iter().map(|record| [&record["src.addr"], &record["dst.addr"]]).collect();
    assert_eq!(said, [["10.0.0.1:40000", CALLED], ["10.0.0.1:40001", CALLED]]);
    for record in &records {
        assert_eq!((&record["reason"], &record["direction"]), (&"pod_gone".into(), &"inbound".into()));
        assert_eq!(record["verdict"], "undecided", "nobody asked policy");
    }
    let refused = "nodemesh_proxy_refusals_total{reason=\"pod_gone\"} 2\n";
    assert!(metrics.contains(refused), "{metrics}");
}
