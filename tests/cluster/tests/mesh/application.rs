//! The sample application, three services in three languages, and the sample policies that close it.

use anyhow::{Context, Result, ensure};
use mesh_test_cluster::mesh::{MANIFESTS, Mesh, PATIENCE, WAIT};
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::figure;

const SHOP: &str = "--namespace=shop";
/// A person's shell in the namespace, on a node, as an account that no policy names.
const VISITOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/visitor.yaml");
/// Closes the namespace, and opens what the application needs.
const POLICIES: [&str; 4] =
    ["deny-by-default", "frontend-for-all", "allow-get-from-frontend", "database-clients"];
const ITEMS: &str = "http://frontend/api/items";

/// Installs it as its file says, calls it, and closes it.
pub fn is_closed_but_for_what_it_needs(mesh: &Mesh) -> Result<()> {
    mesh.cluster().load_application()?;
    mesh.kubectl(&["apply", "-k", &format!("{MANIFESTS}/samples/application")])?;
    mesh.kubectl(&["apply", "-f", VISITOR])?;
    let said = || mesh.kubectl(&[SHOP, "logs", "--selector=app", "--prefix"]).unwrap_or_default();
    mesh.kubectl(&[SHOP, "wait", "--for=condition=Available", WAIT, "deployment", "--all"])
        .with_context(said)?;
    mesh.kubectl(&[SHOP, "wait", "--for=condition=Ready", WAIT, "pod/visitor", "pod/outsider"])?;
    let work = || {
        sells(mesh)?;
        tells_who_called(mesh)?;
        is_closed(mesh)
    };
    work().with_context(|| mesh.kubectl(&[SHOP, "get", "pods,nmap", "-o", "wide"]).unwrap_or_default())?;
    mesh.kubectl(&["delete", "namespace", "shop", WAIT]).map(drop)
}

/// What a pod gets: body and status.
fn ask(mesh: &Mesh, pod: &str, url: &str, flags: &[&str]) -> Result<String> {
    let curl = ["exec", pod, "--", "curl", "--silent", "--max-time", "5", "--write-out", " %{http_code}"];
    mesh.kubectl(&[&[SHOP], &curl[..], flags, &[url]].concat())
}

fn gives(mesh: &Mesh, pod: &str, url: &str, flags: &[&str], status: &str) -> Result<()> {
    let reason = format!("the {pod} gets {status} from {url} {flags:?}");
    eventually(&reason, PATIENCE, || {
        ask(mesh, pod, url, flags).is_ok_and(|answer| answer.ends_with(status)).then_some(())
    })
    .with_context(|| ask(mesh, pod, url, flags).unwrap_or_else(|error| format!("{error:#}")))
}

/// Whether the database itself answers the visitor.
fn pongs(mesh: &Mesh) -> bool {
    let ping = ["exec", "visitor", "--", "sh", "-c", "echo PING | nc -w 3 database 6379"];
    mesh.kubectl(&[&[SHOP], &ping[..]].concat()).is_ok_and(|answer| answer.contains("+PONG"))
}

/// Three services answer one request, wherever their pods are.
fn sells(mesh: &Mesh) -> Result<()> {
    gives(mesh, "visitor", ITEMS, &[], "200")?;
    gives(mesh, "outsider", ITEMS, &[], "200")?;
    for _ in 0..8 {
        let answer = ask(mesh, "visitor", ITEMS, &[])?;
        ensure!(["tea", "coffee", "cocoa"].iter().all(|item| answer.contains(item)), "{answer}");
    }
    ensure!(pongs(mesh), "the database is open to all as long as no policy says otherwise");
    Ok(())
}

/// Each hop is in the records of both sides, with the identities of both.
fn tells_who_called(mesh: &Mesh) -> Result<()> {
    for (from, to) in [("visitor", "frontend"), ("frontend", "catalogue"), ("catalogue", "database")] {
        let identity = |who: &str| format!("spiffe://cluster.local/ns/shop/sa/{who}");
        for direction in ["outbound", "inbound"] {
            let wanted = [
                format!("direction={direction}"),
                format!("src.identity={}", identity(from)),
                format!("dst.identity={}", identity(to)),
            ];
            eventually(&format!("an {direction} record from {from} to {to}"), PATIENCE, || {
                let told = |line: &str| wanted.iter().all(|part| line.contains(part));
                mesh.records().lines().any(told).then_some(())
            })?;
        }
    }
    Ok(())
}

fn is_closed(mesh: &Mesh) -> Result<()> {
    let files = POLICIES.map(|name| format!("{MANIFESTS}/samples/{name}.yaml"));
    let words: Vec<&str> = files.iter().flat_map(|file| ["-f", file]).collect();
    mesh.kubectl(&[&["apply"], &words[..]].concat())?;
    // Past the frontend nobody gets in; through it only what the catalogue's policy allows.
    gives(mesh, "visitor", "http://catalogue/api/items", &[], "403")?;
    gives(mesh, "visitor", ITEMS, &["--data", "more"], "403")?;
    gives(mesh, "visitor", "http://frontend/admin", &[], "403")?;
    gives(mesh, "outsider", ITEMS, &[], "403")?;
    gives(mesh, "visitor", ITEMS, &[], "200")?;
    eventually("the database is not for the visitor", PATIENCE, || (!pongs(mesh)).then_some(()))?;
    figure("the sample application works with its namespace closed but for three policies");
    Ok(())
}
