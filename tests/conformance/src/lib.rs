//! Suites that others wrote for the protocols that pass through the mesh: where their programs come from, and the way
//! of those that cannot speak mutual TLS themselves onto the wire. And servers and clients that others wrote, to compare with.

pub mod autobahn;
pub mod bridge;
pub mod readers;

use std::path::{Path, PathBuf};

use anyhow::Result;
use mesh_test_cluster::go::Recipe;

/// The conformance suite for servers of HTTP/2. The module proxy has no newer version of it.
const H2SPEC: Recipe = Recipe {
    title: "h2spec",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/h2spec"),
    requirements: "go",
    versioned: "github.com/summerwind/h2spec",
    verb: &["build"],
    packages: &["github.com/summerwind/h2spec/cmd/h2spec"],
    program: "h2spec",
    source: "go.mod",
    linker_flags: |_| String::new(),
    has_c: false,
};

/// The client and the server with which the implementations of gRPC are tested against each other.
const GRPC: Recipe = Recipe {
    title: "gRPC-interop",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/grpc"),
    requirements: "go",
    versioned: "google.golang.org/grpc",
    verb: &["build"],
    packages: &["google.golang.org/grpc/interop/client", "google.golang.org/grpc/interop/server"],
    program: ".",
    source: "go.mod",
    linker_flags: |_| String::new(),
    has_c: false,
};

/// Two servers of HTTP/1.1 with parsers of their own, Go's own one and fasthttp, and Go's own client.
const READERS: Recipe = Recipe {
    title: "HTTP1-readers",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/http1"),
    requirements: "go",
    versioned: "github.com/valyala/fasthttp",
    verb: &["build"],
    packages: &["."],
    program: "http1-readers",
    source: "main.go",
    linker_flags: |_| String::new(),
    has_c: false,
};

/// The authorization server of Istio's samples.
const AUTHORIZER: Recipe = Recipe {
    title: "Istio-ext-authz",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/external_authorization"),
    requirements: "go",
    versioned: "istio.io/istio",
    verb: &["build"],
    packages: &["istio.io/istio/samples/extauthz/cmd/extauthz"],
    program: "extauthz",
    source: "go.mod",
    linker_flags: |_| String::new(),
    has_c: false,
};

/// Where the suite for HTTP/2 is; builds it if it is not there.
///
/// # Errors
/// Go is missing or fails, or the cache cannot be written.
pub fn h2spec() -> Result<PathBuf> {
    Ok(H2SPEC.get(|_: &Path| Ok(()))?.join(H2SPEC.program))
}

/// The folder with `client` and `server` of gRPC's interoperability tests; builds them if they are not there.
///
/// # Errors
/// Go is missing or fails, or the cache cannot be written.
pub fn grpc_interop() -> Result<PathBuf> {
    GRPC.get(|_: &Path| Ok(()))
}

/// Where the program is that asks servers and a client of Go what they understand; builds it if it is not there.
///
/// # Errors
/// Go is missing or fails, or the cache cannot be written.
pub fn go_readers() -> Result<PathBuf> {
    Ok(READERS.get(|_: &Path| Ok(()))?.join(READERS.program))
}

/// Where the authorization server of Istio's samples is; builds it if it is not there.
///
/// # Errors
/// Go is missing or fails, or the cache cannot be written.
pub fn istio_authorizer() -> Result<PathBuf> {
    Ok(AUTHORIZER.get(|_: &Path| Ok(()))?.join(AUTHORIZER.program))
}
