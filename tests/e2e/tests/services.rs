//! What a Service's own fields mean for which endpoint a pod gets: the same as without a mesh.

use std::net::SocketAddr;

use anyhow::Result;
use mesh_test_e2e::{ECHO, HTTP, at, nodes_in, server, service};
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::servers::{Kind, Server};

const NEAR: &str = "server-near";
const FAR: &str = "server-far";

/// `client` and one server on node A, another server on node B; each node in a zone of its own.
fn near_and_far(service: ServiceSpec) -> Scenario {
    Scenario::new(vec![PodSpec::new("client"), PodSpec::new("other"), server(NEAR)], vec![server(FAR)])
        .service(service)
        .objects("nodes", &nodes_in(["zone-a", "zone-b"]))
}

/// Echo servers in both pods.
struct Servers {
    near: Server,
    far: Server,
}

impl Servers {
    fn start(mesh: &Mesh) -> Result<Self> {
        let start = |name: &str| mesh.pod(name).serve(Kind::Echo, ECHO);
        Ok(Self { near: start(NEAR)?, far: start(FAR)? })
    }

    /// How many of `count` connections of a pod each server got.
    fn share(&self, mesh: &Mesh, pod: &str, count: usize) -> Result<[usize; 2]> {
        let connections = || [self.near.connections(), self.far.connections()];
        let before = connections();
        for _ in 0..count {
            mesh.pod(pod).echo(at(ECHO))?;
        }
        let after = connections();
        Ok([after[0] - before[0], after[1] - before[1]])
    }

    /// Waits until all connections go to the near server, or to the far one.
    fn wait_until_all_go(&self, mesh: &Mesh, share: [usize; 2], reason: &str) -> Result<()> {
        let count = share[0] + share[1];
        let all = || self.share(mesh, "client", count).is_ok_and(|found| found == share);
        eventually_true(reason, PATIENCE, all).map(drop)
    }

    /// Waits until connections go to either server. Chance decides: a few may all go to one.
    fn wait_until_both_get_some(&self, mesh: &Mesh, reason: &str) -> Result<()> {
        let both = || self.share(mesh, "client", 8).is_ok_and(|share| !share.contains(&0));
        eventually_true(&format!("both get some: {reason}"), PATIENCE, both).map(drop)
    }
}

/// Waits until a connection to the Service is refused. Until then an answer ends each attempt.
fn wait_until_nobody_answers(mesh: &Mesh, reason: &str) -> Result<()> {
    let refused = || {
        let dialled = mesh.pod("client").dial(at(ECHO)).send("x").until_bytes(1).run();
        dialled.is_ok_and(|seen| seen.refusal().is_some())
    };
    eventually_true(reason, PATIENCE, refused).map(drop)
}

const ALL_NEAR: [usize; 2] = [6, 0];
const ALL_FAR: [usize; 2] = [0, 6];

#[test]
fn a_node_port_dialled_from_a_pod_is_its_service() {
    near_and_far(service().node_port("tcp-echo", 30_900).node_port("http", 30_080)).run(|mesh| {
        let servers = Servers::start(mesh)?;
        let _http = (mesh.pod(NEAR).serve(Kind::Http, HTTP)?, mesh.pod(FAR).serve(Kind::Http, HTTP)?);
        for node in ["10.77.0.1", "10.77.0.2"] {
            let to: SocketAddr = format!("{node}:30900").parse()?;
            let seen = mesh.pod("client").echo(to)?;
            assert_eq!(seen.peer, to.to_string(), "the application sees what it dialled");
            assert_eq!(mesh.pod("client").curl(&format!("http://{node}:30080/"), &[])?.status, 200);
        }
        assert_eq!(servers.near.connections() + servers.far.connections(), 2);
        mesh.a().record("the Service that was meant", |record| {
            record["direction"] == "outbound"
                && record["dst.service"].as_str().is_some_and(|name| name.contains("server"))
        })?;
        let nobody = mesh.pod("client").dial("10.77.0.2:30901".parse()?).send("x").run()?;
        assert!(nobody.refusal().is_some(), "a port that no Service has: {nobody:?}");
        Ok(())
    });
}

#[test]
fn a_client_keeps_its_endpoint_where_affinity_is_asked_for() {
    near_and_far(service().field("sessionAffinity: ClientIP")).run(|mesh| {
        let servers = Servers::start(mesh)?;
        let first = servers.share(mesh, "client", 8)?;
        assert!(first == [8, 0] || first == [0, 8], "{first:?}");
        let http = [mesh.pod(NEAR).serve(Kind::Http, HTTP)?, mesh.pod(FAR).serve(Kind::Http, HTTP)?];
        for _ in 0..6 {
            assert_eq!(mesh.pod("client").curl("http://10.96.0.10/", &[])?.status, 200);
        }
        let requests = http.each_ref().map(|server| server.events("request").len());
        assert!(requests == [6, 0] || requests == [0, 6], "{requests:?}");
        // Its endpoint goes and comes back: so does the client.
        let (chosen, elsewhere, back) =
            if first == [8, 0] { (NEAR, ALL_FAR, ALL_NEAR) } else { (FAR, ALL_NEAR, ALL_FAR) };
        mesh.change_pod(chosen, |spec| spec.set_ready(false))?;
        servers.wait_until_all_go(mesh, elsewhere, "the client goes to the other endpoint")?;
        mesh.change_pod(chosen, |spec| spec.set_ready(true))?;
        servers.wait_until_all_go(mesh, back, "the client is back at its endpoint")
    });
}

#[test]
fn a_local_service_never_leaves_the_node() {
    near_and_far(service().field("internalTrafficPolicy: Local")).run(|mesh| {
        let servers = Servers::start(mesh)?;
        let _http = mesh.pod(FAR).serve(Kind::Http, HTTP)?;
        assert_eq!(servers.share(mesh, "client", 6)?, ALL_NEAR);
        mesh.change_pod(NEAR, |spec| spec.set_ready(false))?;
        eventually_true("nobody is left on this node", PATIENCE, || {
            mesh.pod("client").curl("http://10.96.0.10/", &[]).is_ok_and(|response| response.status == 503)
        })?;
        let dialled = mesh.pod("client").dial(at(ECHO)).send("x").run()?;
        assert_eq!(dialled.refusal(), Some("reset"), "{dialled:?}");
        assert_eq!(servers.far.connections(), 0);
        Ok(())
    });
}

#[test]
fn traffic_distribution_prefers_what_is_near_as_long_as_there_is_one() {
    near_and_far(service()).run(|mesh| {
        let servers = Servers::start(mesh)?;
        for distribution in ["PreferSameNode", "PreferSameZone", "PreferClose"] {
            let field = format!("trafficDistribution: {distribution}");
            mesh.config().write_service(&service().field(&field))?;
            servers.wait_until_all_go(mesh, ALL_NEAR, &format!("{distribution} keeps near"))?;
            mesh.change_pod(NEAR, |spec| spec.set_ready(false))?;
            servers.wait_until_all_go(mesh, ALL_FAR, &format!("{distribution} goes far if it must"))?;
            mesh.change_pod(NEAR, |spec| spec.set_ready(true))?;
            servers.wait_until_all_go(mesh, ALL_NEAR, &format!("{distribution} keeps near again"))?;
        }
        mesh.config().write_service(&service())?;
        servers.wait_until_both_get_some(mesh, "without a preference")
    });
}

#[test]
fn a_zone_holds_more_than_a_node() {
    // Both nodes in one zone: the zone keeps nothing away, the node does.
    let nodes = nodes_in(["zone-a", "zone-a"]);
    near_and_far(service().field("trafficDistribution: PreferSameZone")).objects("nodes", &nodes).run(
        |mesh| {
            let servers = Servers::start(mesh)?;
            servers.wait_until_both_get_some(mesh, "the zone keeps nothing away")?;
            mesh.config().write_service(&service().field("trafficDistribution: PreferSameNode"))?;
            servers.wait_until_all_go(mesh, ALL_NEAR, "the node is preferred to the zone")
        },
    );
}

#[test]
fn an_endpoint_that_terminates_serves_only_if_no_other_is_ready() {
    near_and_far(service()).run(|mesh| {
        let servers = Servers::start(mesh)?;
        let held = mesh.pod("client").hold(mesh.pod(NEAR).at(ECHO))?;
        mesh.change_pod(NEAR, |spec| spec.set_terminating(true))?;
        servers.wait_until_all_go(mesh, ALL_FAR, "the terminating one is left out")?;
        mesh.change_pod(FAR, |spec| spec.set_ready(false))?;
        servers.wait_until_all_go(mesh, ALL_NEAR, "the terminating one is all there is")?;
        held.finish()?;
        mesh.change_pod(NEAR, |spec| spec.set_ready(false))?;
        wait_until_nobody_answers(mesh, "one that terminates and serves no more gets nothing")
    });
}

#[test]
fn a_service_that_publishes_addresses_early_has_endpoints_that_are_not_ready() {
    near_and_far(service().field("publishNotReadyAddresses: true")).run(|mesh| {
        let servers = Servers::start(mesh)?;
        mesh.change_pod(NEAR, |spec| spec.set_ready(false))?;
        mesh.change_pod(FAR, |spec| spec.set_ready(false))?;
        // Something that the agents learn after both edits shows that they know of them.
        mesh.config().write_service(
            &service().field("publishNotReadyAddresses: true").field("trafficDistribution: PreferSameNode"),
        )?;
        servers.wait_until_all_go(mesh, ALL_NEAR, "the edits are known")?;
        mesh.config().write_service(&service())?;
        wait_until_nobody_answers(mesh, "without the field nobody is an endpoint")
    });
}

#[test]
fn a_new_connection_goes_to_the_endpoint_with_fewest() {
    // Each core counts by itself: with one there is one count.
    near_and_far(service()).flags(&["--workers", "1"]).run(|mesh| {
        let servers = Servers::start(mesh)?;
        let held = (0..6).map(|_| mesh.pod("client").hold(at(ECHO))).collect::<Result<Vec<_>>>()?;
        assert_eq!([servers.near.connections(), servers.far.connections()], [3, 3]);
        // Four more to one of them: the next four of the Service go to the other.
        let direct = (0..4).map(|_| mesh.pod("other").hold(mesh.pod(FAR).at(ECHO)));
        let direct = direct.collect::<Result<Vec<_>>>()?;
        let more = (0..4).map(|_| mesh.pod("other").hold(at(ECHO))).collect::<Result<Vec<_>>>()?;
        assert_eq!([servers.near.connections(), servers.far.connections()], [7, 7]);
        for held in held.into_iter().chain(direct).chain(more) {
            held.finish()?;
        }
        Ok(())
    });
}
