//! Stage 2. Who is speaking: certificates, verification, rotation. The only module with keys.
//!
//! In: the SPIFFE ids of the pods of this node ([`Identities::ensure`]). Out: TLS configurations to open and to
//! accept mutual TLS with, and the id that a peer's certificate states, once it is verified. Keys are made here,
//! stay in memory and never leave the module; only an authority's own key is kept elsewhere: the standalone one's on
//! disk, a controller's in a Secret.
//!
//! Never decides what an identity may do, never touches a socket.

mod authority;
mod clock;
mod controller;
mod held;
mod identities;
mod issuer;
mod material;
mod metrics;
mod reason;
mod renewal;
mod requested;
pub mod rotation;
mod signer;
mod store;
mod tls;
mod trust;
mod trust_dir;
mod verify;
mod web;

pub use authority::{Authority, AuthorityError, AuthoritySettings, CertificateAuthority, Issued, Signing};
pub use clock::{Clock, now, system_clock};
pub use controller::{ControllerTrust, OwnCertificate, roots_of_pem};
pub use held::{AuthorityPem, HeldAuthority, HeldError, SigningPem};
pub use identities::{CertificateSummary, Identities, Settings, Unavailable};
pub use issuer::IssueError;
pub use material::MaterialError;
pub use metrics::IdentityMetrics;
pub use reason::{HandshakeFailure, Reason};
pub use requested::{issued_for, request_for};
pub use tls::{Alpn, server_name};
pub use trust::{RootError, TrustBundle};
pub use trust_dir::TrustDirError;
pub use verify::{Peer, serial_of};
pub use web::web_client;

#[cfg(test)]
mod tests;
