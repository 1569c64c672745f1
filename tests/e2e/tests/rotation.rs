//! Certificates of ten seconds under traffic: renewed at half of it, and nothing fails.

use std::time::Duration;

use mesh_test_e2e::{ECHO, HTTP, at, pair};
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::servers::Kind;

#[test]
fn certificates_rotate_under_load_without_one_failure() {
    pair().flags(&["--certificate-lifetime", "10s"]).run(|mesh| {
        let (_http, _echo) =
            (mesh.pod("server").serve(Kind::Http, HTTP)?, mesh.pod("server").serve(Kind::Echo, ECHO)?);
        let load = mesh.pod("client").load(at(80), &["--connections", "2", "--every-ms", "10"])?;
        let fresh =
            mesh.pod("client").load(at(80), &["--connections", "1", "--every-ms", "20", "--fresh"])?;
        let held = mesh.pod("client").hold(at(ECHO))?;
        // A certificate of 10 s is renewed every 4.5 to 5 s: after three of them the first two have expired.
        let issued = ("nodemesh_identity_certificate_requests_total", [("result", "issued")]);
        let first = mesh.b().metrics()?.sum(issued.0, &issued.1);
        eventually("three rotations are over", Duration::from_secs(40), || {
            (mesh.node("node-b").metrics().ok()?.sum(issued.0, &issued.1) >= first + 3.0).then_some(())
        })?;
        for loaded in [load.finish()?, fresh.finish()?] {
            assert!(loaded.answered > 100 && loaded.failed == 0, "{loaded:?}");
        }
        held.finish()?;
        Ok(())
    });
}
