//! Whether one rule matches one connection or request.
//!
//! Some values can be read in more than one way: a path with parameters, a field with several values, a host with
//! a port. What refuses reads broadly, it matches if any reading does; what permits reads narrowly, it matches only
//! if every reading does. Negations turn that round, so that doubt never widens access.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use smallvec::SmallVec;

use super::end_user::{audiences_match, claim_matches, presenter_matches, principal_matches};
use super::header::field_matches;
use super::host::{host_matches, host_of};
use crate::model::policy::{Condition, Match, Operation, Pattern, Rule, Source};
use crate::model::{NormalPath, RequestFacts, ServerName, SpiffeId};
use crate::snapshot::{Query, RequestQuery};

/// What rules are compared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) identity: Option<&'a SpiffeId>,
    pub(super) source: IpAddr,
    pub(super) destination: SocketAddr,
    pub(super) server_name: &'a ServerName,
    pub(super) layer7: Layer7<'a>,
}

/// What is known of the request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layer7<'a> {
    /// There are no requests: the bytes are opaque.
    Opaque,
    /// Requests will come and be decided one by one.
    Pending,
    /// This request.
    Request(&'a RequestFacts<'a>),
}

/// How values with more than one reading are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breadth {
    /// Any reading suffices.
    Broad,
    /// Every reading must match.
    Narrow,
}

impl Breadth {
    pub(super) fn inverse(self) -> Self {
        match self {
            Self::Broad => Self::Narrow,
            Self::Narrow => Self::Broad,
        }
    }
}

/// Whether something matches. Ordered, so that AND is the least and OR the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answer {
    No,
    /// The requests will tell.
    DependsOnRequest,
    Yes,
}

impl From<bool> for Answer {
    fn from(matches: bool) -> Self {
        if matches { Self::Yes } else { Self::No }
    }
}

impl Subject<'_> {
    /// Calls `ask` with what an index of rules is asked, if need be about the request too.
    pub(super) fn query<R>(&self, about_request: bool, ask: impl FnOnce(&Query<'_>) -> R) -> R {
        let Self { identity, source, destination, server_name: _, layer7 } = *self;
        let query = Query { identity, source, port: destination.port(), request: None };
        let request = match layer7 {
            Layer7::Request(request) if about_request => request,
            Layer7::Request(_) | Layer7::Opaque | Layer7::Pending => return ask(&query),
        };
        let host = lower(host_of(request.host));
        let path = lower(request.path.as_str().as_bytes());
        let plain = if request.path.plain() == request.path.as_str() {
            None
        } else {
            Some(lower(request.path.plain().as_bytes()))
        };
        let plain = plain.as_deref().unwrap_or(&path);
        let request = RequestQuery {
            host: &host,
            paths: [&path, plain],
            headers: request.headers,
            end_user: request.end_user,
        };
        ask(&Query { request: Some(request), ..query })
    }

    /// Whether a rule matches.
    ///
    /// Where there are no requests, a rule that asks for parts of them matches without these parts if it refuses,
    /// and does not match at all if it permits, as in Istio.
    pub(super) fn matches(&self, rule: &Rule, breadth: Breadth) -> Answer {
        if matches!(self.layer7, Layer7::Opaque) && breadth == Breadth::Narrow && rule.speaks_of_requests() {
            return Answer::No;
        }
        let sources = rule.from.iter().map(|source| self.comes_from(source));
        let source = if rule.from.is_empty() { Answer::Yes } else { sources.max().unwrap_or(Answer::No) };
        if source == Answer::No {
            return Answer::No;
        }
        let operations = rule.to.iter().map(|operation| self.does(operation, breadth));
        let operation = if rule.to.is_empty() { Answer::Yes } else { operations.max().unwrap_or(Answer::No) };
        let conditions = rule.when.iter().map(|condition| self.fulfils(condition, breadth));
        source.min(operation).min(conditions.min().unwrap_or(Answer::Yes))
    }

    pub(super) fn comes_from(&self, source: &Source) -> Answer {
        let identity = self.identity;
        let is_caller = text_matches(&source.principals, identity.map(|identity| &**identity.principal()))
            && text_matches(&source.namespaces, identity.map(|identity| &**identity.namespace()))
            && text_matches(
                &source.service_accounts,
                identity.map(|identity| &**identity.qualified_account()),
            )
            && address_matches(&source.ip_blocks, self.source);
        if !is_caller || !source.speaks_of_requests() {
            return is_caller.into();
        }
        self.request(|request| principal_matches(&source.request_principals, request.end_user))
    }

    pub(super) fn does(&self, operation: &Operation, breadth: Breadth) -> Answer {
        if !port_matches(&operation.ports, self.destination.port()) {
            return Answer::No;
        }
        if !operation.speaks_of_requests() {
            return Answer::Yes;
        }
        let Operation { hosts, ports: _, methods, paths } = operation;
        self.request(|request| {
            holds(methods, breadth, |pattern, breadth| method_matches(pattern, request.method, breadth))
                && holds(paths, breadth, |pattern, breadth| path_matches(pattern, request.path, breadth))
                && holds(hosts, breadth, |pattern, breadth| {
                    host_matches(pattern, request.host, self.destination.port(), breadth)
                })
        })
    }

    pub(super) fn fulfils(&self, condition: &Condition, breadth: Breadth) -> Answer {
        let identity = self.identity;
        match condition {
            Condition::RequestHeader { name, values } => {
                return self.request(|request| field_matches(name, values, request.headers, breadth));
            }
            Condition::RequestPrincipal(values) => {
                return self.request(|request| principal_matches(values, request.end_user));
            }
            Condition::RequestAudiences(values) => {
                return self.request(|request| audiences_match(values, request.end_user));
            }
            Condition::RequestPresenter(values) => {
                return self.request(|request| presenter_matches(values, request.end_user));
            }
            Condition::RequestClaim { path, values } => {
                return self.request(|request| claim_matches(path, values, request.end_user));
            }
            Condition::SourceIp(blocks) => address_matches(blocks, self.source),
            Condition::SourceNamespace(values) => {
                text_matches(values, identity.map(|identity| &**identity.namespace()))
            }
            Condition::SourcePrincipal(values) => {
                text_matches(values, identity.map(|identity| &**identity.principal()))
            }
            Condition::SourceServiceAccount(values) => {
                text_matches(values, identity.map(|identity| &**identity.qualified_account()))
            }
            Condition::DestinationIp(blocks) => address_matches(blocks, self.destination.ip()),
            Condition::DestinationPort(ports) => port_matches(ports, self.destination.port()),
            Condition::ConnectionServerName(values) => server_name_matches(values, self.server_name, breadth),
        }
        .into()
    }

    fn request(&self, matches: impl FnOnce(&RequestFacts<'_>) -> bool) -> Answer {
        match self.layer7 {
            // A rule that permits did not come this far.
            Layer7::Opaque => Answer::Yes,
            Layer7::Pending => Answer::DependsOnRequest,
            Layer7::Request(request) => matches(request).into(),
        }
    }
}

fn lower(bytes: &[u8]) -> SmallVec<[u8; 128]> {
    let mut lower = SmallVec::from_slice(bytes);
    lower.make_ascii_lowercase();
    lower
}

/// A field and its negation, whose values are compared with opposite breadth.
pub(super) fn holds<T>(list: &Match<T>, breadth: Breadth, matches: impl Fn(&T, Breadth) -> bool) -> bool {
    (list.any_of.is_empty() || list.any_of.iter().any(|value| matches(value, breadth)))
        && !list.none_of.iter().any(|value| matches(value, breadth.inverse()))
}

/// What is absent matches no value, and therefore every negation.
fn text_matches(list: &Match<Pattern>, value: Option<&str>) -> bool {
    holds(list, Breadth::Narrow, |pattern, _| {
        value.is_some_and(|value| pattern_matches(pattern, value.as_bytes(), Case::Sensitive))
    })
}

/// A name that is not known may be any: it matches what refuses, and nothing that permits. None at all matches no
/// value, as in Istio.
fn server_name_matches(values: &Match<Pattern>, name: &ServerName, breadth: Breadth) -> bool {
    match name {
        ServerName::Unknown => breadth == Breadth::Broad,
        ServerName::Absent => values.any_of.is_empty(),
        ServerName::Name(name) => holds(values, Breadth::Narrow, |pattern, _| {
            pattern_matches(pattern, name.as_bytes(), Case::Insensitive)
        }),
    }
}

fn address_matches(list: &Match<IpNet>, address: IpAddr) -> bool {
    holds(list, Breadth::Narrow, |block, _| block.contains(&address))
}

fn port_matches(list: &Match<u16>, port: u16) -> bool {
    holds(list, Breadth::Narrow, |other, _| *other == port)
}

/// Whether case tells values apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Sensitive,
    Insensitive,
}

/// Compares one value with one pattern.
pub(super) fn pattern_matches(pattern: &Pattern, value: &[u8], case: Case) -> bool {
    let same = |left: &[u8], right: &[u8]| match case {
        Case::Sensitive => left == right,
        Case::Insensitive => left.eq_ignore_ascii_case(right),
    };
    match pattern {
        Pattern::Exact(text) => same(value, text.as_bytes()),
        Pattern::Prefix(text) => value.get(..text.len()).is_some_and(|start| same(start, text.as_bytes())),
        Pattern::Suffix(text) => {
            let start = value.len().checked_sub(text.len());
            start.is_some_and(|start| same(&value[start..], text.as_bytes()))
        }
        Pattern::Present => !value.is_empty(),
    }
}

fn method_matches(pattern: &Pattern, method: &[u8], breadth: Breadth) -> bool {
    pattern_matches(pattern, method, case_for(breadth))
}

/// Methods and paths mean different things in another case (RFC 9110 section 9.1, RFC 3986 section 6.2.2.1), but
/// there are applications that do not care.
fn case_for(breadth: Breadth) -> Case {
    match breadth {
        Breadth::Broad => Case::Insensitive,
        Breadth::Narrow => Case::Sensitive,
    }
}

/// A pattern that names a path letter by letter means just that path, whatever else it may be read as; broadly also
/// with or without a slash at its end.
fn path_matches(pattern: &Pattern, path: &NormalPath<'_>, breadth: Breadth) -> bool {
    let matches = |path: &str| pattern_matches(pattern, path.as_bytes(), case_for(breadth));
    match (breadth, pattern) {
        (Breadth::Broad, Pattern::Exact(text)) if text.len() > 1 && text.ends_with('/') => {
            path.plain().eq_ignore_ascii_case(&text[..text.len() - 1])
        }
        (Breadth::Broad, _) => matches(path.as_str()) || matches(path.plain()),
        (Breadth::Narrow, Pattern::Exact(_)) => matches(path.as_str()),
        (Breadth::Narrow, _) => matches(path.as_str()) && path.second_reading().is_none_or(matches),
    }
}
