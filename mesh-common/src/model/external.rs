//! Authorization servers outside the mesh's own policies, as its configuration names them: whom `action: CUSTOM` asks.
//!
//! Field names are those of Istio's MeshConfig (`extensionProviders[].envoyExtAuthzGrpc`, `envoyExtAuthzHttp`). Every
//! value is read once, nothing can be invalid.

use std::sync::Arc;
use std::time::Duration;

use super::name::{NamespacedName, Text};
use super::policy::Pattern;

/// What a CUSTOM policy asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Custom {
    /// `provider.name`.
    pub provider: Text,
    /// The server of that name; `None` where the mesh's configuration has none: whatever matches is refused.
    pub authorizer: Option<Arc<ExternalAuthorizer>>,
}

/// One entry of `extensionProviders` that decides about requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAuthorizer {
    /// `name`.
    pub name: Text,
    /// How it is asked.
    pub protocol: AuthorizerProtocol,
    /// The Service that `service` names.
    pub service: NamespacedName,
    /// `port` of that Service.
    pub port: u16,
    /// `timeout`: after so long there is no answer.
    pub timeout: Duration,
    /// `failOpen`: whether a request passes of which the server says nothing.
    pub fail_open: bool,
    /// `statusOnError`: what the caller of one is told that does not; 400 to 599.
    pub status_on_error: u16,
    /// `includeRequestBodyInCheck`.
    pub body: Option<IncludedBody>,
}

/// How an authorization server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorizerProtocol {
    /// `envoyExtAuthzGrpc`: `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
    /// `envoyExtAuthzHttp`: the request's head is sent to it, and 200 lets it pass.
    Http(HttpCheck),
}

/// What is said to, and taken from, a server that is asked over HTTP. Patterns are exact, prefix or suffix, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpCheck {
    /// `pathPrefix`: stands before the request's path; empty, or begins with a slash.
    pub path_prefix: Text,
    /// `includeRequestHeadersInCheck`.
    pub include_headers: Vec<Pattern>,
    /// `includeAdditionalHeadersInCheck`; names in lower case.
    pub additional_headers: Vec<(Text, Text)>,
    /// `headersToUpstreamOnAllow`.
    pub to_upstream_on_allow: Vec<Pattern>,
    /// `headersToDownstreamOnDeny`; empty: all of them.
    pub to_downstream_on_deny: Vec<Pattern>,
    /// `headersToDownstreamOnAllow`.
    pub to_downstream_on_allow: Vec<Pattern>,
}

/// `includeRequestBodyInCheck`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncludedBody {
    /// `maxRequestBytes`, at most [`MAX_INCLUDED_BODY`].
    pub max_bytes: u32,
    /// `allowPartialMessage`: of a longer body the beginning is sent; without it a longer one is answered 413.
    pub allow_partial: bool,
    /// `packAsBytes`: in `raw_body` and not in `body`.
    pub pack_as_bytes: bool,
}

/// The most of a request's body that is held to be shown to an authorization server, bytes.
pub const MAX_INCLUDED_BODY: u32 = 1 << 20;
