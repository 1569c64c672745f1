//! The kind RequestAuthentication of `policy.nodemesh.dev/v1alpha1`, as people write it and as the API server stores it.
//!
//! Field names and meaning are Istio's (`security.istio.io/v1`), as for the other kinds in [`super::resources`].

// Columns repeat their type.
#![expect(clippy::duplicated_attributes, reason = "each printcolumn has a type of its own")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resources::{PolicyStatus, PolicyTargetReference, WorkloadSelector};

/// A field name (RFC 9110 section 5.6.2).
const FIELD_NAME: &str = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$";
/// Hours, minutes, seconds, milliseconds.
const DURATION: &str = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// Which tokens of end users (JWT) the workloads take, and who may have issued them.
///
/// A request without a token passes, and has no end user; one with a token that does not hold is answered with 401.
/// Who must have a token, and of whom, AuthorizationPolicies say (`requestPrincipals`, `request.auth.claims[...]`).
/// All objects that are about a workload count together.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "policy.nodemesh.dev",
    version = "v1alpha1",
    kind = "RequestAuthentication",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    shortname = "nmra",
    category = "nodemesh",
    doc = "Which tokens of end users (JWT) the workloads take, and who may have issued them.",
    printcolumn(name = "Issuer", type_ = "string", json_path = ".spec.jwtRules[0].issuer"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(
        name = "Keys",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='KeysFetched')].status"
    ),
    printcolumn(name = "Workloads", type_ = "integer", json_path = ".status.workloads"),
    printcolumn(name = "Agents", type_ = "integer", json_path = ".status.agents.needed"),
    printcolumn(name = "In-Force", type_ = "integer", json_path = ".status.agents.inForce"),
    printcolumn(name = "Selector", type_ = "string", json_path = ".spec.selector.matchLabels", priority = 1),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.targetRefs[0].name", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].reason",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].message",
        priority = 1
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Programmed')].reason",
        priority = 1
    ),
    printcolumn(
        name = "Not-Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Programmed')].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.selector) || !has(self.targetRefs) || size(self.targetRefs) == 0")
    .message("cannot be given together with selector")
    .field_path(".targetRefs"))]
pub struct RequestAuthenticationSpec {
    /// The workloads that the object is about, by their labels. Without `selector` and `targetRefs` it is about
    /// every workload of its namespace, in the root namespace about every workload of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// The Services whose endpoints the object is about, however they are dialled. Not together with `selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub target_refs: Option<Vec<PolicyTargetReference>>,
    /// The issuers whose tokens are taken. A token of another issuer is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub jwt_rules: Option<Vec<JwtRule>>,
}

/// An issuer whose tokens are taken: JWS in compact form, signed with RS256, RS384, RS512, PS256, PS384, PS512, ES256,
/// ES384 or EdDSA, with `exp`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.jwks) || !has(self.jwksUri)")
    .message("cannot be given together with jwksUri")
    .field_path(".jwks"))]
#[x_kube(validation = ("has(self.jwks) || has(self.jwksUri)", "has neither jwks nor jwksUri"))]
pub struct JwtRule {
    /// The issuer: `iss` of the token must be the same, letter by letter.
    #[schemars(length(min = 1, max = 1024))]
    pub issuer: String,
    /// Audiences: `aud` of the token must hold one of them. Default: any, also none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 1024)))]
    pub audiences: Option<Vec<String>>,
    /// Where the issuer publishes its keys: fetched by the controller, again every 20 minutes, never by agents. Until the
    /// first fetch succeeds tokens of the issuer are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^https?://[^\s]+$"))]
    pub jwks_uri: Option<String>,
    /// The issuer's public keys: a JSON Web Key Set, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 262_144))]
    pub jwks: Option<String>,
    /// Header fields that carry the token. Without `fromHeaders`, `fromParams` and `fromCookies`: `Authorization` with
    /// `Bearer `, and the parameter `access_token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub from_headers: Option<Vec<JwtHeader>>,
    /// Parameters of the query that carry the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    pub from_params: Option<Vec<String>>,
    /// Cookies that carry the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    pub from_cookies: Option<Vec<String>>,
    /// The header field in which the application gets the payload, in base64url. Whatever callers send in it is
    /// removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = FIELD_NAME))]
    pub output_payload_to_header: Option<String>,
    /// Header fields in which the application gets claims. Whatever callers send in them is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub output_claim_to_headers: Option<Vec<ClaimToHeader>>,
    /// Whether the application gets the token itself. Default: false, it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_original_token: Option<bool>,
    /// How long `jwksUri` may take to answer, as in `5s`. Default: 5s; at most 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub timeout: Option<String>,
    /// Claims that are lists of words with spaces between them, besides `scope` and `permission`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub space_delimited_claims: Option<Vec<String>>,
}

/// A header field that carries a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JwtHeader {
    /// The field's name.
    #[schemars(length(min = 1, max = 256), regex(pattern = FIELD_NAME))]
    pub name: String,
    /// What stands before the token, with the space if there is one, as in `Bearer `. A field without it carries none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub prefix: Option<String>,
}

/// A claim that the application gets in a header field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimToHeader {
    /// The field's name.
    #[schemars(length(min = 1, max = 256), regex(pattern = FIELD_NAME))]
    pub header: String,
    /// The claim: text, a number or a boolean; of a nested one the names with dots between them, as in `a.b`.
    #[schemars(length(min = 1, max = 1024))]
    pub claim: String,
}
