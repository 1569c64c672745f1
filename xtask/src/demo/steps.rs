//! The steps of the demo, in order: each does something in a pod and states what was observed.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::capture::{Capture, Carried};
use mesh_test_harness::clients::Response;
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::topology::WIRE;
use serde_json::Value;

use super::scene::{self, Programs, REDIS, WEB, WEB_PORT};
use super::screen::Screen;

/// The scene while it is played.
pub(super) struct Stage {
    mesh: Mesh,
    _programs: Programs,
}

impl Stage {
    /// Draws and builds the scene.
    pub(super) fn set(screen: &mut Screen) -> Result<Self> {
        screen.step("two nodes, three pods each, ordinary programs");
        println!("{}", scene::PICTURE);
        let (mesh, programs) = scene::build()?;
        Ok(Self { mesh, _programs: programs })
    }

    /// Plays every step.
    pub(super) fn play(&mut self, screen: &mut Screen) -> Result<()> {
        self.without_a_mesh(screen)?;
        self.agents_start(screen)?;
        self.requests_work(screen)?;
        self.refusals(screen)?;
        self.live_edit(screen)?;
        self.restart_under_load(screen)?;
        self.metrics(screen)?;
        Ok(())
    }

    /// Says how to look around by hand, and waits until the person has seen enough.
    pub(super) fn hold(&self, screen: &mut Screen) {
        self.look_around(screen);
        screen.say("the scene stays up; press Enter or Ctrl-C to take it down");
        // An end of input counts as Enter only on a terminal; without one, wait for a signal.
        if std::io::stdin().read(&mut [0]).is_ok_and(|count| count == 0) {
            loop {
                std::thread::park();
            }
        }
    }

    fn without_a_mesh(&self, screen: &mut Screen) -> Result<()> {
        screen.step("before: no agent runs");
        let capture = Capture::start(self.mesh.topology().site("node-a"), WIRE)?;
        let response = self.curl(screen, "frontend", &format!("http://10.77.2.10:{WEB_PORT}/"), &[])?;
        screen.output(&response.body);
        let markers = capture.finish()?.markers();
        screen.fact(
            response.status == 200 && markers > 0,
            format!(
                "the wire carried it in the clear: the marker {PLAINTEXT_MARKER} was seen {markers} times"
            ),
        );
        Ok(())
    }

    fn agents_start(&mut self, screen: &mut Screen) -> Result<()> {
        screen.step("an agent on each node");
        screen.command("node-a", "mesh-node agent --node-name node-a --config-dir DIR --trust-dir DIR ...");
        self.mesh.capture(WIRE)?;
        let start = Instant::now();
        self.mesh.start_agents(&[])?;
        screen.fact(
            true,
            format!("both are ready after {} ms; no pod was restarted", start.elapsed().as_millis()),
        );
        Ok(())
    }

    fn requests_work(&mut self, screen: &mut Screen) -> Result<()> {
        screen.step("a request and a database, through the mesh");
        let response = self.curl(screen, "frontend", &format!("http://{WEB}/"), &[])?;
        screen.output(&response.body);
        screen.fact(response.status == 200, format!("HTTP status {}", response.status));
        let answer = self.redis(screen, "frontend", &["set", "order", PLAINTEXT_MARKER])?;
        screen.fact(answer == "OK", format!("Redis answers {answer:?}"));
        let answer = self.redis(screen, "frontend", &["get", "order"])?;
        screen.fact(answer == PLAINTEXT_MARKER, format!("Redis answers {answer:?}"));

        screen.step("what the wire carried meanwhile");
        let carried = self.mesh.finish_captures()?;
        wire_facts(screen, &carried[0]);
        self.identities(screen)
    }

    /// Both sides' SPIFFE ids of the request, from both agents' access records.
    fn identities(&mut self, screen: &mut Screen) -> Result<()> {
        let both = |record: &Value| {
            record["src.identity"] == "spiffe://cluster.local/ns/shop/sa/frontend"
                && record["dst.identity"] == "spiffe://cluster.local/ns/shop/sa/web"
        };
        for node in ["node-a", "node-b"] {
            let record = self.mesh.node(node).record("the request with both identities", both)?;
            let text = |key: &str| record[key].as_str().unwrap_or("-").to_owned();
            screen.fact(
                true,
                format!(
                    "{node} logged {}: {} -> {}",
                    text("direction"),
                    text("src.identity"),
                    text("dst.identity")
                ),
            );
        }
        Ok(())
    }

    fn refusals(&mut self, screen: &mut Screen) -> Result<()> {
        screen.step("what policy refuses");
        self.mesh.capture(WIRE)?;
        let response = self.curl(screen, "frontend", &format!("http://{WEB}/"), &["-X", "POST"])?;
        screen.output(&response.body);
        screen.fact(
            response.status == 403 && response.body == "RBAC: access denied",
            format!("method POST: status {}", response.status),
        );
        let response = self.curl(screen, "visitor", &format!("http://{WEB}/"), &[])?;
        screen.output(&response.body);
        screen.fact(response.status == 403, format!("identity visitor: status {}", response.status));
        let answer = self.redis(screen, "visitor", &["get", "order"])?;
        screen.output(&answer);
        screen.fact(!answer.contains(PLAINTEXT_MARKER), "identity visitor: Redis resets the connection");
        let response = self.curl(screen, "outsider", &format!("http://10.77.2.10:{WEB_PORT}/"), &[])?;
        screen.fact(
            response.status == 0,
            format!("a pod outside the mesh under STRICT: no response (curl exit {})", response.exit),
        );
        Ok(())
    }

    fn live_edit(&mut self, screen: &mut Screen) -> Result<()> {
        screen.step("a policy edited live");
        let to = SocketAddr::new(IpAddr::V4(WEB), 80);
        let visitor = self.mesh.pod("visitor");
        let allowed = || {
            let request = format!("GET / HTTP/1.1\r\nhost: {WEB}\r\nconnection: close\r\n\r\n");
            visitor
                .dial(to)
                .send(request)
                .connected()
                .is_ok_and(|seen| seen.received.starts_with("HTTP/1.1 200"))
        };
        for (accounts, wanted, what) in [
            (&["frontend", "visitor"][..], true, "visitor is written into the policy: allowed"),
            (&["frontend"][..], false, "and out again: refused"),
        ] {
            self.mesh.config().write("web-policy", &scene::web_policy(accounts))?;
            let time = eventually_true(what, PATIENCE, || allowed() == wanted)?;
            screen.fact(
                true,
                format!("{what} within {} ms of the write, a whole request included", time.as_millis()),
            );
        }
        Ok(())
    }

    fn restart_under_load(&mut self, screen: &mut Screen) -> Result<()> {
        screen.step("an agent killed and started again under load");
        let to = SocketAddr::new(IpAddr::V4(WEB), 80);
        let load = self.mesh.pod("frontend").load(to, &["--connections", "4"])?;
        let answered = |mesh: &Mesh| mesh.node("node-b").records().len();
        let before = answered(&self.mesh);
        eventually_true("the load runs", PATIENCE, || answered(&self.mesh) > before + 100)?;
        screen.command("node-b", "kill -9 (mesh-node agent)");
        self.mesh.b().kill()?;
        let open = self.mesh.pod("outsider").dial(self.mesh.pod("web").at(WEB_PORT)).run()?;
        screen.fact(open.refusal().is_some(), "while it is gone, the pod's door stays shut to plaintext");
        let time = self.mesh.b().restart()?;
        screen.say(format!("ready again {} ms after it was started", time.as_millis()));
        let before = answered(&self.mesh);
        eventually_true("the load runs again", PATIENCE, || answered(&self.mesh) > before + 100)?;
        let loaded = load.finish()?;
        screen.fact(
            loaded.answered > 0,
            format!(
                "{} requests answered, {} failed {:?}; longest gap {:.0} ms",
                loaded.answered, loaded.failed, loaded.reasons, loaded.longest_gap_ms
            ),
        );
        let carried = self.mesh.finish_captures()?;
        screen.say("without what the pod outside the mesh sent by itself:");
        wire_facts(screen, &carried[0].without(self.mesh.pod("outsider").ip()));
        Ok(())
    }

    fn metrics(&mut self, screen: &mut Screen) -> Result<()> {
        screen.step("the metrics");
        screen.command("node-a", "curl 127.0.0.1:15020/metrics");
        let metrics = self.mesh.a().metrics().context("read the metrics of node-a")?;
        for code in ["200", "403"] {
            let count =
                metrics.sum("istio_requests_total", &[("reporter", "source"), ("response_code", code)]);
            screen.fact(
                count > 0.0,
                format!("istio_requests_total{{reporter=source,response_code={code}}} {count}"),
            );
        }
        for name in ["istio_tcp_connections_opened_total", "istio_tcp_sent_bytes_total"] {
            let count = metrics.sum(name, &[("reporter", "source")]);
            screen.fact(count > 0.0, format!("{name}{{reporter=source}} {count}"));
        }
        Ok(())
    }

    fn look_around(&self, screen: &mut Screen) {
        screen.step("look around by hand");
        let folder = self.mesh.topology().run().folder();
        let node = self.mesh.node("node-a");
        let frontend = self.mesh.pod("frontend").place();
        let enter = format!(
            "sh -c 'echo 0 > {}/cgroup.procs; exec ip netns exec {} bash'",
            frontend.cgroup().display(),
            frontend.netns().name()
        );
        screen.say(format!("a shell in the pod frontend   {enter}"));
        screen.say(format!("then                          curl http://{WEB}/"));
        screen.say(format!("or                            redis-cli -h {REDIS}"));
        screen.say(format!(
            "the agent of node-a           {} status --admin-socket {}",
            mesh_test_harness::binary::mesh_node()
                .map_or_else(|_| "mesh-node".into(), |path| path.display().to_string()),
            node.admin_socket().display()
        ));
        screen.say(format!("objects, edited live          {}/config", folder.display()));
        screen.say(format!(
            "logs and captured packets     {}/node-a, {}/node-b",
            folder.display(),
            folder.display()
        ));
    }

    fn curl(&self, screen: &Screen, pod: &str, url: &str, flags: &[&str]) -> Result<Response> {
        screen.command(
            pod,
            &format!("curl {}{url}", flags.iter().map(|flag| format!("{flag} ")).collect::<String>()),
        );
        self.mesh.pod(pod).curl(url, flags)
    }

    fn redis(&self, screen: &Screen, pod: &str, words: &[&str]) -> Result<String> {
        let host = REDIS.to_string();
        screen.command(pod, &format!("redis-cli -h {host} {}", words.join(" ")));
        let arguments = [&["-h", &host][..], words].concat();
        let ended = self.mesh.pod(pod).output("redis-cli", &arguments, Duration::from_secs(10))?;
        Ok(format!("{}{}", ended.stdout, ended.stderr).trim().to_owned())
    }
}

/// What an eavesdropper on the wire could see.
fn wire_facts(screen: &mut Screen, carried: &Carried) {
    let hellos = carried.client_hellos();
    let alpn: BTreeSet<&str> =
        hellos.iter().flat_map(|hello| hello.alpn.iter().map(String::as_str)).collect();
    screen.say(format!("{} packets, {} bytes of payload", carried.packets, carried.payload_bytes));
    screen.fact(
        !hellos.is_empty() && hellos.iter().all(|hello| hello.is_tls13_only()),
        format!(
            "{} TLS handshakes, TLS 1.3 offered alone, chosen {} times",
            hellos.len(),
            carried.tls13_answers()
        ),
    );
    screen.fact(alpn.iter().any(|name| name.starts_with("nodemesh/")), format!("ALPN offered: {alpn:?}"));
    let markers = carried.markers();
    screen.fact(markers == 0, format!("the marker {PLAINTEXT_MARKER} was seen {markers} times"));
}
