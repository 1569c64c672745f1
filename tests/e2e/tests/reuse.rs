//! A pod's address used again never carries the old pod's identity or policy.

use mesh_test_e2e::{ECHO, at, from_account, node, pair, policy, server};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::Kind;

#[test]
fn a_new_pod_at_an_old_address_has_its_own_identity() {
    pair().objects("policy", &policy("client-alone", "ALLOW", &from_account("client"))).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        assert!(echoes(mesh, "client"));
        let addresses = mesh.pod("client").addresses();
        mesh.remove_pod("client")?;
        mesh.add_pod(node(0), PodSpec::new("impostor").at(addresses))?;
        // From the first moment on: the old pod's identity would be let in.
        for _ in 0..20 {
            assert!(!echoes(mesh, "impostor"));
        }
        mesh.b().record("the new identity", |record| {
            record["src.identity"] == "spiffe://cluster.local/ns/shop/sa/impostor"
        })?;
        Ok(())
    });
}

#[test]
fn a_client_that_believes_in_the_old_pod_is_refused() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        assert!(echoes(mesh, "client"));
        let addresses = mesh.pod("server").addresses();
        // The events come in the wrong order: first the new pod, then the end of the old one.
        let old = mesh.take_pod("server");
        old.delete()?;
        mesh.add_pod(node(1), server("server-2").service_account("other-account").at(addresses))?;
        let echo = mesh.pod("server-2").serve(Kind::Echo, ECHO)?;
        assert_eq!(echo.connections(), 0);
        mesh.config().remove("pod-server")?;
        eventually_true("the new pod is reached", PATIENCE, || echoes(mesh, "client"))?;
        mesh.a().record("the new identity", |record| {
            record["dst.identity"] == "spiffe://cluster.local/ns/shop/sa/other-account"
        })?;
        Ok(())
    });
}

#[test]
fn an_address_that_two_objects_claim_is_nobodys() {
    pair().objects("policy", &policy("client-alone", "ALLOW", &from_account("client"))).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        assert!(echoes(mesh, "client"));
        // The pod is gone and its object is not: its end is heard of late, after the pod that has its address now.
        let old = mesh.take_pod("client");
        let addresses = old.addresses();
        old.delete()?;
        mesh.add_pod(node(0), PodSpec::new("impostor").at(addresses))?;
        for _ in 0..10 {
            assert!(!echoes(mesh, "impostor"), "while both objects are there");
        }
        mesh.config().remove("pod-client")?;
        for _ in 0..10 {
            assert!(!echoes(mesh, "impostor"), "when the old one is gone");
        }
        mesh.b().record("the new identity", |record| {
            record["src.identity"] == "spiffe://cluster.local/ns/shop/sa/impostor"
        })?;
        let labelled = |record: &serde_json::Value| {
            record["src.identity"] == "spiffe://cluster.local/ns/shop/sa/client" && record["bytes_sent"] == 0
        };
        assert!(!mesh.b().records().iter().any(labelled), "a refused connection was called the old pod's");
        Ok(())
    });
}

#[test]
fn pods_that_swap_an_address_within_a_millisecond_keep_their_own_names() {
    pair().objects("policy", &policy("no-odd", "DENY", &from_account("odd"))).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let addresses = mesh.pod("other").addresses();
        let mut before = "other".to_owned();
        for round in 0..6 {
            let account = if round % 2 == 0 { "odd" } else { "even" };
            let name = format!("{account}-{round}");
            mesh.take_pod(&before).delete()?;
            let spec = PodSpec::new(&name).service_account(account).at(addresses);
            // The new object is written and the old one removed at once, in this order.
            mesh.add_pod(node(0), spec)?;
            mesh.config().remove(&format!("pod-{before}"))?;
            if account == "odd" {
                let is_named = |record: &serde_json::Value| record["src.workload"] == format!("shop/{name}");
                assert!((0..5).all(|_| !echoes(mesh, &name)), "{name} is denied from the first moment on");
                eventually_true("it is denied by its own name", PATIENCE, || {
                    !echoes(mesh, &name) && mesh.node(node(1)).records().iter().any(is_named)
                })?;
            }
            if account == "even" {
                eventually_true("it is let in", PATIENCE, || echoes(mesh, &name))?;
            }
            before = name;
        }
        Ok(())
    });
}

fn echoes(mesh: &Mesh, pod: &str) -> bool {
    let dial = mesh.pod(pod).dial(at(ECHO)).send(PLAINTEXT_MARKER).until_bytes(PLAINTEXT_MARKER.len());
    dial.connected().is_ok_and(|seen| seen.received == PLAINTEXT_MARKER)
}

#[test]
fn a_pod_deleted_and_added_again_works() {
    pair().run(|mesh| {
        for round in 0..3 {
            let addresses = mesh.pod("server").addresses();
            let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
            eventually_true("the server is reached", PATIENCE, || echoes(mesh, "client"))?;
            echo.stop()?;
            mesh.remove_pod("server")?;
            mesh.add_pod(node(1), server("server").uid(&format!("round-{round}")).at(addresses))?;
        }
        Ok(())
    });
}
