//! What a handshake of the mesh settles on, and what it never does.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::{CipherSuite, ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection};
use rustls_pki_types::ServerName;

use super::rig::*;
use crate::identity::*;

/// Two nodes of one trust folder: `web` on the first, `api` on the second.
fn two_nodes() -> (Rig, Identities) {
    let rig = Rig::start();
    let (other, _, _) = node(&rig.folder, Duration::from_secs(86_400), rig.clock.clone());
    wait(other.ensure(&id("api"))).unwrap();
    (rig, other)
}

#[test]
fn two_agents_of_one_trust_folder_speak() {
    let (web, api) = two_nodes();
    let client = web.identities.client(&id("web"), &id("api"), Alpn::Mux1).unwrap();
    let server = api.server(&id("api"), Alpn::Mux1).unwrap();

    let ended = handshake(client, server);

    assert_eq!((ended.client, ended.server), (Ok(()), Ok(())));
    let seen = web.identities.peer(ended.client_side.peer_certificates()).unwrap();
    assert_eq!((seen.identity, seen.not_after), (id("api"), NOW + 86_400));
    assert_eq!(api.peer(ended.server_side.peer_certificates()).unwrap().identity, id("web"));
    assert_eq!(ended.server_side.server_name(), Some("api.shop.svc.cluster.local"));
}

#[test]
fn the_best_common_parameters_are_hybrid_and_aes_128() {
    let (web, api) = two_nodes();
    for alpn in Alpn::ALL {
        let client = web.identities.client(&id("web"), &id("api"), alpn).unwrap();
        let ended = handshake(client, api.server(&id("api"), alpn).unwrap());
        for connection in [&*ended.client_side as &rustls::CommonState, &ended.server_side] {
            assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            let suite = connection.negotiated_cipher_suite().unwrap().suite();
            assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
            let group = connection.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, NamedGroup::X25519MLKEM768);
            assert_eq!(connection.alpn_protocol(), Some(alpn.as_bytes()));
        }
    }
}

#[test]
fn a_peer_without_the_hybrid_group_gets_x25519() {
    let (web, api) = two_nodes();
    let mut provider = default_provider();
    provider.kx_groups = vec![kx_group::X25519];
    let mut client = lying_client(&web.root().leaf(&svid(), &[])).as_ref().clone();
    client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(credulous())
        .with_client_cert_resolver(client.client_auth_cert_resolver);
    client.alpn_protocols = vec![Alpn::Mux1.as_bytes().to_vec()];

    let ended = handshake(Arc::new(client), api.server(&id("api"), Alpn::Mux1).unwrap());

    assert_eq!((ended.client, ended.server), (Ok(()), Ok(())));
    let group = ended.server_side.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519);
}

#[test]
fn tls_1_2_is_not_spoken() {
    let (_web, api) = two_nodes();
    let mut server = ServerConnection::new(api.server(&id("api"), Alpn::Mux1).unwrap()).unwrap();
    let hello = client_hello_1_2();
    server.read_tls(&mut hello.as_slice()).unwrap();
    let error = server.process_new_packets().unwrap_err();
    assert_eq!(HandshakeFailure::of(&error), HandshakeFailure::Incompatible, "{error}");
}

/// What a TLS 1.2 client begins with (RFC 5246 section 7.4.1.2): no supported_versions.
fn client_hello_1_2() -> Vec<u8> {
    let extensions: &[&[u8]] = &[
        // supported_groups: x25519, secp256r1; signature_algorithms: ecdsa_secp256r1_sha256.
        &[0, 10, 0, 6, 0, 4, 0, 29, 0, 23],
        &[0, 13, 0, 4, 0, 2, 4, 3],
    ];
    let extensions = extensions.concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session; TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256; no compression.
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let length = u16::try_from(body.len()).unwrap();
    let mut record = vec![22, 3, 1];
    record.extend((length + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend(length.to_be_bytes());
    record.extend(body);
    record
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let (_web, api) = two_nodes();
    let mut client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(credulous())
        .with_no_client_auth();
    client.alpn_protocols = vec![Alpn::Mux1.as_bytes().to_vec()];
    let ended = handshake(Arc::new(client), api.server(&id("api"), Alpn::Mux1).unwrap());
    assert_eq!(ended.server, Err(HandshakeFailure::PeerRefused(Reason::NoCertificate)));
}

#[test]
fn a_server_of_another_identity_is_refused_by_the_client() {
    let (web, api) = two_nodes();
    let client = web.identities.client(&id("web"), &id("billing"), Alpn::Mux1).unwrap();

    let ended = handshake(client, api.server(&id("api"), Alpn::Mux1).unwrap());

    assert_eq!(ended.client, Err(HandshakeFailure::PeerRefused(Reason::OtherIdentity)));
    assert_eq!(ended.server, Err(HandshakeFailure::RefusedByPeer));
    assert_eq!(web.metrics.refusals(Reason::OtherIdentity), 1);
}

#[test]
fn tunnels_and_http_2_do_not_meet() {
    let (web, api) = two_nodes();
    let client = web.identities.client(&id("web"), &id("api"), Alpn::H2).unwrap();
    let ended = handshake(client, api.server(&id("api"), Alpn::Mux1).unwrap());
    assert_eq!(ended.server, Err(HandshakeFailure::Incompatible));
}

#[test]
fn nothing_is_resumed() {
    let (web, api) = two_nodes();
    let client = web.identities.client(&id("web"), &id("api"), Alpn::Mux1).unwrap();
    let server = api.server(&id("api"), Alpn::Mux1).unwrap();
    for _ in 0..3 {
        let ended = handshake(client.clone(), server.clone());
        assert_eq!(ended.client_side.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(ended.client_side.tls13_tickets_received(), 0);
    }
}

#[test]
fn a_server_name_is_the_service_or_nothing() {
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));
    let service = "api.shop.svc.cluster.local";
    assert_eq!(server_name(Some(service), address), ServerName::try_from(service).unwrap());
    for name in [None, Some("not a name"), Some("")] {
        assert_eq!(server_name(name, address), ServerName::IpAddress(address.into()));
    }

    let (web, api) = two_nodes();
    let client = web.identities.client(&id("web"), &id("api"), Alpn::Mux1).unwrap();
    let server = api.server(&id("api"), Alpn::Mux1).unwrap();
    let ended = handshake_as(client, server, server_name(None, address));
    assert_eq!((ended.client, ended.server), (Ok(()), Ok(())));
    assert_eq!(ended.server_side.server_name(), None);
}

#[test]
fn an_identity_that_was_never_ensured_or_was_forgotten_is_unavailable() {
    let (web, _api) = two_nodes();
    let unavailable = |name| Unavailable { identity: id(name) };
    let client = |local| web.identities.client(&id(local), &id("api"), Alpn::Mux1).map(drop);
    assert_eq!(client("nobody"), Err(unavailable("nobody")));
    assert_eq!(client("web"), Ok(()));

    web.identities.forget(&id("web"));

    assert_eq!(client("web"), Err(unavailable("web")));
    assert_eq!(web.identities.server(&id("web"), Alpn::H2).map(drop), Err(unavailable("web")));
    assert_eq!(web.identities.certificates(), []);
}
