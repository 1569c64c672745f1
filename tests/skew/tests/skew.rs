//! Two builds of the mesh at a time, as while it is upgraded: agents with agents, with controllers, with command lines, and
//! one in the place of the other.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use mesh_test_e2e::{ECHO, HTTP, SERVER, at, at_v6, from_account, node, peer_authentication, policy, server};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::binary::Build;
use mesh_test_harness::clients::{Held, Load};
use mesh_test_harness::eventually::{PATIENCE, eventually, eventually_true};
use mesh_test_harness::figure;
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::servers::{Kind, Server};
use serde_json::Value;

/// Declared `grpc` on Service and pod.
const GRPC: u16 = 50051;
const UNARY: &str = "/echo.Echo/Unary";
/// A Service that comes later.
const LATER: [u8; 4] = [10, 96, 0, 77];
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const OF_SERVER: &str = "spiffe://cluster.local/ns/shop/sa/server";

#[test]
fn an_earlier_agent_speaks_to_one_of_now() {
    speak([Build::Previous, Build::Own]);
}

#[test]
fn an_agent_of_now_speaks_to_an_earlier_one() {
    speak([Build::Own, Build::Previous]);
}

#[test]
fn earlier_agents_follow_a_controller_of_now() {
    follow(Build::Own, [Build::Previous; 2]);
}

#[test]
fn agents_of_now_follow_an_earlier_controller() {
    follow(Build::Previous, [Build::Own; 2]);
}

#[test]
fn an_earlier_command_line_asks_an_agent_of_now() {
    ask(Build::Previous, Build::Own);
}

#[test]
fn a_command_line_of_now_asks_an_earlier_agent() {
    ask(Build::Own, Build::Previous);
}

#[test]
fn an_agent_of_now_takes_over_from_an_earlier_one() {
    take_over(Build::Previous, Build::Own);
}

#[test]
fn an_earlier_agent_takes_over_from_one_of_now() {
    take_over(Build::Own, Build::Previous);
}

/// Connections of every sort between agents of two builds, decided and told of on both sides.
fn speak(agents: [Build; 2]) {
    // A rule on paths alone would deny what has none, on every other port.
    let rule = format!("- to:\n    - operation:\n        ports: ['{HTTP}']\n        paths: [/secret]\n");
    let secret = policy("no-secret", "DENY", &rule);
    scenario().agents_of(agents).objects("policy", &secret).run(|mesh| {
        let _servers = serve(mesh)?;
        is_served(mesh, "client")?;
        let secret = mesh.pod("client").curl(&format!("http://{}/secret", at(80)), &[])?;
        ensure!(secret.status == 403, "{secret:?}");
        for (index, direction) in ["outbound", "inbound"].into_iter().enumerate() {
            mesh.node(node(index)).record("both identities", |record| {
                record["direction"] == direction
                    && record["src.identity"] == CLIENT
                    && record["dst.identity"] == OF_SERVER
            })?;
        }
        // What is open meets an edit as what is new does.
        let call = mesh.pod("other").open_call(at(GRPC), UNARY)?;
        let held = mesh.pod("client").hold(at(ECHO))?;
        mesh.config().write("edit", &policy("not-other", "DENY", &from_account("other")))?;
        eventually("a call that is denied now ends", PATIENCE, || call.ended())?;
        ensure!(!echoes(mesh, "other"), "the denied pod is served");
        held.finish().map(drop)
    });
}

/// Agents are told all that there is by a controller of another build, are signed certificates, and hear of every edit.
fn follow(controller: Build, agents: [Build; 2]) {
    scenario().with_controller_of(controller).agents_of(agents).run(|mesh| {
        let _servers = serve(mesh)?;
        is_served(mesh, "client")?;
        for (index, identity) in [CLIENT, OF_SERVER].into_iter().enumerate() {
            let certificates = answer(mesh, index, agents[index], &["dump", "certificates"])?;
            ensure!(certificates.to_string().contains(identity), "{identity} is not in {certificates}");
        }
        shows(mesh, controller, agents)?;
        mesh.config().write("edit", &policy("not-other", "DENY", &from_account("other")))?;
        let closed = eventually_true("the denied pod is refused", PATIENCE, || !echoes(mesh, "other"))?;
        ensure!(echoes(mesh, "client"), "who is not meant is refused");
        mesh.config().remove("edit")?;
        let open = eventually_true("it may again", PATIENCE, || echoes(mesh, "other"))?;
        let later = ServiceSpec::new("server", &[IpAddr::from(LATER)]).port("tcp-echo", ECHO, ECHO);
        mesh.config().write_service(&later)?;
        // Asked first: an address that nobody knows of is dialled as one outside, in vain.
        let new = eventually_true("a Service that came later is known", PATIENCE, || {
            answer(mesh, 0, agents[0], &["dump", "services"])
                .is_ok_and(|services| services.to_string().contains("10.96.0.77"))
        })?;
        mesh.pod("client").echo(SocketAddr::from((LATER, ECHO)))?;
        figure(&format!(
            "{controller:?} controller, {:?} agents: a policy closes after {closed:?}, opens after {open:?}; a Service \
             after {new:?}",
            agents[0]
        ));
        mesh.change_pod("server", |pod| pod.set_ready(false))?;
        eventually_true("an endpoint that is not ready is left out", PATIENCE, || !echoes(mesh, "client"))
            .map(drop)
    });
}

/// Of one build, agents and controller show each other certificates. An agent of before agents had any is served without,
/// and to a controller that asks for none an agent shows none.
fn shows(mesh: &mut Mesh, controller: Build, agents: [Build; 2]) -> Result<()> {
    if controller == Build::Previous {
        return Ok(());
    }
    let said = mesh.controller().tail();
    for (index, build) in agents.into_iter().enumerate() {
        let stream = format!("{} begins a stream and shows ", node(index));
        let shown =
            said.lines().find_map(|line| Some(line.split_once(&stream)?.1)).context("it began a stream")?;
        figure(&format!("an agent of {build:?} shows a controller of {controller:?} {shown}"));
        ensure!(build == Build::Previous || shown.starts_with("the certificate of "), "{said}");
    }
    Ok(())
}

/// Every question of the command line to an agent of another build, in both forms.
fn ask(command_line: Build, agent: Build) {
    let denied = policy("not-other", "DENY", &from_account("other"));
    scenario().agents_of([agent; 2]).objects("policy", &denied).run(|mesh| {
        let _servers = serve(mesh)?;
        is_served(mesh, "client")?;
        let held = mesh.pod("client").hold(at(ECHO))?;
        for (words, wanted) in [
            (&["status"][..], "node-b"),
            (&["dump", "workloads"], "client"),
            (&["dump", "services"], "10.96.0.10"),
            (&["dump", "policies"], "not-other"),
            (&["dump", "certificates"], OF_SERVER),
            (&["dump", "connections"], "shop/client"),
        ] {
            let document = answer(mesh, 1, command_line, words)?;
            ensure!(document.to_string().contains(wanted), "{words:?}: {wanted} is not in {document}");
            let text = mesh.node(node(1)).command_of(command_line, words)?.success("a question")?;
            ensure!(text.contains(wanted), "{words:?}: {wanted} is not in {text}");
        }
        held.finish().map(drop)
    });
}

/// An agent of another build in the place of one that was killed, which finds its programs, maps and state; then one in
/// the place of one that was told to stop. Load goes on, and an agent that is not replaced keeps what is its own.
fn take_over(from: Build, to: Build) {
    let denied = policy("not-other", "DENY", &from_account("other"));
    let scenario = Scenario::new(
        vec![PodSpec::new("client"), PodSpec::new("other"), beside()],
        vec![server("server").port("grpc", GRPC)],
    );
    settled(scenario).with_controller().agents_of([from; 2]).objects("policy", &denied).run(|mesh| {
        let _servers = serve(mesh)?;
        let _beside = mesh.pod("beside").serve(Kind::Echo, ECHO)?;
        is_served(mesh, "client")?;
        let kept = mesh.pod("client").hold(mesh.pod("beside").at(ECHO))?;
        let load = mesh.pod("client").load(at(80), &["--connections", "2", "--every-ms", "5"])?;
        let held = mesh.pod("client").hold(at(ECHO))?;
        replace_killed(mesh, to)?;
        ensure!(kept.broken().is_none(), "what is the other agent's own was cut: {:?}", kept.broken());
        kept.finish()?;
        end(held, "killed")?;
        let held = mesh.pod("client").hold(at(ECHO))?;
        replace_stopped(mesh, to)?;
        end(held, "told to stop")?;
        finish(load, from, to)?;
        is_served(mesh, "client")?;
        ensure!(!echoes(mesh, "other"), "the denied pod is served");
        Ok(())
    });
}

/// Of the server's node, without a controller: it has what the one before was told, but no keys.
fn replace_killed(mesh: &mut Mesh, build: Build) -> Result<()> {
    let state = mesh.controller().state_file(node(1));
    eventually_true("the state is on disk", PATIENCE, || fs::metadata(&state).is_ok())?;
    mesh.controller().kill()?;
    mesh.b().kill()?;
    ensure!(!echoes(mesh, "client"), "without an agent somebody is served");
    mesh.b().set_build(build);
    mesh.b().spawn()?;
    eventually_true("the state is restored", PATIENCE, || {
        mesh.node(node(1)).log().contains("state of before restored")
    })?;
    ensure!(!echoes(mesh, "client"), "without a certificate somebody is served");
    mesh.controller().restart()?;
    mesh.b().wait_until_ready()?;
    eventually_true("the allowed pod is served", PATIENCE, || echoes(mesh, "client"))?;
    ensure!(!echoes(mesh, "other"), "the denied pod is served");
    Ok(())
}

/// Of the clients' node, as an upgrade does it.
fn replace_stopped(mesh: &mut Mesh, build: Build) -> Result<()> {
    mesh.a().stop()?;
    ensure!(!echoes(mesh, "client"), "without an agent somebody is served, or in the clear");
    mesh.a().set_build(build);
    let ready = mesh.a().restart()?;
    eventually_true("the allowed pod is served", PATIENCE, || echoes(mesh, "client"))?;
    figure(&format!("an agent of {build:?} is ready {ready:?} after its start in another's place"));
    Ok(())
}

/// A connection of before has ended, and been told so.
fn end(held: Held, why: &str) -> Result<()> {
    let (how, _) = eventually("the connection of before has ended", PATIENCE, || held.broken())?;
    ensure!(["reset", "eof"].contains(&how.as_str()), "its agent was {why}: it ended with {how}");
    Ok(())
}

fn finish(load: Load, from: Build, to: Build) -> Result<()> {
    let loaded = load.finish()?;
    figure(&format!("load while {to:?} took over from {from:?} at both nodes: {loaded:?}"));
    ensure!(loaded.answered > 0 && !loaded.reasons.contains_key("timeout"), "a request hung: {loaded:?}");
    Ok(())
}

/// `client` and `other` on the first node, `server` on the second.
fn scenario() -> Scenario {
    let clients = vec![PodSpec::new("client"), PodSpec::new("other")];
    settled(Scenario::new(clients, vec![server("server").port("grpc", GRPC)]))
}

/// With the server's Service, and only certificates.
fn settled(scenario: Scenario) -> Scenario {
    let service = mesh_test_e2e::service().port("grpc", GRPC, GRPC);
    scenario.service(service).objects("strict", &peer_authentication("STRICT"))
}

fn beside() -> PodSpec {
    PodSpec::new("beside").port("tcp-echo", ECHO)
}

fn serve(mesh: &Mesh) -> Result<[Server; 3]> {
    let serve = |kind, port| mesh.pod("server").serve(kind, port);
    Ok([serve(Kind::Echo, ECHO)?, serve(Kind::Http, HTTP)?, serve(Kind::Http2, GRPC)?])
}

/// By TCP over both families, by Service and by the pod's address, by HTTP/1.1 and by gRPC.
fn is_served(mesh: &Mesh, client: &str) -> Result<()> {
    let pod = mesh.pod(client);
    for to in [at(ECHO), at_v6(ECHO), mesh.pod("server").at(ECHO)] {
        pod.echo(to)?;
    }
    let response = pod.curl(&format!("http://{SERVER}/"), &[])?;
    ensure!(response.status == 200, "{response:?}");
    let called = pod.call(at(GRPC), UNARY, 1)?;
    ensure!(called.iter().all(|call| call.grpc_status.as_deref() == Some("0")), "{called:?}");
    Ok(())
}

fn echoes(mesh: &Mesh, pod: &str) -> bool {
    let dial = mesh.pod(pod).dial(at(ECHO)).send(PLAINTEXT_MARKER).until_bytes(PLAINTEXT_MARKER.len());
    dial.connected().is_ok_and(|seen| seen.received == PLAINTEXT_MARKER)
}

/// What a build of the command line says of a node's agent, for programs.
fn answer(mesh: &Mesh, index: usize, build: Build, words: &[&str]) -> Result<Value> {
    let words = [words, &["-o", "json"]].concat();
    let said = mesh.node(node(index)).command_of(build, &words)?.success("a question")?;
    serde_json::from_str(&said).with_context(|| format!("read the answer to {words:?}: {said}"))
}
