//! What things are: the words of the domain, without behaviour that decides.
//!
//! Comes in: values parsed once, by `control::translate` or from the wire. Goes out: the same values, shared by
//! reference. Nothing here is serialized; wire and dump types are separate and convert.

pub mod client_hello;
pub mod decision;
pub mod detection;
pub mod endpoint;
pub mod external;
pub mod facts;
pub mod identity;
pub mod mesh;
pub mod name;
pub mod node;
pub mod path;
pub mod policy;
pub mod protocol;
pub mod question;
pub mod request_authentication;
mod request_id;
#[cfg(test)]
pub(crate) mod samples;
pub mod service;
pub mod workload;

pub use client_hello::ServerName;
pub use decision::{DecisionId, DecisionIdError, NodeMark};
pub use detection::{Detector, Found, Spoken};
pub use endpoint::{Endpoint, EndpointSlice, EndpointState, SlicePort};
pub use external::{AuthorizerProtocol, Custom, ExternalAuthorizer, HttpCheck, IncludedBody};
pub use facts::{
    CertificateHash, ConnectionFacts, Direction, HeadEdits, PeerIdentity, RequestCopy, RequestFacts,
};
pub use identity::{SpiffeId, TrustDomain};
pub use mesh::MeshSettings;
pub use name::{NamespacedName, Text};
pub use node::Node;
pub use path::{NormalPath, PathError, RequestTarget};
pub use policy::{AuthorizationPolicy, PeerAuthentication};
pub use protocol::Protocol;
pub use question::{NoQuestion, Question};
pub use request_authentication::{EndUser, RequestAuthentication};
pub use request_id::{REQUEST_ID, RequestId};
pub use service::{Service, ServicePort, TargetPort};
pub use workload::{Enrolment, PodDetails, Workload, WorkloadUid};
