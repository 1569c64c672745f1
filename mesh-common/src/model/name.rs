//! Names of Kubernetes objects.

use std::fmt;
use std::sync::Arc;

/// Text that many values share: a clone counts a reference and copies nothing.
pub type Text = Arc<str>;

/// Namespace and name of a Kubernetes object. Printed as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedName {
    /// `metadata.namespace`; empty for objects of the cluster.
    pub namespace: Text,
    /// `metadata.name`.
    pub name: Text,
}

impl NamespacedName {
    /// Joins a namespace and a name; neither is checked here, the API server's rules hold for both.
    pub fn new(namespace: impl Into<Text>, name: impl Into<Text>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return formatter.write_str(&self.name);
        }
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}
