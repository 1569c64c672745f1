//! Who may open a connection: decided at the destination, on the identity in the certificate.

use anyhow::Result;
use mesh_test_e2e::{ECHO, UNDECLARED, at, dry_run, dry_run_is_reported, from_account, pair, policy};
use mesh_test_harness::clients::Dialled;
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::servers::Kind;
use mesh_test_harness::{PLAINTEXT_MARKER, eventually};

/// What one service account gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Echo,
    Refused,
}
use Answer::{Echo, Refused};

#[test]
fn without_a_policy_everybody_may() {
    check(pair(), Echo, Echo);
}

#[test]
fn an_allow_makes_its_default_deny() {
    check(pair().objects("policy", &policy("readers", "ALLOW", &from_account("client"))), Echo, Refused);
}

#[test]
fn deny_wins_over_allow() {
    let both = format!(
        "{}---\n{}",
        policy("everybody", "ALLOW", "- {}\n"),
        policy("not-other", "DENY", &from_account("other"))
    );
    check(pair().objects("policy", &both), Echo, Refused);
}

#[test]
fn an_allow_without_rules_permits_nothing() {
    check(pair().objects("policy", &policy("nothing", "ALLOW", "")), Refused, Refused);
}

#[test]
fn an_audit_refuses_nothing() {
    check(pair().objects("policy", &policy("watch", "AUDIT", &from_account("client"))), Echo, Echo);
}

#[test]
fn a_dry_run_says_what_it_would_refuse() {
    pair().objects("policy", &dry_run()).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO))?;
        dry_run_is_reported(mesh, "tcp")
    });
}

#[test]
fn a_rule_on_a_port_is_about_that_port() {
    let rules = format!("- to:\n    - operation:\n        ports: [\"{UNDECLARED}\"]\n");
    check(pair().objects("policy", &policy("port", "ALLOW", &rules)), Refused, Refused);
    let rules = format!("- to:\n    - operation:\n        ports: [\"{ECHO}\"]\n");
    check(pair().objects("policy", &policy("port", "ALLOW", &rules)), Echo, Echo);
}

#[test]
fn address_blocks_match_the_source_pod() {
    let rules = "- from:\n    - source:\n        ipBlocks: [10.77.1.10/32, \"fd77:1::a/128\"]\n";
    check(pair().objects("policy", &policy("block", "DENY", rules)), Refused, Echo);
}

#[test]
fn a_policy_of_the_root_namespace_is_about_everybody() {
    let root = policy("nobody", "DENY", "- {}\n")
        .replace("namespace: shop", "namespace: nodemesh-system")
        .replace("  selector:\n    matchLabels:\n      app: server\n", "");
    check(pair().objects("policy", &root), Refused, Refused);
}

#[test]
fn a_policy_that_cannot_be_understood_denies_what_it_might_have_denied() {
    let rules = "- from:\n    - source:\n        ipBlocks: [not-an-address]\n";
    check(pair().objects("policy", &policy("broken", "DENY", rules)), Refused, Refused);
}

#[test]
fn an_l7_rule_on_a_port_that_speaks_no_http_fails_closed() {
    let allow = "- to:\n    - operation:\n        methods: [GET]\n";
    check(pair().objects("policy", &policy("get", "ALLOW", allow)), Refused, Refused);
    let deny = "- to:\n    - operation:\n        methods: [DELETE]\n";
    check(pair().objects("policy", &policy("delete", "DENY", deny)), Refused, Refused);
}

#[test]
fn a_denial_names_its_policy_in_log_and_metric() {
    pair().objects("policy", &policy("not-other", "DENY", &from_account("other"))).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        assert_eq!(answer(mesh, "other")?, Refused);
        let record = mesh.b().record("the denial", |record| {
            record["direction"] == "inbound"
                && record["src.identity"] == "spiffe://cluster.local/ns/shop/sa/other"
        })?;
        assert!(record["policy"].as_str().is_some_and(|name| name.contains("shop/not-other")), "{record}");
        mesh.b()
            .metric("nodemesh_proxy_refusals_total", &[("reason", "rule_denies")], |count| count >= 1.0)?;
        Ok(())
    });
}

/// What `client` and `other` get, by Service address and by pod address alike.
fn check(scenario: Scenario, client: Answer, other: Answer) {
    scenario.run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        for (pod, wanted) in [("client", client), ("other", other)] {
            assert_eq!(answer(mesh, pod)?, wanted, "for {pod}");
        }
        Ok(())
    });
}

fn answer(mesh: &Mesh, pod: &str) -> Result<Answer> {
    let mut answers = Vec::new();
    for to in [at(ECHO), mesh.pod("server").at(ECHO), mesh.pod("server").at_v6(ECHO)] {
        let dial = mesh.pod(pod).dial(to).timeout(eventually::PATIENCE);
        let dialled = dial.send(PLAINTEXT_MARKER).until_bytes(PLAINTEXT_MARKER.len()).run()?;
        answers.push(match &dialled {
            Dialled::Connected(connected) if connected.received == PLAINTEXT_MARKER => Echo,
            _ if dialled.refusal() == Some("reset") => Refused,
            _ => anyhow::bail!("{pod} got {dialled:?} from {to}"),
        });
    }
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{pod}: by Service, pod IPv4, pod IPv6: {answers:?}"
    );
    Ok(answers[0])
}
