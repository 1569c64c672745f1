//! Every flag of the command line: its environment name, default and unit.
//!
//! The only reader of the environment. What is parsed here becomes a [`Config`](crate::config::Config), which
//! cannot be invalid.

mod values;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use mesh_common::model::TrustDomain;

use self::values::{
    address, at_least_one, cidr, duration, duration_or_none, host_and_port, namespace, node_name,
    signer_name, trust_domain,
};

/// Flags of `mesh-node agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(flatten)]
    pub(crate) controller: ControllerAccessArgs,
    #[command(flatten)]
    pub(crate) capture: CaptureArgs,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    #[command(flatten)]
    pub(crate) tunnel: TunnelArgs,
    #[command(flatten)]
    pub(crate) http: HttpArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Who this agent is and where its objects come from.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Node")]
pub(crate) struct NodeArgs {
    /// Name of this node, as pods have it in spec.nodeName
    #[arg(long, env = "NODEMESH_NODE_NAME", value_name = "NAME", value_parser = node_name)]
    pub(crate) node_name: String,
    /// Folder of Kubernetes YAML, watched: Pods, Services, EndpointSlices, policies; or else --controller
    #[arg(
        long,
        env = "NODEMESH_CONFIG_DIR",
        value_name = "DIR",
        required_unless_present = "controller",
        conflicts_with = "controller"
    )]
    pub(crate) config_dir: Option<PathBuf>,
    /// Namespace whose policies are about the whole mesh
    #[arg(long, env = "NODEMESH_ROOT_NAMESPACE", value_name = "NAME", default_value = "nodemesh-system", value_parser = namespace)]
    pub(crate) root_namespace: String,
    /// Domain of the cluster, as in NAME.NAMESPACE.svc.DOMAIN
    #[arg(long, env = "NODEMESH_CLUSTER_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Ranges of pods and cluster IPs, besides those of Node objects: an unknown address inside is refused, never sent in the clear
    #[arg(long, env = "NODEMESH_MESH_CIDRS", value_name = "CIDR,...", value_delimiter = ',', value_parser = cidr)]
    pub(crate) mesh_cidrs: Vec<IpNet>,
    /// Cores that carry traffic, one thread each [default: all that this process may use]
    #[arg(long, env = "NODEMESH_WORKERS", value_name = "COUNT", value_parser = at_least_one::<NonZeroUsize>)]
    pub(crate) workers: Option<NonZeroUsize>,
}

/// Where objects and certificates come from, unless from folders.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Controller")]
pub(crate) struct ControllerAccessArgs {
    /// Where the controller is, for objects and certificates; instead of --config-dir and --trust-dir
    #[arg(long, env = "NODEMESH_CONTROLLER", value_name = "HOST:PORT", value_parser = host_and_port)]
    pub(crate) controller: Option<String>,
    /// File of the roots that the controller is known by, PEM; read again for each connection
    #[arg(
        long,
        env = "NODEMESH_CONTROLLER_ROOTS",
        value_name = "FILE",
        default_value = "/var/run/nodemesh/ca/ca.crt"
    )]
    pub(crate) controller_roots: PathBuf,
    /// File of the token that proves to the controller who this agent is; read again for each call
    #[arg(
        long,
        env = "NODEMESH_CONTROLLER_TOKEN",
        value_name = "FILE",
        default_value = "/var/run/secrets/nodemesh/token"
    )]
    pub(crate) controller_token: PathBuf,
    /// Folder in which what the controller said last is kept for the next start
    #[arg(long, env = "NODEMESH_STATE_DIR", value_name = "DIR", default_value = "/var/lib/nodemesh")]
    pub(crate) state_dir: PathBuf,
    /// Ask the controller about Services and pods when a pod of this node dials their addresses, and keep those, instead of
    /// being told the whole cluster: less memory in large clusters. First connections wait for the answer, 5 s at most
    #[arg(long, env = "NODEMESH_ON_DEMAND", requires = "controller")]
    pub(crate) on_demand: bool,
    /// DaemonSet in --root-namespace that this agent is a pod of. An agent that is told to stop asks the API server for it: if
    /// it is gone, the agent removes what it has in the kernel and in --state-dir, and enrolled pods are outside the mesh
    /// [default: everything stays, and enrolled pods open no connection until an agent runs]
    #[arg(long, env = "NODEMESH_DAEMON_SET", value_name = "NAME", requires = "controller", value_parser = node_name)]
    pub(crate) daemon_set: Option<String>,
}

/// Which sockets are captured, and where the kernel's side is kept.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Capture")]
pub(crate) struct CaptureArgs {
    /// Cgroup (version 2) that holds every pod of this node and nothing else [default: the kubelet's, kubepods.slice or kubepods
    /// below /sys/fs/cgroup or /sys/fs/cgroup/unified]
    #[arg(long, env = "NODEMESH_CGROUP_ROOT", value_name = "DIR")]
    pub(crate) cgroup_root: Option<PathBuf>,
    /// Cgroup that this agent makes and enters; must not be --cgroup-root nor hold it [default: that of its container, if
    /// it is in a pod, else nodemesh-agent beside --cgroup-root]
    #[arg(long, env = "NODEMESH_AGENT_CGROUP", value_name = "DIR")]
    pub(crate) agent_cgroup: Option<PathBuf>,
    /// Folder on bpffs where programs, maps and links outlive the agent
    #[arg(long, env = "NODEMESH_PIN_DIR", value_name = "DIR", default_value = "/sys/fs/bpf/nodemesh")]
    pub(crate) pin_dir: PathBuf,
    /// Folder in which the kubelet keeps the logs of pods: it names the mesh's own controllers before one of them can
    #[arg(long, env = "NODEMESH_POD_LOGS", value_name = "DIR", default_value = "/var/log/pods")]
    pub(crate) pod_logs: PathBuf,
    /// What a process under --cgroup-root gets from connect while its pod is not known yet
    #[arg(long, env = "NODEMESH_UNKNOWN_PODS", value_name = "WHAT", default_value = "refuse")]
    pub(crate) unknown_pods: UnknownPods,
}

/// `--unknown-pods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnknownPods {
    /// EPERM until the pod is classified.
    Refuse,
    /// Left alone until the pod is classified.
    Pass,
}

/// Flags of `mesh-node uninstall`.
#[derive(Args, Clone, Debug)]
pub struct UninstallArgs {
    /// Folder on bpffs that the agent used
    #[arg(long, env = "NODEMESH_PIN_DIR", value_name = "DIR", default_value = "/sys/fs/bpf/nodemesh")]
    pub(crate) pin_dir: PathBuf,
    /// Folder in which an agent kept what a controller said; removed with what is in it
    #[arg(long, env = "NODEMESH_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Look again whether the kernel still has any of it, and fail if it does
    #[arg(long)]
    pub(crate) verify: bool,
    /// Stay when it is done, as a pod of a DaemonSet must
    #[arg(long)]
    pub(crate) stay: bool,
}

/// Flags of `mesh-node hold`.
#[derive(Args, Clone, Debug)]
pub struct HoldArgs {
    /// What to do
    pub(crate) verb: HoldVerb,
    /// Folder of the container runtime's network configurations
    #[arg(long, env = "NODEMESH_CNI_CONF_DIR", value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
    /// Folder of the container runtime's network plugins
    #[arg(long, env = "NODEMESH_CNI_BIN_DIR", value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) cni_bin_dir: PathBuf,
    /// Folder on bpffs that the agent uses
    #[arg(long, env = "NODEMESH_PIN_DIR", value_name = "DIR", default_value = "/sys/fs/bpf/nodemesh")]
    pub(crate) pin_dir: PathBuf,
    /// Namespace of the mesh's own pods, which are not held
    #[arg(long, env = "NODEMESH_ROOT_NAMESPACE", value_name = "NAME", default_value = "nodemesh-system", value_parser = namespace)]
    pub(crate) root_namespace: String,
    /// Stay when it is done, and follow what others change of their configurations
    #[arg(long)]
    pub(crate) stay: bool,
    /// DaemonSet in --root-namespace that this is a pod of. When it is told to stop it asks the API server for it: if it is gone,
    /// the plugin is taken out [default: it stays]
    #[arg(long, env = "NODEMESH_DAEMON_SET", value_name = "NAME", requires = "stay", value_parser = node_name)]
    pub(crate) daemon_set: Option<String>,
}

/// What `mesh-node hold` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HoldVerb {
    /// Puts the plugin in, behind the network that there is.
    Install,
    /// Takes it out.
    Remove,
}

/// Certificates.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Identity")]
pub(crate) struct IdentityArgs {
    /// Folder of the certificate authority's key and roots, shared by the agents of one mesh; or else --controller
    #[arg(
        long,
        env = "NODEMESH_TRUST_DIR",
        value_name = "DIR",
        required_unless_present = "controller",
        conflicts_with = "controller"
    )]
    pub(crate) trust_dir: Option<PathBuf>,
    /// Trust domain of every identity
    #[arg(long, env = "NODEMESH_TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local", value_parser = trust_domain)]
    pub(crate) trust_domain: TrustDomain,
    /// How long a workload certificate is valid; renewed at half of it
    #[arg(long, env = "NODEMESH_CERTIFICATE_LIFETIME", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub(crate) certificate_lifetime: Duration,
    /// Longest time for one TLS handshake
    #[arg(long, env = "NODEMESH_HANDSHAKE_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) handshake_timeout: Duration,
}

/// The wire between agents.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Tunnels")]
pub(crate) struct TunnelArgs {
    /// Age at which a tunnel takes no new stream
    #[arg(long, env = "NODEMESH_TUNNEL_MAX_AGE", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) tunnel_max_age: Duration,
    /// Time without a stream after which a tunnel is closed
    #[arg(long, env = "NODEMESH_TUNNEL_IDLE_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) tunnel_idle_timeout: Duration,
    /// Tunnels kept per source pod, destination address and core
    #[arg(long, env = "NODEMESH_TUNNELS_PER_DESTINATION", value_name = "COUNT", default_value = "1", value_parser = at_least_one::<NonZeroU32>)]
    pub(crate) tunnels_per_destination: NonZeroU32,
    /// Streams of one tunnel at a time
    #[arg(long, env = "NODEMESH_TUNNEL_MAX_STREAMS", value_name = "COUNT", default_value = "4096", value_parser = at_least_one::<NonZeroU32>)]
    pub(crate) tunnel_max_streams: NonZeroU32,
    /// Largest window of one stream, in bytes
    #[arg(long, env = "NODEMESH_STREAM_WINDOW", value_name = "BYTES", default_value = "1048576", value_parser = clap::value_parser!(u32).range(65_536..=16_777_216))]
    pub(crate) stream_window: u32,
    /// Longest time for one TCP connect, to another agent or to an application
    #[arg(long, env = "NODEMESH_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub(crate) connect_timeout: Duration,
    /// How long first bytes are waited for where policy needs them
    #[arg(long, env = "NODEMESH_DETECT_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub(crate) detect_timeout: Duration,
    /// Time without a byte after which a TCP connection, a WebSocket or an exchange of HTTP is ended
    #[arg(long, env = "NODEMESH_TCP_IDLE_TIMEOUT", value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub(crate) tcp_idle_timeout: Duration,
}

/// HTTP.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct HttpArgs {
    /// Longest request or status line, in bytes
    #[arg(long, env = "NODEMESH_MAX_REQUEST_LINE", value_name = "BYTES", default_value = "8192", value_parser = clap::value_parser!(u32).range(256..=65_536))]
    pub(crate) max_request_line: u32,
    /// Longest head of a message, in bytes
    #[arg(long, env = "NODEMESH_MAX_HEADER_BYTES", value_name = "BYTES", default_value = "32768", value_parser = clap::value_parser!(u32).range(1_024..=131_072))]
    pub(crate) max_header_bytes: u32,
    /// Most header fields of a message
    #[arg(long, env = "NODEMESH_MAX_HEADERS", value_name = "COUNT", default_value = "100", value_parser = clap::value_parser!(u32).range(8..=1_000))]
    pub(crate) max_headers: u32,
    /// Longest time from a request's first byte to the end of its head
    #[arg(long, env = "NODEMESH_HEADER_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) header_timeout: Duration,
    /// Longest time from a request's first byte until it is there as a whole, or its response begins. Calls of gRPC are
    /// exempt: they have grpc-timeout
    #[arg(long, env = "NODEMESH_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub(crate) request_timeout: Duration,
    /// Bytes per second that a request's body brings at least until its response begins, measured over a minute, framing
    /// apart; 0 asks only for one byte a minute. Calls of gRPC are exempt: they may be quiet for as long as they like
    #[arg(long, env = "NODEMESH_MIN_BODY_RATE", value_name = "BYTES", default_value = "16", value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(crate) min_body_rate: u32,
    /// Bytes per second that a client takes of a response at least while some of it waits for the client, over a minute; what
    /// it took before counts for later, up to five minutes. 0 asks only for one byte a minute. While nothing waits a response may be quiet
    #[arg(long, env = "NODEMESH_MIN_RESPONSE_RATE", value_name = "BYTES", default_value = "16", value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(crate) min_response_rate: u32,
    /// Time between two requests after which a connection is closed
    #[arg(long, env = "NODEMESH_HTTP_IDLE_TIMEOUT", value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(crate) http_idle_timeout: Duration,
}

/// What one node, namespace and pod may take.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Connections of the whole node
    #[arg(long, env = "NODEMESH_MAX_CONNECTIONS", value_name = "COUNT", default_value = "100000", value_parser = at_least_one::<NonZeroU32>)]
    pub(crate) max_connections: NonZeroU32,
    /// Connections of one namespace
    #[arg(
        long,
        env = "NODEMESH_MAX_CONNECTIONS_PER_NAMESPACE",
        value_name = "COUNT",
        default_value = "50000",
        value_parser = at_least_one::<NonZeroU32>
    )]
    pub(crate) max_connections_per_namespace: NonZeroU32,
    /// Connections of one pod
    #[arg(long, env = "NODEMESH_MAX_CONNECTIONS_PER_POD", value_name = "COUNT", default_value = "20000", value_parser = at_least_one::<NonZeroU32>)]
    pub(crate) max_connections_per_pod: NonZeroU32,
    /// TLS handshakes under way per core
    #[arg(long, env = "NODEMESH_MAX_PENDING_HANDSHAKES", value_name = "COUNT", default_value = "1024", value_parser = at_least_one::<NonZeroU32>)]
    pub(crate) max_pending_handshakes: NonZeroU32,
    /// TLS handshakes under way per core for one source: an address that connects, or a pod of the node
    #[arg(
        long,
        env = "NODEMESH_MAX_PENDING_HANDSHAKES_PER_SOURCE",
        value_name = "COUNT",
        default_value = "256",
        value_parser = at_least_one::<NonZeroU32>
    )]
    pub(crate) max_pending_handshakes_per_source: NonZeroU32,
    /// How long whoever was cut off for abuse again and again (a pod of the node, or an address that connects) begins only one
    /// connection in each fifth of it, per core, counted from the last time; 0s for never
    #[arg(long, env = "NODEMESH_ABUSE_PENALTY", value_name = "DURATION", default_value = "10s", value_parser = duration_or_none)]
    pub(crate) abuse_penalty: Duration,
    /// How long open connections may finish when the agent is told to stop
    #[arg(long, env = "NODEMESH_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub(crate) drain_timeout: Duration,
}

/// What the node may ask of the agent.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Admin")]
pub(crate) struct AdminArgs {
    /// Where Prometheus scrapes /metrics
    #[arg(
        long,
        env = "NODEMESH_METRICS_ADDRESS",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:15020",
        value_parser = address
    )]
    pub(crate) metrics_address: SocketAddr,
    /// Where the node asks /readyz and /livez
    #[arg(
        long,
        env = "NODEMESH_READINESS_ADDRESS",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:15021",
        value_parser = address
    )]
    pub(crate) readiness_address: SocketAddr,
    /// Unix socket for status, check, dump and log; only its owner may connect
    #[arg(
        long,
        env = "NODEMESH_ADMIN_SOCKET",
        value_name = "FILE",
        default_value = "/run/nodemesh/admin.sock"
    )]
    pub(crate) admin_socket: PathBuf,
    /// Metric series of traffic that are kept at most; the rest is counted under other
    #[arg(long, env = "NODEMESH_MAX_SERIES", value_name = "COUNT", default_value = "10000", value_parser = at_least_one::<NonZeroU32>)]
    pub(crate) max_series: NonZeroU32,
}

/// What the agent says.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Log")]
pub(crate) struct LogArgs {
    /// Level, or directives of tracing's filter, as in info,mesh_node::kernel=debug
    #[arg(long, env = "NODEMESH_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
    /// Form of log and access records
    #[arg(long, env = "NODEMESH_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// One record per connection and request, on standard output
    #[arg(long, env = "NODEMESH_ACCESS_LOG", value_name = "WHEN", default_value = "on")]
    pub(crate) access_log: Switch,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of key=value pairs.
    Text,
    /// One JSON object per line.
    Json,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// How the keys of issuers are fetched (jwksUri of RequestAuthentications), by a controller or a standalone agent.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Keys of issuers")]
pub(crate) struct KeyArgs {
    /// Between two fetches of the same keys (jwksUri); an agent with --controller fetches none
    #[arg(long, env = "NODEMESH_JWKS_REFRESH_INTERVAL", value_name = "DURATION", default_value = "20m", value_parser = duration)]
    pub(crate) jwks_refresh_interval: Duration,
    /// How long keys are used that cannot be fetched again; at least twice --jwks-refresh-interval
    #[arg(long, env = "NODEMESH_JWKS_MAX_AGE", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub(crate) jwks_max_age: Duration,
    /// Roots that servers of keys are known by besides the web's, PEM
    #[arg(long, env = "NODEMESH_JWKS_ROOTS", value_name = "FILE")]
    pub(crate) jwks_roots: Option<PathBuf>,
}

/// Flags of `mesh-node controller`.
#[derive(Args, Clone, Debug)]
pub struct ControllerArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    #[command(flatten)]
    pub(crate) serving: ServingArgs,
    #[command(flatten)]
    pub(crate) log: ControllerLogArgs,
}

/// The API server, and what holds for the whole mesh.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// How to reach the API server [default: as a pod does]
    #[arg(long, env = "NODEMESH_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Name of this replica, as no other has it
    #[arg(long, env = "NODEMESH_POD_NAME", value_name = "NAME", value_parser = node_name)]
    pub(crate) pod_name: String,
    /// Namespace whose policies are about the whole mesh, and where controller and agents run
    #[arg(long, env = "NODEMESH_ROOT_NAMESPACE", value_name = "NAME", default_value = "nodemesh-system", value_parser = namespace)]
    pub(crate) root_namespace: String,
    /// Trust domain of every identity
    #[arg(long, env = "NODEMESH_TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local", value_parser = trust_domain)]
    pub(crate) trust_domain: TrustDomain,
    /// Domain of the cluster, as in NAME.NAMESPACE.svc.DOMAIN
    #[arg(long, env = "NODEMESH_CLUSTER_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Ranges of pods and cluster IPs, besides those of Node objects: an unknown address inside is refused, never sent in the clear
    #[arg(long, env = "NODEMESH_MESH_CIDRS", value_name = "CIDR,...", value_delimiter = ',', value_parser = cidr)]
    pub(crate) mesh_cidrs: Vec<IpNet>,
    /// How long a workload certificate is valid; renewed at half of it
    #[arg(long, env = "NODEMESH_CERTIFICATE_LIFETIME", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub(crate) certificate_lifetime: Duration,
    /// Signer of CertificateSigningRequests that signs in the controller's place, as in example.com/mesh [default: the key in Secret nodemesh-ca]
    #[arg(long, env = "NODEMESH_SIGNER_NAME", value_name = "DOMAIN/NAME", value_parser = signer_name)]
    pub(crate) signer_name: Option<String>,
}

/// Where the controller answers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Serving")]
pub(crate) struct ServingArgs {
    /// Where agents ask for certificates and for what they are to know
    #[arg(long, env = "NODEMESH_LISTEN", value_name = "ADDRESS:PORT", default_value = "[::]:15012", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// Where Prometheus scrapes /metrics
    #[arg(long, env = "NODEMESH_METRICS_ADDRESS", value_name = "ADDRESS:PORT", default_value = "[::]:15020", value_parser = address)]
    pub(crate) metrics_address: SocketAddr,
    /// Where the kubelet asks /readyz and /livez
    #[arg(
        long,
        env = "NODEMESH_READINESS_ADDRESS",
        value_name = "ADDRESS:PORT",
        default_value = "[::]:15021",
        value_parser = address
    )]
    pub(crate) readiness_address: SocketAddr,
}

/// What the controller says.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Log")]
pub(crate) struct ControllerLogArgs {
    /// Level, or directives of tracing's filter, as in info,mesh_node::controller=debug
    #[arg(long, env = "NODEMESH_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
    /// Form of the log; audit records, on standard output, are JSON
    #[arg(long, env = "NODEMESH_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}
