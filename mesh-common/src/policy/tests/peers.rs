//! Who must prove an identity, and whom a probe is.

use super::*;

fn peer_authentication(name: &str, scope: Scope, mode: Option<MutualTls>) -> PeerAuthentication {
    PeerAuthentication {
        name: NamespacedName::new("shop", name),
        scope,
        created: 0,
        mode,
        ports: BTreeMap::new(),
    }
}

fn selecting_api() -> Scope {
    let labels = BTreeMap::from([("app".into(), "api".into())]);
    Scope::Selector { namespace: Some("shop".into()), labels }
}

fn plaintext(policies: Vec<PeerAuthentication>, port: u16) -> Result<Requests, DenialReason> {
    let mut tables = tables(Protocol::Tcp);
    for policy in policies {
        tables.apply(Delta::UpsertPeerAuthentication(Arc::new(policy)));
    }
    connect(&tables.snapshot(), &without_identity(port, NoIdentity::Plaintext))
}

#[test]
fn the_most_specific_mode_that_is_set_holds() {
    let strict = Some(MutualTls::Strict);
    let permissive = Some(MutualTls::Permissive);
    let mesh = |mode| peer_authentication("mesh", Scope::Mesh, mode);
    let namespace = |mode| peer_authentication("namespace", Scope::Namespace("shop".into()), mode);
    let workload = |mode, port| PeerAuthentication {
        ports: BTreeMap::from([(8080, port)]),
        ..peer_authentication("workload", selecting_api(), mode)
    };
    let refused = Err(DenialReason::PlaintextUnderStrict);
    let passed = Ok(Requests::AreCovered);
    assert_eq!(plaintext(vec![], 8080), passed);
    assert_eq!(plaintext(vec![mesh(strict)], 8080), refused);
    assert_eq!(plaintext(vec![mesh(strict), namespace(permissive)], 8080), passed);
    assert_eq!(plaintext(vec![mesh(strict), namespace(None)], 8080), refused);
    assert_eq!(plaintext(vec![namespace(permissive), workload(strict, None)], 8080), refused);
    assert_eq!(plaintext(vec![workload(strict, permissive)], 8080), passed);
    assert_eq!(plaintext(vec![workload(strict, permissive)], 9090), refused);
    assert_eq!(plaintext(vec![mesh(strict), workload(None, None)], 8080), refused);
    assert_eq!(plaintext(vec![mesh(permissive), workload(None, strict)], 8080), refused);
}

#[test]
fn of_two_of_one_level_the_older_holds_and_then_the_first_by_name() {
    let namespace = |name: &str, created, mode| PeerAuthentication {
        created,
        ..peer_authentication(name, Scope::Namespace("shop".into()), Some(mode))
    };
    let (a, b) = (
        |created| namespace("a", created, MutualTls::Strict),
        |created| namespace("b", created, MutualTls::Permissive),
    );
    let refused = Err(DenialReason::PlaintextUnderStrict);
    assert_eq!(plaintext(vec![a(2), b(1)], 8080), Ok(Requests::AreCovered));
    assert_eq!(plaintext(vec![a(1), b(1)], 8080), refused);
}

#[test]
fn a_probe_passes_everything_but_only_to_a_port_that_a_probe_names() {
    let mut tables = tables(Protocol::Tcp);
    tables.apply(Delta::UpsertPeerAuthentication(Arc::new(peer_authentication(
        "mesh",
        Scope::Mesh,
        Some(MutualTls::Strict),
    ))));
    tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(policy("nothing", Action::Allow, "", vec![]))));
    let probed =
        crate::model::Workload { probe_ports: smallvec::smallvec![8080], ..pod("api", "b", "10.0.1.1") };
    tables.apply(Delta::UpsertWorkload(Arc::new(probed)));
    let snapshot = tables.snapshot();
    assert_eq!(connect(&snapshot, &without_identity(8080, NoIdentity::Probe)), Ok(Requests::AreCovered));
    assert_eq!(
        connect(&snapshot, &without_identity(9090, NoIdentity::Probe)),
        Err(DenialReason::PlaintextUnderStrict)
    );
    assert_eq!(
        connect(&snapshot, &without_identity(8080, NoIdentity::Plaintext)),
        Err(DenialReason::PlaintextUnderStrict)
    );
}
