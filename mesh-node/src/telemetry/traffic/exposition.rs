//! Series as Prometheus text (exposition format 0.0.4).

use std::fmt::Write;

use super::RequestOutcome;
use super::cells::{
    BOUNDS, CLOSED, CONNECTION, FAILED, MESSAGES, OPENED, RECEIVED, REQUEST, REQUEST_MESSAGES,
    RESPONSE_MESSAGES, SENT, SUM, UNBOUNDED,
};
use super::names::Party;
use super::table::{Series, Sum};
use crate::telemetry::labels::RequestProtocol;

/// Istio's name for a mesh of one cluster, which Kiali expects.
const CLUSTER: &str = "Kubernetes";

/// Name, kind and help of every family written here, for the scrape and for `docs/metrics.md`.
pub const DESCRIPTIONS: &[(&str, &str, &str)] = &[
    (
        "istio_tcp_connections_opened_total",
        "counter",
        "TCP connections opened, counted when they are permitted.",
    ),
    ("istio_tcp_connections_closed_total", "counter", "TCP connections closed, counted at their end."),
    (
        "istio_tcp_connections_failed_total",
        "counter",
        "TCP connections that were refused or could not be made, counted at their end.",
    ),
    (
        "istio_tcp_sent_bytes_total",
        "counter",
        "Bytes from the called side to the caller, for both reporters, counted as they are carried.",
    ),
    (
        "istio_tcp_received_bytes_total",
        "counter",
        "Bytes from the caller to the called side, for both reporters, counted as they are carried.",
    ),
    ("istio_requests_total", "counter", "Requests, counted when their response ends."),
    (
        "istio_request_duration_milliseconds",
        "histogram",
        "Time from a request's first byte to its response's last, counted when it ends.",
    ),
    (
        "istio_request_messages_total",
        "counter",
        "Messages of gRPC from callers, counted with the response's as they pass, and at the call's end.",
    ),
    ("istio_response_messages_total", "counter", "Messages of gRPC to callers, counted as they pass."),
    ("istio_build", "gauge", "The version that runs; always 1."),
    ("nodemesh_telemetry_series", "gauge", "Series of traffic metrics that are kept."),
    (
        "nodemesh_telemetry_series_evicted_total",
        "counter",
        "Series of traffic metrics that made room for others, and are counted under other since.",
    ),
    (
        "nodemesh_telemetry_series_overflowed_total",
        "counter",
        "Times that a core met traffic whose series found no room and was counted under other.",
    ),
];

/// Families of connection series, with the number that each shows.
const CONNECTION_FAMILIES: [(&str, usize); 5] = [
    ("istio_tcp_connections_opened_total", OPENED),
    ("istio_tcp_connections_closed_total", CLOSED),
    ("istio_tcp_connections_failed_total", FAILED),
    ("istio_tcp_sent_bytes_total", SENT),
    ("istio_tcp_received_bytes_total", RECEIVED),
];

/// Families of calls' messages, with the number that each shows.
const MESSAGE_FAMILIES: [(&str, usize); 2] = [
    ("istio_request_messages_total", REQUEST_MESSAGES),
    ("istio_response_messages_total", RESPONSE_MESSAGES),
];

/// Appends the traffic's families.
pub fn write(
    text: &mut String,
    connections: &[Sum<CONNECTION>],
    requests: &[Sum<REQUEST>],
    messages: &[Sum<MESSAGES>],
) {
    for (family, number) in CONNECTION_FAMILIES {
        write_head(text, family);
        for (series, numbers) in connections.iter().filter(|(_, numbers)| numbers[number] > 0) {
            write_line(text, family, series, None, numbers[number]);
        }
    }
    write_head(text, "istio_requests_total");
    for (series, numbers) in requests {
        write_line(text, "istio_requests_total", series, None, count(numbers));
    }
    write_head(text, "istio_request_duration_milliseconds");
    for (series, numbers) in requests {
        write_histogram(text, "istio_request_duration_milliseconds", series, numbers);
    }
    for (family, number) in MESSAGE_FAMILIES {
        write_head(text, family);
        for (series, numbers) in messages {
            write_names(text, family, series);
            write_label(text, "request_protocol", series.outcome.protocol.as_str());
            write_label(text, "connection_security_policy", series.names.security.as_str());
            push(text, format_args!("}} {}\n", numbers[number]));
        }
    }
}

/// Appends the version that runs.
pub fn write_build(text: &mut String) {
    write_head(text, "istio_build");
    let version = env!("CARGO_PKG_VERSION");
    push(text, format_args!("istio_build{{component=\"mesh-node\",tag=\"{version}\"}} 1\n"));
}

/// Appends the build and the series' own bookkeeping.
pub fn write_own(text: &mut String, series: usize, evicted: u64, overflowed: u64) {
    write_build(text);
    let own = [
        ("nodemesh_telemetry_series", series as u64),
        ("nodemesh_telemetry_series_evicted_total", evicted),
        ("nodemesh_telemetry_series_overflowed_total", overflowed),
    ];
    for (family, value) in own {
        write_head(text, family);
        push(text, format_args!("{family} {value}\n"));
    }
}

fn write_head(text: &mut String, family: &str) {
    let (_, kind, help) =
        DESCRIPTIONS.iter().find(|(name, ..)| *name == family).expect("every family is described above");
    push(text, format_args!("# HELP {family} {help}\n# TYPE {family} {kind}\n"));
}

fn write_histogram(text: &mut String, family: &str, series: &Series, numbers: &[u64; REQUEST]) {
    let bucket = format!("{family}_bucket");
    let mut reached = 0;
    for (bound, number) in BOUNDS.iter().zip(numbers) {
        reached += number;
        write_line(text, &bucket, series, Some(&milliseconds(*bound)), reached);
    }
    write_line(text, &bucket, series, Some("+Inf"), reached + numbers[UNBOUNDED]);
    let sum = format!("{family}_sum");
    write_labels(text, &sum, series, None);
    push(text, format_args!(" {}\n", milliseconds(numbers[SUM])));
    write_line(text, &format!("{family}_count"), series, None, count(numbers));
}

fn count(numbers: &[u64; REQUEST]) -> u64 {
    numbers[..=UNBOUNDED].iter().sum()
}

fn milliseconds(micros: u64) -> String {
    let (whole, rest) = (micros / 1_000, micros % 1_000);
    if rest == 0 {
        return whole.to_string();
    }
    format!("{whole}.{rest:03}").trim_end_matches('0').to_owned()
}

fn write_line(text: &mut String, name: &str, series: &Series, bound: Option<&str>, value: u64) {
    write_labels(text, name, series, bound);
    push(text, format_args!(" {value}\n"));
}

fn write_labels(text: &mut String, name: &str, series: &Series, bound: Option<&str>) {
    write_names(text, name, series);
    write_outcome(text, &series.outcome);
    write_label(text, "connection_security_policy", series.names.security.as_str());
    if let Some(bound) = bound {
        write_label(text, "le", bound);
    }
    text.push('}');
}

/// Who talks to whom; the labels go on after it.
fn write_names(text: &mut String, name: &str, Series { names, .. }: &Series) {
    push(text, format_args!("{name}{{reporter=\"{}\"", names.reporter.as_str()));
    write_party(text, "source", &names.source);
    write_party(text, "destination", &names.destination);
    write_label(text, "destination_service", &names.service.host);
    write_label(text, "destination_service_name", &names.service.name);
    write_label(text, "destination_service_namespace", &names.service.namespace);
}

fn write_party(text: &mut String, side: &str, party: &Party) {
    let is_known = &*party.workload != "unknown";
    for (label, value) in [
        ("workload", &party.workload),
        ("workload_namespace", &party.namespace),
        ("canonical_service", &party.canonical_service),
        ("canonical_revision", &party.canonical_revision),
        ("app", &party.app),
        ("version", &party.version),
    ] {
        push(text, format_args!(",{side}_{label}=\""));
        escape(text, value);
        text.push('"');
    }
    match &party.principal {
        Some(principal) => {
            push(text, format_args!(",{side}_principal=\"spiffe://"));
            escape(text, principal);
            text.push('"');
        }
        None => push(text, format_args!(",{side}_principal=\"unknown\"")),
    }
    push(text, format_args!(",{side}_cluster=\"{}\"", if is_known { CLUSTER } else { "unknown" }));
}

fn write_outcome(text: &mut String, outcome: &RequestOutcome) {
    write_label(text, "request_protocol", outcome.protocol.as_str());
    write_label(text, "response_flags", outcome.flags.as_str());
    if outcome.protocol == RequestProtocol::Tcp {
        return;
    }
    push(text, format_args!(",response_code=\"{}\"", outcome.code));
    match outcome.grpc_status {
        Some(status) => push(text, format_args!(",grpc_response_status=\"{status}\"")),
        None => push(text, format_args!(",grpc_response_status=\"\"")),
    }
}

fn write_label(text: &mut String, name: &str, value: &str) {
    push(text, format_args!(",{name}=\""));
    escape(text, value);
    text.push('"');
}

/// Exposition format: backslash, quote and line feed are escaped in label values.
fn escape(text: &mut String, value: &str) {
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            _ => text.push(letter),
        }
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a string cannot fail");
}
