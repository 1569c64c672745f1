//! A cluster with the mesh of an earlier commit, upgraded to this one with kubectl and taken back, under load.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use mesh_test_cluster::images::{MESH, PREVIOUS_MESH};
use mesh_test_cluster::load::Load;
use mesh_test_cluster::mesh::{Mesh, PATIENCE, SYSTEM};
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::figure;

/// A web server on each node, and a Service for each.
const PODS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster/tests/pods.yaml");
/// Only certificates: who is served has shown one.
const AUTHENTICATED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster/tests/authenticated.yaml");
const DIRECTIONS: [(&str, &str); 2] = [("web-a", "web-b"), ("web-b", "web-a")];
/// How long pods of a node may be without an agent that is being replaced: its end, its image's start, and its own.
const REPLACED: f64 = 30.0;

#[test]
fn a_mesh_is_upgraded_with_kubectl_and_taken_back() -> Result<()> {
    let mesh = Mesh::install_previous(2)?;
    let work = || {
        mesh.populate(Path::new(PODS))?;
        mesh.kubectl(&["apply", "-f", AUTHENTICATED])?;
        is_served(&mesh)?;
        replaced(&mesh, "upgraded", MESH, Mesh::apply)?;
        replaced(&mesh, "taken back", PREVIOUS_MESH, Mesh::apply_previous)
    };
    work().with_context(|| mesh.told())
}

fn replaced(mesh: &Mesh, how: &str, image: &str, replace: fn(&Mesh) -> Result<()>) -> Result<()> {
    let cluster = mesh.cluster();
    let wire = cluster.listen(&cluster.nodes()[0])?;
    let name = how.replace(' ', "-");
    let loads = DIRECTIONS.map(|(from, to)| Load::start(cluster, from, &name, &url(to)));
    replace(mesh)?;
    is_served(mesh)?;
    for load in loads {
        let outcome = load?.stop(cluster)?;
        figure(&format!("while the mesh was {how}, {outcome}"));
        ensure!(outcome.longest < REPLACED, "{outcome}: {:?}", outcome.statuses);
    }
    ensure!(wire.finish()?.markers() == 0, "while the mesh was {how} pods were heard on the wire");
    // Those that were before may still be on their way out.
    eventually(&format!("everything of the mesh runs {image}"), PATIENCE, || {
        let path = "jsonpath={.items[*].status.containerStatuses[*].image}";
        let images = mesh.kubectl(&[SYSTEM, "get", "pods", "-o", path]).ok()?;
        images.split_whitespace().all(|found| found == image).then_some(())
    })
}

fn is_served(mesh: &Mesh) -> Result<()> {
    DIRECTIONS.into_iter().try_for_each(|(from, to)| mesh.answers(from, &url(to), "200"))
}

fn url(to: &str) -> String {
    format!("http://{to}.default.svc.cluster.local/")
}
