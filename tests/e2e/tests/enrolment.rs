//! Enrolment by label, live in both directions, and what is left alone.

use anyhow::Result;
use mesh_test_e2e::{ECHO, HTTP, at, node, pair, peer_authentication, server, service};
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::figure;
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::Kind;

/// Connections of captured pods that go on outside the mesh.
const OUTSIDE: &str = "nodemesh_capture_connections_outside";

#[test]
fn a_running_pod_joins_and_leaves_by_its_label() {
    pair().objects("strict", &peer_authentication("STRICT")).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.allow_plaintext("client");
        let to = mesh.pod("server").at(ECHO);
        mesh.pod("client").echo(to)?;
        set_mode(mesh, "client", "disabled")?;
        eventually_true("the pod that left is refused under STRICT", PATIENCE, || {
            mesh.pod("client").echo(to).is_err()
        })?;
        set_mode(mesh, "client", "enabled")?;
        eventually_true("the pod that joined is let in", PATIENCE, || mesh.pod("client").echo(to).is_ok())?;
        Ok(())
    });
}

#[test]
fn a_namespace_enrols_its_pods() {
    let guest = PodSpec::new("guest").namespace("guests");
    Scenario::new(vec![guest], vec![server("server")])
        .service(service())
        .objects("strict", &peer_authentication("STRICT"))
        .run(|mesh| {
            let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
            mesh.allow_plaintext("guest");
            let to = mesh.pod("server").at(ECHO);
            mesh.config().write_namespace("guests", None)?;
            assert!(mesh.pod("guest").echo(to).is_err(), "outside the mesh, refused under STRICT");
            mesh.config().write_namespace("guests", Some("enabled"))?;
            eventually_true("the namespace is enrolled", PATIENCE, || mesh.pod("guest").echo(to).is_ok())?;
            Ok(())
        });
}

#[test]
fn an_old_connection_goes_on_when_its_pod_joins_and_is_counted_until_it_ends() {
    let late = PodSpec::new("late").mode("disabled");
    Scenario::new(vec![late], vec![server("server")]).service(service()).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.allow_plaintext("late");
        let to = mesh.pod("server").at(ECHO);
        let held = mesh.pod("late").hold(to)?;
        mesh.a().metric(OUTSIDE, &[], |count| count == 0.0)?;
        set_mode(mesh, "late", "enabled")?;
        eventually_true("the Service address works, as only the mesh makes it", PATIENCE, || {
            mesh.pod("late").echo(at(ECHO)).is_ok()
        })?;
        mesh.a().metric(OUTSIDE, &[], |count| count == 1.0)?;
        let status = mesh.a().command(&["status"])?.success("mesh-node status")?;
        assert!(status.contains("1 from before capture"), "{status}");
        held.finish()?;
        mesh.a().metric(OUTSIDE, &[], |count| count == 0.0)?;
        Ok(())
    });
}

#[test]
fn what_was_captured_goes_on_when_its_pod_leaves() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.allow_plaintext("client");
        let (to, held) = (mesh.pod("server").at(ECHO), mesh.pod("client").hold(at(ECHO))?);
        set_mode(mesh, "client", "disabled")?;
        eventually_true("new connections go past the mesh", PATIENCE, || {
            let captured = connections(mesh);
            mesh.pod("client").echo(to).is_ok() && connections(mesh) == captured
        })?;
        // Several rounds of its own after the pod left.
        mesh.pod("client").hold(to)?.finish()?;
        held.finish()?;
        Ok(())
    });
}

#[test]
fn a_pod_that_is_made_later_is_enrolled() {
    pair().objects("strict", &peer_authentication("STRICT")).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.add_pod(node(0), PodSpec::new("new"))?;
        eventually_true("the new pod is let in", PATIENCE, || mesh.pod("new").echo(at(ECHO)).is_ok())?;
        mesh.remove_pod("new")?;
        mesh.pod("client").echo(at(ECHO)).map(drop)
    });
}

#[test]
fn a_pod_that_is_not_classified_yet_cannot_connect() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        // As between the kubelet and the first event: the pod is there, its object is not.
        let folder = mesh.config().clone();
        mesh.add_pod(node(0), PodSpec::new("early"))?;
        folder.remove("pod-early")?;
        eventually_true("the pod is unknown again", PATIENCE, || {
            mesh.pod("early")
                .dial(mesh.pod("server").at(ECHO))
                .send("x")
                .run()
                .is_ok_and(|dialled| dialled.refusal() == Some("not permitted"))
        })?;
        folder.write_pod(mesh.pod("early"))?;
        eventually_true("the pod is known", PATIENCE, || mesh.pod("early").echo(at(ECHO)).is_ok())?;
        Ok(())
    });
}

#[test]
fn loopback_and_own_addresses_are_left_alone() {
    pair().run(|mesh| {
        let client = mesh.pod("client");
        let echo = client.serve(Kind::Echo, ECHO)?;
        for to in ["127.0.0.1", "[::1]", "0.0.0.0", "[::]"] {
            client.echo(format!("{to}:{ECHO}").parse()?)?;
        }
        for to in [client.at(ECHO), client.at_v6(ECHO)] {
            let connected = client.echo(to)?;
            assert_eq!(connected.peer, to.to_string());
        }
        assert_eq!(echo.connections(), 6);
        assert_eq!(mesh.a().records().iter().filter(|record| record["direction"].is_string()).count(), 0);
        Ok(())
    });
}

#[test]
fn excluded_ports_and_ranges_go_past_the_mesh() {
    let excluding = PodSpec::new("excluding")
        .annotation("nodemesh.dev/exclude-outbound-ports", "9000")
        .annotation("nodemesh.dev/exclude-outbound-cidrs", "10.77.2.11/32");
    let open = server("open").annotation("nodemesh.dev/exclude-inbound-ports", "9000");
    Scenario::new(vec![excluding], vec![server("server"), open])
        .service(service())
        .objects("strict", &peer_authentication("STRICT"))
        .run(|mesh| {
            mesh.allow_plaintext("excluding");
            let (server, open, client) = (mesh.pod("server"), mesh.pod("open"), mesh.pod("excluding"));
            let _servers = (
                server.serve(Kind::Echo, ECHO)?,
                server.serve(Kind::Echo, HTTP + 1)?,
                open.serve(Kind::Echo, ECHO)?,
                open.serve(Kind::Echo, HTTP + 1)?,
            );
            assert!(client.echo(server.at(ECHO)).is_err(), "plaintext to a strict server");
            client.echo(server.at(HTTP + 1))?;
            client.echo(open.at(ECHO))?;
            assert!(
                client.echo(open.at(HTTP + 1)).is_err(),
                "plaintext to an excluded range, a port that is not"
            );
            Ok(())
        });
}

/// Connections that the agent of node A captured so far.
fn connections(mesh: &mut Mesh) -> u64 {
    let opened = mesh.a().metrics().map(|metrics| metrics.sum("istio_tcp_connections_opened_total", &[]));
    opened.unwrap_or_default() as u64
}

fn set_mode(mesh: &mut Mesh, pod: &str, mode: &str) -> Result<()> {
    mesh.change_pod(pod, |spec| spec.set_label("nodemesh.dev/mode", mode))
}

#[test]
fn pods_of_a_kubelet_are_found_by_their_cgroups() {
    const UID: &str = "0f4a2a6e-9d6c-4b1b-8f6e-2b0c7c1f5f11";
    let burstable = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod";
    let of_systemd = format!("{burstable}{}.slice/cri-containerd-1.scope", UID.replace('-', "_"));
    let of_cgroupfs = "kubepods/besteffort/podc0ffee00-0000-4000-8000-000000000000/1";
    let caller = PodSpec::new("caller").uid("c0ffee00-0000-4000-8000-000000000000");
    let called = |container: &str| server("called").uid(UID).kubelet_cgroup(container);
    let other = Scenario::new(vec![PodSpec::new("client")], vec![PodSpec::new("other")]);
    other.service(service()).objects("strict", &peer_authentication("STRICT")).run(|mesh| {
        mesh.add_pod("node-a", caller.kubelet_cgroup(of_cgroupfs))?;
        mesh.add_pod("node-b", called(&of_systemd))?;
        // A container's first process that leaves the pod's network, where no sandbox is older.
        let alone = ["--net", "sleep", "600"];
        let _alone = mesh.pod("called").place().spawn("alone", "unshare", &alone)?;
        let _echo = mesh.pod("called").serve(Kind::Echo, ECHO)?;
        // What makes the caller found, as a pod's sandbox does.
        let _sandbox = mesh.pod("caller").serve(Kind::Sink, HTTP)?;
        let took =
            eventually_true("the caller is captured", PATIENCE, || captured(mesh, "node-a", "shop/caller"))?;
        figure(&format!("a pod is captured {} ms after its first process listens", took.as_millis()));
        eventually_true("both are captured", PATIENCE, || mesh.pod("caller").echo(at(ECHO)).is_ok())?;
        let seen = mesh.pod("caller").echo(at(ECHO))?;
        assert_eq!(seen.peer, at(ECHO).to_string());
        // The same pod in another sandbox: another namespace, and another address.
        mesh.remove_pod("called")?;
        mesh.add_pod("node-b", called(&of_systemd.replace("containerd-1", "containerd-2")))?;
        let _echo = mesh.pod("called").serve(Kind::Echo, ECHO)?;
        eventually_true("the new sandbox is captured", PATIENCE, || {
            mesh.pod("caller").echo(at(ECHO)).is_ok()
        })?;
        Ok(())
    });
}

#[test]
fn a_pod_that_puts_itself_in_doubt_is_told_of_and_keeps_no_agent_from_being_ready() {
    let pod = PodSpec::new("two-places").uid("c0ffee00-0000-4000-8000-000000000000");
    pair().run(|mesh| {
        mesh.add_pod("node-a", pod.kubelet_cgroup("kubepods/podc0ffee00-0000-4000-8000-000000000000/1"))?;
        let pod = mesh.pod("two-places");
        let _sandbox = pod.place().spawn("sandbox", "sleep", &["600"])?;
        eventually_true("the pod is captured", PATIENCE, || captured(mesh, "node-a", "shop/two-places"))?;
        let script = format!(
            "ip link set lo up && ip address add {}/32 dev lo && echo made; exec sleep 600",
            pod.ip()
        );
        let mut elsewhere = pod.place().spawn("elsewhere", "unshare", &["--net", "sh", "-c", &script])?;
        eventually_true("the pod has made a namespace", PATIENCE, || elsewhere.stdout().contains("made"))?;
        // What was beyond doubt stays so, but not at the next start; which waits until it is ready.
        mesh.a().kill()?;
        mesh.a().restart()?;
        mesh.a().metric("nodemesh_capture_pods_in_doubt", &[], |count| count == 1.0)?;
        for verb in ["status", "check"] {
            let said = mesh.a().command(&[verb])?.success(verb)?;
            assert!(said.contains("are refused: shop/two-places"), "{said}");
        }
        let refused = mesh.pod("two-places").dial(at(ECHO)).run()?;
        assert_eq!(refused.refusal(), Some("not permitted"), "{refused:?}");
        elsewhere.kill()?;
        mesh.a().metric("nodemesh_capture_pods_in_doubt", &[], |count| count == 0.0)?;
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        eventually_true("the pod is captured again", PATIENCE, || {
            mesh.pod("two-places").echo(at(ECHO)).is_ok()
        })?;
        Ok(())
    });
}

fn captured(mesh: &Mesh, node: &str, pod: &str) -> bool {
    mesh.node(node).tail(400).lines().any(|line| line.contains("pod captured") && line.contains(pod))
}

#[test]
fn a_pod_that_is_said_to_be_where_another_is_speaks_not_for_it_and_keeps_no_agent_from_being_ready() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let path = mesh.pod("client").place().netns().path().display().to_string();
        let pod = |name: &str, more: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: shop\n  uid: uid-{name}\n\
                 {more}spec:\n  nodeName: node-a\n  serviceAccountName: {name}\n  containers:\n    - name: main\n"
            )
        };
        // One that has ended, too: nobody looks for it.
        mesh.config().write("ended", &format!("{}status:\n  phase: Succeeded\n", pod("ended", "")))?;
        mesh.config().write("thief", &pod("thief", &format!("  annotations: {{nodemesh.dev/netns: {path}}}\n")))?;
        eventually_true("the second pod is refused", PATIENCE, || {
            mesh.node("node-a").tail(400).contains("is said to be in the network namespace of shop/client")
        })?;
        assert!(!mesh.node("node-a").tail(400).contains("\"pod\":\"shop/ended\""), "it is no failure");
        mesh.a().metric("nodemesh_capture_pods_not_captured", &[("cause", "pod")], |count| count == 1.0)?;
        mesh.a().wait_until_ready()?;
        for verb in ["status", "check"] {
            let said = mesh.a().command(&[verb])?.success(verb)?;
            assert!(said.contains("shop/thief") && said.contains("in the network namespace of"), "{said}");
        }
        mesh.pod("client").echo(at(ECHO))?;
        mesh.b().record("the caller is who it was", |record| {
            record["src.identity"] == "spiffe://cluster.local/ns/shop/sa/client"
        })?;
        Ok(())
    });
}
