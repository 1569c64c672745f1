//! In a cluster of IPv6 alone: how long a pod waits for its first answer, which is asked for in its first instruction, and what
//! the wire hears of it; and that the mesh works there as elsewhere. Pods with IPv4 addresses begin in `reboot`.

mod second;

use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mesh_test_cluster::first_answers::FirstAnswers;
use mesh_test_cluster::mesh::Mesh;
use mesh_test_cluster::network::Families;
use mesh_test_harness::{PLAINTEXT_MARKER, figure};

/// A web server on each node, and Services for that on node-b.
const PODS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/families.yaml");
const STARTS: &str = include_str!("../starts.yaml");
/// How many pods begin, if the variable of this name does not say: 200 are what a measurement wants.
const MANY: &str = "MESH_TEST_STARTS";
const FEW: usize = 20;
/// The median of those in the mesh less that of those outside, in seconds, on a machine that does other work too: less than
/// a kubelet takes to tell of a pod's address, which nobody is to wait for.
const DELAY: f64 = 0.4;

#[test]
fn with_ipv6_alone_pods_are_served_from_their_first_instruction_encrypted_and_held_to_policy() -> Result<()> {
    let pods = std::env::var(MANY).ok().and_then(|text| text.parse().ok()).unwrap_or(FEW);
    let mesh = Mesh::install_on(2, Families::Ipv6)?;
    let work = || {
        mesh.populate(Path::new(PODS))?;
        let wire = mesh.cluster().listen(&mesh.cluster().nodes()[0])?;
        let inside = waits(&mesh, "enabled", pods)?;
        ensure!(wire.finish()?.markers() == 0, "a pod was heard on the wire as it began");
        let outside = waits(&mesh, "disabled", pods)?;
        let delay = inside.at(0.5) - outside.at(0.5);
        figure(&format!("first answers in the mesh: {inside}"));
        figure(&format!("first answers outside: {outside}"));
        ensure!(delay < DELAY, "the mesh delays the start of pods by {delay:.2} s");
        let begun = Instant::now();
        second::is_carried_and_held_to_policy(&mesh)?;
        figure(&format!(
            "what else there is to see with IPv6 alone took {:.1} s",
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    };
    work().with_context(|| mesh.told())
}

fn waits(mesh: &Mesh, mode: &str, pods: usize) -> Result<FirstAnswers> {
    let cluster = mesh.cluster();
    let service = mesh.kubectl(&["get", "service", "both", "-o", "jsonpath={.spec.clusterIP}"])?;
    let service: IpAddr = service.parse().context("it has an address")?;
    ensure!(service.is_ipv6(), "the Service has the address {service}");
    let objects = STARTS
        .replace("MODE", mode)
        .replace("PODS", &pods.to_string())
        .replace("ADDRESS", &format!("[{service}]"))
        .replace("MARKER", PLAINTEXT_MARKER);
    let file = cluster.control_plane().kubeconfig().with_file_name("starts.yaml");
    std::fs::write(&file, objects).context("write the objects of a job")?;
    mesh.kubectl(&["apply", "-f", &file.display().to_string()])?;
    let namespace = format!("--namespace=starts-{mode}");
    // Two cores start some pods a second.
    let patience = format!("--timeout={}s", 60 + 5 * pods);
    mesh.kubectl(&[&namespace, "wait", "--for=condition=Complete", &patience, "job/starts"])?;
    let said = mesh.kubectl(&[&namespace, "logs", "--selector=job-name=starts", "--tail=-1"])?;
    mesh.kubectl(&["delete", "namespace", &format!("starts-{mode}"), "--wait=false"])?;
    FirstAnswers::read(&said, pods)
}
