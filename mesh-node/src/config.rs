//! What the agent was told, parsed: one group per module. A [`Config`] cannot be invalid.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use mesh_common::model::{MeshSettings, Text, TrustDomain};

use crate::args::{
    AdminArgs, AgentArgs, CaptureArgs, ControllerAccessArgs, ControllerArgs, HttpArgs, IdentityArgs, KeyArgs,
    LimitArgs, LogArgs, LogFormat, NodeArgs, Switch, TunnelArgs, UnknownPods,
};

/// Where cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// What kubelets call the cgroup of all pods, by driver.
const POD_CGROUPS: [&str; 2] = ["kubepods.slice", "kubepods"];

/// Everything the agent was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this agent is, and what holds for its mesh.
    pub node: NodeConfig,
    /// For `control`, `config_client` and `identity`.
    pub source: SourceConfig,
    /// For `kernel` and `capture`.
    pub capture: CaptureConfig,
    /// For `identity`.
    pub identity: IdentityConfig,
    /// For `key_sets`.
    pub keys: KeyConfig,
    /// For `transport::tunnel`.
    pub tunnel: TunnelConfig,
    /// For `transport::http1` and `transport::http2`.
    pub http: HttpConfig,
    /// For `proxy`.
    pub limits: LimitConfig,
    /// For `admin`.
    pub admin: AdminConfig,
    /// For `telemetry`.
    pub log: LogConfig,
}

/// Where objects and certificates come from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// From folders.
    Folders(FoldersConfig),
    /// From a controller.
    Controller(ControllerAccess),
}

/// Folders that the agents of a mesh without controller share.
#[derive(Clone, Debug)]
pub struct FoldersConfig {
    /// Folder of Kubernetes YAML.
    pub config_dir: PathBuf,
    /// Folder of the authority.
    pub trust_dir: PathBuf,
}

/// How the controller is found and asked.
#[derive(Clone, Debug)]
pub struct ControllerAccess {
    /// `HOST:PORT`.
    pub address: Text,
    /// Roots that it is known by, PEM.
    pub roots_file: PathBuf,
    /// The agent's token.
    pub token_file: PathBuf,
    /// Folder of the state on disk.
    pub state_dir: PathBuf,
    /// Whether the agent asks, instead of being told everything.
    pub on_demand: bool,
    /// DaemonSet that the agent is a pod of, in the root namespace.
    pub daemon_set: Option<Text>,
}

/// Who this agent is, and what holds for its mesh.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// As pods have it in `spec.nodeName`.
    pub name: Text,
    /// Namespace whose policies are about the whole mesh.
    pub root_namespace: Text,
    /// As in `NAME.NAMESPACE.svc.DOMAIN`.
    pub cluster_domain: Text,
    /// Ranges of pods and cluster IPs besides those of Nodes.
    pub mesh_cidrs: Vec<IpNet>,
    /// Threads that carry traffic; at least 1.
    pub workers: usize,
}

/// Which sockets are captured.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// Cgroup that holds every pod of the node.
    pub cgroup_root: PathBuf,
    /// Cgroup that the agent makes and enters; `None`: its container's, or one beside `cgroup_root`.
    pub agent_cgroup: Option<PathBuf>,
    /// Folder on bpffs.
    pub pin_dir: PathBuf,
    /// Folder in which the kubelet keeps the logs of pods.
    pub pod_logs: PathBuf,
    /// What processes of pods that are not known yet get from connect.
    pub unknown_pods: UnknownPods,
}

/// Certificates.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// Trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// Validity of a workload certificate.
    pub certificate_lifetime: Duration,
}

/// Keys that issuers publish.
#[derive(Clone, Debug)]
pub struct KeyConfig {
    /// Between two fetches of the same keys.
    pub refresh: Duration,
    /// How long keys are used that cannot be fetched again.
    pub max_age: Duration,
    /// Roots of servers besides the web's, PEM.
    pub roots_file: Option<PathBuf>,
}

impl From<KeyArgs> for KeyConfig {
    fn from(args: KeyArgs) -> Self {
        Self { refresh: args.jwks_refresh_interval, max_age: args.jwks_max_age, roots_file: args.jwks_roots }
    }
}

/// The wire between agents, and opaque TCP.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// Age at which a tunnel takes no new stream.
    pub max_age: Duration,
    /// Time without a stream after which a tunnel is closed.
    pub idle_timeout: Duration,
    /// Tunnels per source pod, destination address and core; at least 1.
    pub per_destination: u32,
    /// Streams of one tunnel at a time; at least 1.
    pub max_streams: usize,
    /// Largest window of one stream, in bytes; 64 KiB to 16 MiB.
    pub stream_window: u32,
    /// Longest time for one TLS handshake.
    pub handshake_timeout: Duration,
    /// Longest time for one TCP connect.
    pub connect_timeout: Duration,
    /// How long first bytes are waited for.
    pub detect_timeout: Duration,
    /// Time without a byte after which a TCP connection is reset.
    pub tcp_idle_timeout: Duration,
    /// TLS handshakes under way per core; at least 1.
    pub max_pending_handshakes: u32,
    /// Those of one source; at least 1.
    pub max_pending_handshakes_per_source: u32,
}

/// HTTP.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Longest request or status line, in bytes.
    pub max_request_line: usize,
    /// Longest head of a message, in bytes.
    pub max_header_bytes: usize,
    /// Most header fields of a message.
    pub max_headers: usize,
    /// From a request's first byte to the end of its head.
    pub header_timeout: Duration,
    /// From a request's first byte until it is whole, or its response begins.
    pub request_timeout: Duration,
    /// Bytes per second of a request's body, at least.
    pub min_body_rate: u64,
    /// Bytes per second of a response that waits for its client, at least.
    pub min_response_rate: u64,
    /// Between two requests of one connection.
    pub idle_timeout: Duration,
}

/// What one node, namespace and pod may take.
#[derive(Clone, Debug)]
pub struct LimitConfig {
    /// Connections of the whole node.
    pub connections: u32,
    /// Connections of one namespace.
    pub connections_per_namespace: u32,
    /// Connections of one pod.
    pub connections_per_pod: u32,
    /// From the last time that a source was cut off for abuse to the end of its penalty; zero for no penalties.
    pub abuse_penalty: Duration,
    /// How long open connections may finish at the end.
    pub drain_timeout: Duration,
}

/// What the node may ask of the agent.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// `/metrics`.
    pub metrics_address: SocketAddr,
    /// `/readyz` and `/livez`.
    pub readiness_address: SocketAddr,
    /// Unix socket of the command line.
    pub socket: PathBuf,
    /// Series of traffic metrics that are kept.
    pub max_series: usize,
}

/// What the agent says.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Directives of tracing's filter.
    pub filter: String,
    /// Text or JSON.
    pub format: LogFormat,
    /// Whether connections and requests are recorded.
    pub access_log: bool,
}

impl From<AgentArgs> for Config {
    fn from(args: AgentArgs) -> Self {
        let AgentArgs { node, controller, capture, identity, keys, tunnel, http, limits, admin, log } = args;
        Self {
            source: source(controller, node.config_dir.clone(), identity.trust_dir.clone()),
            tunnel: TunnelConfig::new(&tunnel, &identity, &limits),
            node: node.into(),
            capture: capture.into(),
            identity: identity.into(),
            keys: keys.into(),
            http: http.into(),
            limits: limits.into(),
            admin: admin.into(),
            log: log.into(),
        }
    }
}

impl TunnelConfig {
    fn new(tunnel: &TunnelArgs, identity: &IdentityArgs, limits: &LimitArgs) -> Self {
        Self {
            max_age: tunnel.tunnel_max_age,
            idle_timeout: tunnel.tunnel_idle_timeout,
            per_destination: tunnel.tunnels_per_destination.get(),
            max_streams: tunnel.tunnel_max_streams.get() as usize,
            stream_window: tunnel.stream_window,
            handshake_timeout: identity.handshake_timeout,
            connect_timeout: tunnel.connect_timeout,
            detect_timeout: tunnel.detect_timeout,
            tcp_idle_timeout: tunnel.tcp_idle_timeout,
            max_pending_handshakes: limits.max_pending_handshakes.get(),
            max_pending_handshakes_per_source: limits.max_pending_handshakes_per_source.get(),
        }
    }
}

impl From<NodeArgs> for NodeConfig {
    fn from(args: NodeArgs) -> Self {
        Self {
            name: args.node_name.into(),
            root_namespace: args.root_namespace.into(),
            cluster_domain: args.cluster_domain.into(),
            mesh_cidrs: args.mesh_cidrs,
            workers: args.workers.map_or_else(available_cores, Into::into),
        }
    }
}

impl From<IdentityArgs> for IdentityConfig {
    fn from(args: IdentityArgs) -> Self {
        Self { trust_domain: args.trust_domain, certificate_lifetime: args.certificate_lifetime }
    }
}

impl From<HttpArgs> for HttpConfig {
    fn from(args: HttpArgs) -> Self {
        Self {
            max_request_line: args.max_request_line as usize,
            max_header_bytes: args.max_header_bytes as usize,
            max_headers: args.max_headers as usize,
            header_timeout: args.header_timeout,
            request_timeout: args.request_timeout,
            min_body_rate: args.min_body_rate.into(),
            min_response_rate: args.min_response_rate.into(),
            idle_timeout: args.http_idle_timeout,
        }
    }
}

impl From<LimitArgs> for LimitConfig {
    fn from(args: LimitArgs) -> Self {
        Self {
            connections: args.max_connections.get(),
            connections_per_namespace: args.max_connections_per_namespace.get(),
            connections_per_pod: args.max_connections_per_pod.get(),
            abuse_penalty: args.abuse_penalty,
            drain_timeout: args.drain_timeout,
        }
    }
}

impl From<AdminArgs> for AdminConfig {
    fn from(args: AdminArgs) -> Self {
        Self {
            metrics_address: args.metrics_address,
            readiness_address: args.readiness_address,
            socket: args.admin_socket,
            max_series: args.max_series.get() as usize,
        }
    }
}

impl From<LogArgs> for LogConfig {
    fn from(args: LogArgs) -> Self {
        Self { filter: args.log, format: args.log_format, access_log: args.access_log == Switch::On }
    }
}

impl From<CaptureArgs> for CaptureConfig {
    fn from(args: CaptureArgs) -> Self {
        let CaptureArgs { cgroup_root, agent_cgroup, pin_dir, pod_logs, unknown_pods } = args;
        let cgroup_root = cgroup_root.unwrap_or_else(|| kubelet_cgroup(Path::new(CGROUPS)));
        Self { cgroup_root, agent_cgroup, pin_dir, pod_logs, unknown_pods }
    }
}

/// Where kubelets keep their pods, with either driver, where version 2 is alone or stands beside version 1. Where none
/// is, what would be there on most machines: the error says so.
fn kubelet_cgroup(cgroups: &Path) -> PathBuf {
    let [usual, ..] = POD_CGROUPS.map(|name| cgroups.join(name));
    let mounts = [cgroups.to_owned(), cgroups.join("unified")];
    let mut places = mounts.iter().flat_map(|mount| POD_CGROUPS.map(|name| mount.join(name)));
    places.find(|place| place.is_dir()).unwrap_or(usual)
}

fn source(
    access: ControllerAccessArgs,
    config_dir: Option<PathBuf>,
    trust_dir: Option<PathBuf>,
) -> SourceConfig {
    match access.controller {
        Some(address) => SourceConfig::Controller(ControllerAccess {
            address: address.into(),
            roots_file: access.controller_roots,
            token_file: access.controller_token,
            state_dir: access.state_dir,
            on_demand: access.on_demand,
            daemon_set: access.daemon_set.map(Into::into),
        }),
        None => SourceConfig::Folders(FoldersConfig {
            config_dir: config_dir.expect("clap wants it where there is no controller"),
            trust_dir: trust_dir.expect("clap wants it where there is no controller"),
        }),
    }
}

/// Everything the controller was told.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// How to reach the API server; `None` as a pod does.
    pub kubeconfig: Option<PathBuf>,
    /// As no other replica is called.
    pub pod_name: Text,
    /// What holds for the whole mesh.
    pub mesh: MeshSettings,
    /// Validity of a workload certificate.
    pub certificate_lifetime: Duration,
    /// Whose requests somebody else signs, in the controller's place.
    pub signer_name: Option<Text>,
    /// Keys that issuers publish.
    pub keys: KeyConfig,
    /// Where agents call.
    pub listen: SocketAddr,
    /// `/metrics`.
    pub metrics_address: SocketAddr,
    /// `/readyz` and `/livez`.
    pub readiness_address: SocketAddr,
    /// Directives of tracing's filter.
    pub log_filter: String,
    /// Text or JSON.
    pub log_format: LogFormat,
}

impl Default for ControllerConfig {
    /// Of a controller that has its own addresses; ports are any that are free.
    fn default() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            kubeconfig: None,
            pod_name: "controller".into(),
            mesh: MeshSettings::default(),
            certificate_lifetime: Duration::from_secs(24 * 3600),
            signer_name: None,
            keys: KeyConfig {
                refresh: Duration::from_secs(20 * 60),
                max_age: Duration::from_secs(24 * 3600),
                roots_file: None,
            },
            listen: any,
            metrics_address: any,
            readiness_address: any,
            log_filter: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}

impl From<ControllerArgs> for ControllerConfig {
    fn from(args: ControllerArgs) -> Self {
        let ControllerArgs { cluster, keys, serving, log } = args;
        Self {
            kubeconfig: cluster.kubeconfig,
            pod_name: cluster.pod_name.into(),
            mesh: MeshSettings {
                root_namespace: cluster.root_namespace.into(),
                trust_domain: cluster.trust_domain,
                cluster_domain: cluster.cluster_domain.into(),
                mesh_cidrs: cluster.mesh_cidrs,
            },
            certificate_lifetime: cluster.certificate_lifetime,
            signer_name: cluster.signer_name.map(Into::into),
            keys: keys.into(),
            listen: serving.listen,
            metrics_address: serving.metrics_address,
            readiness_address: serving.readiness_address,
            log_filter: log.log,
            log_format: log.log_format,
        }
    }
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_cgroup_is_found_under_each_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(kubelet_cgroup(folder.path()), at("kubepods.slice"));
        for name in ["unified/kubepods", "unified/kubepods.slice", "kubepods", "kubepods.slice"] {
            std::fs::create_dir_all(at(name)).unwrap();
            assert_eq!(kubelet_cgroup(folder.path()), at(name));
        }
    }
}
