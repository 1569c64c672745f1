//! What it costs that a port declares nothing: the time from `connect` to the first byte of an answer there, less the
//! same on a port that declares what is spoken, in round trips between the two pods.
//!
//! Every connection is a new one; tunnels are warm. A round trip is what a `connect` of the pods without a mesh takes.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use mesh_test_harness::binary::Build;
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream as Served};
use tokio::task::spawn_local;

use crate::figures;
use crate::report::{Report, Spread};

const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
/// Connections to each port in a round, declared and undeclared in turn.
const CONNECTIONS: usize = 1000;
/// How long a round of one protocol may take; it takes about a second.
const LIMIT: Duration = Duration::from_secs(60);
/// Nobody waits for an answer longer: it is lost.
const LOST: Duration = Duration::from_secs(5);
const GREETING: &[u8] = b"220 ready\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
/// On two of the ports a rule asks what only a request has, so that nothing passes before the first bytes are known.
const POLICY: &str = "\
apiVersion: policy.nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: detect, namespace: shop}
spec:
  selector: {matchLabels: {app: server-mesh}}
  action: ALLOW
  rules:
    - from: [{source: {principals: [cluster.local/ns/shop/sa/client-mesh]}}]
      to: [{operation: {ports: [\"9001\", \"9002\", \"9003\", \"9004\", \"9005\", \"9006\"]}}]
    - from: [{source: {principals: [cluster.local/ns/shop/sa/client-mesh]}}]
      to: [{operation: {ports: [\"9007\", \"9008\"], methods: [GET]}}]
";

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Spoken {
    /// The server greets.
    ServerFirst,
    /// The client begins, not with HTTP.
    ClientFirst,
    /// A request of HTTP/1.1.
    Http,
    /// The same where a rule is about requests.
    HttpRuled,
}

/// What one port gave, microseconds.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Median of `connect`.
    connect: f64,
    /// Median from the beginning of `connect` to the first byte of the answer.
    first_byte: f64,
}

impl Spoken {
    const ALL: [Self; 4] = [Self::ServerFirst, Self::ClientFirst, Self::Http, Self::HttpRuled];

    /// As it stands in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServerFirst => "server-first",
            Self::ClientFirst => "client-first",
            Self::Http => "http",
            Self::HttpRuled => "http-ruled",
        }
    }

    /// The name of the port that declares it.
    fn declared(self) -> &'static str {
        match self {
            Self::ServerFirst | Self::ClientFirst => "tcp",
            Self::Http | Self::HttpRuled => "http",
        }
    }

    /// The port that declares it, and the one that does not.
    fn ports(self) -> [u16; 2] {
        let first = 9001 + 2 * self as u16;
        [first, first + 1]
    }

    /// What the client begins with.
    fn question(self) -> &'static [u8] {
        match self {
            Self::ServerFirst => b"",
            Self::ClientFirst => b"hello\r\n",
            Self::Http | Self::HttpRuled => b"GET / HTTP/1.1\r\nHost: server-mesh\r\n\r\n",
        }
    }
}

/// Adds what every protocol gave in each round, with two agents of their own and nothing else to do.
///
/// # Errors
/// Not root, or a connection that gets no answer.
pub fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    let mut mesh = prepare()?;
    mesh.start_agents_discarding_records(Build::Own, &[])?;
    let own = std::env::current_exe().context("find the bench's own executable")?;
    let serve = |name: &str| {
        let server = mesh.pod(name).place().spawn(name, &own, &["first-byte-server"])?;
        eventually(&format!("{name} listens"), LOST, || server.stdout().contains("listening").then_some(()))?;
        anyhow::Ok(server)
    };
    let _servers = [serve("server")?, serve("server-mesh")?];
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}: detection");
        for spoken in Spoken::ALL {
            add(&mesh, spoken, report).with_context(|| format!("measure {}", spoken.name()))?;
        }
    }
    Ok(())
}

fn add(mesh: &Mesh, spoken: Spoken, report: &mut Report) -> Result<()> {
    let [declared, undeclared] = spoken.ports();
    let direct = ask(mesh, "client", spoken, &[mesh.pod("server").at(declared)])?[0];
    let through = [declared, undeclared].map(|port| SocketAddr::new(SERVICE, port));
    let [declared, undeclared] = ask(mesh, "client-mesh", spoken, &through)?[..] else {
        unreachable!("one for each port that was asked");
    };
    let mut add = |figure, path, value| report.add(spoken.name(), figure, path, value);
    add(figures::ROUND_TRIP, "direct", direct.connect);
    add(figures::FIRST_BYTE, "direct", direct.first_byte);
    add(figures::FIRST_BYTE, "nodemesh", declared.first_byte);
    add(figures::FIRST_BYTE_UNDECLARED, "nodemesh", undeclared.first_byte);
    let added = undeclared.first_byte - declared.first_byte;
    add(figures::DETECTION_ADDS, "nodemesh", added);
    add(figures::DETECTION_ROUND_TRIPS, "nodemesh", added / direct.connect);
    Ok(())
}

/// Runs the client in a pod; the times of each address.
fn ask(mesh: &Mesh, from: &str, spoken: Spoken, to: &[SocketAddr]) -> Result<Vec<Times>> {
    let own = std::env::current_exe().context("find the bench's own executable")?;
    let mut arguments = vec!["first-byte".to_owned(), spoken.name().to_owned()];
    arguments.extend(to.iter().map(SocketAddr::to_string));
    let said =
        mesh.pod(from).place().spawn("first-byte", own, &arguments)?.wait(LIMIT)?.success("first-byte")?;
    let times: Value = serde_json::from_str(&said).context("read the client's JSON")?;
    let of_one = |times: &Value| {
        let figure = |name: &str| times[name].as_f64().with_context(|| format!("no {name} in {times}"));
        Ok(Times { connect: figure("connect")?, first_byte: figure("first_byte")? })
    };
    times.as_array().into_iter().flatten().map(of_one).collect()
}

/// The client: connects to the addresses in turn, and prints the medians of each as JSON, in microseconds.
///
/// # Errors
/// A connection gets no answer.
pub fn first_byte(spoken: Spoken, addresses: &[SocketAddr]) -> Result<Value> {
    let mut times = vec![(Vec::new(), Vec::new()); addresses.len()];
    // The first ones warm up: the tunnel, the caches.
    for number in 0..CONNECTIONS + CONNECTIONS / 10 {
        for (address, (connects, first_bytes)) in addresses.iter().zip(&mut times) {
            let (connect, first_byte) =
                one(spoken, *address).with_context(|| format!("connection {number} to {address}"))?;
            if number >= CONNECTIONS / 10 {
                connects.push(micros(connect));
                first_bytes.push(micros(first_byte));
            }
        }
    }
    let median = |values: &[f64]| Spread::of(values).map(|spread| spread.median);
    let rows = times.iter().map(
        |(connects, first_bytes)| json!({"connect": median(connects), "first_byte": median(first_bytes)}),
    );
    Ok(rows.collect())
}

fn one(spoken: Spoken, address: SocketAddr) -> Result<(Duration, Duration)> {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    let connected = started.elapsed();
    stream.write_all(spoken.question())?;
    stream.set_read_timeout(Some(LOST))?;
    let mut answer = [0; 256];
    let read = stream.read(&mut answer)?;
    let answered = started.elapsed();
    let expected: &[u8] = if spoken == Spoken::ServerFirst { b"220 " } else { b"HTTP/1.1 200 " };
    ensure!(
        answer[..read].starts_with(expected),
        "the answer is {:?}",
        String::from_utf8_lossy(&answer[..read])
    );
    Ok((connected, answered))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The server: on every port, until it is killed. It keeps connections, as one of HTTP/1.1 does.
///
/// # Errors
/// A port is taken.
pub async fn serve() -> Result<()> {
    for spoken in Spoken::ALL {
        for port in spoken.ports() {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
            spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    spawn_local(answer(spoken, stream));
                }
            });
        }
    }
    println!("listening");
    std::future::pending().await
}

/// Whoever breaks the connection off has nobody to be told of it.
async fn answer(spoken: Spoken, mut stream: Served) -> Result<()> {
    if spoken == Spoken::ServerFirst {
        stream.write_all(GREETING).await?;
    }
    let mut heard = [0; 256];
    while stream.read(&mut heard).await? > 0 {
        stream.write_all(ANSWER).await?;
    }
    Ok(())
}

fn prepare() -> Result<Mesh> {
    let a = vec![PodSpec::new("client").mode("disabled"), PodSpec::new("client-mesh")];
    let mut service = ServiceSpec::new("server-mesh", &[SERVICE]);
    let mut server = PodSpec::new("server-mesh");
    for spoken in Spoken::ALL {
        let [declared, undeclared] = spoken.ports();
        let name = format!("{}-{declared}", spoken.declared());
        server = server.port(&name, declared);
        service = service.port(&name, declared, declared);
        service = service.port(&format!("any-{undeclared}"), undeclared, undeclared);
    }
    let mesh = Mesh::prepare(a, vec![PodSpec::new("server").mode("disabled"), server])?;
    mesh.config().write_service(&service)?;
    mesh.config().write("policy", POLICY)?;
    Ok(mesh)
}
