use super::*;
use std::sync::{Mutex, PoisonError};

use mesh_common::model::{NamespacedName, RequestId};
use mesh_common::policy::PolicyKind;

/// What a writer wrote, to look at.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn begin(log: AccessLog) -> OpenRecord {
    log.begin(Direction::Inbound, "10.0.0.1:4000".parse().unwrap(), "[fd00::2]:80".parse().unwrap())
}

fn written(format: LogFormat, fill: impl FnOnce(AccessLog)) -> String {
    let output = Output::default();
    let (log, writer) = AccessLog::start(&Registry::new(), format, Box::new(output.clone())).unwrap();
    fill(log);
    drop(writer);
    output.text()
}

#[test]
fn a_dropped_record_is_written() {
    let text = written(LogFormat::Text, |log| drop(begin(log)));
    let fields: Vec<&str> = text.trim_end().split(' ').skip(1).collect();
    assert_eq!(
        fields[..6],
        [
            "log=access",
            "src.addr=10.0.0.1:4000",
            "dst.addr=[fd00::2]:80",
            "direction=inbound",
            "protocol=tcp",
            "verdict=undecided",
        ]
    );
    assert!(fields[9].starts_with("duration_ms=0."), "{text}");
}

#[test]
fn json_is_one_object_with_numbers_as_numbers() {
    let text = written(LogFormat::Json, |log| {
        let mut open = begin(log);
        open.record.bytes_sent = 12;
        open.record.trace_id = Some([1; 16]);
        open.record.source_identity = Some("cluster.local/ns/a/sa/b".into());
    });
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record["bytes_sent"], 12);
    assert!(record["duration_ms"].is_number());
    assert_eq!(record["trace_id"], "01".repeat(16));
    assert_eq!(record["src.identity"], "spiffe://cluster.local/ns/a/sa/b");
}

#[test]
fn what_a_peer_chose_forges_no_field_and_no_line() {
    let path = "/a verdict=allowed\nlog=access \"x\"";
    for format in [LogFormat::Text, LogFormat::Json] {
        let text = written(format, |log| {
            let mut open = begin(log);
            let request = Request {
                method: "GET".into(),
                path: path.into(),
                host: "api".into(),
                id: None,
                end_user: None,
                status: 403,
                grpc_status: None,
            };
            open.record.request = Some(Box::new(request));
        });
        assert_eq!(text.lines().count(), 1);
        let escaped = serde_json::to_string(path).unwrap();
        assert!(text.contains(&escaped), "{text}");
    }
}

#[test]
fn a_request_is_written_with_its_parties_and_its_statuses() {
    let text = written(LogFormat::Text, |log| {
        let mut open = begin(log);
        open.record.source_identity = Some("cluster.local/ns/a/sa/b".into());
        open.record.request = Some(Box::new(Request {
            method: "GET".into(),
            path: "/x".into(),
            host: "api".into(),
            id: Some(RequestId::new(0)),
            end_user: None,
            status: 200,
            grpc_status: Some(5),
        }));
    });
    let request = text.lines().next().unwrap();
    let head = " http.method=GET http.host=api http.path=/x http.request_id=00000000-0000-4000-8000-000000000000 \
                http.status=200 grpc.status=5 ";
    assert!(request.contains(head), "{request}");
    assert!(request.contains(" bytes_sent=0 "), "{request}");
    assert!(request.contains(" src.identity=spiffe://cluster.local/ns/a/sa/b "), "{request}");
}

#[test]
fn a_request_without_an_answer_has_no_status() {
    for format in [LogFormat::Text, LogFormat::Json] {
        let text = written(format, |log| {
            let mut open = begin(log);
            open.record.request = Some(Box::new(Request {
                method: "GET".into(),
                path: "/x".into(),
                host: "api".into(),
                id: None,
                end_user: None,
                status: 0,
                grpc_status: None,
            }));
        });
        assert!(text.contains("http.path") && !text.contains("http.status"), "{text}");
    }
}

#[test]
fn findings_of_policies_that_refuse_nothing_are_named_or_counted() {
    let by = |name: &str, rule| DecidedBy {
        policy: PolicyName { kind: PolicyKind::AuthorizationPolicy, name: NamespacedName::new("shop", name) },
        rule,
    };
    let first = [(by("allow", None), AuditEffect::WouldDeny), (by("seen", Some(1)), AuditEffect::Matched)];
    for (format, before) in [(LogFormat::Text, " audit="), (LogFormat::Json, ",\"audit\":")] {
        for (matched, more) in [(1, ""), (3, ", 2 more")] {
            let text = written(format, |log| {
                let audit = Audited { first: first.to_vec().into(), would_deny: 1, matched };
                begin(log).record.audit = Some(Box::new(audit));
            });
            let named =
                "AuthorizationPolicy shop/allow would_deny, AuthorizationPolicy shop/seen rules[1] matched";
            assert!(text.contains(&format!("{before}\"{named}{more}\"")), "{text}");
        }
    }
}

/// Tells what is written, write by write.
struct Told(std::sync::mpsc::Sender<Vec<u8>>);

impl Write for Told {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send(bytes.to_vec()).unwrap();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_waits_is_woken_by_a_record_and_by_the_stop() {
    let (told, writes) = std::sync::mpsc::channel();
    let (log, writer) = AccessLog::start(&Registry::new(), LogFormat::Text, Box::new(Told(told))).unwrap();
    for _ in 0..2 {
        drop(begin(log));
        // The writer is about to wait, or waits: the record comes either way.
        writes.recv_timeout(Duration::from_secs(10)).unwrap();
    }
    drop(writer);
    assert!(writes.recv().is_err(), "the writer has ended and had nothing left to write");
}

#[test]
fn what_finds_no_place_is_counted() {
    let registry = Registry::new();
    let (queue, _records) = sync_channel(1);
    let log = AccessLog::new(Some(queue), counters(&registry).unwrap().1);
    for _ in 0..3 {
        drop(begin(log));
    }
    let metrics = registry.render().unwrap();
    assert!(metrics.contains("nodemesh_telemetry_access_records_total{result=\"dropped\"} 2\n"), "{metrics}");
}

#[test]
fn an_open_record_is_small() {
    // An idle captured connection may cost 1 kB in all.
    let size = size_of::<OpenRecord>();
    assert!(size <= 336, "{size} bytes");
}

/// Where the words stand that a record may have as its reason.
const REASONS: [&str; 6] = [
    include_str!("../../../../mesh-common/src/policy/denial.rs"),
    include_str!("../../../../mesh-common/src/route/mod.rs"),
    include_str!("../../identity/reason.rs"),
    include_str!("../../proxy/response.rs"),
    include_str!("../../transport/http2/connect.rs"),
    include_str!("../../transport/outcome.rs"),
];

#[test]
fn every_reason_is_explained() {
    let text = include_str!("../../../../docs/access-log.md");
    let is_word =
        |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte));
    let arms = REASONS.iter().flat_map(|source| source.lines()).filter_map(|line| line.split_once("=> \""));
    let words: Vec<&str> = arms.filter_map(|(_, rest)| rest.strip_suffix("\",")).filter(is_word).collect();
    assert!(words.len() > 50, "{words:?}");
    let missing: Vec<&&str> = words.iter().filter(|word| !text.contains(&format!("`{word}`"))).collect();
    assert!(missing.is_empty(), "in docs/access-log.md: {missing:?}");
}
