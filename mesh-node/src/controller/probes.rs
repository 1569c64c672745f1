//! What the kubelet and Prometheus ask of the controller.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, Request};
use tokio::net::TcpListener;

use super::world::Known;
use crate::admin::{Answer, accept, metrics_answer, not_found, probe_answer, serve};
use crate::telemetry::registry::Registry;
use crate::telemetry::traffic::write_build;

/// Serves `/metrics`; ends when it is dropped.
pub(super) async fn serve_metrics(listener: TcpListener, registry: Registry) {
    serve(
        async || accept(&listener).await,
        move |request: Request<_>| {
            let registry = registry.clone();
            async move { metrics(&registry, request.method(), request.uri().path()) }
        },
    )
    .await;
}

/// Serves `/readyz` and `/livez`; ends when it is dropped.
pub(super) async fn serve_probes(listener: TcpListener, known: Arc<Known>, serves: Arc<AtomicBool>) {
    serve(
        async || accept(&listener).await,
        move |request: Request<_>| {
            let unmet = unmet(&known, serves.load(Ordering::Acquire));
            async move { probes(&unmet, request.method(), request.uri().path()) }
        },
    )
    .await;
}

fn metrics(registry: &Registry, method: &Method, path: &str) -> Answer {
    match (method, path) {
        (&Method::GET, "/metrics") => {
            let mut text = registry.render().unwrap_or_else(|error| format!("# {error}\n"));
            write_build(&mut text);
            metrics_answer(text)
        }
        _ => not_found(path),
    }
}

/// That it answers shows that it lives: whatever else is wrong, a restart mends nothing.
fn probes(unmet: &[String], method: &Method, path: &str) -> Answer {
    match (method, path) {
        (&Method::GET, "/readyz") => probe_answer(unmet),
        (&Method::GET, "/livez") => probe_answer(&[]),
        _ => not_found(path),
    }
}

/// What keeps it from serving agents.
fn unmet(known: &Known, serves: bool) -> Vec<String> {
    let mut unmet = Vec::new();
    if !serves {
        unmet.push("there is no certificate authority yet: the log says why".to_owned());
    }
    let missing = known.missing();
    if missing.is_empty() {
        return unmet;
    }
    let kinds: Vec<&str> = missing.iter().map(|kind| kind.name()).collect();
    let kinds = kinds.join(", ");
    unmet.push(format!(
        "no whole list was read yet of {kinds}: the log says why; kubectl apply -k manifests/base makes the definitions and roles"
    ));
    unmet
}
