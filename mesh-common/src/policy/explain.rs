//! Why policy says what it says: for each rule, which of its fields do not match.
//!
//! The verdict is the one of [`authorize_connection`] and [`authorize_request`]. What a rule misses is asked of the
//! functions that match rules, a field at a time: the fields of a rule are joined by AND, so a rule that has one field
//! of another matches just where that field does.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;

use super::matching::{Answer, Breadth, Layer7, Subject};
use super::{Denial, Permit, authorize_connection, authorize_request, layer7_of, of_request, subject_of};
use crate::model::policy::{Condition, Match, Operation, Rule, Source};
use crate::model::{AuthorizationPolicy, ConnectionFacts, RequestFacts, ServerName};
use crate::resolve::{Destination, Target};
use crate::snapshot::{Effect, Snapshot};

/// Values of a field that are named; of more it is said how many.
const NAMED_VALUES: usize = 6;
/// The longest value that is shown, in characters.
const MAX_VALUE: usize = 200;
/// Fields whose values may be credentials.
const SECRET_FIELDS: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "set-cookie"];

/// What policy says, and why.
#[derive(Debug)]
pub struct Explained<'a> {
    /// As the data path has it.
    pub verdict: Result<Permit<'a>, Denial>,
    /// Every AuthorizationPolicy about the destination, by name.
    pub heard: Vec<Heard<'a>>,
}

/// One policy about the destination.
#[derive(Debug)]
pub struct Heard<'a> {
    /// The policy.
    pub policy: &'a AuthorizationPolicy,
    /// What it does.
    pub effect: Effect,
    /// The rule that misses least, the first of them; `None` without a rule that counts.
    pub nearest: Option<Nearest>,
}

/// A rule, and what it misses.
#[derive(Debug)]
pub struct Nearest {
    /// Which rule, counted from 0.
    pub rule: usize,
    /// Of each list of alternatives what the nearest of them misses; nothing if the rule matches.
    pub misses: Vec<Miss>,
    /// It matches in one of the readings that what is asked has, and not in all of them.
    pub is_doubtful: bool,
}

/// A field of a rule that does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The path of the field below the rule, as in `to[0].operation.paths`.
    pub field: String,
    /// What does not fit, for people, as in `/a is not one of /b*`.
    pub reason: String,
    /// There are no requests yet: they will tell.
    pub depends_on_request: bool,
    /// In one of its readings it does match.
    pub is_doubtful: bool,
}

/// Says what policy says of a connection, or of a request on it, and what every rule about it misses.
pub fn explain<'a>(
    snapshot: &'a Snapshot,
    facts: &'a ConnectionFacts,
    destination: &'a Destination,
    request: Option<&RequestFacts<'_>>,
) -> Explained<'a> {
    let (verdict, layer7) = match request {
        Some(request) => (
            authorize_request(snapshot, facts, destination, request),
            of_request(destination.protocol, request),
        ),
        None => (authorize_connection(snapshot, facts, destination), layer7_of(destination.protocol)),
    };
    let heard = heard(snapshot, facts, destination, &subject_of(facts, destination, layer7));
    Explained { verdict, heard }
}

impl Explained<'_> {
    /// Of the policies that permit, the one whose nearest rule misses least; the first of them by name.
    pub fn nearest_allow(&self) -> Option<(&AuthorizationPolicy, &Nearest)> {
        let allows = self.heard.iter().filter(|heard| heard.effect == Effect::Allow);
        let nearest = allows.filter_map(|heard| Some((heard.policy, heard.nearest.as_ref()?)));
        nearest.min_by_key(|(_, nearest)| nearest.misses.len())
    }
}

fn heard<'a>(
    snapshot: &'a Snapshot,
    facts: &ConnectionFacts,
    destination: &Destination,
    subject: &Subject<'_>,
) -> Vec<Heard<'a>> {
    // Elsewhere no policy is asked.
    let Target::Local(local) = &destination.target else { return Vec::new() };
    if facts.local.uid != local.uid {
        return Vec::new();
    }
    let sets = snapshot.policy_sets(&local.uid, destination.address).unwrap_or_default();
    let policies = sets.iter().flat_map(|set| set.policies());
    let mut heard: Vec<Heard<'a>> = policies.map(|policy| hear(subject, policy)).collect();
    // One that is about two Services of the pod is heard twice.
    heard.sort_by_key(|heard| &heard.policy.name);
    heard.dedup_by_key(|heard| &heard.policy.name);
    heard
}

fn hear<'a>(subject: &Subject<'_>, policy: &'a AuthorizationPolicy) -> Heard<'a> {
    let effect = Effect::of(policy);
    let breadth = breadth_of(effect);
    // Of one with a fault no rule counts.
    let rules = if policy.fault.is_some() { &[] } else { &policy.rules[..] };
    let nearest = rules.iter().enumerate().map(|(rule, written)| nearest(subject, (rule, written), breadth));
    Heard { policy, effect, nearest: nearest.min_by_key(|nearest| nearest.misses.len()) }
}

/// What permits reads narrowly, everything else broadly.
fn breadth_of(effect: Effect) -> Breadth {
    match effect {
        Effect::Allow | Effect::WouldAllow => Breadth::Narrow,
        Effect::Custom | Effect::Deny | Effect::WouldDeny | Effect::Audit => Breadth::Broad,
    }
}

fn nearest(subject: &Subject<'_>, (index, rule): (usize, &Rule), breadth: Breadth) -> Nearest {
    let matches = |breadth| subject.matches(rule, breadth) == Answer::Yes;
    let is_doubtful = matches(Breadth::Broad) != matches(Breadth::Narrow);
    Nearest { rule: index, misses: misses(subject, rule, breadth), is_doubtful }
}

/// What of a rule does not match; nothing just where the rule does.
pub(super) fn misses(subject: &Subject<'_>, rule: &Rule, breadth: Breadth) -> Vec<Miss> {
    if matches!(subject.layer7, Layer7::Opaque) && breadth == Breadth::Narrow && rule.speaks_of_requests() {
        return vec![Miss {
            field: "this rule".to_owned(),
            reason: "asks about requests, and there are none: at this port the bytes are not read as HTTP"
                .to_owned(),
            depends_on_request: false,
            is_doubtful: false,
        }];
    }
    let asked = Asked { subject, breadth };
    let mut misses = asked.least("from", "source", &rule.from, Asked::of_source);
    misses.extend(asked.least("to", "operation", &rule.to, Asked::of_operation));
    for (index, condition) in rule.when.iter().enumerate() {
        misses.extend(asked.of_condition(&format!("when[{index}]"), condition));
    }
    misses
}

/// What is asked of a rule.
struct Asked<'s> {
    subject: &'s Subject<'s>,
    breadth: Breadth,
}

/// What one part of a rule compares, in words.
struct Compared<'v> {
    /// The names of the list and of its negation.
    names: [&'static str; 2],
    /// What was there; `None` for nothing.
    found: Option<Cow<'v, str>>,
    /// What is said of nothing.
    nothing: &'static str,
}

impl Asked<'_> {
    /// What the alternative misses that misses least; nothing, if there is none to fulfil.
    fn least<T>(
        &self,
        list: &str,
        kind: &str,
        alternatives: &[T],
        misses: impl Fn(&Self, &str, &T) -> Vec<Miss>,
    ) -> Vec<Miss> {
        let all = alternatives.iter().enumerate();
        let all = all.map(|(index, one)| misses(self, &format!("{list}[{index}].{kind}"), one));
        all.min_by_key(Vec::len).unwrap_or_default()
    }

    fn of_source(&self, at: &str, source: &Source) -> Vec<Miss> {
        let Source { principals, namespaces, service_accounts, ip_blocks, request_principals } = source;
        let only = Source::default;
        let identity = self.subject.identity;
        let nobody = "the caller proved no identity";
        let compared = |names, found| Compared { names, found, nothing: nobody };
        let asks = |probe: &Source, _: Breadth| self.subject.comes_from(probe);
        let mut misses = Vec::new();
        let found = identity.map(|identity| Cow::Borrowed(&**identity.principal()));
        self.halves(
            (at, compared(["principals", "notPrincipals"], found)),
            principals,
            |principals| Source { principals, ..only() },
            asks,
            &mut misses,
        );
        let found = identity.map(|identity| Cow::Borrowed(&**identity.namespace()));
        self.halves(
            (at, compared(["namespaces", "notNamespaces"], found)),
            namespaces,
            |namespaces| Source { namespaces, ..only() },
            asks,
            &mut misses,
        );
        let found = identity.map(|identity| Cow::Borrowed(&**identity.qualified_account()));
        self.halves(
            (at, compared(["serviceAccounts", "notServiceAccounts"], found)),
            service_accounts,
            |service_accounts| Source { service_accounts, ..only() },
            asks,
            &mut misses,
        );
        let found = Some(Cow::Owned(self.subject.source.to_string()));
        self.halves(
            (at, compared(["ipBlocks", "notIpBlocks"], found)),
            ip_blocks,
            |ip_blocks| Source { ip_blocks, ..only() },
            asks,
            &mut misses,
        );
        self.halves(
            (at, self.of_token(["requestPrincipals", "notRequestPrincipals"], self.end_user())),
            request_principals,
            |request_principals| Source { request_principals, ..only() },
            asks,
            &mut misses,
        );
        misses
    }

    fn of_operation(&self, at: &str, operation: &Operation) -> Vec<Miss> {
        let Operation { hosts, ports, methods, paths } = operation;
        let only = Operation::default;
        let request = self.request();
        let compared = |names, found| Compared { names, found, nothing: "there is no request" };
        let asks = |probe: &Operation, breadth: Breadth| self.subject.does(probe, breadth);
        let mut misses = Vec::new();
        let found = request.map(|request| String::from_utf8_lossy(request.host));
        self.halves(
            (at, compared(["hosts", "notHosts"], found)),
            hosts,
            |hosts| Operation { hosts, ..only() },
            asks,
            &mut misses,
        );
        let found = Some(Cow::Owned(self.subject.destination.port().to_string()));
        self.halves(
            (at, compared(["ports", "notPorts"], found)),
            ports,
            |ports| Operation { ports, ..only() },
            asks,
            &mut misses,
        );
        let found = request.map(|request| String::from_utf8_lossy(request.method));
        self.halves(
            (at, compared(["methods", "notMethods"], found)),
            methods,
            |methods| Operation { methods, ..only() },
            asks,
            &mut misses,
        );
        let found = request.map(|request| Cow::Borrowed(request.path.as_str()));
        self.halves(
            (at, compared(["paths", "notPaths"], found)),
            paths,
            |paths| Operation { paths, ..only() },
            asks,
            &mut misses,
        );
        misses
    }

    fn of_condition(&self, at: &str, condition: &Condition) -> Vec<Miss> {
        let Subject { identity, source, destination, .. } = *self.subject;
        let names = ["values", "notValues"];
        let of_caller = |found| Compared { names, found, nothing: "the caller proved no identity" };
        let plain = |found: String| Compared { names, found: Some(found.into()), nothing: "" };
        match condition {
            Condition::RequestHeader { name, values } => {
                let found =
                    Compared { names, found: self.field(name), nothing: "the request has no such field" };
                self.condition(at, condition, found, values, |values| Condition::RequestHeader {
                    name: name.clone(),
                    values,
                })
            }
            Condition::RequestClaim { path, values } => {
                let found = self.of_token(names, self.claim(path));
                self.condition(at, condition, found, values, |values| Condition::RequestClaim {
                    path: path.clone(),
                    values,
                })
            }
            Condition::RequestPrincipal(values) => {
                let found = self.of_token(names, self.end_user());
                self.condition(at, condition, found, values, Condition::RequestPrincipal)
            }
            Condition::RequestAudiences(values) => {
                let found = self.of_token(names, self.audiences());
                self.condition(at, condition, found, values, Condition::RequestAudiences)
            }
            Condition::RequestPresenter(values) => {
                let found = self.request().and_then(|request| request.end_user?.claims.presenter());
                let found = self.of_token(names, found.map(Cow::Borrowed));
                self.condition(at, condition, found, values, Condition::RequestPresenter)
            }
            Condition::SourceIp(blocks) => {
                self.condition(at, condition, plain(source.to_string()), blocks, Condition::SourceIp)
            }
            Condition::SourceNamespace(values) => {
                let found = of_caller(identity.map(|identity| (&**identity.namespace()).into()));
                self.condition(at, condition, found, values, Condition::SourceNamespace)
            }
            Condition::SourcePrincipal(values) => {
                let found = of_caller(identity.map(|identity| (&**identity.principal()).into()));
                self.condition(at, condition, found, values, Condition::SourcePrincipal)
            }
            Condition::SourceServiceAccount(values) => {
                let found = of_caller(identity.map(|identity| (&**identity.qualified_account()).into()));
                self.condition(at, condition, found, values, Condition::SourceServiceAccount)
            }
            Condition::DestinationIp(blocks) => {
                let found = plain(destination.ip().to_string());
                self.condition(at, condition, found, blocks, Condition::DestinationIp)
            }
            Condition::ConnectionServerName(values) => {
                let found = match self.subject.server_name {
                    ServerName::Name(name) => Some(Cow::Borrowed(&**name)),
                    ServerName::Absent | ServerName::Unknown => None,
                };
                let found = Compared { names, found, nothing: "no name is known that its TLS asks for" };
                self.condition(at, condition, found, values, Condition::ConnectionServerName)
            }
            Condition::DestinationPort(ports) => {
                let found = plain(destination.port().to_string());
                self.condition(at, condition, found, ports, Condition::DestinationPort)
            }
        }
    }

    fn condition<T: Clone + fmt::Display>(
        &self,
        at: &str,
        condition: &Condition,
        compared: Compared<'_>,
        values: &Match<T>,
        only: impl Fn(Match<T>) -> Condition,
    ) -> Vec<Miss> {
        let mut misses = Vec::new();
        let asks = |probe: &Condition, breadth: Breadth| self.subject.fulfils(probe, breadth);
        let at = format!("{at} {}", condition.key());
        self.halves((&at, compared), values, only, asks, &mut misses);
        misses
    }

    /// What of a list and of its negation does not match by itself. Where both do and the two together do not, it is the
    /// list.
    fn halves<T: Clone + fmt::Display, P>(
        &self,
        (at, compared): (&str, Compared<'_>),
        list: &Match<T>,
        only: impl Fn(Match<T>) -> P,
        asks: impl Fn(&P, Breadth) -> Answer,
        misses: &mut Vec<Miss>,
    ) {
        let whole = only(list.clone());
        if asks(&whole, self.breadth) == Answer::Yes {
            return;
        }
        let before = misses.len();
        let [wanted, unwanted] = compared.names;
        let parts = [
            (wanted, Match { any_of: list.any_of.clone(), none_of: Vec::new() }),
            (unwanted, Match { any_of: Vec::new(), none_of: list.none_of.clone() }),
        ];
        for (name, part) in parts.into_iter().filter(|(_, part)| !part.is_empty()) {
            let probe = only(part.clone());
            let answer = asks(&probe, self.breadth);
            if answer != Answer::Yes {
                let is_doubtful = asks(&probe, Breadth::Broad) == Answer::Yes;
                misses.push(miss(at, name, &compared, &part, answer, is_doubtful));
            }
        }
        if misses.len() == before {
            misses.push(miss(at, wanted, &compared, list, Answer::No, false));
        }
    }

    fn request(&self) -> Option<&RequestFacts<'_>> {
        match self.subject.layer7 {
            Layer7::Request(request) => Some(request),
            Layer7::Opaque | Layer7::Pending => None,
        }
    }

    fn of_token<'v>(&self, names: [&'static str; 2], found: Option<Cow<'v, str>>) -> Compared<'v> {
        let has_user = self.request().is_some_and(|request| request.end_user.is_some());
        let nothing = if has_user {
            "the token does not say it"
        } else {
            "the request has no token that was looked at"
        };
        Compared { names, found, nothing }
    }

    fn end_user(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&**self.request()?.end_user?.claims.principal()?))
    }

    fn audiences(&self) -> Option<Cow<'_, str>> {
        let all: Vec<&str> = self.request()?.end_user?.claims.audiences().collect();
        (!all.is_empty()).then(|| all.join(", ").into())
    }

    fn claim(&self, path: &[crate::model::Text]) -> Option<Cow<'_, str>> {
        let claims = &self.request()?.end_user?.claims;
        Some(claims.at(path.iter().map(|name| &**name))?.to_string().into())
    }

    /// The values of a field, each as it came.
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        let request = self.request()?;
        let is_meant = |field: &&(&[u8], &[u8])| field.0.eq_ignore_ascii_case(name.as_bytes());
        let mut values = request.headers.iter().filter(is_meant).map(|(_, value)| value).peekable();
        values.peek()?;
        if SECRET_FIELDS.contains(&name) {
            return Some("its value, which is not shown,".into());
        }
        let values: Vec<_> = values.map(|value| String::from_utf8_lossy(value)).collect();
        Some(values.join(", ").into())
    }
}

fn miss<T: fmt::Display>(
    at: &str,
    name: &'static str,
    compared: &Compared<'_>,
    list: &Match<T>,
    answer: Answer,
    is_doubtful: bool,
) -> Miss {
    let (values, is_negated) =
        if list.any_of.is_empty() { (&list.none_of, true) } else { (&list.any_of, false) };
    let values = named(values);
    let depends_on_request = answer == Answer::DependsOnRequest;
    let reason = match (&compared.found, is_negated) {
        _ if depends_on_request && is_negated => {
            format!("the request will tell; must not be one of {values}")
        }
        _ if depends_on_request => format!("the request will tell; must be one of {values}"),
        (Some(found), false) => format!("{} is not one of {values}", shown(found)),
        (Some(found), true) => format!("{} is one of {values}", shown(found)),
        (None, false) => format!("{}; must be one of {values}", compared.nothing),
        (None, true) => format!("{}; must not be one of {values}", compared.nothing),
    };
    Miss { field: format!("{at}.{name}"), reason, depends_on_request, is_doubtful }
}

fn named<T: fmt::Display>(values: &[T]) -> String {
    let mut text = String::new();
    for (index, value) in values.iter().take(NAMED_VALUES).enumerate() {
        let between = if index == 0 { "" } else { ", " };
        write!(text, "{between}{}", shown(&value.to_string())).expect("writing to a string cannot fail");
    }
    let more = values.len().saturating_sub(NAMED_VALUES);
    if more > 0 {
        write!(text, " and {more} more").expect("writing to a string cannot fail");
    }
    text
}

/// As it may stand in a line for people: escaped, and not for ever long.
fn shown(value: &str) -> String {
    if value.is_empty() {
        return "\"\"".to_owned();
    }
    let mut text = String::new();
    for one in value.chars().take(MAX_VALUE) {
        match one {
            '"' | '\'' => text.push(one),
            _ => text.extend(one.escape_debug()),
        }
    }
    if value.chars().nth(MAX_VALUE).is_some() {
        text.push_str("...");
    }
    text
}
