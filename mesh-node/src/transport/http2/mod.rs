//! HTTP/2, gRPC and WebSocket over HTTP/2: h2 on the core's own runtime, and hyper for what is HTTP/1.1.
//!
//! In: a connection that begins with the HTTP/2 preface or with our TLS, and a [`Conductor`] for it. Each request is
//! brought into one form, shown to the conductor, and sent where its `Plan` says: over HTTP/2 in mutual TLS to the
//! agent of another node (ALPN `nodemesh/h2`), in the clear to what is outside the mesh, or to an application of
//! this node. Bodies and trailers pass as they come, never held whole.
//!
//! Never decides. Everything here belongs to one thread: run it in a `LocalSet` of a current-thread runtime.

mod activity;
mod answer;
mod ask;
mod body;
mod calm;
mod conductor;
mod connect;
mod cut;
mod empties;
mod exchange;
mod fields;
mod http1_callers;
mod incoming;
mod interims;
mod limit;
mod own_client;
mod pace;
mod peers;
mod pings;
mod pipe;
mod pool;
mod pool_http1;
mod request;
mod requests;
mod resends;
mod runtime;
mod send;
mod serve;
mod server;
mod settings;
mod sources;
mod strict;
mod switched;
mod taking;
mod through;
mod trailers;
mod upload;
mod way;
mod websocket;

pub use answer::{Instead, OwnAnswer, is_grpc_type};
pub use conductor::{Conductor, End, Ending, Exchange, RefusedUnseen};
pub use connect::ConnectFailure;
pub use cut::Cut;
pub use incoming::HttpError;
pub use own_client::{OwnClient, own_client};
pub use serve::{Http2, ServeError};
pub use settings::Settings;

#[cfg(test)]
mod tests;
