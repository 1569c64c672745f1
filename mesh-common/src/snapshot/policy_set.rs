//! AuthorizationPolicies that have the same scope, ready to be asked.

use std::sync::Arc;

use crate::model::AuthorizationPolicy;

/// The policies of one scope, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySet {
    policies: Vec<Arc<AuthorizationPolicy>>,
}

impl PolicySet {
    /// Makes a set; `None` of nothing.
    pub(super) fn new(policies: Vec<Arc<AuthorizationPolicy>>) -> Option<Arc<Self>> {
        if policies.is_empty() { None } else { Some(Arc::new(Self { policies })) }
    }

    /// The policies, by name.
    pub fn policies(&self) -> &[Arc<AuthorizationPolicy>] {
        &self.policies
    }
}
