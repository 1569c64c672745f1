//! Another root for the mesh: told to every agent, then signed with, then the one before let go.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_common::model::TrustDomain;
use mesh_node::identity::{SigningPem, system_clock};
use mesh_test_harness::figure;
use tokio::time::{Instant, sleep};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::agents::{PATIENCE, Stand, WEB, request};
use super::follower::Follower;
use super::person::Person;
use super::sleeper::Sleeper;

/// Longer than the controllers take to look at the Secret three times while agents are waited for.
const LOOKS: Duration = Duration::from_secs(11);
/// Between two of them.
const LOOK: Duration = Duration::from_millis(200);

/// Where the change of the root stands, as people are told.
fn standing(stand: &Stand) -> Option<String> {
    let words = ["get", "configmap", "nodemesh-ca-trust", "-n", "nodemesh-system", "-o"];
    stand.kubectl(&[&words[..], &["jsonpath={.data.rotation}"]].concat()).ok()
}

/// Begins a change by the one command; who may not is told, and who begins another one.
async fn begin(stand: &Stand, person: &Person) -> Result<()> {
    let refused = person.fails(&["status"])?;
    ensure!(refused.contains("you may not get ConfigMap nodemesh-ca-trust"), "{refused}");
    person.is_allowed(stand)?;
    let settled = || person.status().ok().filter(|standing| standing["step"] == "settled");
    let standing = stand.eventually("it is said that nothing changes", settled).await?;
    ensure!(standing["agents"] == 2 && standing["signs"].is_string(), "{standing}");
    let elsewhere = person.fails(&["rotate", "--root-namespace", "shop"])?;
    ensure!(elsewhere.contains("you may not get"), "{elsewhere}");

    let begun = person.does(&["rotate", "--until", "begun"])?;
    ensure!(begun.starts_with("gave the mesh the certificate "), "{begun}");
    let other = tempfile::tempdir()?;
    let made = made()?;
    let path = |name: &str| other.path().join(name).display().to_string();
    std::fs::write(path("tls.crt"), &made.certificates)?;
    std::fs::write(path("tls.key"), &made.key)?;
    let files = ["rotate", "--certificate", &path("tls.crt"), "--key", &path("tls.key")];
    let refused = person.fails(&files)?;
    ensure!(refused.contains("another change of the root is under way"), "{refused}");
    Ok(())
}

/// Asks for a certificate; every agent has the root that vouches for it. Returns that root's name.
async fn signed(stand: &Stand, at: SocketAddr, token: &str, agents: &[&Follower]) -> Result<Vec<u8>> {
    let chain = stand.sign_at(at, token, WEB, request()).await?;
    let (_, leaf) = X509Certificate::from_der(&chain[0])?;
    for agent in agents {
        let roots = agent.roots()?;
        let vouches = |root: &Vec<u8>| {
            X509Certificate::from_der(root).is_ok_and(|(_, root)| {
                root.subject().as_raw() == leaf.issuer().as_raw()
                    && leaf.verify_signature(Some(root.public_key())).is_ok()
            })
        };
        ensure!(roots.iter().any(vouches), "an agent does not trust who signed");
    }
    Ok(leaf.issuer().as_raw().to_vec())
}

/// Two controllers, and the agent of one of two nodes; the other one is away.
struct Mesh {
    stand: Stand,
    controllers: [SocketAddr; 2],
    token: String,
    person: Person,
    a: Follower,
    _second: Sleeper,
}

impl Mesh {
    async fn start() -> Result<Self> {
        let stand = Stand::start().await?;
        let second = stand.sleeper().await?;
        let a = stand.follower("agent-a", "a").await?;
        a.until("all is in force", |snapshot| snapshot.workloads().count() == 7).await?;
        let (token, controllers) = (stand.token("agent-a", &[])?, [stand.address(), second.address()]);
        let person = Person::new(&stand)?;
        Ok(Self { stand, controllers, token, person, a, _second: second })
    }

    async fn signed(&self, by: SocketAddr, agents: &[&Follower]) -> Result<Vec<u8>> {
        signed(&self.stand, by, &self.token, agents).await
    }

    /// The next root is told to the agent that is there; while the other one is waited for, nobody signs with it.
    async fn waits_for_all(&self, before: &[u8]) -> Result<()> {
        let both = || self.a.roots().ok().filter(|roots| roots.len() == 2);
        self.stand.eventually("the agent that is there trusts both", both).await?;
        let only_b = |said: &String| said.starts_with("1 of 3: 1 of 2") && said.contains("agent-b");
        let waits = || standing(&self.stand).filter(only_b);
        self.stand.eventually("the other one is waited for", waits).await?;
        let late = self.person.fails(&["rotate", "--timeout", "1s"])?;
        ensure!(late.contains("1 agent follows no controller, the first is agent-b on node b"), "{late}");
        let said = self.person.status()?;
        let b = serde_json::json!([{"pod": "agent-b", "node": "b", "connected": false}]);
        ensure!(said["step"] == "distribute" && said["missing"] == 1 && said["waiting"] == b, "{said}");
        let until = Instant::now() + LOOKS;
        while Instant::now() < until {
            for controller in self.controllers {
                let issuer = self.signed(controller, &[&self.a]).await?;
                ensure!(issuer == before, "signed before all trust it");
            }
            // Between two looks of a bounded while.
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Both controllers come to sign with another key, and never with one that an agent does not trust.
    async fn signs_with_next(&self, before: &[u8], b: &Follower) -> Result<Vec<u8>> {
        let came = Instant::now();
        let mut after = [before.to_vec(), before.to_vec()];
        while after.iter().any(|issuer| issuer == before) {
            ensure!(came.elapsed() < PATIENCE, "the next key does not sign: {:?}", standing(&self.stand));
            for (issuer, controller) in after.iter_mut().zip(self.controllers) {
                let knows = b.roots()?.len() == 2;
                let agents = if knows { &[&self.a, b][..] } else { &[&self.a] };
                *issuer = self.signed(controller, agents).await?;
            }
        }
        let took = came.elapsed().as_secs_f64();
        figure(&format!("both controllers sign with the next key {took:.0} s after the last agent came"));
        let said = standing(&self.stand).context("it says where it stands")?;
        ensure!(said.starts_with("3 of 3"), "{said}");
        ensure!(self.a.roots()?.len() == 2, "the root before is trusted still");
        ensure!(after[0] == after[1], "they sign with one key");
        Ok(after[0].clone())
    }
}

/// A key and its root.
pub fn made() -> Result<SigningPem> {
    Ok(SigningPem::make(&TrustDomain::parse("cluster.local")?, &system_clock())?)
}

/// Puts another key into the Secret, as parts of these names.
pub fn put(stand: &Stand, [key, certificate]: [&str; 2], signing: &SigningPem) -> Result<()> {
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone());
    let data = serde_json::json!({certificate: text(&signing.certificates)?, key: text(&signing.key)?});
    let patch = serde_json::json!({"stringData": data}).to_string();
    stand.kubectl(&["patch", "secret", "nodemesh-ca", "-n", "nodemesh-system", "-p", &patch]).map(drop)
}

/// Waits for an Event of the Secret that says something.
pub async fn event(stand: &Stand, reason: &str, said: &str) -> Result<String> {
    let field = format!("--field-selector=reason={reason},involvedObject.name=nodemesh-ca");
    let words = ["get", "events", "-n", "nodemesh-system", &field, "-o", "jsonpath={.items[*].message}"];
    let found = || stand.kubectl(&words).ok().filter(|all| all.contains(said));
    stand.eventually(&format!("there is an event {reason}: {said}"), found).await
}

/// The parts and annotations of the Secret.
fn secret(stand: &Stand) -> Result<serde_json::Value> {
    let text = stand.kubectl(&["get", "secret", "nodemesh-ca", "-n", "nodemesh-system", "-o", "json"])?;
    Ok(serde_json::from_str(&text)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_put_in_the_place_of_another_signs_when_every_agent_trusts_its_root() -> Result<()> {
    let mesh = Mesh::start().await?;
    mesh.person.is_allowed(&mesh.stand)?;
    let before = mesh.signed(mesh.controllers[0], &[&mesh.a]).await?;
    let given = made()?;
    put(&mesh.stand, ["tls.key", "tls.crt"], &given)?;
    mesh.waits_for_all(&before).await?;
    event(&mesh.stand, "AnotherRoot", "the key before signs on").await?;
    // A controller that begins now has the key from the Secret.
    let third = mesh.stand.sleeper().await?;
    ensure!(mesh.signed(third.address(), &[&mesh.a]).await? == before, "it signs with a key of its own");

    let b = mesh.stand.follower_of(mesh.controllers[1], "agent-b", "b").await?;
    mesh.signs_with_next(&before, &b).await?;
    let secret = secret(&mesh.stand)?;
    ensure!(
        secret["data"]["kept.key"].is_null() && secret["data"]["before.crt"].is_string(),
        "kept for ever"
    );
    let signs = &secret["metadata"]["annotations"]["nodemesh.dev/signs-with"];
    ensure!(*signs == given.fingerprint()?, "{signs} signs");
    Ok(())
}

/// Nobody had the key before in memory when another one was put in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_key_before_nobody_signs_until_a_person_decides() -> Result<()> {
    let (told, given) = (made()?, made()?);
    let stand = Stand::with_authority(&given, &told).await?;
    let fingerprint = given.fingerprint()?;
    event(&stand, "KeyLost", &format!("nodemesh.dev/signs-with={fingerprint}")).await?;
    ensure!(
        stand.roots_pem()?.trim() == String::from_utf8(told.certificates)?.trim(),
        "agents are told another root"
    );

    let decides = format!("nodemesh.dev/signs-with={fingerprint}");
    stand.kubectl(&["annotate", "secret", "nodemesh-ca", "-n", "nodemesh-system", &decides])?;
    let given = String::from_utf8(given.certificates)?;
    let is_told =
        || stand.roots_pem().ok().filter(|roots| roots.replace("\r\n", "\n").trim() == given.trim());
    stand.eventually("agents are told the root", is_told).await?;
    stand.populate().await?;
    stand.sign(&stand.token("agent-a", &[])?, WEB, request()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_is_replaced_in_three_steps_that_each_wait_for_every_agent() -> Result<()> {
    let mesh = Mesh::start().await?;
    let before = mesh.signed(mesh.controllers[0], &[&mesh.a]).await?;
    begin(&mesh.stand, &mesh.person).await?;
    mesh.waits_for_all(&before).await?;

    // It comes back, to the other replica: what counts is what both know.
    let b = mesh.stand.follower_of(mesh.controllers[1], "agent-b", "b").await?;
    let after = mesh.signs_with_next(&before, &b).await?;

    let said = mesh.person.does(&["rotate"])?;
    ensure!(said.starts_with("found under way") && said.contains("2 of 3  sign"), "{said}");

    // When nothing that it vouches for can be valid any more.
    let annotate = ["annotate", "secret", "nodemesh-ca", "-n", "nodemesh-system", "--overwrite"];
    mesh.stand.kubectl(&[&annotate[..], &["nodemesh.dev/signs-since=1"]].concat())?;
    for agent in [&mesh.a, &b] {
        let one = || agent.roots().ok().filter(|roots| roots.len() == 1);
        let roots = mesh.stand.eventually("one root is left", one).await?;
        let (_, root) = X509Certificate::from_der(&roots[0])?;
        ensure!(root.subject().as_raw() == after, "it is the one that signs");
    }
    let over = || mesh.person.status().ok().filter(|standing| standing["step"] == "settled");
    mesh.stand.eventually("it is said that it is over", over).await?;
    let words = ["get", "configmap", "nodemesh-ca-trust", "-n", "nodemesh-system", "-o", "jsonpath={.data}"];
    let record = mesh.stand.kubectl(&words)?;
    ensure!(!record.contains("replica.") && record.contains("standing"), "entries stay for ever: {record}");
    Ok(())
}
