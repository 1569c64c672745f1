//! HTTP/1.1 that is not of applications: metrics, probes and the admin socket, of agent and controller. Whatever they are
//! sent, they go on answering those who ask as they should, and hold no more than a bounded number of connections.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_test_e2e::framing::INPUTS;
use mesh_test_e2e::{ECHO, at, pair};
use mesh_test_harness::eventually::{PATIENCE, eventually, eventually_true};
use mesh_test_harness::figure;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::netns::Namespace;
use mesh_test_harness::process::Process;
use mesh_test_harness::scrape;
use mesh_test_harness::servers::Kind;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

/// Connections of one listener at a time.
const MAX_CONNECTIONS: usize = 32;
/// What a head may take, and some for the machine.
const HEAD: Duration = Duration::from_secs(12);
/// What an answer may take: less than a head, for else it might have waited until a silent connection was ended for its own.
const ANSWER: Duration = Duration::from_secs(3);
/// Where the controller of these tests answers.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15030);
const READINESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15031);
/// How often a listener is sent all that is ambiguous, until its process has what it keeps; and then: more than a thousand times.
const WARM: usize = 8;
const ROUNDS: usize = 30;
/// What its memory may grow by meanwhile, kB. Ten times as much would be 8 kB for each connection.
const GROWTH: u64 = 4 << 10;
/// Whoever attacks: not the address of those who scrape.
const EVIL: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Something that speaks HTTP/1.1.
#[derive(Clone, Debug)]
enum Listener {
    Tcp(SocketAddr, &'static str),
    Unix(PathBuf, &'static str),
}

/// A connection to it.
enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    fn path(&self) -> &'static str {
        match self {
            Self::Tcp(_, path) | Self::Unix(_, path) => path,
        }
    }

    /// From `from` where there are addresses.
    fn open(&self, from: Ipv4Addr) -> Result<Connection> {
        let connection = match self {
            Self::Tcp(to, _) => {
                let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
                bind(&socket, &SocketAddr::from((from, 0)))?;
                connect(&socket, to).with_context(|| format!("connect to {to}"))?;
                Connection::Tcp(TcpStream::from(socket))
            }
            Self::Unix(path, _) => Connection::Unix(UnixStream::connect(path)?),
        };
        connection.wait_at_most(HEAD)?;
        Ok(connection)
    }

    /// What one well-behaved request gets, on a connection of its own.
    fn ask(&self) -> Result<String> {
        let mut connection = self.open(Ipv4Addr::LOCALHOST)?;
        connection.wait_at_most(ANSWER)?;
        let request = format!("GET {} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", self.path());
        connection.stream().write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        connection.stream().read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn answers(&self) -> Result<()> {
        let answer = self.ask().with_context(|| format!("ask {self:?}"))?;
        // A controller that has never seen an API server is alive, and not ready.
        ensure!(answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.1 503 "), "{answer}");
        Ok(())
    }
}

/// Both kinds of stream.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Connection {
    fn stream(&mut self) -> &mut dyn Stream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }

    fn wait_at_most(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(limit)),
            Self::Unix(stream) => stream.set_read_timeout(Some(limit)),
        }
    }

    /// Whether the other side has ended it; looked at without waiting.
    fn is_ended(&mut self) -> bool {
        let nonblocking = |on| match &*self {
            Self::Tcp(stream) => stream.set_nonblocking(on),
            Self::Unix(stream) => stream.set_nonblocking(on),
        };
        if nonblocking(true).is_err() {
            return true;
        }
        let mut buffer = [0; 4096];
        loop {
            match self.stream().read(&mut buffer) {
                Ok(1..) => {}
                Ok(0) => return true,
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}

fn of_agent(mesh: &Mesh) -> Vec<Listener> {
    let agent = |port, path| Listener::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path);
    let socket = mesh.node("node-a").admin_socket().to_owned();
    vec![agent(15020, "/metrics"), agent(15021, "/readyz"), Listener::Unix(socket, "/v1/status")]
}

/// A controller whose API server never answers: what it serves to probes and scrapes is the same.
fn controller(mesh: &Mesh) -> Result<(Process, Vec<Listener>)> {
    let place = mesh.topology().site("node-a").host();
    let kubeconfig = mesh.topology().run().folder().join("kubeconfig");
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                clusters: [{name: c, cluster: {server: \"http://127.0.0.1:9\"}}]\n\
                users: [{name: c, user: {}}]\ncontexts: [{name: c, context: {cluster: c, user: c}}]\n";
    std::fs::write(&kubeconfig, text).context("write a kubeconfig")?;
    let arguments = [
        "controller".to_owned(),
        "--kubeconfig".to_owned(),
        kubeconfig.display().to_string(),
        "--pod-name".to_owned(),
        "controller-0".to_owned(),
        "--listen".to_owned(),
        "127.0.0.1:15032".to_owned(),
        "--metrics-address".to_owned(),
        METRICS.to_string(),
        "--readiness-address".to_owned(),
        READINESS.to_string(),
    ];
    let program = mesh_test_harness::binary::mesh_node()?;
    let mut process = place.spawn("controller", program, &arguments)?;
    let netns = place.netns();
    eventually("the controller answers", PATIENCE, || {
        (process.ended().is_some() || scrape::get(netns, READINESS, "/livez").is_ok()).then_some(())
    })?;
    ensure!(process.ended().is_none(), "{}", process.tail(20));
    Ok((process, vec![Listener::Tcp(METRICS, "/metrics"), Listener::Tcp(READINESS, "/livez")]))
}

/// Runs in the network namespace of the node that all of them are on.
fn on_node(mesh: &Mesh, test: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let netns: &Namespace = mesh.topology().site("node-a").host().netns();
    netns.run(test)
}

/// Runs a test with each listener of agent and controller; both processes live through it, and nothing panics.
fn each(test: impl Fn(&Listener) -> Result<()> + Sync) {
    pair().run(|mesh| {
        let (mut controller, listeners) = controller(mesh)?;
        let listeners: Vec<Listener> = of_agent(mesh).into_iter().chain(listeners).collect();
        let agent = mesh.node("node-a").id();
        on_node(mesh, || {
            for listener in &listeners {
                test(listener).with_context(|| format!("{listener:?}"))?;
                listener.answers()?;
            }
            Ok(())
        })?;
        ensure!(controller.ended().is_none(), "the controller ended: {}", controller.tail(20));
        ensure!(
            mesh.node("node-a").id() == agent && mesh.node("node-a").metrics().is_ok(),
            "the agent ended"
        );
        for log in [controller.stderr(), mesh.node("node-a").log()] {
            ensure!(!log.contains("panicked"), "{log}");
        }
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO)).map(drop)
    });
}

#[test]
fn ambiguous_framing_does_no_harm() {
    each(|listener| {
        for (name, input) in INPUTS {
            let mut connection = listener.open(EVIL)?;
            let second = b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n";
            // Broken off by a server that has refused it: that is as good.
            let _ = connection.stream().write_all(&[input, second].concat());
            // It ends without having been told that nothing follows.
            let mut seen = Vec::new();
            match connection.stream().read_to_end(&mut seen) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Err(error) => return Err(error).with_context(|| format!("{name}: it does not end")),
            }
            let seen = String::from_utf8_lossy(&seen).into_owned();
            ensure!(seen.is_empty() || seen.starts_with("HTTP/1."), "{name}: {seen}");
            let answers: Vec<&str> = seen.split("HTTP/1.").skip(1).map(|answer| &answer[2..5]).collect();
            // There is nothing at those paths: whatever is understood, it is not found.
            ensure!(answers.len() <= 1, "{name}: answered {answers:?}: {seen}");
            ensure!(answers.iter().all(|status| status.starts_with('4')), "{name}: {seen}");
            ensure!(!seen.contains("/second"), "{name}: the second was read: {seen}");
        }
        Ok(())
    });
}

/// Sends a listener each input so many times, each on a connection of its own, and waits for its end.
fn flood(listener: &Listener, rounds: usize) -> Result<()> {
    for (name, input) in INPUTS.iter().cycle().take(rounds * INPUTS.len()) {
        let mut connection = listener.open(EVIL)?;
        // Broken off by a server that has refused it: that is as good.
        let _ = connection.stream().write_all(input);
        if let Connection::Tcp(stream) = &connection {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        match connection.stream().read_to_end(&mut Vec::new()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error).context(*name),
            _ => {}
        }
    }
    Ok(())
}

/// Resident memory of a process, kB, and its descriptors.
fn held(id: u32) -> Result<(u64, usize)> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let resident = line.trim().trim_end_matches(" kB").parse().context("read VmRSS")?;
    Ok((resident, std::fs::read_dir(format!("/proc/{id}/fd"))?.count()))
}

#[test]
fn ambiguous_framing_by_the_thousand_leaves_memory_and_descriptors_where_they_were() {
    pair().run(|mesh| {
        let (process, of_controller) = controller(mesh)?;
        let agent = mesh.node("node-a").id();
        let all = [(agent, of_agent(mesh)), (process.id(), of_controller)];
        on_node(mesh, || {
            for (id, listener) in all.iter().flat_map(|(id, all)| all.iter().map(move |one| (*id, one))) {
                flood(listener, WARM)?;
                let before = held(id)?;
                flood(listener, ROUNDS)?;
                let count = ROUNDS * INPUTS.len();
                eventually_true("as many descriptors as before", PATIENCE, || {
                    held(id).is_ok_and(|now| now.1 <= before.1)
                })?;
                let after = held(id)?;
                figure(&format!(
                    "{listener:?}: {} kB before {count} connections, {} kB after",
                    before.0, after.0
                ));
                ensure!(after.0 <= before.0 + GROWTH, "{listener:?}: {before:?}, then {after:?}");
            }
            Ok(())
        })
    });
}

#[test]
fn a_head_that_does_not_end_is_not_waited_for() {
    each(|listener| {
        let begun = Instant::now();
        let mut connection = listener.open(EVIL)?;
        connection.stream().write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nx-slow: ")?;
        let mut seen = Vec::new();
        match connection.stream().read_to_end(&mut seen) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => return Err(error).context("it does not end"),
        }
        ensure!(begun.elapsed() >= Duration::from_secs(4), "ended after {:?}: {seen:?}", begun.elapsed());
        Ok(())
    });
}

#[test]
fn who_takes_all_places_keeps_nobody_out() {
    each(|listener| {
        // Silent ones, and such whose body never ends, which an answer does not end either.
        let endless = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\nx";
        let mut open = Vec::new();
        for number in 0..3 * MAX_CONNECTIONS {
            let mut connection = listener.open(EVIL)?;
            if number % 2 == 0 {
                let _ = connection.stream().write_all(endless);
            }
            open.push(connection);
            if number % MAX_CONNECTIONS == MAX_CONNECTIONS - 1 {
                listener.answers()?;
            }
        }
        eventually_true("no more than its places are open", PATIENCE, || {
            open.iter_mut().map(|connection| !connection.is_ended()).filter(|open| *open).count()
                <= MAX_CONNECTIONS
        })?;
        listener.answers()
    });
}

#[test]
fn a_head_of_many_kilobytes_is_refused() {
    each(|listener| {
        let mut connection = listener.open(EVIL)?;
        let long = [b"GET /metrics HTTP/1.1\r\nhost: a\r\nx-long: ".as_slice(), &[b'a'; 64 << 10]].concat();
        let _ = connection.stream().write_all(&long);
        let mut seen = Vec::new();
        // A reset, where what it was sent is not read to its end.
        let _ = connection.stream().read_to_end(&mut seen);
        let seen = String::from_utf8_lossy(&seen).into_owned();
        ensure!(seen.is_empty() || seen.starts_with("HTTP/1.1 431 "), "{seen}");
        Ok(())
    });
}
