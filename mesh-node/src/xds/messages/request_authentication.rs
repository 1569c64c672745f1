//! RequestAuthentications. A receiver that does not know a field of one must not read on without it.

use prost::{Message, Oneof};

use super::policy::{PolicyFault, Scope};

/// A RequestAuthentication. Its name is `namespace/name`.
#[derive(Clone, PartialEq, Message)]
pub struct RequestAuthentication {
    /// Whom it is about.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    /// `spec.jwtRules`.
    #[prost(message, repeated, tag = "2")]
    pub rules: Vec<JwtRule>,
    /// What the controller could not understand of it: it refuses every request.
    #[prost(message, optional, tag = "3")]
    pub fault: Option<PolicyFault>,
}

/// One entry of `spec.jwtRules`.
#[derive(Clone, PartialEq, Message)]
pub struct JwtRule {
    /// `issuer`; never empty.
    #[prost(string, tag = "1")]
    pub issuer: String,
    /// `audiences`; none: any.
    #[prost(string, repeated, tag = "2")]
    pub audiences: Vec<String>,
    /// The issuer's key set (RFC 7517). Absent: tokens of the issuer are refused.
    #[prost(string, optional, tag = "3")]
    pub jwks: Option<String>,
    /// Where tokens stand; at least one.
    #[prost(message, repeated, tag = "4")]
    pub locations: Vec<TokenLocation>,
    /// `forwardOriginalToken`.
    #[prost(bool, tag = "5")]
    pub forward_original: bool,
    /// `outputPayloadToHeader`, in lower case.
    #[prost(string, optional, tag = "6")]
    pub payload_header: Option<String>,
    /// `outputClaimToHeaders`.
    #[prost(message, repeated, tag = "7")]
    pub claim_headers: Vec<ClaimHeader>,
    /// Claims that are lists of words with spaces between them.
    #[prost(string, repeated, tag = "8")]
    pub space_delimited: Vec<String>,
    /// `jwksUri`, where `jwks` is what was fetched there. With it and without `jwks` the controller has not fetched it
    /// yet: a receiver that has keys from there, by this object, keeps them.
    #[prost(string, optional, tag = "9")]
    pub jwks_uri: Option<String>,
}

/// Where a token may stand.
#[derive(Clone, PartialEq, Message)]
pub struct TokenLocation {
    /// Exactly one.
    #[prost(oneof = "LocationKind", tags = "1, 2, 3")]
    pub kind: Option<LocationKind>,
}

/// Forms of a location.
#[derive(Clone, PartialEq, Oneof)]
pub enum LocationKind {
    /// In a header field.
    #[prost(message, tag = "1")]
    Header(TokenHeader),
    /// In this parameter of the query.
    #[prost(string, tag = "2")]
    Parameter(String),
    /// In this cookie.
    #[prost(string, tag = "3")]
    Cookie(String),
}

/// A header field that carries a token.
#[derive(Clone, PartialEq, Message)]
pub struct TokenHeader {
    /// In lower case.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What stands before the token.
    #[prost(string, tag = "2")]
    pub prefix: String,
}

/// One entry of `outputClaimToHeaders`.
#[derive(Clone, PartialEq, Message)]
pub struct ClaimHeader {
    /// In lower case.
    #[prost(string, tag = "1")]
    pub header: String,
    /// The names that lead to the claim; at least one.
    #[prost(string, repeated, tag = "2")]
    pub claim: Vec<String>,
}
