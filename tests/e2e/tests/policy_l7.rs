//! What may be asked: decided per request at the destination, on what is forwarded.

use anyhow::Result;
use mesh_test_e2e::{
    HTTP, SERVER, UNDECLARED, at, dry_run, dry_run_is_reported, from_account, pair, policy, request, server,
    service, unreadable_is_told,
};
use mesh_test_harness::clients::Dialled;
use mesh_test_harness::eventually::{PATIENCE, eventually};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::servers::{Kind, Server};

/// What an application may take for `/admin`: none may pass a DENY on it.
const SPELLINGS: &str = include_str!("../../../mesh-common/testdata/spellings_of_admin.txt");

#[test]
fn methods_are_told_apart() {
    let rules = "- to:\n    - operation:\n        methods: [GET, HEAD]\n";
    with_server(pair().objects("policy", &policy("readers", "ALLOW", rules)), |mesh, server| {
        assert_eq!(status(mesh, "GET /")?, 200);
        for method in ["POST /", "DELETE /", "OPTIONS /", "get /", "GETX /"] {
            assert_ne!(status(mesh, method)?, 200, "{method}");
        }
        assert_eq!(server.events("request").len(), 1, "the server saw the GET alone");
        Ok(())
    });
}

#[test]
fn a_denial_is_a_403_with_the_words_that_people_know() {
    let rules = "- to:\n    - operation:\n        methods: [DELETE]\n";
    with_server(pair().objects("policy", &policy("no-delete", "DENY", rules)), |mesh, _| {
        let response = mesh.pod("client").curl("http://10.96.0.10/", &["-X", "DELETE"])?;
        assert_eq!((response.status, response.body.as_str()), (403, "RBAC: access denied"));
        let record = mesh.b().record("the denial", |record| record["policy"].is_string())?;
        assert!(record["policy"].as_str().is_some_and(|name| name.contains("shop/no-delete")), "{record}");
        for node in ["node-a", "node-b"] {
            let record = mesh.node(node).record("the answer", |record| record["http.status"] == 403)?;
            assert_eq!(record["bytes_sent"], response.body.len(), "{node}: {record}");
        }
        Ok(())
    });
}

#[test]
fn a_dry_run_says_what_it_would_refuse() {
    with_server(pair().objects("policy", &dry_run()), |mesh, _| {
        assert_eq!(status(mesh, "GET /")?, 200);
        dry_run_is_reported(mesh, "http/1.1")
    });
}

#[test]
fn no_spelling_of_a_denied_path_gets_through() {
    let rules = "- to:\n    - operation:\n        paths: [/admin]\n";
    with_server(pair().objects("policy", &policy("no-admin", "DENY", rules)), |mesh, server| {
        assert_eq!(status(mesh, "GET /administrators")?, 200);
        for path in SPELLINGS.lines() {
            let elsewhere = path.starts_with('/').then(|| format!("http://server.shop{path}"));
            for target in [path.to_owned(), format!("{path}?x=1")].into_iter().chain(elsewhere) {
                let status = status(mesh, &format!("GET {target}"))?;
                assert!(matches!(status, 400 | 403), "{target} gave {status}");
            }
        }
        assert_eq!(server.events("request").len(), 1, "the server saw no other request");
        assert_eq!(status(mesh, "GET /%zz?secret=1")?, 400);
        unreadable_is_told(mesh, "/%zz")
    });
}

#[test]
fn no_spelling_of_a_denied_address_gets_through() {
    let rules = "- to:\n    - operation:\n        hosts: [\"[FD00:0::1]\", 10.0.0.1, web.shop.]\n";
    with_server(pair().objects("policy", &policy("no-address", "DENY", rules)), |mesh, server| {
        let ask = |host: &str| answer(mesh, &request("GET /", "").replace("server.shop", host));
        assert_eq!(ask("[fd00::2]")?, 200);
        for host in
            ["[fd00::1]", "[fd00:0:0::1]:8080", "10.0.0.1", "[::ffff:a00:1]", "web.shop", "WEB.shop.:80"]
        {
            assert_eq!(ask(host)?, 403, "{host}");
        }
        assert_eq!(server.events("request").len(), 1, "the server saw no other request");
        Ok(())
    });
}

#[test]
fn a_path_is_forwarded_as_it_was_matched() {
    let rules = "- to:\n    - operation:\n        paths: [/public/*]\n";
    with_server(pair().objects("policy", &policy("public", "ALLOW", rules)), |mesh, server| {
        assert_eq!(status(mesh, "GET /private/../public//a?b=/../c")?, 200);
        assert_eq!(server.event("request", 1, PATIENCE)?["path"], "/public/a?b=/../c");
        assert_eq!(status(mesh, "GET /public/../private")?, 403);
        Ok(())
    });
}

#[test]
fn each_value_of_a_repeated_header_counts() {
    let rules = "- when:\n    - key: request.headers[x-role]\n      values: [admin]\n";
    with_server(pair().objects("policy", &policy("no-admins", "DENY", rules)), |mesh, _| {
        let ask = |fields: &str| answer(mesh, &request("GET /", fields));
        assert_eq!(ask("x-role: user\r\n")?, 200);
        assert_eq!(ask("x-role: admin\r\n")?, 403);
        assert_eq!(ask("x-role: user\r\nx-role: admin\r\n")?, 403);
        assert_eq!(ask("X-Role: admin\r\nx-role: user\r\n")?, 403);
        assert_eq!(ask("x-role: user,admin\r\n")?, 403);
        Ok(())
    });
}

#[test]
fn an_identity_and_a_method_are_joined() {
    let rules = format!("{}  to:\n    - operation:\n        methods: [POST]\n", from_account("other"));
    with_server(pair().objects("policy", &policy("writers", "ALLOW", &rules)), |mesh, _| {
        for (pod, method, wanted) in
            [("other", "POST", 200), ("other", "GET", 403), ("client", "POST", 403), ("client", "GET", 403)]
        {
            let response = mesh.pod(pod).curl("http://10.96.0.10/", &["-X", method])?;
            assert_eq!(response.status, wanted, "{pod} {method}");
        }
        Ok(())
    });
}

#[test]
fn dialling_the_pod_does_not_dodge_a_rule() {
    let rules = "- to:\n    - operation:\n        methods: [GET]\n";
    with_server(pair().objects("policy", &policy("readers", "ALLOW", rules)), |mesh, _| {
        for url in [
            format!("http://{}/", mesh.pod("server").at(HTTP)),
            format!("http://{}/", mesh.pod("server").at_v6(HTTP)),
        ] {
            assert_eq!(mesh.pod("client").curl(&url, &[])?.status, 200, "{url}");
            assert_eq!(mesh.pod("client").curl(&url, &["-X", "PUT"])?.status, 403, "{url}");
        }
        Ok(())
    });
}

#[test]
fn a_second_request_of_one_connection_is_judged_on_its_own() {
    let rules = "- to:\n    - operation:\n        paths: [/open]\n";
    with_server(pair().objects("policy", &policy("open", "ALLOW", rules)), |mesh, server| {
        let both = format!("{}{}", request("GET /open", ""), request("GET /closed", ""));
        let seen = mesh.pod("client").http_bytes(at(80), both)?.received;
        let statuses: Vec<&str> = seen.split("HTTP/1.1 ").skip(1).map(|text| &text[..3]).collect();
        assert_eq!(statuses, ["200", "403"]);
        assert_eq!(server.events("request").len(), 1);
        Ok(())
    });
}

#[test]
fn on_an_undeclared_port_a_pod_of_the_same_node_is_judged_by_its_requests_too() {
    let a = vec![PodSpec::new("client"), server("server")];
    let rules = "- to:\n    - operation:\n        paths: [/admin]\n";
    let scenario = Scenario::new(a, vec![PodSpec::new("far")]).service(service());
    scenario.objects("policy", &policy("no-admin", "DENY", rules)).run(|mesh| {
        let _server = mesh.pod("server").serve(Kind::Http, UNDECLARED)?;
        let to = mesh.pod("server").at(UNDECLARED);
        for pod in ["client", "far"] {
            for (path, wanted) in [("open", 200), ("admin", 403)] {
                let response = mesh.pod(pod).curl(&format!("http://{to}/{path}"), &[])?;
                assert_eq!(response.status, wanted, "{pod} /{path}: {response:?}");
            }
            let seen = mesh.pod(pod).http_bytes(to, "this is no HTTP\r\n\r\n")?;
            assert!(!seen.received.contains(" 200 "), "{pod}: {seen:?}");
        }
        Ok(())
    });
}

#[test]
fn an_open_connection_of_bytes_does_not_outlive_a_new_rule_about_requests() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, UNDECLARED)?;
        let to = mesh.pod("server").at(UNDECLARED);
        let (held, kept) = (mesh.pod("other").hold(to)?, mesh.pod("client").hold(to)?);
        let rules = format!("{}  to:\n    - operation:\n        paths: [/admin]\n", from_account("other"));
        mesh.config().write("policy", &policy("no-admin", "DENY", &rules))?;
        let (how, _) = eventually("what may carry a denied request is closed", PATIENCE, || held.broken())?;
        assert_eq!(how, "reset");
        let record = mesh.b().record("the end", |record| record["reason"] == "no_longer_permitted")?;
        assert_eq!(record["policy"], "AuthorizationPolicy shop/no-admin rules[0]", "{record}");
        assert_eq!(record["verdict"], "denied", "{record}");
        kept.finish()?;
        Ok(())
    });
}

#[test]
fn a_request_that_an_edit_cuts_off_names_the_policy_that_did() {
    with_server(pair(), |mesh, server| {
        let slow = mesh.pod("client").dial(at(80)).send(request("GET /delay/20000", "")).until_bytes(12);
        let slow = slow.timeout(PATIENCE).start()?;
        eventually("the request is at the server", PATIENCE, || server.events("request").pop())?;
        let rules = "- to:\n    - operation:\n        paths: [/delay/*]\n";
        mesh.config().write("policy", &policy("no-delay", "DENY", rules))?;
        let record = mesh.b().record("the cut", |record| record["reason"] == "no_longer_permitted")?;
        assert_eq!(record["http.path"], "/delay/20000", "{record}");
        assert_eq!(record["policy"], "AuthorizationPolicy shop/no-delay rules[0]", "{record}");
        assert_eq!(record["verdict"], "denied", "{record}");
        let Dialled::Connected(seen) = slow.finish()? else { panic!("the connection was open") };
        assert!(seen.received.starts_with("HTTP/1.1 403 "), "{seen:?}");
        Ok(())
    });
}

#[test]
fn bytes_that_fall_back_on_a_pod_that_asks_about_requests_are_refused_with_the_reason() {
    let near = PodSpec::new("near").label("app", "server").label("judged", "by-requests");
    let far = PodSpec::new("far").label("app", "server");
    let what = ServiceSpec::new("server", &[SERVER.into()]).port("what", UNDECLARED, UNDECLARED);
    let rules = "- to:\n    - operation:\n        paths: [/admin]\n";
    let scenario = Scenario::new(vec![PodSpec::new("client"), near], vec![far]).service(what);
    let judged = policy("no-admin", "DENY", rules).replace("app: server", "judged: by-requests");
    scenario.objects("policy", &judged).run(|mesh| {
        // Nobody listens in `far`: who begins there, as a stream of bytes, goes on to `near`.
        let server = mesh.pod("near").serve(Kind::Http, UNDECLARED)?;
        let record = eventually("one that began with the far pod", PATIENCE, || {
            mesh.pod("client").http_bytes(at(UNDECLARED), request("GET /open", "")).ok()?;
            let records = mesh.node("node-a").records().into_iter();
            records.rev().find(|record| record["reason"] == "request_rules_need_http")
        })?;
        assert_eq!(record["verdict"], "denied", "{record}");
        assert_eq!(record["dst.workload"], "shop/near", "{record}");
        let whole = mesh.node("node-a").records().into_iter().filter(|record| record["http.status"] == 200);
        assert!(server.events("request").len() <= whole.count(), "what was refused is not seen");
        Ok(())
    });
}

fn with_server(scenario: Scenario, test: impl FnOnce(&mut Mesh, &Server) -> Result<()>) {
    scenario.run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        test(mesh, &server)
    });
}

/// The status of one request; 0 without a response.
fn status(mesh: &Mesh, line: &str) -> Result<u16> {
    answer(mesh, &request(line, ""))
}

fn answer(mesh: &Mesh, request: &str) -> Result<u16> {
    let seen = mesh.pod("client").dial(at(80)).flags(&["--until", "\r\n\r\n"]).send(request).connected()?;
    Ok(seen.received.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0))
}
