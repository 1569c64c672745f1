//! The daemon dies, comes back, is started twice, is removed: never the application in the clear.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_test_e2e::{ECHO, at, pair, peer_authentication, server, service};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::binary::mesh_node;
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::mesh::Scenario;
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::pod::Pod;
use mesh_test_harness::run::Run;
use mesh_test_harness::servers::Kind;

/// Longest time in which a refused connect is still fast.
const FAST_MS: f64 = 1000.0;

#[test]
fn without_its_daemon_a_pod_connects_nowhere() {
    pair().run(|mesh| {
        let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO))?;
        mesh.a().kill()?;
        let before = echo.connections();
        for to in [at(ECHO), mesh.pod("server").at(ECHO), mesh.pod("server").at_v6(ECHO)] {
            let dialled = mesh.pod("client").dial(to).send(PLAINTEXT_MARKER).quiet(PATIENCE).run()?;
            let refusal = dialled.refusal().with_context(|| format!("{to} answered {dialled:?}"))?;
            assert!(matches!(refusal, "refused" | "not permitted" | "reset"), "{to}: {refusal}");
            let after_ms = match &dialled {
                mesh_test_harness::clients::Dialled::Refused { after_ms, .. } => *after_ms,
                mesh_test_harness::clients::Dialled::Connected(connected) => connected.after_ms,
            };
            assert!(after_ms < FAST_MS, "{to}: refused after {after_ms} ms");
        }
        assert_eq!(echo.connections(), before);
        Ok(())
    });
}

#[test]
fn without_its_daemon_nobody_reaches_a_pod() {
    let outsider = PodSpec::new("outsider").mode("disabled");
    let neighbour = PodSpec::new("neighbour").mode("disabled");
    Scenario::new(vec![PodSpec::new("client"), outsider], vec![server("server"), neighbour])
        .service(service())
        .objects("strict", &peer_authentication("STRICT"))
        .run(|mesh| {
            let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
            mesh.pod("client").echo(at(ECHO))?;
            let before = echo.connections();
            // A second address and the link-local one: addresses that no object names.
            mesh.pod("server").place().netns().ip(&["address add 10.77.2.200/24 dev eth0".to_owned()])?;
            let link_local = link_local(mesh.pod("server"))?;
            mesh.b().kill()?;
            let (server, second) =
                (mesh.pod("server"), SocketAddr::new(IpAddr::from([10, 77, 2, 200]), ECHO));
            for (from, to) in [
                ("client", server.at(ECHO)),
                ("outsider", server.at(ECHO)),
                ("outsider", server.at_v6(ECHO)),
                ("outsider", second),
                ("neighbour", second),
                ("neighbour", server.at(ECHO)),
            ] {
                assert_silent(mesh.pod(from), &to.to_string())?;
            }
            assert_silent(mesh.pod("neighbour"), &format!("[{link_local}%eth0]:{ECHO}"))?;
            assert_eq!(echo.connections(), before, "the application saw nobody");
            Ok(())
        });
}

#[test]
fn addresses_that_no_object_names_are_no_way_in() {
    let outsider = PodSpec::new("outsider").mode("disabled");
    Scenario::new(vec![PodSpec::new("client")], vec![server("server"), outsider])
        .service(service())
        .objects("strict", &peer_authentication("STRICT"))
        .run(|mesh| {
            let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
            mesh.pod("server").place().netns().ip(&["address add 10.77.2.200/24 dev eth0".to_owned()])?;
            assert_silent(mesh.pod("outsider"), &format!("10.77.2.200:{ECHO}"))?;
            let link_local = link_local(mesh.pod("server"))?;
            assert_silent(mesh.pod("outsider"), &format!("[{link_local}%eth0]:{ECHO}"))?;
            assert_eq!(echo.connections(), 0, "the application saw nobody");
            Ok(())
        });
}

#[test]
fn a_daemon_that_is_told_to_stop_drains() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO))?;
        let time = mesh.a().stop()?;
        assert!(time < Duration::from_secs(10), "{time:?}");
        let dialled = mesh.pod("client").dial(mesh.pod("server").at(ECHO)).send("x").run()?;
        assert!(dialled.refusal().is_some(), "pinned programs refuse: {dialled:?}");
        mesh.a().restart()?;
        mesh.pod("client").echo(at(ECHO)).map(drop)
    });
}

#[test]
fn a_second_daemon_on_the_same_pins_names_the_first() {
    second_daemon_names_the_first(|flag| flag);
}

#[test]
fn a_second_daemon_on_the_same_pods_names_the_first() {
    second_daemon_names_the_first(|flag| flag.replace("/bpf/node-a", "/bpf/second"));
}

/// Starts an agent with the flags of node A's, but for where it is talked to and what `change` says.
fn second_daemon_names_the_first(change: impl Fn(String) -> String) {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let holder = mesh.a().id();
        let site = mesh.topology().site("node-a");
        let own = ["--metrics-address", "127.0.0.1:25020", "--readiness-address", "127.0.0.1:25021"];
        let flags = mesh.node("node-a").flags().iter().map(|flag| flag.replace("admin.sock", "second.sock"));
        let is_address = |flag: &String| flag.contains("-address") || flag.starts_with("127.0.0.1:150");
        let arguments: Vec<String> = std::iter::once("agent".to_owned())
            .chain(flags.filter(|flag| !is_address(flag)).map(&change))
            .chain(own.map(str::to_owned))
            .collect();
        let second =
            site.host().spawn("second-agent", mesh_test_harness::binary::mesh_node()?, &arguments)?;
        let ended = second.wait(PATIENCE)?;
        assert!(!ended.status.success());
        assert!(ended.stderr.contains(&holder.to_string()), "names {holder}: {}", ended.stderr);
        mesh.pod("client").echo(at(ECHO)).map(drop)
    });
}

#[test]
fn a_pod_that_cannot_be_found_keeps_no_other_held() {
    let outsider = PodSpec::new("outsider").mode("disabled");
    Scenario::new(vec![outsider], vec![server("server"), server("other")]).service(service()).run(|mesh| {
        let _servers = ["server", "other"].map(|name| mesh.pod(name).serve(Kind::Echo, ECHO));
        mesh.allow_plaintext("outsider");
        mesh.b().kill()?;
        // Both pods go while no agent runs, and what comes has the address of one of them.
        for name in ["pod-server", "pod-other"] {
            mesh.config().remove(name)?;
        }
        let address = mesh.pod("server").ip();
        let lost = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: lost\n  namespace: shop\n  uid: lost\n  labels:\n    \
             nodemesh.dev/mode: enabled\nspec:\n  nodeName: node-b\n  containers: []\nstatus:\n  podIP: {address}\n"
        );
        mesh.config().write("lost", &lost)?;
        mesh.b().spawn()?;
        let other = mesh.pod("other").at(ECHO);
        eventually_true("a pod that is gone is released", PATIENCE, || {
            mesh.pod("outsider").dial(other).connected().is_ok()
        })?;
        let server = mesh.pod("server").at(ECHO);
        assert_silent(mesh.pod("outsider"), &server.to_string())
    });
}

#[test]
fn uninstall_removes_everything_and_looks_again() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO))?;
        mesh.allow_plaintext("client");
        mesh.a().stop()?;
        mesh.b().stop()?;
        for name in ["node-a", "node-b"] {
            let node = mesh.node(name);
            let pins = node.pin_dir().display().to_string();
            let site = mesh.topology().site(name);
            let arguments = ["uninstall", "--verify", "--pin-dir", &pins];
            let ended =
                site.host().spawn("uninstall", mesh_test_harness::binary::mesh_node()?, &arguments)?;
            ended.wait(PATIENCE)?.success("mesh-node uninstall --verify")?;
            let left: Vec<_> = fs::read_dir(&pins).into_iter().flatten().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
        let seen = mesh.pod("client").echo(mesh.pod("server").at(ECHO))?;
        assert_eq!(seen.peer, mesh.pod("server").at(ECHO).to_string(), "without a mesh, as before it");
        Ok(())
    });
}

#[test]
fn agent_and_uninstall_refuse_a_folder_that_is_not_an_agents() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let run = mesh.topology().run();
        let refusal = |words: &[String]| -> Result<String> {
            let host = mesh.topology().site("node-a").host();
            let binary = mesh_test_harness::binary::mesh_node()?;
            let ended = host.spawn("refused", binary, words)?.wait(PATIENCE)?;
            ensure!(!ended.status.success(), "{words:?} was not refused: {ended:?}");
            Ok(ended.stderr)
        };
        let uninstall = |folder: &Path| {
            let words = ["uninstall", "--verify", "--pin-dir", &folder.display().to_string()];
            refusal(&words.map(str::to_owned))
        };
        let elsewhere = run.cgroup().join("elsewhere");
        fs::create_dir(&elsewhere)?;
        let agent = |folder: &Path| {
            let own = run.folder().join("refused");
            let words = [
                ("--node-name", Path::new("node-c")),
                ("--config-dir", &mesh.folders().config),
                ("--trust-dir", &mesh.folders().trust),
                ("--cgroup-root", &elsewhere),
                ("--agent-cgroup", &own_cgroup(run)),
                ("--pin-dir", folder),
                ("--admin-socket", &own),
                ("--metrics-address", Path::new("127.0.0.1:25020")),
                ("--readiness-address", Path::new("127.0.0.1:25021")),
            ];
            let words =
                words.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.display().to_string()]);
            refusal(&std::iter::once("agent".to_owned()).chain(words).collect::<Vec<_>>())
        };
        for refusal in [uninstall(&run.bpffs())?, agent(&run.bpffs())?] {
            assert!(refusal.contains("is the top of a BPF file system; name a folder in it"), "{refusal}");
        }
        // The folder above two agents' folders of pins.
        let above = run.bpffs().join("above");
        fs::create_dir_all(above.join("node-a"))?;
        for refusal in [uninstall(&above)?, agent(&above)?] {
            assert!(refusal.contains("holds node-a; nothing was touched"), "{refusal}");
        }
        assert!(!own_cgroup(run).exists(), "the agent made its cgroup");
        let ordinary = run.folder().join("ordinary/links");
        fs::create_dir_all(&ordinary)?;
        fs::write(ordinary.join("kept"), "")?;
        assert!(uninstall(&run.folder().join("ordinary"))?.contains("not on a BPF file system"));
        let linked = run.bpffs().join("linked");
        fs::create_dir(&linked)?;
        std::os::unix::fs::symlink(&ordinary, linked.join("links"))?;
        assert!(uninstall(&linked)?.contains("holds links"));
        assert!(ordinary.join("kept").exists(), "what a link leads to is left alone");
        mesh.pod("client").echo(at(ECHO)).map(drop)
    });
}

/// The cgroup of an agent that never comes to make it.
fn own_cgroup(run: &Run) -> PathBuf {
    run.cgroup().join("refused")
}

fn assert_silent(pod: &Pod, to: &str) -> Result<()> {
    let text = pod.output(
        "curl",
        &[
            "-sS",
            "--noproxy",
            "*",
            "--max-time",
            "2",
            "--http0.9",
            &format!("http://{to}/{PLAINTEXT_MARKER}"),
        ],
        PATIENCE,
    )?;
    assert!(!text.stdout.contains(PLAINTEXT_MARKER), "{} reached {to}", pod.name());
    Ok(())
}

/// The pod's own link-local address.
fn link_local(pod: &Pod) -> Result<String> {
    let text =
        pod.output("ip", &["-6", "-br", "address", "show", "dev", "eth0", "scope", "link"], PATIENCE)?.stdout;
    let address =
        text.split_whitespace().find(|word| word.starts_with("fe80")).context("a link-local address")?;
    Ok(address.split('/').next().unwrap_or_default().to_owned())
}

#[test]
fn a_command_whose_reader_has_gone_ends_quietly() -> Result<()> {
    for document in ["flags", "metrics", "kinds"] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut command = Command::new(mesh_node()?);
        let ended = command.args(["reference", document]).stdout(writer).output()?;
        assert!(ended.status.success() && ended.stderr.is_empty(), "{document}: {ended:?}");
    }
    Ok(())
}
