//! RELIABILITY 2.1: what is ambiguous is refused, the connection is closed, and the application sees nothing extra.
//!
//! After each input comes a request for `/second` on the same connection. It must never be answered, because after a
//! doubt about framing nobody knows where it begins; and the application must not see a byte of either.

use mesh_test_e2e::{HTTP, at, pair};
use mesh_test_harness::servers::Kind;

/// What each input is, and its bytes.
const INPUTS: [(&str, &[u8]); 43] = [
    ("CL.TE", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"),
    ("TE.CL", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG"),
    ("chunked twice", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("empty coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n"),
    ("gzip, chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("xchunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked, identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("1.0 with TE", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("folded", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n"),
    ("folded TE", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("bare LF", b"GET / HTTP/1.1\nHost: a\n\n"),
    ("bare LF in the middle", b"GET / HTTP/1.1\r\nHost: a\r\nUseless:\n\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("bare CR", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n"),
    ("chunk size LF", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;\nxx\r\n0\r\n\r\n"),
    ("chunk size letter", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nZ\r\n0\r\n\r\n"),
    ("chunk size 0x1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nZ\r\n0\r\n\r\n"),
    ("chunk size +1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\nZ\r\n0\r\n\r\n"),
    ("chunk size 1_0", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1_0\r\nZ\r\n0\r\n\r\n"),
    ("chunk size space", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 1\r\nZ\r\n0\r\n\r\n"),
    ("chunk size huge", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nZ\r\n0\r\n\r\n"),
    ("CL +5", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello"),
    ("CL 5, 5", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ("CL empty", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\nhello"),
    ("CL -1", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nhello"),
    ("CL twice", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    ("CL huge", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nhello"),
    ("space before colon", b"GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n"),
    ("TE space before colon", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("empty name", b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n"),
    ("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
    ("0x85 in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\x85: 1\r\n\r\n"),
    ("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("no host", b"GET / HTTP/1.1\r\nX: 1\r\n\r\n"),
    ("target *", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("target !", b"GET ! HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("space in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no version", b"GET /\r\nHost: a\r\n\r\n"),
    ("version 1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    ("version 2.0", b"PRI * HTTP/2.0\r\nHost: a\r\n\r\n"),
    ("line before", b"\r\n\r\n\r\nX\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no name", b"GET / HTTP/1.1\r\nHost: a\r\njust text\r\n\r\n"),
    ("CONNECT", b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n\r\n"),
];

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
