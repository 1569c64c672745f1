//! How h2 serves and asks, and hyper's tasks on the core that begins them.

use std::future::Future;

use h2::{client, server};
use hyper::rt::Executor;

use super::settings::Settings;
use crate::transport::tasks;

/// Runs hyper's tasks on this thread; nothing needs to be `Send`.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnThisCore;

impl<F> Executor<F> for OnThisCore
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tasks::spawn(Box::pin(future));
    }
}

/// How we serve.
pub(super) fn server_of(settings: &Settings) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        // RFC 8441: a WebSocket may be opened by CONNECT. What else CONNECT asks for is refused.
        .enable_connect_protocol()
        .max_concurrent_streams(settings.max_concurrent_streams)
        .max_header_list_size(settings.max_header_list)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_send_buffer_size(settings.send_buffer)
        // Rapid reset (CVE-2023-44487) and resets that we are made to send (CVE-2025-8671). h2's budget for DATA
        // frames without data (RUSTSEC-2026-0258) scales with the window by itself.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(Some(256));
    builder
}

/// Streams that we begin before the other side has said how many it takes. A number that nobody else says: any other one
/// tells that its settings are there.
pub(super) const BEFORE_SETTINGS: usize = 97;

/// How we ask.
pub(super) fn client_of(settings: &Settings) -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .initial_max_send_streams(BEFORE_SETTINGS)
        .max_header_list_size(settings.max_header_list)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_send_buffer_size(settings.send_buffer)
        // No server pushes to a proxy that would not pass it on.
        .enable_push(false)
        .max_local_error_reset_streams(Some(256));
    builder
}
