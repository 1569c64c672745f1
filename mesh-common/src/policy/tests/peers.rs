//! Who must prove an identity.

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
    connect(&tables.snapshot(), &without_identity(port))
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
fn of_two_of_one_level_the_older_holds_and_else_the_stricter() {
    let namespace = |name: &str, created, mode| PeerAuthentication {
        created,
        ..peer_authentication(name, Scope::Namespace("shop".into()), mode)
    };
    let refused = Err(DenialReason::PlaintextUnderStrict);
    let (strict, permissive) = (Some(MutualTls::Strict), Some(MutualTls::Permissive));
    for (a, b) in [("a", "b"), ("b", "a")] {
        let both = |strict_since, permissive_since| {
            let strict = namespace(a, strict_since, strict);
            plaintext(vec![strict, namespace(b, permissive_since, permissive)], 8080)
        };
        assert_eq!(both(2, 1), Ok(Requests::AreCovered), "the older one is permissive");
        assert_eq!(both(1, 2), refused, "the older one is strict");
        assert_eq!(both(1, 1), refused, "both are as old");
        assert_eq!(both(0, 0), refused, "no age is known");
        assert_eq!(both(0, 1), refused, "one age is not known");
        assert_eq!(both(1, 0), refused, "the other is not known");
        let mesh = peer_authentication("mesh", Scope::Mesh, strict);
        let inherits = vec![mesh, namespace(a, 0, None), namespace(b, 0, permissive)];
        assert_eq!(plaintext(inherits, 8080), refused, "what is inherited may be strict");
    }
}

#[test]
fn of_two_that_nothing_ranks_the_stricter_mode_of_each_port_holds() {
    let workload = |name: &str, mode, port: Option<MutualTls>| PeerAuthentication {
        ports: port.map(|mode| (8080, Some(mode))).into_iter().collect(),
        ..peer_authentication(name, selecting_api(), Some(mode))
    };
    let (strict, permissive) = (MutualTls::Strict, MutualTls::Permissive);
    let (refused, passed) = (Err(DenialReason::PlaintextUnderStrict), Ok(Requests::AreCovered));
    let both = |port| {
        let a = workload("a", strict, Some(permissive));
        plaintext(vec![a, workload("b", permissive, Some(strict))], port)
    };
    assert_eq!((both(8080), both(9090)), (refused, refused));
    let open = |other| plaintext(vec![workload("a", strict, Some(permissive)), other], 8080);
    assert_eq!(open(workload("b", strict, None)), refused);
    assert_eq!(open(workload("b", permissive, None)), passed);
    assert_eq!(open(workload("b", permissive, Some(permissive))), passed);
}
