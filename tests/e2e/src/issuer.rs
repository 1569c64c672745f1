//! An issuer of tokens, and the server where it publishes its keys.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::BASE64URL_NOPAD;
use mesh_test_harness::pod::Pod;

/// The issuer of the tests.
pub const ISSUER: &str = "https://issuer.example";

/// How long a caller may take to say what it wants.
const HEAD: Duration = Duration::from_secs(5);

/// A new key.
pub fn new_key() -> Ed25519KeyPair {
    Ed25519KeyPair::generate().expect("a key can be made")
}

/// The public keys, as a set.
pub fn key_set(keys: &[&Ed25519KeyPair]) -> String {
    let keys = keys.iter().map(|pair| {
        let x = encode(pair.public_key().as_ref());
        format!(r#"{{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","x":"{x}"}}"#)
    });
    format!(r#"{{"keys":[{}]}}"#, keys.collect::<Vec<_>>().join(","))
}

/// A token of somebody for an audience, that holds for so many seconds.
pub fn signed(key: &Ed25519KeyPair, subject: &str, audience: &str, groups: &[&str], left: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_secs();
    let expires = now.saturating_add_signed(left);
    let payload = serde_json::json!({
        "iss": ISSUER, "sub": subject, "aud": audience, "exp": expires, "realm": {"groups": groups},
    });
    let header = encode(br#"{"alg":"EdDSA","typ":"JWT"}"#);
    let signed = format!("{header}.{}", encode(payload.to_string().as_bytes()));
    let signature = key.sign(signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

fn encode(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

/// A server in a pod that answers every request alike. Gone on drop.
#[derive(Debug)]
pub struct KeyServer {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    answer: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl KeyServer {
    /// Listens on the pod's address, and answers with status and body.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(pod: &Pod, port: u16, status: u16, body: &str) -> Result<Self> {
        let address = pod.at(port);
        let bind = || TcpListener::bind(address).context("listen in the pod");
        let listener = Arc::new(pod.place().netns().run(bind)?);
        let answer = Arc::new(Mutex::new(response(status, body)));
        let requests = Arc::new(AtomicUsize::new(0));
        let (shared, said, count) = (Arc::clone(&listener), Arc::clone(&answer), Arc::clone(&requests));
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = shared.accept() {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // Who hangs up early had its reasons.
                let _ = respond(stream, &answer);
            }
        });
        Ok(Self { address, listener, answer, requests, thread: Some(thread) })
    }

    /// Where the keys are.
    pub fn uri(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// From now on this is the answer.
    pub fn answers(&self, status: u16, body: &str) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = response(status, body);
    }

    /// How often it was asked.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        // Ends `accept`.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn response(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn respond(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(HEAD))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    stream.write_all(answer.as_bytes())
}
