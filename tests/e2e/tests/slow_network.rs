//! A network between the nodes that is slower than the pods that send over it.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mesh_test_e2e::{ECHO, at, node, pair};
use mesh_test_harness::clients::{Dialled, Reading};
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::servers::Kind;
use mesh_test_harness::topology::WIRE;

/// Lets no more than 200 Mbit/s go from node A to node B.
fn slow_down(mesh: &Mesh) -> Result<()> {
    let mut tc = mesh.topology().site(node(0)).host().command("tc")?;
    let shape = ["root", "tbf", "rate", "200mbit", "burst", "64kb", "latency", "50ms"];
    let done = tc.args(["qdisc", "add", "dev", WIRE]).args(shape).status()?;
    ensure!(done.success(), "tc: {done}");
    Ok(())
}

#[test]
fn uploads_that_are_more_than_the_network_takes_all_arrive() {
    pair().run(|mesh| {
        slow_down(mesh)?;
        let _server = mesh.pod("server").serve(Kind::HalfClose, ECHO)?;
        let (block, times) = (vec![b'x'; 64 * 1024], 64);
        let total = block.len() * times;
        let flags = ["--repeat", &times.to_string(), "--shutdown"];
        let upload = |_| -> Result<Reading> {
            let dial = mesh.pod("client").dial(at(ECHO)).flags(&flags).send(block.clone());
            dial.timeout(Duration::from_secs(60)).limit(Duration::from_secs(60)).start()
        };
        let uploads = (0..16).map(upload).collect::<Result<Vec<_>>>()?;
        for upload in uploads {
            let Dialled::Connected(seen) = upload.finish()? else { bail!("an upload was refused") };
            ensure!(seen.received.starts_with(&format!("{total} bytes")), "{seen:?}");
            ensure!(seen.ended == "eof", "{seen:?}");
        }
        ensure!(
            mesh.a().metrics()?.sum("nodemesh_proxy_tunnels_lost_total", &[]) == 0.0,
            "a tunnel was lost"
        );
        Ok(())
    });
}
