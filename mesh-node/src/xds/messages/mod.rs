//! The messages, package `nodemesh.v1alpha1`: protocol buffers, version 3. Tags are never used again for another
//! meaning. Names stand in the resource, not in the message. Addresses are 4 or 16 bytes in network order, certificates
//! and revocation lists DER. Zero of an enumeration is never sent, so that a value that is not known is never read as
//! a default.

mod external;
mod mesh;
mod policy;
mod request_authentication;
mod service;
mod workload;

pub use external::{AdditionalHeader, Authorizer, AuthorizerKind, Custom, HttpCheck, IncludedBody};
pub use mesh::{Cidr, Mesh, Node, TrustBundle};
pub use policy::{
    Action, AuthorizationPolicy, CidrMatch, ClaimCondition, Condition, Empty, HeaderCondition, Mode,
    MutualTls, Operation, Pattern, PatternKind, PeerAuthentication, PolicyFault, PortMatch, Rule, Scope,
    ScopeKind, Selector, ServiceName, Services, Source, StringMatch, Test,
};
pub use request_authentication::{
    ClaimHeader, JwtRule, LocationKind, RequestAuthentication, TokenHeader, TokenLocation,
};
pub use service::{
    Endpoint, EndpointSlice, EndpointState, InternalTrafficPolicy, Protocol, Service, ServicePort, SlicePort,
    TargetPort, TrafficDistribution,
};
pub use workload::{CanonicalNames, Enrolment, NamedPort, Workload};
