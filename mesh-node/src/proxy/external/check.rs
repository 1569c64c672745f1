//! PURE. What an authorization server is shown of a request, as Envoy shows it.
//!
//! In: what is known of the connection and the request, and the beginning of its body. Out: a CheckRequest of
//! `envoy.service.auth.v3`, or the head of a request of HTTP.

use std::collections::HashMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use mesh_common::http1::is_framing;
use mesh_common::model::policy::Pattern;
use mesh_common::model::{ConnectionFacts, HttpCheck, IncludedBody, Protocol, RequestFacts, SpiffeId};

use crate::transport::http1::AskedBody;

/// Whether a body was shown in part (Envoy).
const PARTIAL: &str = "x-envoy-auth-partial-body";
/// Fields of a request that a server asked over HTTP is shown besides those that its configuration names (Istio).
const ALWAYS: [&str; 1] = ["authorization"];

/// A request to be asked about, with what is known of its connection.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Asked {
    client: SocketAddr,
    caller: Option<SpiffeId>,
    destination: SocketAddr,
    called: SpiffeId,
    protocol: &'static str,
    method: String,
    host: String,
    /// With the query.
    target: String,
    /// Names in lower case; Host is not among them.
    headers: Vec<(String, Vec<u8>)>,
}

impl Asked {
    pub(in crate::proxy) fn of(
        facts: &ConnectionFacts,
        spoken: Protocol,
        request: &RequestFacts<'_>,
    ) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut target = request.path.as_str().to_owned();
        if let Some(query) = request.query {
            target.push('?');
            target.push_str(&text(query));
        }
        let headers =
            request.headers.iter().map(|(name, value)| (text(name).to_ascii_lowercase(), value.to_vec()));
        Self {
            client: facts.client,
            caller: facts.peer.verified().cloned(),
            destination: facts.original_dst,
            called: facts.local.identity.clone(),
            protocol: if spoken.is_http2() { "HTTP/2" } else { "HTTP/1.1" },
            method: text(request.method),
            host: text(request.host),
            target,
            headers: headers.filter(|(name, _)| name != "host").collect(),
        }
    }

    pub(super) fn method(&self) -> &str {
        &self.method
    }

    /// `x-request-id`.
    pub(super) fn request_id(&self) -> Option<String> {
        let (_, id) = self.headers.iter().find(|(name, _)| name == "x-request-id")?;
        String::from_utf8(id.clone()).ok()
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The target of a check over HTTP.
    pub(super) fn target(&self, check: &HttpCheck) -> String {
        format!("{}{}", check.path_prefix, self.target)
    }

    /// The fields of a check over HTTP.
    pub(super) fn headers(&self, check: &HttpCheck, body: Option<&AskedBody>) -> Vec<(String, Vec<u8>)> {
        let is_shown = |name: &str| ALWAYS.contains(&name) || matches_any(&check.include_headers, name);
        let is_overwritten = |name: &str| check.additional_headers.iter().any(|(added, _)| **added == *name);
        let own = self
            .headers
            .iter()
            .filter(|(name, _)| is_shown(name) && !is_framing(name.as_bytes()) && !is_overwritten(name));
        let additional = check.additional_headers.iter();
        let mut headers: Vec<_> = own.cloned().collect();
        headers.extend(additional.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())));
        headers.extend(body.map(|body| (PARTIAL.to_owned(), (!body.is_whole).to_string().into_bytes())));
        headers
    }

    /// What a server is asked over gRPC. `id` tells the request from others.
    pub(super) fn check_request(&self, id: String, body: Option<(&AskedBody, IncludedBody)>) -> CheckRequest {
        let mut headers: HashMap<String, String> = HashMap::with_capacity(self.headers.len() + 4);
        let pseudo = [
            (":method", &*self.method),
            (":authority", &*self.host),
            (":path", &*self.target),
            (":scheme", "http"),
        ];
        headers.extend(pseudo.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for (name, value) in &self.headers {
            let value = String::from_utf8_lossy(value);
            let said = headers.entry(name.clone());
            said.and_modify(|all| *all = format!("{all},{value}")).or_insert_with(|| value.into_owned());
        }
        let (mut text, mut raw_body) = (String::new(), Vec::new());
        if let Some((body, included)) = body {
            headers.insert(PARTIAL.to_owned(), (!body.is_whole).to_string());
            match included.pack_as_bytes {
                true => raw_body.clone_from(&body.bytes),
                false => text = String::from_utf8_lossy(&body.bytes).into_owned(),
            }
        }
        let length = self.headers.iter().find(|(name, _)| name == "content-length");
        let length = length.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
        let http = HttpRequest {
            id,
            method: self.method.clone(),
            headers,
            path: self.target.clone(),
            host: self.host.clone(),
            scheme: "http".to_owned(),
            size: length.unwrap_or(-1),
            protocol: self.protocol.to_owned(),
            body: text,
            raw_body,
            ..HttpRequest::default()
        };
        let attributes = AttributeContext {
            source: Some(peer(self.client, self.caller.as_ref())),
            destination: Some(peer(self.destination, Some(&self.called))),
            request: Some(Request { time: None, http: Some(http) }),
            ..AttributeContext::default()
        };
        CheckRequest { attributes: Some(attributes) }
    }
}

/// Whether a pattern of a configuration names a field, which is in lower case.
pub(super) fn matches_any(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern {
        Pattern::Exact(text) => name == &**text,
        Pattern::Prefix(text) => name.starts_with(&**text),
        Pattern::Suffix(text) => name.ends_with(&**text),
        Pattern::Present => true,
    })
}

fn peer(address: SocketAddr, identity: Option<&SpiffeId>) -> Peer {
    let port = socket_address::PortSpecifier::PortValue(address.port().into());
    let socket = SocketAddress {
        address: address.ip().to_canonical().to_string(),
        port_specifier: Some(port),
        ..SocketAddress::default()
    };
    Peer {
        address: Some(Address { address: Some(address::Address::SocketAddress(socket)) }),
        principal: identity.map(ToString::to_string).unwrap_or_default(),
        ..Peer::default()
    }
}
