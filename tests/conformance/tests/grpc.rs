//! gRPC's own interoperability tests, its client in one pod and its server in another.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_test_conformance::grpc_interop;
use mesh_test_e2e::{SERVER, server, service};
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;

/// Declared `grpc`.
const PORT: u16 = 50051;
/// A case takes under a second, the soaks some more.
const LIMIT: Duration = Duration::from_secs(60);
/// All cases of the client but those that ask Google's own services for credentials: `compute_engine_creds`,
/// `service_account_creds`, `jwt_token_creds`, `per_rpc_creds`, `oauth2_auth_token`, `google_default_credentials`,
/// `compute_engine_channel_credentials`; and but `pick_first_unary`, which wants a server that says who it is, as this
/// version's does not.
const CASES: [&str; 18] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "orca_per_rpc",
    "orca_oob",
    "rpc_soak",
    "channel_soak",
];

/// What reads the load that servers report, as the cases about it want.
const BALANCER: &str = r#"{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}"#;

#[test]
fn every_case_passes_by_the_service() {
    every_case_passes(|_| SocketAddr::from((SERVER, PORT)));
}

#[test]
fn every_case_passes_by_the_pod_and_ipv6() {
    every_case_passes(|mesh| mesh.pod("server").at_v6(PORT));
}

fn every_case_passes(at: impl FnOnce(&Mesh) -> SocketAddr) {
    let pods = vec![server("server").port("grpc", PORT)];
    let scenario =
        Scenario::new(vec![PodSpec::new("client")], pods).service(service().port("grpc", PORT, PORT));
    scenario.run(|mesh| {
        let folder = grpc_interop()?;
        let program = folder.join("server");
        let serve =
            mesh.pod("server").place().spawn("interop-server", &program, &[format!("--port={PORT}")])?;
        listens(mesh)?;
        let client = folder.join("client").display().to_string();
        let at = at(mesh);
        for case in CASES {
            passes(mesh, &client, at, case)?;
        }
        drop(serve);
        let captured = |record: &serde_json::Value| {
            record["http.path"] == "/grpc.testing.TestService/UnaryCall" && record["protocol"] == "grpc"
        };
        mesh.node("node-b").record("a call that the mesh carried", captured)?;
        Ok(())
    });
}

/// The server takes a moment to listen.
fn listens(mesh: &Mesh) -> Result<()> {
    eventually_true("the server listens", PATIENCE, || {
        let at = SocketAddr::from(([127, 0, 0, 1], PORT));
        mesh.pod("server").place().netns().run(|| Ok(TcpStream::connect(at).is_ok())).unwrap_or(false)
    })?;
    Ok(())
}

fn passes(mesh: &Mesh, client: &str, at: SocketAddr, case: &str) -> Result<()> {
    let arguments = [
        format!("--server_host={}", at.ip()),
        format!("--server_port={}", at.port()),
        format!("--test_case={case}"),
        "--soak_iterations=50".to_owned(),
        "--soak_overall_timeout_seconds=30".to_owned(),
        format!("--service_config_json={BALANCER}"),
    ];
    let place = mesh.pod("client").place();
    let ended = place.spawn(&format!("interop-{case}"), client, &arguments)?.wait(LIMIT)?;
    ensure!(ended.status.success(), "{case} at {at}: {}\n{}", ended.stdout, ended.stderr);
    Ok(())
}
