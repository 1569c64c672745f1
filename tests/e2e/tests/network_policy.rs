//! NetworkPolicy beside the mesh: what stands on the wire is what an engine would see without one, and an engine's rules
//! between the nodes decide on it as they would.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_test_e2e::{ECHO, HTTP, SERVER, SERVER_V6, node, peer_authentication, server};
use mesh_test_harness::capture::Carried;
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::figure;
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::servers::{Kind, Server};
use mesh_test_harness::topology::WIRE;

const GRPC: u16 = 50051;
const UNARY: &str = "/echo.Echo/Unary";
const CLIENTS: [&str; 2] = ["client", "other"];
/// The pod's ports. The Service has each at another one, so that a Service's port on the wire would be seen.
const PORTS: [u16; 3] = [HTTP, ECHO, GRPC];
const ADDED: u16 = 1000;

/// What a client speaks, named by the port of the pod.
type Port = u16;

#[test]
fn every_packet_between_the_nodes_is_from_pod_to_pod_and_the_applications_port() {
    scenario().capture_only(WIRE).run(|mesh| {
        let _servers = serve(mesh)?;
        for client in CLIENTS {
            for port in PORTS {
                for to in ways(mesh, port) {
                    ensure!(is_served(mesh, client, port, to), "{client} to {to}");
                }
            }
        }
        let pods: Vec<[IpAddr; 2]> = CLIENTS.iter().map(|name| mesh.pod(name).addresses()).collect();
        let server = mesh.pod("server").addresses();
        for (carried, index) in mesh.finish_captures()?.iter().zip(0..) {
            only_pods_and_their_ports(carried, &pods, server)
                .with_context(|| format!("on the wire at {}", node(index)))?;
        }
        Ok(())
    });
}

#[test]
fn rules_on_source_address_and_port_decide_as_without_a_mesh() {
    scenario().run(|mesh| {
        let servers = serve(mesh)?;
        let allowed = [HTTP, GRPC];
        // The client's tunnels are there before the other pod asks: they are not its own to use.
        enforce(mesh, "client", &allowed)?;
        for port in allowed {
            for to in ways(mesh, port) {
                ensure!(is_served(mesh, "client", port, to), "the allowed pod to {to}");
            }
        }
        let seen = seen(&servers);
        for port in PORTS {
            for to in ways(mesh, port) {
                ensure!(!is_served(mesh, "other", port, to), "the other pod is served by {to}");
            }
        }
        for to in ways(mesh, ECHO) {
            ensure!(!is_served(mesh, "client", ECHO, to), "a port that is not allowed serves by {to}");
        }
        ensure!(self::seen(&servers) == seen, "something of what was refused reached an application");
        let refused = refused(mesh)?;
        ensure!(refused >= PORTS.len() as u64 * 4 + 4, "refused by something else: {refused} by the rules");
        figure(&format!("the rules refused {refused} packets"));
        // It was the rules, and nothing else.
        lift(mesh)?;
        for client in CLIENTS {
            for port in PORTS {
                for to in ways(mesh, port) {
                    eventually_true("without rules everybody is served", PATIENCE, || {
                        is_served(mesh, client, port, to)
                    })?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn rules_that_change_are_met_once_the_tunnels_are_as_old_as_they_get() {
    // Each core has tunnels of its own: with one there is one to grow old.
    scenario().flags(&["--tunnel-max-age", "1s", "--workers", "1"]).run(|mesh| {
        let _servers = serve(mesh)?;
        enforce(mesh, "other", &PORTS)?;
        for port in PORTS {
            let to = ways(mesh, port)[0];
            ensure!(is_served(mesh, "other", port, to), "{to} while it is allowed");
        }
        enforce(mesh, "client", &PORTS)?;
        for port in PORTS {
            let to = ways(mesh, port)[0];
            let took =
                eventually_true("the rules are met", PATIENCE, || !is_served(mesh, "other", port, to))?;
            figure(&format!("changed rules are met at port {port} after {took:?}"));
            ensure!(is_served(mesh, "client", port, to), "the allowed pod to {to}");
        }
        Ok(())
    });
}

/// Two pods that call a third on the other node; only certificates.
fn scenario() -> Scenario {
    let addresses = [IpAddr::V4(SERVER), IpAddr::V6(SERVER_V6)];
    let service = ServiceSpec::new("server", &addresses)
        .port("http", HTTP + ADDED, HTTP)
        .port("tcp-echo", ECHO + ADDED, ECHO)
        .port("grpc", GRPC + ADDED, GRPC);
    Scenario::new(CLIENTS.map(PodSpec::new).to_vec(), vec![server("server").port("grpc", GRPC)])
        .service(service)
        .objects("strict", &peer_authentication("STRICT"))
}

fn serve(mesh: &Mesh) -> Result<[Server; 3]> {
    let serve = |kind, port| mesh.pod("server").serve(kind, port);
    Ok([serve(Kind::Http, HTTP)?, serve(Kind::Echo, ECHO)?, serve(Kind::Http2, GRPC)?])
}

/// A port by Service and by the pod's address, in both families.
fn ways(mesh: &Mesh, port: Port) -> [SocketAddr; 4] {
    let pod = mesh.pod("server");
    let service = port + ADDED;
    [(SERVER, service).into(), (SERVER_V6, service).into(), pod.at(port), pod.at_v6(port)]
}

/// Whether a client has all its answers: two requests on one connection, two calls on one connection, or an echo.
fn is_served(mesh: &Mesh, client: &str, port: Port, to: SocketAddr) -> bool {
    let pod = mesh.pod(client);
    match port {
        HTTP => {
            let url = format!("http://{to}/");
            pod.curl(&url, &["--fail", &url]).is_ok_and(|answer| answer.exit == 0 && answer.status == 200)
        }
        GRPC => pod.call(to, UNARY, 2).is_ok_and(|calls| {
            calls.len() == 2 && calls.iter().all(|call| call.grpc_status.as_deref() == Some("0"))
        }),
        _ => pod.echo(to).is_ok(),
    }
}

/// How much applications saw: requests, connections, calls.
fn seen(servers: &[Server; 3]) -> [usize; 3] {
    let [http, echo, grpc] = servers;
    [http.events("request").len(), echo.connections(), grpc.events("request").len()]
}

/// Every direction of every connection is between a client and a port of the server, each way was used, and all of it is
/// the mesh's.
fn only_pods_and_their_ports(carried: &Carried, clients: &[[IpAddr; 2]], server: [IpAddr; 2]) -> Result<()> {
    let clients: BTreeSet<IpAddr> = clients.iter().flatten().copied().collect();
    let is_port = |at: SocketAddr| server.contains(&at.ip()) && PORTS.contains(&at.port());
    let mut found = BTreeSet::new();
    for stream in carried.without_marks().streams {
        let (from, to) = (stream.flow.from, stream.flow.to);
        let (client, application) = if is_port(to) { (from, to) } else { (to, from) };
        ensure!(is_port(application), "from {from} to {to}: neither is a port of the server's application");
        ensure!(clients.contains(&client.ip()), "from {from} to {to}: the other side is no client");
        if !stream.bytes.is_empty() {
            found.insert((client.ip(), application, is_port(to)));
        }
    }
    let wanted = clients.len() * PORTS.len() * 2;
    ensure!(found.len() == wanted, "{} of {wanted} ways carried something: {found:?}", found.len());
    let plaintext = carried.plaintext_streams();
    ensure!(plaintext.is_empty(), "in the clear: {plaintext:?}");
    let inside: BTreeSet<String> = carried.client_hellos().into_iter().flat_map(|hello| hello.alpn).collect();
    ensure!(inside.iter().eq(["nodemesh/h2", "nodemesh/mux1"]), "captured traffic says so: {inside:?}");
    Ok(())
}

/// Has the server's node do what an engine does for a policy that lets one pod reach some ports of the server, in place
/// of what it did: what is open goes on, what is new and not allowed is refused on its way to the pod.
fn enforce(mesh: &Mesh, client: &str, ports: &[Port]) -> Result<()> {
    let [server, server_v6] = mesh.pod("server").addresses();
    let [client, client_v6] = mesh.pod(client).addresses();
    let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    rule(
        mesh,
        &format!(
            "table inet engine
            delete table inet engine
            table inet engine {{
                chain server {{
                    ip saddr {client} tcp dport {{ {ports} }} accept
                    ip6 saddr {client_v6} tcp dport {{ {ports} }} accept
                    counter reject with tcp reset
                }}
                chain forward {{
                    type filter hook forward priority filter
                    ct state established,related accept
                    ip daddr {server} meta l4proto tcp jump server
                    ip6 daddr {server_v6} meta l4proto tcp jump server
                }}
            }}"
        ),
    )
    .map(drop)
}

fn lift(mesh: &Mesh) -> Result<()> {
    rule(mesh, "delete table inet engine").map(drop)
}

/// How many packets the rules refused.
fn refused(mesh: &Mesh) -> Result<u64> {
    let listed = rule(mesh, "list chain inet engine server")?;
    let count = listed.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
    count.context("the rules count")?.parse().context("read the count")
}

/// Has `nft` do something in the namespace of the server's node.
fn rule(mesh: &Mesh, script: &str) -> Result<String> {
    let site = mesh.topology().site(node(1));
    let file = site.logs().join("rules.nft");
    fs::write(&file, script).with_context(|| format!("write {}", file.display()))?;
    let file = file.display().to_string();
    let ended = site.host().spawn("nft", "nft", &["-f", &file])?.wait(Duration::from_secs(10))?;
    ended.success("nft")
}
