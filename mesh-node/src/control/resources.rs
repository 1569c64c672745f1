//! The kinds of `policy.nodemesh.dev/v1alpha1`, as people write them and as the API server stores them.
//!
//! Field names and meaning are Istio's (`security.istio.io/v1`). In: YAML, or a watch. Out: these values, which
//! `control::translate` turns into the model. Never: a decision, or a value that was checked for sense.
//!
//! The schema refuses what it can, so that a mistake is seen by who makes it: patterns for single values, CEL for
//! what several fields say together. It costs the API server time by the lengths of lists, three deep: CEL stays out
//! of the innermost. `translate` decides, on what the schema let through too.

// Columns repeat their type.
#![expect(clippy::duplicated_attributes, reason = "each printcolumn has a type of its own")]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

pub use super::policy_status::{PolicyAgents, PolicyStatus, StatusCondition};
pub use super::token_resources::{
    ClaimToHeader, JwtHeader, JwtRule, RequestAuthentication, RequestAuthenticationSpec,
};

/// The API group of Nodemesh's own kinds.
pub const GROUP: &str = "policy.nodemesh.dev";
/// The version of [`GROUP`] that is read.
pub const VERSION: &str = "v1alpha1";

// What values look like, as the schema says it: never narrower than `translate::pattern`.
const TEXT: &str = r"^(\*|\*?[^*]+|[^*]+\*)$";
const PRINCIPAL: &str =
    concat!(r"^(\*|[a-z0-9._-]{1,255}/ns/[^/*]+/sa/[^/*]+", r"|\*[A-Za-z0-9._/-]+|[A-Za-z0-9._/-]+\*)$");
const NAMESPACE: &str = r"^(\*|\*?[a-z0-9-]+|[a-z0-9-]+\*)$";
const SERVICE_ACCOUNT: &str = r"^([a-z0-9.-]+/)?[a-z0-9.-]+$";
const IP_BLOCK: &str = r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$";
const HOST: &str = r"^(\*|\*?[^*/@?#\s]+|[^*/@?#\s]+\*\.?)$";
const METHOD: &str = r"^(\*|\*?[A-Za-z0-9!#$%&'+.^_`|~-]+|[A-Za-z0-9!#$%&'+.^_`|~-]+\*)$";
const PATH: &str = r"^(\*[^*{}?#\\\s]*|/[^*{}?#\\\s]*\*?)$";
const CONDITION_KEY: &str = concat!(
    r"^(source\.(ip|namespace|principal|serviceAccount)|destination\.(ip|port)|connection\.sni",
    r"|request\.headers\[[A-Za-z0-9!#$%&'*+.^_`|~-]+\]",
    r"|request\.auth\.(principal|audiences|presenter)|request\.auth\.claims(\[[^\[\]]+\])+)$"
);
const PORT: &str =
    r"^([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$";

/// Who may call the workloads that the policy is about, and with what.
///
/// CUSTOM is looked at first, then DENY, then ALLOW. A workload that an ALLOW policy is about refuses whatever no ALLOW rule
/// permits. Decided at the destination, on the identity in the caller's certificate.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "policy.nodemesh.dev",
    version = "v1alpha1",
    kind = "AuthorizationPolicy",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    shortname = "nmap",
    category = "nodemesh",
    doc = "Who may call the workloads that the policy is about, and with what.",
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
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
pub struct AuthorizationPolicySpec {
    /// The workloads that the policy is about, by their labels. Without `selector` and `targetRefs` it is about
    /// every workload of its namespace, in the root namespace about every workload of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// The Services whose endpoints the policy is about, however they are dialled. Not together with `selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub target_refs: Option<Vec<PolicyTargetReference>>,
    /// What a match means. ALLOW: what matches may; what no ALLOW policy of the workload matches may not. DENY: what
    /// matches may not, whatever ALLOW says. AUDIT: what matches is reported, and decided by the other policies.
    /// CUSTOM: the authorization server that `provider` names is asked about each request that matches, before DENY and
    /// ALLOW are looked at. Default: ALLOW.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "ALLOW"))]
    pub action: Option<AuthorizationAction>,
    /// Whom CUSTOM asks. Only with `action: CUSTOM`, and never without it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ExtensionProvider>,
    /// Whether the policy is in force. `Audit` evaluates it and reports, and refuses nothing. Default: Enforce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "Enforce"))]
    pub mode: Option<PolicyMode>,
    /// The policy matches if one of its rules does. No rule never matches; an empty rule `{}` always does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub rules: Option<Vec<AuthorizationRule>>,
}

/// Whether workloads ask their callers for mutual TLS.
///
/// The narrowest object wins: a port's mode, then the workload's, the namespace's, the mesh's (an object of the
/// root namespace without selector). Without any, plaintext and mutual TLS are both taken.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "policy.nodemesh.dev",
    version = "v1alpha1",
    kind = "PeerAuthentication",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    shortname = "nmpa",
    category = "nodemesh",
    doc = "Whether workloads ask their callers for mutual TLS.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mtls.mode"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(name = "Workloads", type_ = "integer", json_path = ".status.workloads"),
    printcolumn(name = "Agents", type_ = "integer", json_path = ".status.agents.needed"),
    printcolumn(name = "In-Force", type_ = "integer", json_path = ".status.agents.inForce"),
    printcolumn(name = "Selector", type_ = "string", json_path = ".spec.selector.matchLabels", priority = 1),
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
#[x_kube(validation = Rule::new(
        "!has(self.portLevelMtls) || size(self.portLevelMtls) == 0 \
         || (has(self.selector) && has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0)"
    )
    .message("needs a selector with labels")
    .field_path(".portLevelMtls"))]
pub struct PeerAuthenticationSpec {
    /// The workloads that the object is about, by their labels. Without it, every workload of its namespace; in
    /// the root namespace every workload of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// The mode of every port that `portLevelMtls` does not name. Default: inherited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTlsSettings>,
    /// Modes by the workload's port (1 to 65535), as in `"8080": {mode: PERMISSIVE}`. Needs a `selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 512))]
    #[x_kube(validation = (format!("self.all(port, port.matches('{PORT}'))").as_str(), "has a port that is none: 1 to 65535"))]
    pub port_level_mtls: Option<BTreeMap<String, MutualTlsSettings>>,
}

/// Workloads, by labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// All of these labels, with exactly these values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxProperties" = 64,
        "additionalProperties" = {"type": "string", "maxLength": 63, "pattern": "^[^*]*$"}
    ))]
    #[x_kube(validation = (
        "self.all(label, label != '' && !label.contains('*'))",
        "labels are compared whole: no wildcards"
    ))]
    pub match_labels: Option<BTreeMap<String, String>>,
}

/// What a policy is attached to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.kind == 'Service' && (!has(self.group) || self.group in ['', 'core'])")
    .message("only Service of the core group is supported")
    .field_path(".kind"))]
pub struct PolicyTargetReference {
    /// The group of the target: empty (or `core`), a Service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The kind of the target: `Service`.
    pub kind: String,
    /// The name of the target.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The namespace of the target: the policy's own, which is also the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What a match of an AuthorizationPolicy means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = described_by_its_field)]
pub enum AuthorizationAction {
    /// What matches may; what no ALLOW policy of the workload matches may not.
    #[serde(rename = "ALLOW")]
    Allow,
    /// What matches may not, whatever ALLOW says.
    #[serde(rename = "DENY")]
    Deny,
    /// What matches is reported, and decided by the other policies.
    #[serde(rename = "AUDIT")]
    Audit,
    /// About what matches an authorization server is asked.
    #[serde(rename = "CUSTOM")]
    Custom,
}

/// An authorization server of the mesh's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExtensionProvider {
    /// Its name in `extensionProviders` (ConfigMap `nodemesh` of the root namespace, key `mesh`).
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Whether a policy is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = described_by_its_field)]
pub enum PolicyMode {
    /// The policy is in force.
    Enforce,
    /// The policy is evaluated and reported, and refuses nothing.
    Audit,
}

/// One rule: it matches if one of `from`, one of `to` and all of `when` do. What is left out always matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationRule {
    /// Who calls. One of these must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub from: Option<Vec<RuleFrom>>,
    /// What is asked for. One of these must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub to: Option<Vec<RuleTo>>,
    /// Further conditions. All of these must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub when: Option<Vec<RuleCondition>>,
}

/// One entry of `from`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuleFrom {
    /// The caller.
    pub source: RuleSource,
}

/// A caller. Every field that is given must match; a field matches if one of its values does.
///
/// Text values are exact, a prefix (`abc*`), a suffix (`*abc`), or `*` for any value that is not empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1))]
pub struct RuleSource {
    /// Identities of the caller's certificate: a SPIFFE id without `spiffe://`, as in
    /// `cluster.local/ns/shop/sa/web`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = PRINCIPAL)))]
    pub principals: Option<Vec<String>>,
    /// None of these identities. A caller without a certificate has none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = PRINCIPAL)))]
    pub not_principals: Option<Vec<String>>,
    /// Namespaces of the caller's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = NAMESPACE)))]
    pub namespaces: Option<Vec<String>>,
    /// None of these namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = NAMESPACE)))]
    pub not_namespaces: Option<Vec<String>>,
    /// Service accounts of the caller's certificate: `NAMESPACE/NAME`, or `NAME` in the policy's namespace.
    /// Always exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = SERVICE_ACCOUNT)))]
    pub service_accounts: Option<Vec<String>>,
    /// None of these service accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = SERVICE_ACCOUNT)))]
    pub not_service_accounts: Option<Vec<String>>,
    /// Addresses or ranges (CIDR) that hold the caller's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = IP_BLOCK)))]
    pub ip_blocks: Option<Vec<String>>,
    /// None of these addresses or ranges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = IP_BLOCK)))]
    pub not_ip_blocks: Option<Vec<String>>,
    /// End users of the request's token, `ISSUER/SUBJECT`. Needs a RequestAuthentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = TEXT)))]
    pub request_principals: Option<Vec<String>>,
    /// None of these end users. A request without a token has none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = TEXT)))]
    pub not_request_principals: Option<Vec<String>>,
}

/// One entry of `to`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuleTo {
    /// What is asked for.
    pub operation: RuleOperation,
}

/// What is asked for. Every field that is given must match; a field matches if one of its values does.
///
/// Text values are exact, a prefix (`abc*`), a suffix (`*abc`), or `*` for any value that is not empty. Where a
/// port does not speak HTTP, a rule with hosts, methods or paths permits nothing under ALLOW, and under DENY refuses
/// as if they were left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1))]
pub struct RuleOperation {
    /// Hosts that the request names, without regard to case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = HOST)))]
    pub hosts: Option<Vec<String>>,
    /// None of these hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = HOST)))]
    pub not_hosts: Option<Vec<String>>,
    /// Ports of the workload (1 to 65535), as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = PORT)))]
    pub ports: Option<Vec<String>>,
    /// None of these ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = PORT)))]
    pub not_ports: Option<Vec<String>>,
    /// HTTP methods, in upper case. gRPC is always POST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = METHOD)))]
    pub methods: Option<Vec<String>>,
    /// None of these methods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = METHOD)))]
    pub not_methods: Option<Vec<String>>,
    /// Paths, compared with the normalised path without its query. gRPC's are `/PACKAGE.SERVICE/METHOD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = PATH)))]
    pub paths: Option<Vec<String>>,
    /// None of these paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = PATH)))]
    pub not_paths: Option<Vec<String>>,
}

/// A further condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.values) || has(self.notValues)", "has neither values nor notValues"))]
pub struct RuleCondition {
    /// The attribute: `request.headers[NAME]`, `source.ip`, `source.namespace`, `source.principal`,
    /// `source.serviceAccount`, `destination.ip`, `destination.port` or `connection.sni`; of the request's token
    /// `request.auth.principal`, `request.auth.audiences`, `request.auth.presenter` or `request.auth.claims[NAME][NAME]`.
    #[schemars(regex(pattern = CONDITION_KEY))]
    pub key: String,
    /// One of these values must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = TEXT)))]
    pub values: Option<Vec<String>>,
    /// None of these values may match. At least one of `values` and `notValues` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), inner(length(min = 1, max = 1024), regex(pattern = TEXT)))]
    pub not_values: Option<Vec<String>>,
}

/// A mutual TLS mode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MutualTlsSettings {
    /// The mode: UNSET inherits it from the wider object, PERMISSIVE takes plaintext and mutual TLS, STRICT mutual
    /// TLS only. DISABLE is not supported, is reported, and counts as UNSET. Default: UNSET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<MutualTlsMode>,
}

/// `mtls.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = described_by_its_field)]
pub enum MutualTlsMode {
    /// Inherited from the wider object.
    #[serde(rename = "UNSET")]
    Unset,
    /// Not supported: the object is reported, and counts as UNSET.
    #[serde(rename = "DISABLE")]
    Disable,
    /// Plaintext and mutual TLS are taken.
    #[serde(rename = "PERMISSIVE")]
    Permissive,
    /// Mutual TLS only.
    #[serde(rename = "STRICT")]
    Strict,
}

/// Takes away what a type says of itself: `kube` would put it in the place of what the field says.
pub(super) fn described_by_its_field(schema: &mut Schema) {
    schema.remove("description");
}
