//! Ports of which nothing is declared: real programs speak what they speak, and what that is is found out without holding
//! anything up.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_test_e2e::{SERVER, SERVER_V6, UNDECLARED, explained, policy};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::eventually::{PATIENCE, eventually};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::pod::Pod;
use mesh_test_harness::process::Process;
use mesh_test_harness::servers::Kind;
use serde_json::Value;

/// Names that declare nothing, with the ports of the programs.
const PORTS: [(&str, u16); 8] = [
    ("cache", 6379),
    ("db", 5432),
    ("orders", 3306),
    ("letters", 2525),
    ("shell", 2222),
    ("web", 8081),
    ("streams", 8082),
    ("secure", 8443),
];
const REDIS: u16 = 6379;
const POSTGRES: u16 = 5432;
const MARIADB: u16 = 3306;
const SMTP: u16 = 2525;
const SSH: u16 = 2222;
const WEB: u16 = 8081;
const STREAMS: u16 = 8082;
const SECURE: u16 = 8443;
/// How long a program may take for its own set-up, on a busy machine.
const SETUP: Duration = Duration::from_secs(60);

/// `client` on node A; `near` and `server` on node B.
fn world() -> Scenario {
    let addresses = [IpAddr::V4(SERVER), IpAddr::V6(SERVER_V6)];
    let ports = PORTS.iter().chain(&[("anything", UNDECLARED)]);
    let service = ports.fold(ServiceSpec::new("server", &addresses), |service, (name, port)| {
        service.port(name, *port, *port)
    });
    Scenario::new(vec![PodSpec::new("client")], vec![PodSpec::new("near"), PodSpec::new("server")])
        .service(service)
}

/// What a program of a pod prints.
fn said(mesh: &Mesh, pod: &str, program: &str, arguments: &[&str]) -> Result<String> {
    let output = mesh.pod(pod).place().command(program)?.args(arguments).output();
    let output = output.with_context(|| format!("run {program}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{program} in {pod}: {}{}", text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}

/// Prepares something, anywhere.
fn prepare(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("run {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Starts a program in `server` and waits until it listens, asked over loopback, which no mesh touches.
fn serve(server: &Pod, port: u16, name: &str, arguments: &[&str]) -> Result<Process> {
    let process = server.place().spawn(name, arguments[0], &arguments[1..])?;
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
    let open = || Ok(std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))?);
    eventually(&format!("{name} listens"), SETUP, || server.place().netns().run(open).ok().map(drop))
        .with_context(|| process.stderr())?;
    Ok(process)
}

fn redis(server: &Pod, folder: &str) -> Result<Process> {
    let redis =
        ["redis-server", "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--dir", folder];
    serve(server, REDIS, "redis", &redis)
}

/// PostgreSQL refuses to be root: it is nobody.
fn postgres(server: &Pod, folder: &str) -> Result<Process> {
    let programs = fs::read_dir("/usr/lib/postgresql").context("find PostgreSQL")?.next();
    let programs = programs.context("PostgreSQL has a version")??.path().join("bin");
    let program = |name: &str| programs.join(name).display().to_string();
    let (data, postgres, initdb) = (format!("{folder}/postgres"), program("postgres"), program("initdb"));
    prepare("install", &["-d", "-o", "nobody", "-g", "nogroup", &data])?;
    let nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"];
    let init = [&nobody[1..], &[&initdb, "-D", &data, "-U", "app", "-A", "trust", "-N"]].concat();
    prepare(nobody[0], &init)?;
    fs::write(format!("{data}/pg_hba.conf"), "host all all all trust\n").context("let everybody in")?;
    let flags = ["-D", &data, "-k", "", "-c", "listen_addresses=*", "-c", "fsync=off"];
    serve(server, POSTGRES, "postgres", &[&nobody[..], &[&postgres], &flags].concat())
}

fn mariadb(server: &Pod, folder: &str) -> Result<Process> {
    let data = format!("{folder}/mariadb");
    let (data_flag, socket) = (format!("--datadir={data}"), format!("--socket={data}.sock"));
    prepare(
        "mariadb-install-db",
        &["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", &data_flag],
    )?;
    let flags =
        ["--user=root", "--skip-grant-tables", "--skip-networking=0", "--bind-address=*", "--port=3306"];
    let flags = [&["mariadbd", "--no-defaults", &data_flag, &socket][..], &flags].concat();
    serve(server, MARIADB, "mariadb", &flags)
}

fn smtp(server: &Pod) -> Result<Process> {
    let flags = ["-n", "-c", "aiosmtpd.handlers.Debugging", "stdout", "-l", "0.0.0.0:2525"];
    serve(server, SMTP, "smtp", &[&["/usr/bin/python3", "-u", "-m", "aiosmtpd"][..], &flags].concat())
}

fn ssh(server: &Pod, folder: &str) -> Result<Process> {
    let key = |name: &str| format!("{folder}/{name}");
    for name in ["host", "user"] {
        prepare("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key(name)])?;
    }
    fs::create_dir_all("/run/sshd").context("make sshd's folder")?;
    let keys = format!("AuthorizedKeysFile={}.pub", key("user"));
    let flags =
        ["-D", "-e", "-f", "/dev/null", "-p", "2222", "-o", "StrictModes=no", "-o", "UsePAM=no", "-o"];
    serve(server, SSH, "sshd", &[&["/usr/sbin/sshd"][..], &flags, &[&keys, "-h", &key("host")]].concat())
}

fn nginx(server: &Pod, folder: &str) -> Result<Process> {
    let key = format!("{folder}/tls");
    let subject = ["-subj", "/CN=secure.shop", "-addext", "subjectAltName=DNS:secure.shop,DNS:other.shop"];
    let request =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let files = ["-keyout", &format!("{key}.key"), "-out", &format!("{key}.crt")];
    prepare("openssl", &[&request[..], &subject, &files].concat())?;
    let text = format!(
        "user root; daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;\n\
         events {{}}\nhttp {{\n  access_log off;\n  ssl_certificate {key}.crt; ssl_certificate_key {key}.key;\n  \
         server {{\n    listen {WEB}; listen [::]:{WEB}; listen {STREAMS} http2; listen [::]:{STREAMS} http2;\n    \
         listen {SECURE} ssl; listen [::]:{SECURE} ssl;\n    \
         location / {{ return 200 \"{PLAINTEXT_MARKER}\\n\"; }}\n  }}\n}}\n"
    );
    let file = format!("{folder}/nginx.conf");
    fs::write(&file, text).context("write nginx.conf")?;
    serve(server, WEB, "nginx", &["nginx", "-e", "stderr", "-c", &file])
}

/// The folder of a mesh's programs, open to those that are not root.
fn folder(mesh: &Mesh) -> Result<String> {
    let folder = mesh.topology().run().folder().join("programs");
    fs::create_dir_all(&folder).context("make the programs' folder")?;
    let mut open: &Path = &folder;
    while open != Path::new("/") {
        prepare("chmod", &["a+x", &open.display().to_string()])?;
        open = open.parent().unwrap_or(Path::new("/"));
    }
    Ok(folder.display().to_string())
}

/// Has a pod talk to each program, and hear the marker from it.
fn speak_with_all(mesh: &Mesh, pod: &str, host: &str, folder: &str) -> Result<()> {
    let marker = PLAINTEXT_MARKER;
    let heard = |program: &str, arguments: &[&str]| -> Result<()> {
        let answer = said(mesh, pod, program, arguments)?;
        ensure!(answer.contains(marker), "{program} from {pod} to {host}: {answer:?}");
        Ok(())
    };
    said(mesh, pod, "redis-cli", &["-h", host, "set", "key", marker])?;
    heard("redis-cli", &["-h", host, "get", "key"])?;
    let select = format!("select '{marker}'");
    heard("psql", &["-h", host, "-U", "app", "-d", "postgres", "-Atc", &select])?;
    heard("mariadb", &["--no-defaults", "-h", host, "-P", "3306", "--skip-ssl", "-Ne", &select])?;
    let mail = format!(
        "import smtplib; s = smtplib.SMTP('{host}', {SMTP}, timeout=20); \
         print(s.sendmail('a@shop', ['b@shop'], 'Subject: x\\n\\n{marker}'), '{marker}', s.quit())"
    );
    if !host.contains(':') {
        heard("/usr/bin/python3", &["-c", &mail])?;
    }
    let user = format!("{folder}/user");
    let options = ["-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
    let login = ["-i", &user, "-p", "2222", "-l", "root", host, "echo", marker];
    heard("ssh", &[&options[..], &login].concat())?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    heard("curl", &["-sS", &format!("http://{host}:{WEB}/")])?;
    heard("curl", &["-sS", "--http2-prior-knowledge", &format!("http://{host}:{STREAMS}/")])?;
    let resolve = format!("secure.shop:{SECURE}:{host}");
    heard("curl", &["-sSk", "--resolve", &resolve, &format!("https://secure.shop:{SECURE}/")])
}

#[test]
fn real_programs_speak_on_undeclared_ports_and_what_they_speak_is_found_out() {
    world().run(|mesh| {
        let folder = &folder(mesh)?;
        let server = mesh.pod("server");
        let programs = std::thread::scope(|scope| {
            let starts = [
                scope.spawn(|| redis(server, folder)),
                scope.spawn(|| postgres(server, folder)),
                scope.spawn(|| mariadb(server, folder)),
                scope.spawn(|| smtp(server)),
                scope.spawn(|| ssh(server, folder)),
                scope.spawn(|| nginx(server, folder)),
            ];
            starts.into_iter().map(|start| start.join().expect("no panic")).collect::<Result<Vec<_>>>()
        })?;
        speak_with_all(mesh, "client", &SERVER.to_string(), folder)?;
        speak_with_all(mesh, "client", &SERVER_V6.to_string(), folder)?;
        speak_with_all(mesh, "near", &SERVER.to_string(), folder)?;
        for (port, spoken) in [
            (REDIS, &["client-first"][..]),
            (POSTGRES, &["client-first"]),
            (MARIADB, &["server-first"]),
            (SMTP, &["server-first"]),
            // Both sides of SSH speak at once.
            (SSH, &["server-first", "client-first"]),
            (WEB, &["http/1.1"]),
            (STREAMS, &["http/2"]),
            (SECURE, &["tls"]),
        ] {
            for (from, record) in [("client", "shop/client"), ("near", "shop/near")] {
                let is_it = |found: &Value| {
                    let address = found["dst.addr"].as_str().unwrap_or_default();
                    found["direction"] == "inbound"
                        && found["src.workload"] == record
                        && address.ends_with(&format!(":{port}"))
                };
                let found = mesh.node("node-b").record(&format!("what {from} spoke at {port}"), is_it)?;
                ensure!(spoken.iter().any(|spoken| found["detected"] == **spoken), "{found}");
                ensure!(port != SECURE || found["tls.sni"] == "secure.shop", "{found}");
                ensure!(found["reason"] != "denied", "{found}");
            }
        }
        let status = mesh.b().command(&["status"])?.success("mesh-node status")?;
        for said in [
            "shop/server:3306, which declares nothing, spoke server-first",
            "shop/server:8443, which declares nothing, spoke tls",
        ] {
            ensure!(status.contains(said), "{said:?} is not in {status}");
        }
        let labels = [("protocol", "tls"), ("server_name", "other")];
        mesh.b().metric("nodemesh_proxy_detected_total", &labels, |count| count >= 3.0)?;
        drop(programs);
        Ok(())
    });
}

/// How curl ended that asks the TLS server of `host` for a name; nothing for an answer.
fn asks_for(mesh: &Mesh, pod: &str, name: &str) -> Result<i32> {
    let resolve = format!("{name}:{SECURE}:{SERVER}");
    let flags = ["-k", "--resolve", &resolve];
    Ok(mesh.pod(pod).curl(&format!("https://{name}:{SECURE}/"), &flags)?.exit)
}

#[test]
fn a_rule_about_the_name_that_tls_asks_for_holds_before_anything_passes() {
    let rules = "- when:\n    - key: connection.sni\n      values: [secure.shop]\n";
    let world = world().objects("policy", &policy("names", "ALLOW", rules));
    world.flags(&["--detect-timeout", "500ms"]).run(|mesh| {
        let folder = folder(mesh)?;
        let _nginx = nginx(mesh.pod("server"), &folder)?;
        let banner = mesh.pod("server").serve(Kind::Banner, UNDECLARED)?;
        for pod in ["client", "near"] {
            ensure!(asks_for(mesh, pod, "secure.shop")? == 0, "{pod} asks for the name that is allowed");
            ensure!(asks_for(mesh, pod, "other.shop")? != 0, "{pod} asks for another name");
            ensure!(asks_for(mesh, pod, "Secure.Shop")? == 0, "{pod} writes it otherwise");
            let plain = mesh.pod(pod).curl(&format!("http://{SERVER}:{WEB}/"), &[])?;
            ensure!(plain.status != 200, "{pod} asks for no name: {plain:?}");
            // The server speaks first: nothing of it passes, nor is it called.
            let to = SocketAddr::new(IpAddr::V4(SERVER), UNDECLARED);
            let seen = mesh.pod(pod).dial(to).until_bytes(1).limit(PATIENCE).run()?;
            ensure!(seen.refusal() == Some("reset"), "{pod} hears of a server that speaks first: {seen:?}");
        }
        ensure!(banner.connections() == 0, "the server was called");
        let record = mesh.b().record("the name that was refused", |record| {
            record["direction"] == "inbound" && record["tls.sni"] == "other.shop"
        })?;
        ensure!(record["policy"].as_str().is_some_and(|name| name.contains("shop/names")), "{record}");
        let id = record["decision"].as_str().with_context(|| format!("no id in {record}"))?;
        let told = mesh.b().command(&["authz", "explain", id])?.success("explain")?;
        ensure!(
            told.matches("other.shop is not one of secure.shop").count() == 1,
            "asked with the name: {told}"
        );
        let to = format!("shop/server:{SECURE}");
        let question = ["--from", "shop/client", "--to", &to];
        for (name, code, words) in [
            (None, 1, "no name is known that its TLS asks for"),
            (Some("other.shop"), 1, "other.shop is not one of secure.shop"),
            (Some("Secure.Shop."), 0, "AuthorizationPolicy shop/names rules[0] allows it"),
        ] {
            let flags: Vec<&str> = name.iter().flat_map(|name| ["--sni", name]).collect();
            let said = explained(mesh, &[&question[..], &flags].concat())?;
            ensure!(said.status.code() == Some(code) && said.stdout.contains(words), "{name:?}: {said:?}");
        }
        Ok(())
    });
}

#[test]
fn with_a_rule_about_requests_nothing_passes_that_is_none() {
    let rules = "- to:\n    - operation:\n        methods: [GET]\n";
    let world = world().objects("policy", &policy("get", "ALLOW", rules));
    world.flags(&["--detect-timeout", "500ms"]).run(|mesh| {
        let folder = folder(mesh)?;
        let _nginx = nginx(mesh.pod("server"), &folder)?;
        let banner = mesh.pod("server").serve(Kind::Banner, UNDECLARED)?;
        let web = format!("http://{SERVER}:{WEB}/");
        for pod in ["client", "near"] {
            ensure!(mesh.pod(pod).curl(&web, &[])?.status == 200, "GET from {pod}");
            ensure!(mesh.pod(pod).curl(&web, &["-X", "DELETE"])?.status == 403, "DELETE from {pod}");
            ensure!(asks_for(mesh, pod, "secure.shop")? != 0, "TLS from {pod}");
            let to = SocketAddr::new(IpAddr::V4(SERVER), UNDECLARED);
            for first in ["", "*1\r\n$4\r\nPING\r\n"] {
                let seen = mesh.pod(pod).dial(to).send(first).until_bytes(1).limit(PATIENCE).run()?;
                ensure!(seen.refusal() == Some("reset"), "{first:?} from {pod}: {seen:?}");
            }
        }
        ensure!(banner.connections() == 0, "the server was called");
        Ok(())
    });
}
