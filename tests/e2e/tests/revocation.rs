//! A certificate that its authority revokes in the middle of a connection ends it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_test_e2e::peer::revocation_list;
use mesh_test_e2e::{ECHO, at, pair};
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::servers::Kind;

/// The folder is looked at every 10 seconds.
const NOTICED: Duration = Duration::from_secs(60);

#[test]
fn a_revoked_pod_loses_its_connections_and_its_neighbour_keeps_its_own() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let (revoked, kept) = (mesh.pod("client").hold(at(ECHO))?, mesh.pod("other").hold(at(ECHO))?);
        let serial = serial_of(mesh, "client")?;
        let list = revocation_list(&mesh.folders().trust, &serial)?;
        fs::write(mesh.folders().trust.join("crl.pem"), list)?;
        let (how, _) = eventually("the revoked pod's connection ends", NOTICED, || revoked.broken())?;
        assert_eq!(how, "reset");
        assert!(mesh.pod("client").echo(at(ECHO)).is_err(), "a new connection is refused");
        kept.finish()?;
        let refused = [("reason", "revoked")];
        mesh.b().metric("nodemesh_identity_peers_refused_total", &refused, |count| count >= 1.0)?;
        Ok(())
    });
}

/// The serial number of a pod's certificate on node A.
fn serial_of(mesh: &mut Mesh, account: &str) -> Result<Vec<u8>> {
    let text = mesh.a().command(&["dump", "certificates", "-o", "json"])?.success("dump certificates")?;
    let document: serde_json::Value = serde_json::from_str(&text)?;
    let all =
        document["certificates"].as_array().or(document.as_array()).context("a list of certificates")?;
    let its = all.iter().find(|found| {
        found["identity"].as_str().is_some_and(|identity| identity.ends_with(&format!("/sa/{account}")))
    });
    let serial = its.and_then(|its| its["serial"].as_str()).with_context(|| format!("a serial in {text}"))?;
    (0..serial.len() / 2)
        .map(|byte| u8::from_str_radix(&serial[2 * byte..2 * byte + 2], 16).context("hex"))
        .collect()
}
