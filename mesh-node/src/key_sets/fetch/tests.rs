//! Servers of keys that mean harm, or are broken: each is given up within its bounds, says why, and delays nobody else.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::control::key_ring::{KeyNews, key_orders};
use crate::identity::web_client;
use crate::key_sets::schedule::{Ages, Schedule};
use crate::key_sets::{KeySetMetrics, KeySets};
use crate::telemetry::registry::Registry;

/// For servers that answer at once, on a busy machine too.
const PATIENT: Duration = Duration::from_secs(30);
/// For servers that never end.
const SHORT: Duration = Duration::from_millis(300);

const KEY: &str =
    r#"{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

fn client() -> Client {
    // Servers of tests have no other address.
    let forbidden = |address: IpAddr| if address.is_loopback() { None } else { forbidden(address) };
    Client { forbidden, ..Client::new(web_client(&[]).unwrap(), Arc::new([])) }
}

/// Serves each connection so, and returns where.
async fn server<F, W>(serve: F) -> String
where
    F: Fn(TcpStream) -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    format!("http://{address}/keys")
}

/// Answers each request with these bytes, and ends the connection.
async fn answering(answer: impl Into<Vec<u8>>) -> String {
    let answer: Arc<[u8]> = answer.into().into();
    server(move |mut stream| {
        let answer = Arc::clone(&answer);
        async move {
            head(&mut stream).await;
            // The client may have had enough.
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

async fn head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    head
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn moved(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
}

fn key_set(key: &str) -> String {
    format!(r#"{{"keys":[{key}]}}"#)
}

async fn reason(uri: &str, limit: Duration) -> (&'static str, String) {
    let error = client().fetch(uri, limit).await.unwrap_err();
    (error.code(), crate::telemetry::chain::Chain(&error).to_string())
}

async fn answered(answer: impl Into<Vec<u8>>) -> (&'static str, String) {
    reason(&answering(answer).await, PATIENT).await
}

#[tokio::test]
async fn keys_are_fetched_and_what_stands_beside_them_is_not_kept() {
    let beside = KEY.replace("\"kty\"", "\"x5c\":[\"MIIB\"],\"kty\"");
    let uri = answering(ok(&format!(r#"{{"a":1,"keys":[{beside},{{"kty":"oct","k":"AA"}}]}}"#))).await;
    let keys = client().fetch(&uri, PATIENT).await.unwrap();
    assert_eq!((keys.len(), keys.skipped().len()), (1, 1));
    assert_eq!(keys, KeySet::published(&key_set(KEY)).unwrap());
    assert!(!keys.text().contains("x5c") && !keys.text().contains("oct"), "{}", keys.text());
}

#[tokio::test]
async fn an_answer_without_a_length_ends_with_its_connection_or_last_chunk() {
    let body = key_set(KEY);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    for answer in [format!("HTTP/1.1 200 OK\r\n\r\n{body}"), chunked] {
        assert_eq!(client().fetch(&answering(answer).await, PATIENT).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn what_is_asked_says_nothing_of_the_mesh() {
    let (told, heard) = std::sync::mpsc::channel();
    let uri = server(move |mut stream| {
        let told = told.clone();
        async move {
            let head = head(&mut stream).await;
            told.send(String::from_utf8(head).unwrap()).unwrap();
            stream.write_all(ok(&key_set(KEY)).as_bytes()).await.unwrap();
        }
    })
    .await;
    client().fetch(&uri, PATIENT).await.unwrap();
    let head = heard.recv().unwrap();
    let authority = uri.strip_prefix("http://").unwrap().strip_suffix("/keys").unwrap();
    let agent = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "GET /keys HTTP/1.1\r\nhost: {authority}\r\naccept: application/json\r\nuser-agent: nodemesh/{agent}\r\n\r\n"
    );
    assert_eq!(head, expected);
}

#[tokio::test]
async fn a_large_answer_is_not_read() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let uri = server(move |mut stream| {
        let sent = Arc::clone(&counted);
        async move {
            head(&mut stream).await;
            let mut result = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let piece = vec![b' '; 64 << 10];
            while result.is_ok() && sent.fetch_add(piece.len(), Ordering::Relaxed) < 50 << 20 {
                result = stream.write_all(&piece).await;
            }
        }
    })
    .await;
    assert_eq!(reason(&uri, PATIENT).await, ("too_large", "answered more than 1 MiB".to_owned()));
    // What the sockets of both ends hold comes on top.
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 20 << 20, "{sent} bytes were taken");
    let said = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 50 << 20);
    assert_eq!(answered(said).await.0, "too_large");
}

#[tokio::test]
async fn of_ten_thousand_keys_the_first_hundred_count() {
    let keys = vec![KEY; 10_000].join(",");
    assert_eq!(client().fetch(&answering(ok(&key_set(&keys))).await, PATIENT).await.unwrap().len(), 100);
}

#[tokio::test]
async fn who_drips_hangs_or_says_nothing_is_late() {
    let dripping = server(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(b" ").await.is_ok() {
            // A drop now and then is what is tested: no single read ever waits for long.
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let dripping_head = server(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await;
        while stream.write_all(b"a").await.is_ok() {
            // The same inside a head.
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let silent = server(|stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let shaking = silent.replace("http:", "https:");
    for uri in [dripping, dripping_head, silent, shaking] {
        let (code, reason) = reason(&uri, SHORT).await;
        assert_eq!((code, &*reason), ("late", "did not answer, or not to the end, within 300 ms"), "{uri}");
    }
}

#[tokio::test]
async fn what_is_no_key_set_says_why_and_repeats_nothing_of_it() {
    let set = key_set(KEY);
    let secret = "password=hunter2";
    for (answer, code, reason) in [
        (ok(&format!("<html>{secret}</html>")), "invalid", "the key set: is not a JSON object"),
        (ok(&set[..set.len() - 3]), "invalid", "the key set: is not a JSON object"),
        (ok(r#"{"issuer":"a"}"#), "invalid", "the key set: has no list `keys`"),
        (ok(r#"{"keys":[],"keys":[]}"#), "invalid", "the key set: is not a JSON object"),
        (ok(r#"{"keys":[{"kty":"oct","k":"AA"}]}"#), "invalid", "the key set has no key that can be used"),
        (ok("\u{0}"), "invalid", "the key set: is not a JSON object"),
        (format!("HTTP/1.1 500 {secret}\r\n\r\n{secret}"), "refused", "answered 500"),
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), "refused", "answered 204"),
        (
            format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n{set}"),
            "invalid",
            "answered in a content coding, which was not asked for",
        ),
    ] {
        assert_eq!(answered(answer.clone()).await, (code, reason.to_owned()), "{answer}");
    }
    let (code, said) = answered([b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &[0xff, 0xfe]].concat()).await;
    assert_eq!((code, &*said), ("invalid", "answered what is no key set"));
    let short = format!("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{set}");
    for broken in [short.as_str(), "SSH-2.0-OpenSSH\r\n", ""] {
        let (code, reason) = answered(broken).await;
        assert!(code == "unreachable" && reason.starts_with("ask the server: "), "{broken}: {reason}");
    }
    let many = (0..1000).map(|number| format!("x-{number}: {secret}\r\n")).collect::<String>();
    let (code, reason) = answered(format!("HTTP/1.1 200 OK\r\n{many}\r\n{set}")).await;
    assert!(code == "unreachable" && !reason.contains("hunter2"), "{reason}");
}

#[tokio::test]
async fn redirections_are_followed_a_few_times_and_each_is_looked_at() {
    let good = answering(ok(&key_set(KEY))).await;
    let once = answering(moved(&good)).await;
    assert_eq!(client().fetch(&once, PATIENT).await.unwrap().len(), 1);
    for (location, part) in [
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254 is a link-local address"),
        ("http://[::ffff:169.254.169.254]/", "169.254.169.254 is a link-local address"),
        ("http://[fe80::1]/", "fe80::1 is a link-local address"),
        ("http://0.0.0.0/", "0.0.0.0 is an unspecified address"),
        ("file:///etc/shadow", "redirected to something"),
    ] {
        let (code, reason) = answered(moved(location)).await;
        assert!(code == "forbidden" && reason.contains(part), "{location}: {reason}");
    }
    let looping = answering(moved("/keys")).await;
    assert_eq!(reason(&looping, PATIENT).await, ("refused", "was redirected too often".to_owned()));
}

#[tokio::test]
async fn loopback_is_not_asked_by_address_nor_by_name_nor_after_a_redirection() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let uri = server(move |stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { drop(stream) }
    })
    .await;
    let port = uri.strip_prefix("http://127.0.0.1:").unwrap();
    let strict = Client::new(web_client(&[]).unwrap(), Arc::new([]));
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1]", "127.1.2.3"] {
        let error = strict.fetch(&format!("http://{host}:{port}"), PATIENT).await.unwrap_err();
        let reason = error.to_string();
        assert!(error.code() == "forbidden" && reason.contains("a loopback address"), "{host}: {reason}");
    }
    // Only what is checked is dialled: the name is looked up once, and its address is the one that is refused.
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    let redirecting = answering(moved(&uri)).await;
    // The first hop is let through, as a server elsewhere would be; the second is judged anew.
    static FIRST: AtomicUsize = AtomicUsize::new(0);
    let once = |address: IpAddr| match FIRST.fetch_add(1, Ordering::Relaxed) {
        0 => None,
        _ => forbidden(address),
    };
    let error = Client { forbidden: once, ..strict }.fetch(&redirecting, PATIENT).await.unwrap_err();
    assert_eq!(error.to_string(), "127.0.0.1 is a loopback address, which keys are not fetched from");
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn where_we_listen_ourselves_nobody_is_asked() {
    let uri = answering(ok(&key_set(KEY))).await;
    let port: u16 =
        uri.strip_prefix("http://127.0.0.1:").unwrap().strip_suffix("/keys").unwrap().parse().unwrap();
    let own = Client { own_ports: Arc::new([port]), ..client() };
    let error = own.fetch(&uri, PATIENT).await.unwrap_err();
    assert!(error.to_string().contains("where the mesh itself listens"), "{error}");
    assert!(!is_here("192.0.2.1".parse().unwrap()), "the port of somebody else is not ours");
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_not_asked() {
    let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let certificate = certified.cert.der().clone();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let uri = server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(ok(&key_set(KEY)).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
    .replace("http:", "https:");
    let (code, said) = reason(&uri, PATIENT).await;
    assert!(
        code == "unreachable" && said.contains("UnknownIssuer") && said.contains("--jwks-roots"),
        "{said}"
    );
    let trusting = Client { tls: web_client(&[certificate]).unwrap(), ..client() };
    assert_eq!(trusting.fetch(&uri, PATIENT).await.unwrap().len(), 1);
    let port = uri.rsplit_once(':').unwrap().1;
    let error = trusting.fetch(&format!("https://localhost:{port}"), PATIENT).await.unwrap_err();
    assert!(crate::telemetry::chain::Chain(&error).to_string().contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_said() {
    let (code, said) = reason("http://127.0.0.1:1/keys", PATIENT).await;
    assert!(code == "unreachable" && said.starts_with("connect to 127.0.0.1: "), "{said}");
    let (code, said) = reason("http://nobody.invalid/keys", PATIENT).await;
    assert!(code == "unreachable" && said.starts_with("the name does not resolve"), "{said}");
}

#[tokio::test]
async fn servers_that_hang_hold_up_no_other() {
    let silent = server(|stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let good = answering(ok(&key_set(KEY))).await;
    let (mut orders, errands) = key_orders();
    let ages = Ages { refresh: Duration::from_secs(1200), longest: Duration::from_secs(86400) };
    let key_sets = KeySets {
        client: client(),
        schedule: Schedule::new(ages),
        errands,
        metrics: KeySetMetrics::new(&Registry::new()).unwrap(),
    };
    let task = tokio::spawn(key_sets.run());
    // As many as half of the places, for ever so long.
    let hanging = (0..16).map(|number| (format!("{silent}/{number}").into(), Duration::from_secs(3600)));
    let mut wanted: crate::control::key_ring::Wanted = hanging.collect();
    wanted.insert(good.as_str().into(), PATIENT);
    orders.place(wanted);
    let news = timeout(PATIENT, orders.next()).await.expect("the good one answers at once");
    let [KeyNews { uri, state }] = &news[..] else { panic!("{news:?}") };
    assert!(**uri == *good && state.keys.is_some() && state.failure.is_none());
    drop(orders);
    timeout(PATIENT, task).await.expect("it ends with who wants to know").unwrap();
}
