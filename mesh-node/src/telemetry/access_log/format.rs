//! Records as text or JSON: one line each, the fields in one order.

use std::io::Write;
use std::net::SocketAddr;

use mesh_common::model::{Direction, Workload};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Record;
use crate::args::LogFormat;

/// Appends a record and a line feed.
pub fn write(text: &mut Vec<u8>, record: &Record, format: LogFormat) {
    let mut line = Line { text, format, is_first: true };
    line.begin();
    write_fields(&mut line, record);
    line.end();
}

fn write_fields(line: &mut Line<'_>, record: &Record) {
    let time = OffsetDateTime::from(record.ended).format(&Rfc3339);
    line.bare_text("time", &time.unwrap_or_default());
    line.bare_text("log", "access");
    line.address("src.addr", record.source_address);
    line.workload("src.workload", record.source.as_deref());
    line.identity("src.identity", record.source_identity.as_deref());
    line.address("dst.addr", record.destination_address);
    line.text("dst.service", record.service.as_deref().map(|service| &*service.host));
    line.workload("dst.workload", record.destination.as_deref());
    line.identity("dst.identity", record.destination_identity.as_deref());
    line.bare_text(
        "direction",
        match record.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        },
    );
    line.bare_text("protocol", record.protocol.as_str());
    if let Some(request) = &record.request {
        line.text("http.method", Some(&request.method));
        line.text("http.host", Some(&request.host));
        line.text("http.path", Some(&request.path));
        line.number("http.status", format_args!("{}", request.status));
        if let Some(status) = request.grpc_status {
            line.number("grpc.status", format_args!("{status}"));
        }
    }
    line.text("route", record.route.as_deref());
    line.text("policy", record.policy.as_deref());
    line.bare_text("verdict", record.verdict.as_str());
    line.bare_text("reason", record.reason);
    line.number("bytes_sent", format_args!("{}", record.bytes_sent));
    line.number("bytes_received", format_args!("{}", record.bytes_received));
    let micros = record.duration.as_micros();
    line.number("duration_ms", format_args!("{}.{:03}", micros / 1_000, micros % 1_000));
    line.text("error", record.error.as_deref());
    if let Some(id) = record.trace_id {
        line.number_or_quoted("trace_id", format_args!("{:032x}", u128::from_be_bytes(id)));
    }
}

/// A line that is being written.
struct Line<'a> {
    text: &'a mut Vec<u8>,
    format: LogFormat,
    is_first: bool,
}

impl Line<'_> {
    fn begin(&mut self) {
        if self.format == LogFormat::Json {
            self.text.push(b'{');
        }
    }

    fn end(&mut self) {
        if self.format == LogFormat::Json {
            self.text.push(b'}');
        }
        self.text.push(b'\n');
    }

    fn name(&mut self, name: &str) {
        let is_first = std::mem::replace(&mut self.is_first, false);
        let (between, quote, after) = match self.format {
            LogFormat::Json => (",", "\"", ":"),
            LogFormat::Text => (" ", "", "="),
        };
        if !is_first {
            self.put(between);
        }
        [quote, name, quote, after].into_iter().for_each(|part| self.put(part));
    }

    /// Text of ours: nothing in it needs escaping.
    fn bare_text(&mut self, name: &str, value: &str) {
        self.bare_parts(name, &[value]);
    }

    fn bare_parts(&mut self, name: &str, parts: &[&str]) {
        self.name(name);
        self.quote();
        parts.iter().for_each(|part| self.put(part));
        self.quote();
    }

    fn number_or_quoted(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        self.name(name);
        self.quote();
        self.push(value);
        self.quote();
    }

    fn quote(&mut self) {
        if self.format == LogFormat::Json {
            self.text.push(b'"');
        }
    }

    fn number(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        self.name(name);
        self.push(value);
    }

    fn address(&mut self, name: &str, address: SocketAddr) {
        self.number_or_quoted(name, format_args!("{address}"));
    }

    fn workload(&mut self, name: &str, workload: Option<&Workload>) {
        if let Some(workload) = workload {
            self.number_or_quoted(name, format_args!("{}", workload.name));
        }
    }

    fn identity(&mut self, name: &str, principal: Option<&str>) {
        if let Some(principal) = principal {
            self.bare_parts(name, &["spiffe://", principal]);
        }
    }

    /// Text that a peer may have chosen: quoted and escaped, so that no field or line can be forged.
    fn text(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else {
            return;
        };
        self.name(name);
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\=".contains(&byte);
        if self.format == LogFormat::Text && !value.is_empty() && value.bytes().all(is_plain) {
            self.text.extend_from_slice(value.as_bytes());
            return;
        }
        serde_json::to_writer(&mut *self.text, value).expect("text is written to memory");
    }

    /// Most of a record are names and words: put as they are they cost a tenth of what formatting does.
    fn put(&mut self, part: &str) {
        self.text.extend_from_slice(part.as_bytes());
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.text.write_fmt(arguments).expect("writing to memory cannot fail");
    }
}
