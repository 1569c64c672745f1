//! RELIABILITY 2.1: what is ambiguous is refused, the connection is closed, and the application sees nothing extra.
//!
//! After each input comes a request for `/second` on the same connection. It must never be answered, because after a
//! doubt about framing nobody knows where it begins; and the application must not see a byte of either.

use mesh_test_e2e::framing::INPUTS;
use mesh_test_e2e::{HTTP, at, pair};
use mesh_test_harness::servers::Kind;

#[test]
fn ambiguous_framing_is_refused_and_the_application_sees_nothing() {
    pair().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        for (name, input) in INPUTS {
            let seen = mesh
                .pod("client")
                .http_bytes(at(80), [input, b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n"].concat())?;
            let statuses: Vec<&str> =
                seen.received.split("HTTP/1.1 ").skip(1).map(|text| &text[..3]).collect();
            assert!(statuses.len() <= 1, "{name}: answered {statuses:?}");
            assert!(
                statuses.first().is_none_or(|status| status.starts_with('4') || status.starts_with('5')),
                "{name}: {seen:?}"
            );
            assert_ne!(seen.ended, "timeout", "{name}: the connection is closed");
        }
        let seen = server.events("request");
        let leaked: Vec<_> = seen.iter().map(|event| event["path"].clone()).collect();
        assert!(seen.is_empty(), "the application saw {leaked:?}");
        Ok(())
    });
}

#[test]
fn an_absolute_target_decides_the_host() {
    pair().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        mesh.pod("client").http_bytes(at(80), "GET http://b.example/x HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let head = server.events("request")[0]["head"].as_str().unwrap_or_default().to_ascii_lowercase();
        assert!(head.contains("host: b.example\r\n"), "{head}");
        assert!(!head.contains("host: a\r\n"), "{head}");
        Ok(())
    });
}

#[test]
fn an_upgrade_to_h2c_is_never_relayed() {
    pair().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                       HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
        mesh.pod("client").http_bytes(at(80), request)?;
        let bytes = server.bytes_seen().to_ascii_lowercase();
        assert!(!bytes.contains("h2c") && !bytes.contains("http2-settings"), "{bytes}");
        Ok(())
    });
}

#[test]
fn fields_named_by_connection_stay_on_their_hop() {
    pair().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-End: 2\r\n\r\n";
        mesh.pod("client").http_bytes(at(80), request)?;
        let bytes = server.bytes_seen().to_ascii_lowercase();
        assert!(bytes.contains("x-end: 2\r\n"), "{bytes}");
        assert!(!bytes.contains("x-hop: 1") && !bytes.contains("keep-alive: timeout"), "{bytes}");
        Ok(())
    });
}
