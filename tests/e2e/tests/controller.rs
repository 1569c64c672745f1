//! Agents that follow a controller: told all that they need, and at work without it.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_test_e2e::{ECHO, HTTP, at, from_account, node, pair, peer_authentication, policy};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::figure;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::{Kind, Server};
use rustix::process::Signal;
use serde_json::Value;

/// Longest wait until a controller that stands still is noticed, and another stream begun: asked after 10 s, given up 5 s
/// later, and some for the machine.
const NOTICED: Duration = Duration::from_secs(40);
const AGENT: &str = "spiffe://cluster.local/ns/nodemesh-system/sa/nodemesh-agent";
/// Longest wait until a refused certificate is asked for again: the tries are further apart each time.
const SIGNED: Duration = Duration::from_secs(30);
/// Since when an agent may be out of date.
const STALE: &str = "nodemesh_xds_stale_since_timestamp_seconds";

#[test]
fn http_of_two_agents_is_captured_and_encrypted() {
    pair().with_controller().run(|mesh| {
        let http = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let response = mesh.pod("client").curl("http://10.96.0.10/over", &[])?;
        ensure!(response.status == 200 && response.body.contains(PLAINTEXT_MARKER), "{}", response.body);
        ensure!(http.bytes_seen().starts_with("GET /over HTTP/1.1\r\n"), "{}", http.bytes_seen());
        let both = |record: &Value| {
            record["src.identity"] == "spiffe://cluster.local/ns/shop/sa/client"
                && record["dst.identity"] == "spiffe://cluster.local/ns/shop/sa/server"
        };
        for (index, direction) in ["outbound", "inbound"].into_iter().enumerate() {
            let told = |record: &Value| record["direction"] == direction && both(record);
            mesh.node(node(index)).record("both identities", told)?;
        }
        let carried = mesh.finish_captures()?;
        let hellos = carried[0].client_hellos();
        ensure!(hellos.iter().any(|hello| hello.alpn == ["nodemesh/mux1"]), "no tunnel: {hellos:?}");
        ensure!(hellos.iter().any(|hello| hello.alpn == ["h2"]), "no stream of the controller: {hellos:?}");
        ensure!(hellos.iter().all(|hello| hello.is_tls13_only()), "{hellos:?}");
        ensure!(carried[0].tls13_answers() == hellos.len(), "a handshake came to nothing");
        Ok(())
    });
}

#[test]
fn agents_show_their_controller_certificates_of_their_own() {
    pair().with_controller().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO))?;
        // What the controller's side of the handshake had: on the wire of TLS 1.3 neither certificate can be seen.
        let said = mesh.controller().tail();
        for node in ["node-a", "node-b"] {
            let shows = format!("{node} begins a stream and shows the certificate of {AGENT}");
            ensure!(said.contains(&shows), "{node} shows none: {said}");
        }
        ensure!(!said.contains("no certificate"), "{said}");
        // Kept in memory as those of pods are, and renewed with them.
        for index in [0, 1] {
            let listed =
                mesh.node(node(index)).command(&["dump", "certificates"])?.success("certificates")?;
            ensure!(listed.contains(AGENT), "{listed}");
            let state = mesh.controller().state_file(node(index));
            eventually_true("the state is on disk", PATIENCE, || fs::metadata(&state).is_ok())?;
            let folder = state.parent().context("it is in a folder")?;
            for file in fs::read_dir(folder)? {
                let bytes = fs::read(file?.path())?;
                let text = String::from_utf8_lossy(&bytes);
                ensure!(!text.contains("PRIVATE KEY"), "a key is on disk");
            }
        }
        Ok(())
    });
}

#[test]
fn a_policy_is_in_force_at_once_and_gone_at_once() {
    pair().with_controller().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("other").echo(at(ECHO))?;
        mesh.config().write("policy", &policy("not-other", "DENY", &from_account("other")))?;
        let closed = eventually_true("other is refused", PATIENCE, || !echoes(mesh, "other"))?;
        ensure!(echoes(mesh, "client"), "client is not meant");
        mesh.config().remove("policy")?;
        let open = eventually_true("other may again", PATIENCE, || echoes(mesh, "other"))?;
        figure(&format!("a policy by the controller: closed after {closed:?}, open after {open:?}"));
        Ok(())
    });
}

#[test]
fn without_their_controller_agents_serve_on_and_then_catch_up() {
    pair().with_controller().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let held = mesh.pod("client").hold(at(ECHO))?;
        mesh.controller().kill()?;
        mesh.b().metric(STALE, &[], |since| since > 0.0)?;
        mesh.pod("client").echo(at(ECHO))?;
        mesh.pod("other").echo(at(ECHO))?;
        eventually_true("mesh-node status says it", PATIENCE, || {
            let status = mesh.node(node(1)).command(&["status"]).and_then(|ended| ended.success("status"));
            status.is_ok_and(|status| status.contains("controller 10.77.0.1:15012: no stream"))
        })?;
        mesh.config().write("policy", &policy("not-other", "DENY", &from_account("other")))?;
        ensure!(echoes(mesh, "other"), "nobody can know of the policy");
        mesh.controller().restart()?;
        let caught_up = eventually_true("other is refused", PATIENCE, || !echoes(mesh, "other"))?;
        mesh.b().metric(STALE, &[], |since| since == 0.0)?;
        figure(&format!("a policy of meanwhile is in force {caught_up:?} after the controller listens"));
        ensure!(held.broken().is_none(), "the connection of before was cut: {:?}", held.broken());
        ensure!(held.finish()? > 0, "the connection of before carried nothing");
        Ok(())
    });
}

#[test]
fn a_controller_that_stands_still_is_noticed() {
    pair().with_controller().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO))?;
        mesh.controller().signal(Signal::STOP)?;
        let stale = || mesh.node(node(1)).metrics().is_ok_and(|metrics| metrics.sum(STALE, &[]) > 0.0);
        let noticed = eventually_true("the agent knows that it may be out of date", NOTICED, stale)?;
        figure(&format!("a controller that stands still is noticed after {noticed:?}"));
        mesh.pod("client").echo(at(ECHO))?;
        mesh.controller().signal(Signal::CONT)?;
        mesh.config().write("policy", &policy("not-other", "DENY", &from_account("other")))?;
        eventually_true("other is refused", NOTICED, || !echoes(mesh, "other"))?;
        Ok(())
    });
}

#[test]
fn an_agent_that_starts_alone_knows_what_it_was_told() {
    pair().with_controller().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO))?;
        let state = mesh.controller().state_file(node(1));
        eventually_true("the state is on disk", PATIENCE, || fs::metadata(&state).is_ok())?;
        mesh.controller().kill()?;
        mesh.b().kill()?;
        mesh.b().spawn()?;
        eventually_true("the state is restored", PATIENCE, || {
            mesh.node(node(1)).log().contains("state of before restored")
        })?;
        ensure!(!echoes(mesh, "client"), "without a certificate nobody is served");
        mesh.controller().restart()?;
        mesh.b().wait_until_ready()?;
        eventually_true("the server is reached", PATIENCE, || echoes(mesh, "client"))?;
        Ok(())
    });
}

/// What becomes of a good state.
type Damage = fn(&mut Vec<u8>);

/// What may stand where the state is to be, and how it is called.
const DAMAGES: [(&str, Damage); 4] = [
    ("empty", Vec::clear),
    ("cut short", |state| state.truncate(state.len() / 2)),
    ("one bit of it flipped", |state| {
        let middle = state.len() / 2;
        state[middle] ^= 1;
    }),
    ("something else", |state| *state = b"{}".to_vec()),
];

#[test]
fn a_damaged_state_is_named_and_opens_nothing() {
    let denied = policy("not-other", "DENY", &from_account("other"));
    pair().with_controller().objects("policy", &denied).run(|mesh| {
        let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO))?;
        let path = mesh.controller().state_file(node(1));
        eventually_true("the state is on disk", PATIENCE, || fs::metadata(&path).is_ok())?;
        let good = fs::read(&path)?;
        for (count, (what, damage)) in DAMAGES.into_iter().enumerate() {
            mesh.controller().kill()?;
            mesh.b().kill()?;
            let mut state = good.clone();
            damage(&mut state);
            fs::write(&path, &state)?;
            mesh.b().spawn()?;
            let named = format!("use {}: ", path.display());
            let is_named = |line: &&str| line.contains("no state of before") && line.contains(&named);
            eventually_true(&format!("the file is named that is {what}"), PATIENCE, || {
                mesh.node(node(1)).log().lines().filter(is_named).count() == count + 1
            })?;
            let before = echo.connections();
            for pod in ["client", "other"] {
                ensure!(!echoes(mesh, pod), "{what}: {pod} is served by who knows nothing");
            }
            ensure!(echo.connections() == before, "{what}: the server was reached");
            mesh.controller().restart()?;
            mesh.b().wait_until_ready()?;
            eventually_true(&format!("{what}: who may is served"), PATIENCE, || echoes(mesh, "client"))?;
            let served = echo.connections();
            ensure!(!echoes(mesh, "other") && echo.connections() == served, "{what}: other is served");
            // What was told is kept anew, in the place of what was no use.
            eventually_true(&format!("{what}: the state is whole again"), PATIENCE, || {
                fs::read(&path).is_ok_and(|now| now != state)
            })?;
        }
        Ok(())
    });
}

#[test]
fn while_nobody_signs_accounts_of_before_are_served_and_others_are_held() {
    pair().with_controller().run(|mesh| {
        let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO))?;
        mesh.controller().set_signing(false)?;
        mesh.add_pod(node(0), PodSpec::new("again").service_account("client"))?;
        mesh.add_pod(node(0), PodSpec::new("stranger"))?;
        let took = eventually_true("the account of before is served", PATIENCE, || echoes(mesh, "again"))?;
        let record =
            mesh.node(node(1)).record("who called", |record| record["src.workload"] == "shop/again")?;
        ensure!(record["src.identity"] == "spiffe://cluster.local/ns/shop/sa/client", "{record}");
        figure(&format!(
            "a new pod of an account of before is served {took:?} after it came, with nobody to sign"
        ));

        let before = echo.connections();
        let is_told = || -> Result<bool> {
            let said = mesh.node(node(0)).command(&["status"])?.success("status")?;
            Ok(said.contains("shop/stranger") && said.contains("the authority is away, as a test wants it"))
        };
        eventually_true("the status says why", PATIENCE, || is_told().unwrap_or(false))?;
        let dialled = mesh.pod("stranger").dial(at(ECHO)).send(PLAINTEXT_MARKER).run()?;
        ensure!(dialled.refusal() == Some("not permitted"), "it has no certificate: {dialled:?}");
        ensure!(echo.connections() == before, "it reached the server");

        mesh.controller().set_signing(true)?;
        let took = eventually_true("it is served", SIGNED, || echoes(mesh, "stranger"))?;
        figure(&format!("a new account is served {took:?} after the authority came back"));
        Ok(())
    });
}

#[test]
fn pods_that_come_while_no_controller_is_there_are_held_whatever_their_account() {
    pair().with_controller().run(|mesh| {
        let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO))?;
        mesh.controller().kill()?;
        let before = echo.connections();
        // Nobody has said of either that it is there, and as whom.
        mesh.add_pod(node(0), PodSpec::new("again").service_account("client"))?;
        mesh.add_pod(node(0), PodSpec::new("stranger"))?;
        for pod in ["again", "stranger"] {
            for _ in 0..5 {
                let dialled = mesh.pod(pod).dial(at(ECHO)).send(PLAINTEXT_MARKER).run()?;
                ensure!(dialled.refusal() == Some("not permitted"), "{pod}: {dialled:?}");
            }
        }
        ensure!(echo.connections() == before, "one of them reached the server");
        mesh.pod("client").echo(at(ECHO))?;
        mesh.controller().restart()?;
        for pod in ["again", "stranger"] {
            let took = eventually_true(&format!("{pod} is served"), SIGNED, || echoes(mesh, pod))?;
            figure(&format!("{pod} is served {took:?} after a controller is there"));
        }
        Ok(())
    });
}

#[test]
fn who_has_no_token_is_told_nothing() {
    pair().with_controller().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO))?;
        fs::write(mesh.controller().token_file(node(1)), "stolen")?;
        mesh.b().kill()?;
        forget(mesh, 1)?;
        mesh.b().spawn()?;
        eventually_true("the reason is logged", PATIENCE, || {
            mesh.node(node(1)).log().contains("nobody has this token")
        })?;
        ensure!(!echoes(mesh, "client"), "a node that knows nothing serves nobody");
        Ok(())
    });
}

/// Takes from a node what its agent was told, if it has been written already.
fn forget(mesh: &mut Mesh, index: usize) -> Result<()> {
    match fs::remove_file(mesh.controller().state_file(node(index))) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("remove the state"),
        _ => Ok(()),
    }
}

fn echoes(mesh: &Mesh, pod: &str) -> bool {
    let dial = mesh.pod(pod).dial(at(ECHO)).send(PLAINTEXT_MARKER).until_bytes(PLAINTEXT_MARKER.len());
    dial.connected().is_ok_and(|seen| seen.received == PLAINTEXT_MARKER)
}

/// A pod of a kubelet, whose folder of logs is there before it.
fn add_kubelets_pod(mesh: &mut Mesh, namespace: &str, name: &str) -> Result<()> {
    let uid = format!("uid-of-{name}");
    let cgroup = format!("kubepods/burstable/pod{uid}/1");
    write_logs(mesh, namespace, name, &uid)?;
    mesh.add_pod(node(0), PodSpec::new(name).namespace(namespace).uid(&uid).kubelet_cgroup(&cgroup))
}

fn write_logs(mesh: &Mesh, namespace: &str, name: &str, uid: &str) -> Result<()> {
    let logs = mesh.topology().site(node(0)).pod_logs();
    fs::create_dir_all(logs.join(format!("{namespace}_{name}_{uid}"))).context("make a pod's folder of logs")
}

#[test]
fn a_controller_that_starts_when_none_is_left_is_known_without_one() {
    const SYSTEM: &str = "nodemesh-system";
    let strict = peer_authentication("STRICT");
    pair().with_controller().objects("strict", &strict).run(|mesh| {
        let site = mesh.topology().site(node(1));
        let api = SocketAddr::new(site.address(), 6443);
        let _api = Server::start(site.host(), "api", Kind::Echo, "0.0.0.0:6443", &[])?;
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        add_kubelets_pod(mesh, "shop", "enrolled")?;
        let _sandbox = mesh.pod("enrolled").serve(Kind::Sink, HTTP)?;
        eventually_true("the pod is captured", PATIENCE, || echoes(mesh, "enrolled"))?;
        mesh.controller().kill()?;
        // A folder that would let it out, if it were not told of.
        write_logs(mesh, SYSTEM, "nodemesh-controller-0", "uid-of-enrolled")?;
        let mut servers = Vec::new();
        for (namespace, name) in
            [(SYSTEM, "nodemesh-controller-1"), (SYSTEM, "stranger"), ("shop", "nodemesh-controller-2")]
        {
            add_kubelets_pod(mesh, namespace, name)?;
            servers.push(mesh.pod(name).serve(Kind::Sink, HTTP)?);
        }
        let took = eventually_true("a controller reaches what it needs", PATIENCE, || {
            mesh.pod("nodemesh-controller-1").echo(api).is_ok()
        })?;
        figure(&format!("a controller that nobody told of connects {} ms after it began", took.as_millis()));
        // An agent that was never told anything.
        mesh.a().kill()?;
        forget(mesh, 0)?;
        mesh.a().spawn()?;
        add_kubelets_pod(mesh, SYSTEM, "nodemesh-controller-3")?;
        servers.push(mesh.pod("nodemesh-controller-3").serve(Kind::Sink, HTTP)?);
        eventually_true("another one does, too", PATIENCE, || {
            mesh.pod("nodemesh-controller-3").echo(api).is_ok()
        })?;
        for stranger in ["stranger", "nodemesh-controller-2", "enrolled"] {
            let refused = mesh.pod(stranger).dial(api).run()?;
            ensure!(refused.refusal() == Some("not permitted"), "{stranger}: {refused:?}");
        }
        mesh.controller().restart()?;
        mesh.a().wait_until_ready()?;
        for pod in ["nodemesh-controller-1", "nodemesh-controller-3", "stranger"] {
            mesh.pod(pod).echo(api)?;
        }
        ensure!(echoes(mesh, "enrolled"), "it is in the mesh");
        Ok(())
    });
}

#[test]
fn of_whom_no_controller_has_told_is_held_and_said() {
    const HELD: &str = "nodemesh_capture_pods_untold";
    pair().with_controller().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        add_kubelets_pod(mesh, "shop", "known")?;
        let _known = mesh.pod("known").serve(Kind::Sink, HTTP)?;
        eventually_true("the pod is captured", PATIENCE, || echoes(mesh, "known"))?;
        let state = mesh.controller().state_file(node(0));
        let is_kept = || fs::read(&state).is_ok_and(|kept| contains(&kept, b"uid-of-known"));
        eventually_true("the pod is in the state on disk", PATIENCE, is_kept)?;
        mesh.controller().kill()?;
        add_kubelets_pod(mesh, "shop", "new")?;
        // Its folder of logs is gone, or is kept elsewhere.
        let unnamed = PodSpec::new("unnamed").service_account("client").uid("uid-of-unnamed");
        mesh.add_pod(node(0), unnamed.kubelet_cgroup("kubepods.slice/kubepods-poduid_of_unnamed.slice/1"))?;
        let _new = mesh.pod("new").serve(Kind::Sink, HTTP)?;
        let _unnamed = mesh.pod("unnamed").serve(Kind::Sink, HTTP)?;
        // An agent that begins anew knows of them what the one before did.
        for restarts in 0..2 {
            mesh.a().metric(HELD, &[], |count| count == 2.0)?;
            let status = mesh.a().command(&["status", "-o", "json"])?.success("mesh-node status")?;
            let status: Value = serde_json::from_str(&status)?;
            let held = status["untold"].as_array().context("they are listed")?;
            for (uid, pod) in [("uid-of-new", "shop/new".into()), ("uid-of-unnamed", Value::Null)] {
                let found = held.iter().find(|pod| pod["uid"] == uid).context("it is listed")?;
                ensure!(found["pod"] == pod && found["seconds"].as_u64() >= Some(2), "{found}");
            }
            let status = mesh.a().command(&["status"])?.success("mesh-node status")?;
            ensure!(status.contains("held:       connections of 2 pods for up to "), "{status}");
            ensure!(status.contains("until a controller says who they are: "), "{status}");
            ensure!(status.contains("controller 10.77.0.1:15012: no stream"), "what to mend: {status}");
            let check = mesh.a().command(&["check"])?.stdout;
            ensure!(check.contains("nobody has said who 2 pods are"), "{check}");
            for pod in ["new", "unnamed"] {
                let dialled = mesh.pod(pod).dial(at(ECHO)).send(PLAINTEXT_MARKER).run()?;
                ensure!(dialled.refusal() == Some("not permitted"), "{pod}: {dialled:?}");
            }
            if restarts == 0 {
                ensure!(echoes(mesh, "known"), "who was told of is served");
                mesh.a().kill()?;
                mesh.a().spawn()?;
            }
        }
        mesh.controller().restart()?;
        for pod in ["new", "unnamed"] {
            eventually_true(&format!("{pod} is served"), SIGNED, || echoes(mesh, pod))?;
        }
        mesh.a().metric(HELD, &[], |count| count == 0.0)?;
        let status = mesh.a().command(&["status"])?.success("mesh-node status")?;
        ensure!(!status.contains("held:"), "{status}");
        Ok(())
    });
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
