//! Another root for the mesh: told to every agent, then signed with, then the one before let go.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_common::model::TrustDomain;
use mesh_node::identity::{SigningPem, system_clock};
use mesh_test_harness::figure;
use tokio::time::Instant;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::agents::{PATIENCE, Stand, WEB, request};
use super::follower::Follower;

/// Longer than the controllers take to look at the Secret three times while agents are waited for.
const LOOKS: Duration = Duration::from_secs(11);

/// Puts a key beside the one that signs.
fn give_next_key(stand: &Stand) -> Result<()> {
    let next = SigningPem::make(&TrustDomain::parse("cluster.local")?, &system_clock())?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes);
    let data = serde_json::json!({"next.crt": text(next.certificates)?, "next.key": text(next.key)?});
    let patch = serde_json::json!({"stringData": data}).to_string();
    stand.kubectl(&["patch", "secret", "nodemesh-ca", "-n", "nodemesh-system", "-p", &patch]).map(drop)
}

/// Where the change of the root stands, as people are told.
fn standing(stand: &Stand) -> Option<String> {
    let words = ["get", "configmap", "nodemesh-ca-trust", "-n", "nodemesh-system", "-o"];
    stand.kubectl(&[&words[..], &["jsonpath={.data.rotation}"]].concat()).ok()
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
    a: Follower,
}

impl Mesh {
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
        let until = Instant::now() + LOOKS;
        while Instant::now() < until {
            for controller in self.controllers {
                let issuer = self.signed(controller, &[&self.a]).await?;
                ensure!(issuer == before, "signed before all trust it");
            }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_is_replaced_in_three_steps_that_each_wait_for_every_agent() -> Result<()> {
    let stand = Stand::start().await?;
    let second = stand.sleeper().await?;
    let a = stand.follower("agent-a", "a").await?;
    a.until("all is in force", |snapshot| snapshot.workloads().count() == 7).await?;
    let (token, controllers) = (stand.token("agent-a", &[])?, [stand.address(), second.address()]);
    let mesh = Mesh { stand, controllers, token, a };
    let before = mesh.signed(controllers[0], &[&mesh.a]).await?;
    give_next_key(&mesh.stand)?;
    mesh.waits_for_all(&before).await?;

    // It comes back, to the other replica: what counts is what both know.
    let b = mesh.stand.follower_of(second.address(), "agent-b", "b").await?;
    let after = mesh.signs_with_next(&before, &b).await?;

    // When nothing that it vouches for can be valid any more.
    let annotate = ["annotate", "secret", "nodemesh-ca", "-n", "nodemesh-system", "--overwrite"];
    mesh.stand.kubectl(&[&annotate[..], &["nodemesh.dev/signs-since=1"]].concat())?;
    for agent in [&mesh.a, &b] {
        let one = || agent.roots().ok().filter(|roots| roots.len() == 1);
        let roots = mesh.stand.eventually("one root is left", one).await?;
        let (_, root) = X509Certificate::from_der(&roots[0])?;
        ensure!(root.subject().as_raw() == after, "it is the one that signs");
    }
    Ok(())
}
