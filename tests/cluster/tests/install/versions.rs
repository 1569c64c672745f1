//! `mesh-node version`.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};

use anyhow::{Context, Result, ensure};
use mesh_node::controller::client::client;
use mesh_node::controller::versions::{Instance, versions};
use mesh_test_cluster::api_server::ApiServer;
use serde_json::json;

use super::{apply, set_status};

/// Shows a version as a pod does; returns the port.
fn pod_that_is(address: IpAddr, version: &'static str) -> Result<u16> {
    let listener = TcpListener::bind((address, 0)).context("listen as a pod")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let text = format!("istio_build{{component=\"mesh-node\",tag=\"{version}\"}} 1\n");
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
            // Who asks may have gone.
            let _ = stream.read(&mut request).and_then(|_| stream.write_all((head + &text).as_bytes()));
        }
    });
    Ok(port)
}

/// An address of this machine that the API server speaks to; nothing is sent.
fn own_address() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("make a socket")?;
    socket.connect("192.0.2.1:9").context("find the way out of this machine")?;
    Ok(socket.local_addr()?.ip())
}

fn make_pod(server: &ApiServer, name: &str, of: &str, address: IpAddr, port: u16) -> Result<()> {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "nodemesh-system", "labels": {"app.kubernetes.io/name": of},
        },
        "spec": {
            "nodeName": "a",
            "containers": [{
                "name": "a", "image": "a", "ports": [{"name": "metrics", "containerPort": port}],
            }],
        },
    });
    apply(server, &object.to_string())?;
    let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
    set_status(server, &["pod", "-n", "nodemesh-system", name], &status.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_is_shown_and_two_too_far_apart_are_warned_of() -> Result<()> {
    let server = ApiServer::start()?;
    server.kubectl(&["create", "namespace", "nodemesh-system"])?;
    let asks = client(Some(server.kubeconfig())).await?;
    let none = versions(&asks, "nodemesh-system").await?;
    ensure!(none.agents.is_empty() && none.warnings.len() == 2, "{none:?}");

    let address = own_address()?;
    let own = env!("CARGO_PKG_VERSION");
    make_pod(&server, "controller", "nodemesh-controller", address, pod_that_is(address, own)?)?;
    make_pod(&server, "agent-a", "nodemesh-agent", address, pod_that_is(address, own)?)?;
    let same = versions(&asks, "nodemesh-system").await?;
    ensure!(same.warnings.is_empty(), "{same:?}");
    let told = |version: &str| {
        let text = Some(version.to_owned());
        Instance { pod: "agent-a".to_owned(), node: "a".to_owned(), version: text, problem: None }
    };
    ensure!(same.agents == [told(own)], "{same:?}");

    make_pod(&server, "agent-over", "nodemesh-agent", address, 1)?;
    set_status(
        &server,
        &["pod", "-n", "nodemesh-system", "agent-over"],
        &json!({"status": {"phase": "Failed"}}).to_string(),
    )?;
    let without = versions(&asks, "nodemesh-system").await?;
    ensure!(without == same, "one that ran to its end is not asked: {without:?}");

    make_pod(&server, "agent-b", "nodemesh-agent", address, pod_that_is(address, "0.9.0")?)?;
    // Nobody listens there.
    make_pod(&server, "agent-c", "nodemesh-agent", address, 1)?;
    let mixed = versions(&asks, "nodemesh-system").await?;
    ensure!(mixed.agents.len() == 3 && mixed.warnings.len() == 2, "{mixed:?}");
    ensure!(mixed.agents[2].version.is_none() && mixed.agents[2].problem.is_some(), "{mixed:?}");
    ensure!(mixed.warnings[0].contains("the version of agent-c is not known"), "{mixed:?}");
    ensure!(mixed.warnings[1].contains("0.9.0 (agent agent-b)"), "{mixed:?}");
    Ok(())
}
