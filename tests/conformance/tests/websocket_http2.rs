//! WebSockets over HTTP/2 (RFC 8441) through the mesh, by h2 and Hypercorn from Python's registry: what Autobahn's test
//! suite sees of an application of HTTP/2 and of one of HTTP/1.1, and what an application sees of a cut.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_test_conformance::autobahn::{Autobahn, Client, Server, Told};
use mesh_test_e2e::{HTTP, at, from_account, policy, server, service};
use mesh_test_harness::eventually::PATIENCE;
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use serde_json::Value;

/// Declared `h2c`.
const HTTP2: u16 = 8082;
/// Frames, pings, fragments, ends, large messages and compression.
const SECTIONS: [&str; 5] = ["1.", "2.", "5.", "6.2.", "7."];
const OF_OTHER_SECTIONS: [&str; 4] = ["9.1.2", "9.2.2", "9.8.2", "12.1.1"];
/// A message, fragments with pings between them, a large one, a thousand compressed ones.
const OF_HTTP_2: [&str; 4] = ["1.2.8", "5.6", "9.1.3", "12.1.1"];
/// How many cases run beside each other, and how long a run may take where the machine does other things.
const RUN: (u32, Duration) = (64, Duration::from_secs(240));

#[test]
fn an_application_of_http_2_hears_what_it_hears_without_the_mesh() {
    with_pods(|mesh| {
        let suite = Autobahn::get()?;
        // Each with a server of its own: what comes behind the end of a stream, as its other end, breaks a connection of
        // Hypercorn.
        for case in OF_HTTP_2 {
            let run = |from: &str, to: &str, at: SocketAddr| {
                let serving = suite.serve(Server::Hypercorn, mesh.pod(to), HTTP2)?;
                let gateway = suite.gateway(mesh.pod(from), at)?;
                let cases = [case.to_owned()];
                let asked = suite.ask(Client::Fuzzes, mesh.pod(from), gateway.address(), &cases, RUN);
                let asked = asked.with_context(|| gateway.tail())?;
                ensure!(asked[case]["behavior"] == "OK", "{}", asked[case]);
                anyhow::Ok((asked, serving.told(1)?))
            };
            let without = run("caller", "called", mesh.pod("called").at(HTTP2))?;
            ensure!(without.1[case]["version"] == "2", "{without:#?}");
            let with = run("client", "server", at(HTTP2))?;
            same("the client", &without.0, &with.0)?;
            same("the application", &without.1, &with.1)?;
            let path = format!("/{case}");
            let record = mesh.node("node-b").record("it", |record| record["http.path"] == *path)?;
            ensure!(record["http.status"] == 101, "{record}");
        }
        Ok(())
    });
}

#[test]
fn an_application_of_http_1_hears_what_it_hears_without_the_mesh_and_http_2() {
    with_pods(|mesh| {
        let suite = Autobahn::get()?;
        let cases = chosen(suite.cases()?);
        let run = |from: &str, to: &str, at: SocketAddr| {
            let serving = suite.serve(Server::Echoes, mesh.pod(to), HTTP)?;
            let asked = suite.ask(Client::Fuzzes, mesh.pod(from), at, &cases, RUN)?;
            anyhow::Ok((asked, serving.told(cases.len())?))
        };
        let without = run("caller", "called", mesh.pod("called").at(HTTP))?;
        let gateway = suite.gateway(mesh.pod("client"), at(80))?;
        let with = run("client", "server", gateway.address()).with_context(|| gateway.tail())?;
        same("the client", &without.0, &with.0)?;
        same("the application", &without.1, &with.1)
    });
}

#[test]
fn a_cut_is_heard_by_application_and_client() {
    with_pods(|mesh| {
        let suite = Autobahn::get()?;
        let deny = policy("nobody", "DENY", &from_account("client"));
        for (name, cut) in [
            (
                "policy",
                &(|mesh: &mut Mesh| mesh.config().write("policy", &deny)) as &dyn Fn(&mut Mesh) -> Result<()>,
            ),
            ("source", &|mesh: &mut Mesh| mesh.a().kill()),
            ("destination", &|mesh: &mut Mesh| mesh.b().kill()),
        ] {
            let serving = suite.serve(Server::Hypercorn, mesh.pod("server"), HTTP2)?;
            let gateway = suite.gateway(mesh.pod("client"), at(HTTP2))?;
            let place = mesh.pod("client").place().netns().clone();
            let mut open = place.run(|| switched(gateway.address(), name)).with_context(|| gateway.tail())?;
            cut(mesh)?;
            let mut rest = Vec::new();
            // An end or a reset, but no Close frame, which only the application could send.
            let _ = open.read_to_end(&mut rest);
            ensure!(rest.is_empty(), "{name}: {rest:?}");
            let told = serving.told(1).with_context(|| format!("{name}: the application hears nothing"))?;
            ensure!(told[name]["count"] == 1 && told[name]["code"] == 1006, "{name}: {told:?}");
            match name {
                "policy" => mesh.config().remove("policy")?,
                "source" => mesh.a().restart().map(drop)?,
                _ => mesh.b().restart().map(drop)?,
            }
        }
        Ok(())
    });
}

fn with_pods(test: impl FnOnce(&mut Mesh) -> Result<()>) {
    let plain = |name: &str| PodSpec::new(name).mode("disabled");
    let a = vec![PodSpec::new("client"), plain("caller")];
    let b = vec![server("server").port("h2c", HTTP2), plain("called")];
    Scenario::new(a, b).service(service().port("h2c", HTTP2, HTTP2)).run(test);
}

fn chosen(all: Vec<String>) -> Vec<String> {
    let is_one = |case: &String| {
        SECTIONS.iter().any(|section| case.starts_with(section)) || OF_OTHER_SECTIONS.contains(&case.as_str())
    };
    all.into_iter().filter(is_one).collect()
}

fn same(side: &str, without: &Told, with: &Told) -> Result<()> {
    ensure!(without.keys().eq(with.keys()), "{side} told other cases");
    let pairs = without.values().zip(with.values());
    let differ: Vec<(&Value, &Value)> = pairs.filter(|(without, with)| without != with).collect();
    ensure!(differ.is_empty(), "{side} saw {} otherwise, as {:#?}", differ.len(), differ[0]);
    Ok(())
}

/// A WebSocket at `path` on which one message went there and back.
fn switched(to: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let handshake = format!(
        "GET /{path} HTTP/1.1\r\nhost: server.shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    );
    stream.write_all(handshake.as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("read the answer")?;
        head.push(byte[0]);
    }
    ensure!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    // A text of five bytes, masked with zeros.
    stream.write_all(b"\x81\x85\0\0\0\0hello")?;
    let mut echo = [0; 7];
    stream.read_exact(&mut echo).context("read the echo")?;
    ensure!(&echo == b"\x81\x05hello", "{echo:?}");
    Ok(stream)
}
