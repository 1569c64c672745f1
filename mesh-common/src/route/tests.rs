use std::net::SocketAddr;
use std::sync::Arc;

use super::*;
use crate::model::samples::{at, outbound, pod, service};
use crate::policy::authorize_connection;
use crate::resolve;
use crate::snapshot::{Delta, Tables};

/// Nobody is busy.
struct Idle;

impl Load for Idle {
    fn connections(&self, _: SocketAddr) -> u32 {
        0
    }
    fn requests(&self, _: SocketAddr) -> u32 {
        0
    }
}

fn dial(tables: &mut Tables, address: &str, tried: &[SocketAddr]) -> Result<Plan, Unroutable> {
    let snapshot = tables.snapshot();
    let facts = outbound(&Arc::new(pod("web", "a", "10.0.0.1")), address);
    let destination = resolve::destination(&snapshot, &facts);
    let permit = authorize_connection(&snapshot, &facts, &destination).unwrap();
    plan_connection(&snapshot, permit, &Choice { random: 7, load: &Idle, tried })
}

#[test]
fn an_endpoint_of_another_node_is_reached_through_a_tunnel() {
    let mut tables = Tables::default();
    tables.apply(Delta::UpsertWorkload(Arc::new(pod("web", "a", "10.0.0.1"))));
    tables.apply(Delta::UpsertWorkload(Arc::new(pod("api", "b", "10.0.1.1"))));
    tables.apply(Delta::UpsertService(Arc::new(service("api", "10.96.0.10"))));
    let Ok(Plan::Tunnel(tunnel)) = dial(&mut tables, "10.96.0.10:80", &[]) else { panic!("no tunnel") };
    assert_eq!(tunnel.endpoint, at("10.0.1.1:8080"));
    assert_eq!(tunnel.expected().to_string(), "spiffe://cluster.local/ns/shop/sa/api");
    assert_eq!(tunnel.sni.as_deref(), Some("api.shop.svc.cluster.local"));
}
