//! The status of the kinds of `policy.nodemesh.dev/v1alpha1`: what became of an object, as the API server stores it.
//!
//! In and out: what `controller::status` writes. Never: what a person writes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resources::described_by_its_field;

/// What became of a policy object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// The `metadata.generation` that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many enrolled pods the policy is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub workloads: Option<i64>,
    /// In how many agents the policy is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<PolicyAgents>,
    /// `Accepted`: whether the object was understood, with the field that was not. `Programmed`: whether every agent that
    /// needs the policy has it in force, with who has not, and why an agent refuses it. `KeysFetched`: whether the keys are
    /// there that it names by `jwksUri`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Vec<StatusCondition>,
}

/// In how many agents a policy is in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = described_by_its_field)]
pub struct PolicyAgents {
    /// How many agents need the policy: those on whose node is a pod that it may be about.
    #[schemars(range(min = 0))]
    pub needed: i64,
    /// How many of them follow a controller and have confirmed the policy as it is now.
    #[schemars(range(min = 0))]
    pub in_force: i64,
}

/// A condition, shaped as `metav1.Condition`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusCondition {
    /// What it is about, as in `Accepted`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 316))]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
    pub status: String,
    /// Why, in one CamelCase word.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"))]
    pub reason: String,
    /// Why, for people: the field's path and what is wrong with it.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// When `status` last changed (RFC 3339).
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// The `metadata.generation` that the condition is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
