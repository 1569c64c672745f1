//! A relay with scripted decisions, both of its sides at hand.

use crate::http1::relay::*;
use crate::http1::*;
use crate::model::{DecisionId, HeadEdits};

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
pub(super) const OK_SENT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

impl Forwarded for String {
    fn added(&self) -> Added<'_> {
        // What a path says of a caller is the test's way to have it said.
        let said = self.strip_prefix("/called-by/").into_iter();
        said.map(|who| Field { name: b"x-forwarded-client-cert", value: who.as_bytes() }).collect()
    }
}

/// What who waits is told in whose place nobody has answered in time.
pub(super) const UNANSWERED: LocalAnswer<'static> =
    LocalAnswer { status: 504, text: "nobody said a word", reason: "no_word", decision: None };

/// A relay whose plans are the paths of requests; `/denied` is answered 403, somebody is asked about `/asked`.
pub(super) struct Bench {
    pub(super) relay: Relay<String>,
    pub(super) commands: Vec<Command<String>>,
    /// Everything that went each way.
    pub(super) down: String,
    pub(super) up: String,
    /// What a refusal is called.
    pub(super) decision: Option<DecisionId>,
}

impl Bench {
    pub(super) fn new(kind: ClientKind) -> Self {
        let (commands, down, up) = (Vec::new(), String::new(), String::new());
        Self { relay: Relay::new(kind), commands, down, up, decision: None }
    }

    pub(super) fn connection() -> Self {
        Self::new(ClientKind::Connection)
    }

    pub(super) fn act(
        &mut self,
        act: impl FnOnce(&mut Relay<String>, &mut Court<'_, String>) -> Commands<String>,
    ) {
        let rules = ReadRules::default();
        let dialled = Authority::parse(b"10.0.0.1:8080").unwrap();
        let mut judge = |head: &RequestHead<'_>| match head.path.as_str() {
            "/denied" => Verdict::Answer(LocalAnswer {
                status: 403,
                text: "RBAC: access denied",
                reason: "policy",
                decision: None,
            }),
            "/asked" => Verdict::Wait(None),
            "/edited" => {
                let removed = vec!["x-user".into()];
                let added = vec![("x-user".into(), (*b"web").into())];
                Verdict::ForwardEdited("/edited".into(), HeadEdits { removed, added, query: None })
            }
            path => Verdict::Forward(path.to_owned()),
        };
        let mut court = Court { rules: &rules, dialled: &dialled, judge: &mut judge };
        let commands = act(&mut self.relay, &mut court);
        let is_refusal =
            |command: &Command<_>| matches!(command, Command::Refused(..) | Command::Finished(..));
        if commands.contains(&Command::Unanswered) {
            self.relay.answer_unanswered(LocalAnswer { decision: self.decision, ..UNANSWERED });
        }
        if commands.iter().any(is_refusal) {
            self.relay.answer_refused(self.decision);
        }
        self.commands.extend(commands);
        self.flush();
    }

    /// Sends what can be sent.
    pub(super) fn flush(&mut self) {
        let out = self.relay.to_client();
        self.down.push_str(std::str::from_utf8(out.pending()).unwrap());
        out.sent(out.len());
    }

    pub(super) fn client(&mut self, bytes: &str) -> &mut Self {
        self.act(|relay, court| relay.client_bytes(bytes.as_bytes(), court));
        self
    }

    /// An upstream comes and takes all that goes up.
    pub(super) fn acquire(&mut self, reused: bool) -> &mut Self {
        self.relay.acquired(reused);
        self.send_up()
    }

    pub(super) fn send_up(&mut self) -> &mut Self {
        let out = self.relay.to_upstream();
        self.up.push_str(std::str::from_utf8(out.pending()).unwrap());
        out.sent(out.len());
        self
    }

    pub(super) fn upstream(&mut self, bytes: &str) -> &mut Self {
        self.act(|relay, court| relay.upstream_bytes(bytes.as_bytes(), court));
        self
    }

    pub(super) fn upstream_end(&mut self) -> &mut Self {
        self.act(|relay, court| relay.upstream_ended(court));
        self
    }

    pub(super) fn took(&mut self, expected: &[Command<String>]) -> &mut Self {
        assert_eq!(std::mem::take(&mut self.commands), expected);
        self
    }

    pub(super) fn status(&mut self) -> u16 {
        self.down.rsplit("HTTP/1.1 ").next().unwrap()[..3].parse().unwrap()
    }
}

pub(super) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

pub(super) fn finished(path: &str, status: u16, response: u64, ending: Ending) -> Command<String> {
    let bytes = BodyBytes { request: 0, response };
    Command::Finished(path.to_owned(), Summary { status, bytes, ending })
}

pub(super) const ACQUIRE: Command<String> = Command::Acquire { fresh: false };
pub(super) const REUSE: Command<String> = Command::Release(Release::Reuse);
pub(super) const ABORT: Command<String> = Command::Release(Release::Abort);
