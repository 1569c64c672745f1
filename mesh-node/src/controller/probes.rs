//! What the kubelet and Prometheus ask of the controller.

use std::sync::Arc;

use http::{Method, Request};
use tokio::net::TcpListener;

use super::world::Known;
use crate::admin::{Answer, metrics_answer, not_found, probe_answer, serve};
use crate::telemetry::registry::Registry;

/// Serves `/metrics`; ends when it is dropped.
pub(super) async fn serve_metrics(listener: TcpListener, registry: Registry) {
    let accept = async || listener.accept().await.map(|(stream, _)| stream);
    serve(accept, move |request: Request<_>| {
        let registry = registry.clone();
        async move { metrics(&registry, request.method(), request.uri().path()) }
    })
    .await;
}

/// Serves `/readyz` and `/livez`; ends when it is dropped.
pub(super) async fn serve_probes(listener: TcpListener, known: Arc<Known>) {
    let accept = async || listener.accept().await.map(|(stream, _)| stream);
    serve(accept, move |request: Request<_>| {
        let known = Arc::clone(&known);
        async move { probes(&known, request.method(), request.uri().path()) }
    })
    .await;
}

fn metrics(registry: &Registry, method: &Method, path: &str) -> Answer {
    match (method, path) {
        (&Method::GET, "/metrics") => {
            metrics_answer(registry.render().unwrap_or_else(|error| format!("# {error}\n")))
        }
        _ => not_found(path),
    }
}

/// That it answers shows that it lives: whatever else is wrong, a restart mends nothing.
fn probes(known: &Known, method: &Method, path: &str) -> Answer {
    match (method, path) {
        (&Method::GET, "/readyz") => probe_answer(&unmet(known)),
        (&Method::GET, "/livez") => probe_answer(&[]),
        _ => not_found(path),
    }
}

fn unmet(known: &Known) -> Vec<String> {
    let missing = known.missing();
    if missing.is_empty() {
        return Vec::new();
    }
    let kinds: Vec<&str> = missing.iter().map(|kind| kind.name()).collect();
    let kinds = kinds.join(", ");
    vec![format!(
        "no whole list was read yet of {kinds}: the log says why; kubectl apply -k manifests/base makes the definitions and roles"
    )]
}
