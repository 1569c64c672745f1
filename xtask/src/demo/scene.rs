//! The scene of the demo: a small shop on two nodes, its programs and its policies.
//!
//! Out: a mesh without agents, with curl, nginx and Redis inside pods. The programs are the distribution's own and
//! know nothing of a mesh.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::eventually::{PATIENCE, eventually};
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::pod::Pod;
use mesh_test_harness::process::Process;

/// The address of Service `web`.
pub(super) const WEB: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The address of Service `redis`.
pub(super) const REDIS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
/// Where nginx listens.
pub(super) const WEB_PORT: u16 = 8080;

/// What is drawn before anything else.
pub(super) const PICTURE: &str = "   node-a                                                    node-b
  ┌──────────────────────────────────┐                      ┌──────────────────────────────────┐
  │ frontend  10.77.1.10  curl       │                      │ web       10.77.2.10  nginx      │
  │ visitor   10.77.1.11  curl       │        wire          │ web-2     10.77.2.11  nginx      │
  │ outsider  10.77.1.12  not in the │ ════════════════════ │ redis     10.77.2.12  redis      │
  │                       mesh       │ everything is        │                                  │
  │ mesh-node agent                  │ captured here        │ mesh-node agent                  │
  └──────────────────────────────────┘                      └──────────────────────────────────┘
   Service web 10.96.0.10:80 -> web, web-2 :8080             Service redis 10.96.0.20:6379";

/// Plaintext is refused in the whole shop.
pub(super) const STRICT: &str = "\
apiVersion: policy.nodemesh.dev/v1alpha1
kind: PeerAuthentication
metadata:
  name: strict
  namespace: shop
spec:
  mtls:
    mode: STRICT
";

/// The servers of the shop; each dies with this value.
pub(super) struct Programs {
    _running: Vec<Process>,
}

/// Makes nodes and pods, writes the objects, starts the programs.
pub(super) fn build() -> Result<(Mesh, Programs)> {
    let client = PodSpec::new;
    let web =
        |name: &str| PodSpec::new(name).service_account("web").label("app", "web").port("http", WEB_PORT);
    let mesh = Mesh::prepare(
        vec![client("frontend"), client("visitor"), client("outsider").mode("disabled")],
        vec![web("web"), web("web-2"), PodSpec::new("redis").port("tcp-redis", 6379)],
    )?;
    let config = mesh.config();
    config.write_service(&ServiceSpec::new("web", &[IpAddr::V4(WEB)]).port("http", 80, WEB_PORT))?;
    config.write_service(&ServiceSpec::new("redis", &[IpAddr::V4(REDIS)]).port("tcp-redis", 6379, 6379))?;
    config.write("strict", STRICT)?;
    config.write("web-policy", &web_policy(&["frontend"]))?;
    config.write("redis-policy", &redis_policy())?;
    let folder = mesh.topology().run().folder();
    let running = vec![
        nginx(mesh.pod("web"), &folder)?,
        nginx(mesh.pod("web-2"), &folder)?,
        redis(mesh.pod("redis"), &folder)?,
    ];
    Ok((mesh, Programs { _running: running }))
}

/// Who may GET from nginx.
pub(super) fn web_policy(accounts: &[&str]) -> String {
    let principals: String = accounts
        .iter()
        .map(|account| format!("              - cluster.local/ns/shop/sa/{account}\n"))
        .collect();
    format!(
        "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata:\n  name: web-readers\n  \
         namespace: shop\nspec:\n  selector:\n    matchLabels:\n      app: web\n  action: ALLOW\n  rules:\n    \
         - from:\n        - source:\n            principals:\n{principals}      to:\n        - operation:\n            \
         methods: [GET]\n"
    )
}

fn redis_policy() -> String {
    "\
apiVersion: policy.nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata:
  name: redis-writers
  namespace: shop
spec:
  selector:
    matchLabels:
      app: redis
  action: ALLOW
  rules:
    - from:
        - source:
            serviceAccounts: [shop/frontend]
"
    .to_owned()
}

fn nginx(pod: &Pod, folder: &Path) -> Result<Process> {
    let name = pod.name();
    let file = folder.join(format!("{name}.nginx.conf"));
    let text = format!(
        "user root; daemon off; worker_processes 1; pid {folder}/{name}.nginx.pid; error_log stderr warn;\n\
         events {{}}\n\
         http {{\n  access_log off;\n  server {{\n    listen {WEB_PORT}; listen [::]:{WEB_PORT};\n    \
         location / {{ return 200 \"hello from {name}, {PLAINTEXT_MARKER}\\n\"; }}\n  }}\n}}\n",
        folder = folder.display(),
    );
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let configuration = file.display().to_string();
    let process =
        pod.place().spawn(&format!("nginx-{name}"), "nginx", &["-e", "stderr", "-c", &configuration])?;
    listens(pod, WEB_PORT)?;
    Ok(process)
}

fn redis(pod: &Pod, folder: &Path) -> Result<Process> {
    let folder = folder.display().to_string();
    let arguments = ["--bind", "*", "--protected-mode", "no", "--save", "", "--dir", &folder];
    let process = pod.place().spawn("redis", "redis-server", &arguments)?;
    listens(pod, 6379)?;
    Ok(process)
}

/// Waits until a port of the pod is open, asked from inside over loopback, which no mesh touches.
fn listens(pod: &Pod, port: u16) -> Result<()> {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let limit = Duration::from_secs(1);
    eventually(&format!("{} listens on port {port}", pod.name()), PATIENCE, || {
        pod.place().netns().run(|| Ok(std::net::TcpStream::connect_timeout(&address, limit)?)).ok().map(drop)
    })
}
