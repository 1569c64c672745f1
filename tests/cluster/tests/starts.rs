//! How long a pod waits for its first answer, which is asked for in its first instruction, and what the wire hears of it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_test_cluster::mesh::Mesh;
use mesh_test_harness::{PLAINTEXT_MARKER, figure};

const PODS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods.yaml");
const STARTS: &str = include_str!("starts.yaml");
/// How many pods begin, if the variable of this name does not say: 200 are what a measurement wants.
const MANY: &str = "MESH_TEST_STARTS";
const FEW: usize = 20;
/// The median of those in the mesh less that of those outside, in seconds, on a machine that does other work too: less than
/// a kubelet takes to tell of a pod's address, which nobody is to wait for.
const DELAY: f64 = 0.4;

#[test]
fn a_pod_that_asks_in_its_first_instruction_is_served_soon_and_never_in_the_clear() -> Result<()> {
    let pods = std::env::var(MANY).ok().and_then(|text| text.parse().ok()).unwrap_or(FEW);
    let mesh = Mesh::install(2)?;
    let work = || {
        mesh.populate(Path::new(PODS))?;
        let wire = mesh.cluster().listen(&mesh.cluster().nodes()[0])?;
        let inside = waits(&mesh, "enabled", pods)?;
        ensure!(wire.finish()?.markers() == 0, "a pod was heard on the wire as it began");
        let outside = waits(&mesh, "disabled", pods)?;
        let delay = at(&inside, 0.5) - at(&outside, 0.5);
        figure(&format!("{pods} pods in the mesh have their first answer {}", spread(&inside)));
        figure(&format!("{pods} pods outside {}", spread(&outside)));
        ensure!(delay < DELAY, "the mesh delays the start of pods by {delay:.2} s");
        Ok(())
    };
    work().with_context(|| mesh.told())
}

/// Seconds from the first instruction of a pod to its first answer, in order.
fn waits(mesh: &Mesh, mode: &str, pods: usize) -> Result<Vec<f64>> {
    let cluster = mesh.cluster();
    let service = mesh.kubectl(&["get", "service", "web-b", "-o", "jsonpath={.spec.clusterIP}"])?;
    let objects = STARTS
        .replace("MODE", mode)
        .replace("PODS", &pods.to_string())
        .replace("ADDRESS", &service)
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
    let times = |line: &str| -> Option<f64> {
        let (began, answered) = line.split_once(' ')?;
        Some(answered.parse::<f64>().ok()? - began.parse::<f64>().ok()?)
    };
    let mut waits: Vec<f64> = said.lines().filter_map(times).collect();
    ensure!(waits.len() == pods, "{} of {pods} pods said how long they waited:\n{said}", waits.len());
    waits.sort_by(f64::total_cmp);
    Ok(waits)
}

fn spread(waits: &[f64]) -> String {
    let milliseconds = |share| (at(waits, share) * 1000.0).round();
    format!(
        "after {} ms at the median, {} at p90, {} at p99, {} to {} at all",
        milliseconds(0.5),
        milliseconds(0.9),
        milliseconds(0.99),
        milliseconds(0.0),
        milliseconds(1.0)
    )
}

/// The value that a share of all does not exceed.
fn at(waits: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a short list")]
    let index = (share * (waits.len() - 1) as f64).round() as usize;
    waits[index]
}
