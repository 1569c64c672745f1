//! Two Envoys that do what two agents do: mutual TLS between them with SPIFFE names checked, RBAC at the second.
//!
//! Applications dial the first Envoy's listener, so that no redirection is counted against it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};

/// What the Envoys look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// `tcp_proxy`.
    Tcp,
    /// HTTP connection managers, with HTTP/2 between the two.
    Http,
    /// The same with HTTP/2 to the application too.
    Grpc,
}

/// Where the two listen and where the second leads.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Listener of the first, in the client's namespace.
    pub client_side: SocketAddr,
    /// Listener of the second, in the server's namespace.
    pub server_side: SocketAddr,
    /// The application.
    pub application: SocketAddr,
}

/// Identity of the client side in certificates and rules.
const CLIENT: &str = "spiffe://cluster.local/ns/bench/sa/client";
/// Identity of the server side.
const SERVER: &str = "spiffe://cluster.local/ns/bench/sa/server";

/// Writes certificates and both configurations into `folder` and returns the paths of the configurations.
///
/// # Errors
/// If a certificate cannot be made or a file not be written.
pub fn write(folder: &Path, level: Level, addresses: Addresses) -> anyhow::Result<(PathBuf, PathBuf)> {
    certificates(folder)?;
    let client = folder.join("client.json");
    let server = folder.join("server.json");
    let upstream =
        cluster(addresses.server_side, level != Level::Tcp, Some(tls(folder, "client", SERVER, level)));
    let outbound = listener(addresses.client_side, filters(level, None), None);
    fs::write(&client, bootstrap(outbound, upstream).to_string()).context("write Envoy's configuration")?;
    let application = cluster(addresses.application, level == Level::Grpc, None);
    let inbound = listener(
        addresses.server_side,
        filters(level, Some(CLIENT)),
        Some(tls(folder, "server", CLIENT, level)),
    );
    fs::write(&server, bootstrap(inbound, application).to_string()).context("write Envoy's configuration")?;
    Ok((client, server))
}

fn bootstrap(listener: Value, cluster: Value) -> Value {
    json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn listener(at: SocketAddr, filters: Vec<Value>, tls: Option<Value>) -> Value {
    let mut chain = json!({"filters": filters});
    if let Some(tls) = tls {
        let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
        chain["transport_socket"] = transport_socket(kind, &tls, json!({"require_client_certificate": true}));
    }
    json!({"name": "in", "address": address(at), "filter_chains": [chain]})
}

fn cluster(to: SocketAddr, http2: bool, tls: Option<Value>) -> Value {
    let endpoint = json!({"endpoint": {"address": address(to)}});
    let mut cluster = json!({
        "name": "out", "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}]},
        "load_assignment": {"cluster_name": "out", "endpoints": [{"lb_endpoints": [endpoint]}]}
    });
    if http2 {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}
            }
        });
    }
    if let Some(tls) = tls {
        let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        cluster["transport_socket"] = transport_socket(kind, &tls, json!({}));
    }
    cluster
}

fn transport_socket(kind: &str, tls: &Value, more: Value) -> Value {
    let mut config = json!({"@type": kind, "common_tls_context": tls});
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    json!({"name": "envoy.transport_sockets.tls", "typed_config": config})
}

fn tls(folder: &Path, own: &str, peer: &str, level: Level) -> Value {
    let file = |name: String| json!({"filename": folder.join(name).display().to_string()});
    let alpn = if level == Level::Tcp { json!([]) } else { json!(["h2"]) };
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": alpn,
        "tls_certificates": [{
            "certificate_chain": file(format!("{own}.pem")),
            "private_key": file(format!("{own}.key"))
        }],
        "validation_context": {
            "trusted_ca": file("ca.pem".to_owned()),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}]
        }
    })
}

fn filters(level: Level, allowed: Option<&str>) -> Vec<Value> {
    if level == Level::Tcp {
        let proxy = json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp", "cluster": "out", "access_log": [access_log()]}});
        let kind = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
        let rbac = allowed.map(|principal| {
            json!({"name": "envoy.filters.network.rbac", "typed_config": {
                "@type": kind, "stat_prefix": "rbac", "rules": rules(principal)}})
        });
        return rbac.into_iter().chain([proxy]).collect();
    }
    let kind = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
    let rbac = allowed.map(|principal| {
        json!({"name": "envoy.filters.http.rbac", "typed_config": {"@type": kind, "rules": rules(principal)}})
    });
    let router = json!({"name": "envoy.filters.http.router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
    vec![json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http", "codec_type": "AUTO", "access_log": [access_log()],
        "http_filters": rbac.into_iter().chain([router]).collect::<Vec<_>>(),
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "out", "timeout": "0s"}}]}]}
    }})]
}

fn access_log() -> Value {
    json!({"name": "envoy.access_loggers.file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": "/dev/null"}})
}

fn rules(principal: &str) -> Value {
    json!({"action": "ALLOW", "policies": {"bench": {
        "permissions": [{"any": true}],
        "principals": [{"authenticated": {"principal_name": {"exact": principal}}}]}}})
}

fn certificates(folder: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "bench");
    let root = params.self_signed(&key)?;
    fs::write(folder.join("ca.pem"), root.pem())?;
    let issuer = Issuer::new(params, key);
    for (name, identity) in [("client", CLIENT), ("server", SERVER)] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
        let certificate = params.signed_by(&key, &issuer)?;
        fs::write(folder.join(format!("{name}.pem")), certificate.pem())?;
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_two_configurations() {
        let any = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses =
            Addresses { client_side: any(15001), server_side: any(15006), application: any(8080) };
        for level in [Level::Tcp, Level::Http, Level::Grpc] {
            let folder = tempfile::tempdir().unwrap();
            let (client, server) = write(folder.path(), level, addresses).unwrap();
            for file in [client, server] {
                let read: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
                assert_eq!(read["static_resources"]["listeners"].as_array().unwrap().len(), 1);
            }
        }
    }
}
