//! Objects of every kind that is read, told apart by kind and name, and what each one means to the mesh.
//!
//! In: a translated object, from a folder or a watch. Out: the same, in one type that can be kept and compared.

use std::fmt;
use std::sync::Arc;

use mesh_common::model::{
    AuthorizationPolicy, EndpointSlice, NamespacedName, Node, PeerAuthentication, Service,
};

use super::translate::mesh_config::MeshConfig;
use super::translate::namespace::NamespaceEnrolment;
use super::translate::pod::PodWorkload;
use super::translate::request_authentication::TokenRules;
use super::translate::route::RouteReferences;

/// The versions of the Gateway API that are read, the newest first: what is read of its kinds is alike in all of them.
const GATEWAY_API: [&str; 4] = [
    "gateway.networking.k8s.io/v1",
    "gateway.networking.k8s.io/v1beta1",
    "gateway.networking.k8s.io/v1alpha3",
    "gateway.networking.k8s.io/v1alpha2",
];

/// A kind that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
    /// `v1` ServiceAccount: certificates are for those alone that are there.
    ServiceAccount,
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` ConfigMap, the one of the mesh's configuration: `nodemesh` in the root namespace.
    MeshConfig,
    /// `policy.nodemesh.dev/v1alpha1` AuthorizationPolicy.
    AuthorizationPolicy,
    /// `policy.nodemesh.dev/v1alpha1` PeerAuthentication.
    PeerAuthentication,
    /// `policy.nodemesh.dev/v1alpha1` RequestAuthentication.
    RequestAuthentication,
    /// `gateway.networking.k8s.io` HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io` GRPCRoute.
    GrpcRoute,
    /// `gateway.networking.k8s.io` TCPRoute.
    TcpRoute,
    /// `gateway.networking.k8s.io` TLSRoute.
    TlsRoute,
    /// `gateway.networking.k8s.io` ReferenceGrant.
    ReferenceGrant,
    /// `gateway.networking.k8s.io` BackendTLSPolicy.
    BackendTlsPolicy,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::Namespace,
        Self::Node,
        Self::ServiceAccount,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::MeshConfig,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::ReferenceGrant,
        Self::BackendTlsPolicy,
    ];

    /// The kind as objects name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ServiceAccount => "ServiceAccount",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::MeshConfig => "ConfigMap",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
        }
    }

    /// The `apiVersion` that it is read in; of several, the newest.
    pub fn api_version(self) -> &'static str {
        self.api_versions()[0]
    }

    /// Every `apiVersion` that it is read in, the newest first.
    pub fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::EndpointSlice => &["discovery.k8s.io/v1"],
            Self::AuthorizationPolicy | Self::PeerAuthentication | Self::RequestAuthentication => {
                &["policy.nodemesh.dev/v1alpha1"]
            }
            Self::Namespace
            | Self::Node
            | Self::ServiceAccount
            | Self::Pod
            | Self::Service
            | Self::MeshConfig => &["v1"],
            Self::HttpRoute
            | Self::GrpcRoute
            | Self::TcpRoute
            | Self::TlsRoute
            | Self::ReferenceGrant
            | Self::BackendTlsPolicy => &GATEWAY_API,
        }
    }

    /// Whether it is the cluster's own to define: it may be there or not, and come and go.
    pub fn is_optional(self) -> bool {
        self.api_versions() == GATEWAY_API
    }

    /// Whether it may not be there: the cluster's own, or one of the mesh's that earlier versions of its definitions lack.
    pub fn may_be_missing(self) -> bool {
        self.is_optional() || self == Self::RequestAuthentication
    }

    /// Whether it is a route: it has parents, and says in its status what each makes of it.
    pub fn is_route(self) -> bool {
        matches!(self, Self::HttpRoute | Self::GrpcRoute | Self::TcpRoute | Self::TlsRoute)
    }

    /// The kind in paths of the API.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::ServiceAccount => "serviceaccounts",
            Self::Pod => "pods",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::MeshConfig => "configmaps",
            Self::AuthorizationPolicy => "authorizationpolicies",
            Self::PeerAuthentication => "peerauthentications",
            Self::RequestAuthentication => "requestauthentications",
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
            Self::TcpRoute => "tcproutes",
            Self::TlsRoute => "tlsroutes",
            Self::ReferenceGrant => "referencegrants",
            Self::BackendTlsPolicy => "backendtlspolicies",
        }
    }

    /// Whether its objects stand in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    /// Whether it says who may do what: never skipped, whatever is wrong with it.
    pub fn is_policy(self) -> bool {
        matches!(self, Self::AuthorizationPolicy | Self::PeerAuthentication | Self::RequestAuthentication)
    }
}

/// Tells one object from every other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its name; the namespace is empty for a kind of the cluster.
    pub name: NamespacedName,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind.name(), self.name)
    }
}

/// What an object means to the mesh. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// Whether the namespace's pods are enrolled.
    Namespace(Arc<NamespaceEnrolment>),
    /// A node.
    Node(Arc<Node>),
    /// A pod, before its namespace had a say.
    Pod(Arc<PodWorkload>),
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// The mesh's configuration.
    MeshConfig(Arc<MeshConfig>),
    /// An AuthorizationPolicy.
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// A PeerAuthentication.
    PeerAuthentication(Arc<PeerAuthentication>),
    /// A RequestAuthentication, before keys that are published elsewhere are known.
    RequestAuthentication(Arc<TokenRules>),
    /// A route, of which no rule is applied.
    Route(Arc<RouteReferences>),
    /// The object is there, and means nothing: a ServiceAccount, an ExternalName Service.
    Nothing,
}
