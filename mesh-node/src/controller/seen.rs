//! An object as the API server gives it, whatever its fields are: one that cannot be read hurts no other of its list.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::Value;

use crate::control::object::Kind;

/// Where objects of a kind are asked for: a kind that is the cluster's to define is there in one version or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Resource {
    pub(super) kind: Kind,
    pub(super) api_version: &'static str,
}

impl From<Kind> for Resource {
    fn from(kind: Kind) -> Self {
        Self { kind, api_version: kind.api_version() }
    }
}

/// An object, with its metadata alone if `METADATA`.
#[derive(Clone, Debug)]
pub(super) struct Seen<const METADATA: bool> {
    /// What the watch asks for: name, namespace, version.
    metadata: ObjectMeta,
    /// What it says, without its kind and what nobody reads.
    pub(super) object: Value,
}

impl<'de, const METADATA: bool> Deserialize<'de> for Seen<METADATA> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Value::deserialize(deserializer)?;
        let fields = object.as_object_mut().ok_or_else(|| D::Error::custom("is no object"))?;
        // Of the metadata alone these two say something else, and whose watch it is says which kind it is.
        fields.remove("apiVersion");
        fields.remove("kind");
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.remove("managedFields");
        }
        let text = |field: &str| object["metadata"][field].as_str().map(str::to_owned);
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, object })
    }
}

impl<const METADATA: bool> kube::Resource for Seen<METADATA> {
    type DynamicType = Resource;
    type Scope = kube::core::DynamicResourceScope;

    fn metadata_api() -> bool {
        METADATA
    }

    fn kind(resource: &Resource) -> Cow<'_, str> {
        resource.kind.name().into()
    }

    fn group(resource: &Resource) -> Cow<'_, str> {
        resource.api_version.rsplit_once('/').map_or("", |(group, _)| group).into()
    }

    fn version(resource: &Resource) -> Cow<'_, str> {
        let text = resource.api_version;
        text.rsplit_once('/').map_or(text, |(_, version)| version).into()
    }

    fn plural(resource: &Resource) -> Cow<'_, str> {
        resource.kind.plural().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use kube::Resource as _;

    use super::*;

    #[test]
    fn paths_are_those_of_the_api_server() {
        let path = |kind: Kind| Seen::<false>::url_path(&kind.into(), Some("shop"));
        assert_eq!(path(Kind::Pod), "/api/v1/namespaces/shop/pods");
        assert_eq!(
            path(Kind::PeerAuthentication),
            "/apis/policy.nodemesh.dev/v1alpha1/namespaces/shop/peerauthentications"
        );
        assert_eq!(Seen::<true>::url_path(&Kind::Node.into(), None), "/api/v1/nodes");
        let old = Resource { kind: Kind::TlsRoute, api_version: "gateway.networking.k8s.io/v1alpha2" };
        let path = Seen::<false>::url_path(&old, Some("shop"));
        assert_eq!(path, "/apis/gateway.networking.k8s.io/v1alpha2/namespaces/shop/tlsroutes");
    }

    #[test]
    fn an_object_of_any_form_is_read() {
        let text = r#"{"kind": "Pod", "metadata": {"name": 7, "managedFields": [1]}, "spec": []}"#;
        let seen: Seen<false> = serde_json::from_str(text).unwrap();
        assert_eq!(seen.object, serde_json::json!({"metadata": {"name": 7}, "spec": []}));
        assert!(serde_json::from_str::<Seen<false>>("[]").is_err());
    }
}
