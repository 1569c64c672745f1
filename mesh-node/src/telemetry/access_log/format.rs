//! Records as text or JSON: one line each, the fields in one order.
//!
//! A record per request is written: names are joined when the agent is built, numbers go without the formatting
//! machinery, and the date is worked out once per second.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use itoa::Integer;
use mesh_common::model::{Direction, NamespacedName, RequestId, Workload};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::{Audited, DecidedBy, Record, Request};
use crate::args::LogFormat;

const UNTIL_SECOND: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");

/// A field's name with what stands around it.
#[derive(Clone, Copy)]
struct Field {
    json: &'static str,
    text: &'static str,
}

macro_rules! field {
    ($name:literal) => {
        Field { json: concat!(",\"", $name, "\":"), text: concat!(" ", $name, "=") }
    };
}

/// The second of the last record, in words.
#[derive(Default)]
pub(super) struct Clock {
    second: u64,
    text: String,
}

/// Appends a record and a line feed.
pub(super) fn write(text: &mut Vec<u8>, clock: &mut Clock, record: &Record, format: LogFormat) {
    let mut line = Line { text, format, is_first: true };
    line.begin();
    write_fields(&mut line, clock, record);
    line.end();
}

fn write_fields(line: &mut Line<'_>, clock: &mut Clock, record: &Record) {
    line.time(field!("time"), clock, record.ended);
    line.bare_text(field!("log"), "access");
    line.address(field!("src.addr"), record.source_address);
    line.workload(field!("src.workload"), record.source.as_deref());
    line.identity(field!("src.identity"), record.source_identity.as_deref());
    line.address(field!("dst.addr"), record.destination_address);
    line.text(field!("dst.service"), record.service.as_deref().map(|service| &*service.host));
    line.workload(field!("dst.workload"), record.destination.as_deref());
    line.identity(field!("dst.identity"), record.destination_identity.as_deref());
    line.bare_text(
        field!("direction"),
        match record.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        },
    );
    line.bare_text(field!("protocol"), record.protocol.as_str());
    if let Some(spoken) = record.detected {
        line.bare_text(field!("detected"), spoken.as_str());
    }
    line.text(field!("tls.sni"), record.server_name.as_deref());
    if let Some(request) = &record.request {
        write_request(line, request);
    }
    line.text(field!("route"), record.route.as_deref());
    line.policy(field!("policy"), record.policy.as_deref());
    line.audit(field!("audit"), record.audit.as_deref());
    line.bare_text(field!("verdict"), record.verdict.as_str());
    if let Some(decision) = &record.decision {
        line.bare_text(field!("decision"), decision.as_str());
    }
    line.bare_text(field!("reason"), record.reason);
    line.number(field!("bytes_sent"), record.bytes_sent);
    line.number(field!("bytes_received"), record.bytes_received);
    line.milliseconds(field!("duration_ms"), record.duration);
    line.text(field!("error"), record.error.as_deref());
    if let Some(id) = record.trace_id {
        line.formatted(field!("trace_id"), format_args!("{:032x}", u128::from_be_bytes(id)));
    }
}

fn write_request(line: &mut Line<'_>, request: &Request) {
    line.known(field!("http.method"), &request.method);
    line.known(field!("http.host"), &request.host);
    line.known(field!("http.path"), &request.path);
    line.text(field!("http.request_id"), request.id.as_ref().map(RequestId::as_str));
    line.text(field!("http.principal"), request.end_user.as_deref());
    if request.status != 0 {
        line.number(field!("http.status"), request.status);
    }
    if let Some(status) = request.grpc_status {
        line.number(field!("grpc.status"), status);
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

    fn name(&mut self, field: Field) {
        let name = match self.format {
            LogFormat::Json => field.json,
            LogFormat::Text => field.text,
        };
        // What stands between two fields does not stand before the first.
        let from = usize::from(std::mem::replace(&mut self.is_first, false));
        self.put(&name[from..]);
    }

    /// Text of ours: nothing in it needs escaping.
    fn bare_text(&mut self, field: Field, value: &str) {
        self.bare_parts(field, &[value]);
    }

    fn bare_parts(&mut self, field: Field, parts: &[&str]) {
        self.name(field);
        self.quote();
        parts.iter().for_each(|part| self.put(part));
        self.quote();
    }

    fn formatted(&mut self, field: Field, value: std::fmt::Arguments<'_>) {
        self.name(field);
        self.quote();
        self.text.write_fmt(value).expect("writing to memory cannot fail");
        self.quote();
    }

    fn quote(&mut self) {
        if self.format == LogFormat::Json {
            self.text.push(b'"');
        }
    }

    fn number(&mut self, field: Field, value: impl Integer) {
        self.name(field);
        self.put_number(value);
    }

    /// With three digits after the point.
    fn milliseconds(&mut self, field: Field, duration: Duration) {
        self.number(field, duration.as_millis());
        self.put_fraction::<3>(duration.subsec_micros() % 1_000);
    }

    /// RFC 3339, in UTC, with microseconds.
    fn time(&mut self, field: Field, clock: &mut Clock, time: SystemTime) {
        self.name(field);
        self.quote();
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.put(clock.until_second(since.as_secs()));
        self.put_fraction::<6>(since.subsec_micros());
        self.put("Z");
        self.quote();
    }

    fn address(&mut self, field: Field, address: SocketAddr) {
        let SocketAddr::V4(address) = address else {
            return self.formatted(field, format_args!("{address}"));
        };
        self.name(field);
        self.quote();
        for (octet, after) in address.ip().octets().into_iter().zip([".", ".", ".", ":"]) {
            self.put_number(octet);
            self.put(after);
        }
        self.put_number(address.port());
        self.quote();
    }

    fn workload(&mut self, field: Field, workload: Option<&Workload>) {
        if let Some(workload) = workload {
            let NamespacedName { namespace, name } = &workload.name;
            self.bare_parts(field, &[namespace, "/", name]);
        }
    }

    /// `Kind namespace/name rules[0]`; in text with quotes, for it has spaces.
    fn policy(&mut self, field: Field, decided: Option<&DecidedBy>) {
        let Some(decided) = decided else { return };
        self.name(field);
        self.put("\"");
        self.put_policy(decided);
        self.put("\"");
    }

    /// As [`policy`](Self::policy), each with what it found: `Kind namespace/name rules[0] would_deny`.
    fn audit(&mut self, field: Field, audited: Option<&Audited>) {
        let Some(audited) = audited else { return };
        self.name(field);
        self.put("\"");
        for (index, (by, effect)) in audited.first.iter().enumerate() {
            self.put(if index == 0 { "" } else { ", " });
            self.put_policy(by);
            [" ", effect.as_str()].into_iter().for_each(|part| self.put(part));
        }
        if audited.left_off() > 0 {
            self.put(", ");
            self.put_number(audited.left_off());
            self.put(" more");
        }
        self.put("\"");
    }

    fn put_policy(&mut self, DecidedBy { policy, rule }: &DecidedBy) {
        let NamespacedName { namespace, name } = &policy.name;
        [policy.kind.as_str(), " ", namespace, "/", name].into_iter().for_each(|part| self.put(part));
        if let Some(rule) = *rule {
            self.put(" rules[");
            self.put_number(rule);
            self.put("]");
        }
    }

    fn identity(&mut self, field: Field, principal: Option<&str>) {
        if let Some(principal) = principal {
            self.bare_parts(field, &["spiffe://", principal]);
        }
    }

    /// Text that is empty where a request could not be read so far.
    fn known(&mut self, field: Field, value: &str) {
        self.text(field, Some(value).filter(|value| !value.is_empty()));
    }

    /// Text that a peer may have chosen: quoted and escaped, so that no field or line can be forged.
    fn text(&mut self, field: Field, value: Option<&str>) {
        let Some(value) = value else {
            return;
        };
        self.name(field);
        if self.format == LogFormat::Text && !value.is_empty() && value.bytes().all(is_plain_in_text) {
            return self.put(value);
        }
        if value.bytes().all(is_plain_in_json) {
            return ["\"", value, "\""].into_iter().for_each(|part| self.put(part));
        }
        serde_json::to_writer(&mut *self.text, value).expect("text is written to memory");
    }

    /// Most of a record are names and words: put as they are they cost a tenth of what formatting does.
    fn put(&mut self, part: &str) {
        self.text.extend_from_slice(part.as_bytes());
    }

    fn put_number(&mut self, number: impl Integer) {
        self.put(itoa::Buffer::new().format(number));
    }

    /// A point and so many digits.
    fn put_fraction<const DIGITS: usize>(&mut self, mut number: u32) {
        let mut digits = [b'0'; DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit += (number % 10) as u8;
            number /= 10;
        }
        self.text.push(b'.');
        self.text.extend_from_slice(&digits);
    }
}

fn is_plain_in_text(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"\\=".contains(&byte)
}

/// RFC 8259, section 7: what needs no escape.
fn is_plain_in_json(byte: u8) -> bool {
    byte >= b' ' && byte != b'"' && byte != b'\\'
}

impl Clock {
    /// The date and time of day, up to the second.
    fn until_second(&mut self, second: u64) -> &str {
        if self.text.is_empty() || self.second != second {
            let time = i64::try_from(second)
                .ok()
                .and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok());
            let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            self.text = time.format(UNTIL_SECOND).unwrap_or_default();
            self.second = second;
        }
        &self.text
    }
}
