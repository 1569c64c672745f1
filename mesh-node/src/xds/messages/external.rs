//! Authorization servers, within the policies that ask them.

use prost::{Message, Oneof};

use super::policy::{Empty, Pattern, ServiceName};

/// Whom a policy asks.
#[derive(Clone, PartialEq, Message)]
pub struct Custom {
    /// `provider.name`.
    #[prost(string, tag = "1")]
    pub provider: String,
    /// The server of that name; absent where the mesh's configuration has none.
    #[prost(message, optional, tag = "2")]
    pub authorizer: Option<Authorizer>,
}

/// An authorization server. Its name is the provider's.
#[derive(Clone, PartialEq, Message)]
pub struct Authorizer {
    /// The Service.
    #[prost(message, optional, tag = "1")]
    pub service: Option<ServiceName>,
    /// Port of the Service.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// Milliseconds.
    #[prost(uint64, tag = "3")]
    pub timeout: u64,
    /// Whether a request passes of which it says nothing.
    #[prost(bool, tag = "4")]
    pub fail_open: bool,
    /// What the caller of one that does not is told.
    #[prost(uint32, tag = "5")]
    pub status_on_error: u32,
    /// How much of a request's body it is shown; absent: nothing.
    #[prost(message, optional, tag = "6")]
    pub body: Option<IncludedBody>,
    /// How it is asked.
    #[prost(oneof = "AuthorizerKind", tags = "7, 8")]
    pub kind: Option<AuthorizerKind>,
}

/// How an authorization server is asked.
#[derive(Clone, PartialEq, Oneof)]
pub enum AuthorizerKind {
    /// `envoy.service.auth.v3.Authorization/Check`.
    #[prost(message, tag = "7")]
    Grpc(Empty),
    /// Requests of HTTP.
    #[prost(message, tag = "8")]
    Http(HttpCheck),
}

/// `includeRequestBodyInCheck`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct IncludedBody {
    /// Bytes.
    #[prost(uint32, tag = "1")]
    pub max_bytes: u32,
    /// Of a longer one the beginning is shown.
    #[prost(bool, tag = "2")]
    pub allow_partial: bool,
    /// As bytes.
    #[prost(bool, tag = "3")]
    pub pack_as_bytes: bool,
}

/// What is said to, and taken from, a server that is asked over HTTP.
#[derive(Clone, PartialEq, Message)]
pub struct HttpCheck {
    /// Before the request's path.
    #[prost(string, tag = "1")]
    pub path_prefix: String,
    /// `includeRequestHeadersInCheck`.
    #[prost(message, repeated, tag = "2")]
    pub include_headers: Vec<Pattern>,
    /// `includeAdditionalHeadersInCheck`.
    #[prost(message, repeated, tag = "3")]
    pub additional_headers: Vec<AdditionalHeader>,
    /// `headersToUpstreamOnAllow`.
    #[prost(message, repeated, tag = "4")]
    pub to_upstream_on_allow: Vec<Pattern>,
    /// `headersToDownstreamOnDeny`.
    #[prost(message, repeated, tag = "5")]
    pub to_downstream_on_deny: Vec<Pattern>,
    /// `headersToDownstreamOnAllow`.
    #[prost(message, repeated, tag = "6")]
    pub to_downstream_on_allow: Vec<Pattern>,
}

/// A header that is added to a check.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AdditionalHeader {
    /// In lower case.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Visible ASCII.
    #[prost(string, tag = "2")]
    pub value: String,
}
