//! Applications of the tests.

use hyper::server::conn::http2::Builder;
use hyper_util::rt::TokioTimer;

use crate::transport::http2::Settings;

/// How they serve HTTP/2, by hyper.
pub(super) fn server_of<E: Clone>(executor: E, settings: &Settings) -> Builder<E> {
    let mut builder = Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .enable_connect_protocol()
        .max_concurrent_streams(settings.max_concurrent_streams)
        .max_header_list_size(settings.max_header_list)
        .initial_stream_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_send_buf_size(settings.send_buffer);
    builder
}
