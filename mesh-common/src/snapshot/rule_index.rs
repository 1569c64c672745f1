//! Which of many rules may match: those that name what is asked about.
//!
//! Each rule stands under the values of one of its fields, the one whose values the fewest rules of the set name.
//! The index only leaves out rules that cannot match; whether one does is for `policy` to say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;
use smallvec::SmallVec;

use super::network::Networks;
use super::policy_set::RuleId;
use crate::model::policy::{Condition, Match, Operation, Pattern, Rule, Source};
use crate::model::{EndUser, SpiffeId, Text};

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Who calls.
    pub identity: Option<&'a SpiffeId>,
    /// From where.
    pub source: IpAddr,
    /// To which port.
    pub port: u16,
    /// The request, for an index by request.
    pub request: Option<RequestQuery<'a>>,
}

/// What is asked about a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestQuery<'a> {
    /// The host, without a port or a dot at the end, in lower case.
    pub host: &'a [u8],
    /// Every reading of the path, in lower case.
    pub paths: [&'a [u8]; 2],
    /// Names and values of its fields.
    pub headers: &'a [(&'a [u8], &'a [u8])],
    /// Whom its token speaks of.
    pub end_user: Option<&'a EndUser>,
}

type RuleIds = SmallVec<[RuleId; 2]>;

/// Rules by the values that they name.
#[derive(Clone, Debug, Default)]
pub struct RuleIndex {
    length: usize,
    texts: [Patterns; 6],
    /// By names of fields, in lower case.
    headers: HashMap<Text, Patterns>,
    /// By the names that lead to a claim.
    claims: HashMap<Vec<Text>, Patterns>,
    sources: Networks<RuleIds>,
    ports: HashMap<u16, RuleIds>,
    /// Rules that name nothing of all this.
    rest: RuleIds,
}

/// A field that rules can be found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Field {
    Text(TextField),
    Header,
    Claim,
    Source,
    Port,
}

/// A field whose values are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum TextField {
    Principal,
    ServiceAccount,
    Namespace,
    Path,
    Host,
    RequestPrincipal,
}

/// A value of a field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Text(TextField, Pattern),
    Header(Text, Pattern),
    Claim(Vec<Text>, Pattern),
    Range(IpNet),
    Port(u16),
}

const FIELDS_OF_CONNECTIONS: [Field; 5] = [
    Field::Text(TextField::Principal),
    Field::Text(TextField::ServiceAccount),
    Field::Text(TextField::Namespace),
    Field::Source,
    Field::Port,
];

const FIELDS_OF_REQUESTS: [Field; 10] = [
    Field::Text(TextField::Principal),
    Field::Text(TextField::ServiceAccount),
    Field::Text(TextField::Path),
    Field::Text(TextField::Host),
    Field::Text(TextField::RequestPrincipal),
    Field::Header,
    Field::Claim,
    Field::Text(TextField::Namespace),
    Field::Source,
    Field::Port,
];

impl RuleIndex {
    /// Indexes rules by what is known of a connection. They come in the order of their ids.
    pub(super) fn by_connection(rules: &[(RuleId, &Rule)]) -> Self {
        Self::new(rules, &FIELDS_OF_CONNECTIONS)
    }

    /// Indexes rules by what is known of a request.
    pub(super) fn by_request(rules: &[(RuleId, &Rule)]) -> Self {
        Self::new(rules, &FIELDS_OF_REQUESTS)
    }

    fn new(rules: &[(RuleId, &Rule)], fields: &[Field]) -> Self {
        let keys_of = |rule: &Rule| fields.iter().filter_map(|field| keys(rule, *field)).collect();
        let choices: Vec<Vec<Vec<Key>>> = rules.iter().map(|(_, rule)| keys_of(rule)).collect();
        let mut named: HashMap<&Key, usize> = HashMap::new();
        for key in choices.iter().flatten().flatten() {
            *named.entry(key).or_default() += 1;
        }
        let mut index = Self { length: rules.len(), ..Self::default() };
        for ((id, _), choices) in rules.iter().zip(&choices) {
            let crowd = |keys: &&Vec<Key>| keys.iter().map(|key| named[key]).sum::<usize>();
            match choices.iter().min_by_key(crowd) {
                Some(keys) => keys.iter().for_each(|key| index.file(key, *id)),
                None => index.rest.push(*id),
            }
        }
        index
    }

    fn file(&mut self, key: &Key, id: RuleId) {
        let ids = match key {
            Key::Text(field, pattern) => self.texts[*field as usize].entry(pattern),
            Key::Header(name, pattern) => self.headers.entry(Text::clone(name)).or_default().entry(pattern),
            Key::Claim(path, pattern) => self.claims.entry(path.clone()).or_default().entry(pattern),
            Key::Range(range) => self.sources.entry(*range),
            Key::Port(port) => self.ports.entry(*port).or_default(),
        };
        // A rule may name the same value twice.
        if ids.last() != Some(&id) {
            ids.push(id);
        }
    }

    /// Whether it holds no rule.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Calls `visit` with lists of rules that may match, each in the order of ids; one rule may be in several.
    pub fn candidates(&self, query: &Query<'_>, mut visit: impl FnMut(&[RuleId])) {
        let mut look_up =
            |field: TextField, value: &[u8]| self.texts[field as usize].visit(value, &mut visit);
        if let Some(identity) = query.identity {
            look_up(TextField::Principal, identity.principal().as_bytes());
            look_up(TextField::ServiceAccount, identity.qualified_account().as_bytes());
            look_up(TextField::Namespace, identity.namespace().as_bytes());
        }
        if let Some(request) = query.request {
            let RequestQuery { host, paths: [path, plain], headers: _, end_user } = request;
            look_up(TextField::Host, host);
            look_up(TextField::Path, path);
            if plain != path {
                look_up(TextField::Path, plain);
            }
            if let Some(principal) = end_user.and_then(|user| user.claims.principal()) {
                look_up(TextField::RequestPrincipal, principal.as_bytes());
            }
            self.by_headers(request.headers, &mut visit);
            self.by_claims(end_user, &mut visit);
        }
        self.sources.of(query.source).for_each(|ids| visit(ids));
        if let Some(ids) = self.ports.get(&query.port) {
            visit(ids);
        }
        visit(&self.rest);
    }

    /// Whatever a rule may take for a value: the whole field, and each element of it if it is a list.
    fn by_headers(&self, headers: &[(&[u8], &[u8])], visit: &mut impl FnMut(&[RuleId])) {
        if self.headers.is_empty() {
            return;
        }
        for (name, value) in headers {
            let name: SmallVec<[u8; 64]> = name.iter().map(u8::to_ascii_lowercase).collect();
            let Some(patterns) = std::str::from_utf8(&name).ok().and_then(|name| self.headers.get(name))
            else {
                continue;
            };
            let value = value.trim_ascii();
            patterns.visit(value, visit);
            if value.contains(&b',') {
                for element in value.split(|byte| *byte == b',') {
                    patterns.visit(element.trim_ascii(), visit);
                }
            }
        }
    }

    fn by_claims(&self, end_user: Option<&EndUser>, visit: &mut impl FnMut(&[RuleId])) {
        let Some(end_user) = end_user else { return };
        for (path, patterns) in &self.claims {
            for value in end_user.values(path) {
                patterns.visit(value.as_bytes(), visit);
            }
        }
    }
}

/// The values under which a rule can be found by a field; `None` if it may match whatever the field's value is.
fn keys(rule: &Rule, field: Field) -> Option<Vec<Key>> {
    match field {
        Field::Text(field) => {
            texts(rule, field)?.into_iter().map(|pattern| text_key(field, pattern)).collect()
        }
        Field::Header => rule.when.iter().find_map(|condition| match condition {
            Condition::RequestHeader { name, values } if !values.any_of.is_empty() => {
                let key = |pattern: &Pattern| Key::Header(Text::clone(name), pattern.clone());
                Some(values.any_of.iter().map(key).collect())
            }
            _ => None,
        }),
        Field::Claim => rule.when.iter().find_map(|condition| match condition {
            Condition::RequestClaim { path, values } if !values.any_of.is_empty() => {
                let key = |pattern: &Pattern| Key::Claim(path.clone(), pattern.clone());
                Some(values.any_of.iter().map(key).collect())
            }
            _ => None,
        }),
        Field::Source => {
            let ranges = of_sources(rule, |source| &source.ip_blocks).or_else(|| {
                of_conditions(rule, |condition| match condition {
                    Condition::SourceIp(ranges) => Some(ranges),
                    _ => None,
                })
            });
            Some(ranges?.into_iter().map(|range| Key::Range(range.trunc())).collect())
        }
        Field::Port => {
            let ports = of_operations(rule, |operation| &operation.ports).or_else(|| {
                of_conditions(rule, |condition| match condition {
                    Condition::DestinationPort(ports) => Some(ports),
                    _ => None,
                })
            });
            Some(ports?.into_iter().map(|port| Key::Port(*port)).collect())
        }
    }
}

fn texts(rule: &Rule, field: TextField) -> Option<Vec<&Pattern>> {
    let of_parts = match field {
        TextField::Principal => of_sources(rule, |source| &source.principals),
        TextField::ServiceAccount => of_sources(rule, |source| &source.service_accounts),
        TextField::Namespace => of_sources(rule, |source| &source.namespaces),
        TextField::Path => of_operations(rule, |operation| &operation.paths),
        TextField::Host => of_operations(rule, |operation| &operation.hosts),
        TextField::RequestPrincipal => of_sources(rule, |source| &source.request_principals),
    };
    of_parts.or_else(|| {
        of_conditions(rule, |condition| match (field, condition) {
            (TextField::Principal, Condition::SourcePrincipal(values))
            | (TextField::ServiceAccount, Condition::SourceServiceAccount(values))
            | (TextField::Namespace, Condition::SourceNamespace(values))
            | (TextField::RequestPrincipal, Condition::RequestPrincipal(values)) => Some(values),
            _ => None,
        })
    })
}

/// Hosts and paths stand in the index in lower case, and exact paths without a slash at the end, so that every
/// reading of a request finds them.
fn text_key(field: TextField, pattern: &Pattern) -> Option<Key> {
    let is_path = field == TextField::Path;
    let pattern = match pattern {
        Pattern::Present => return None,
        pattern if !is_path && field != TextField::Host => pattern.clone(),
        // Where a port may be meant, the host alone does not tell.
        Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Suffix(text)
            if !is_path && text.contains(':') =>
        {
            return None;
        }
        Pattern::Exact(text) if is_path && text.len() > 1 => {
            Pattern::Exact(text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase().into())
        }
        Pattern::Exact(text) => Pattern::Exact(text.to_ascii_lowercase().into()),
        Pattern::Prefix(text) => Pattern::Prefix(text.to_ascii_lowercase().into()),
        Pattern::Suffix(text) => Pattern::Suffix(text.to_ascii_lowercase().into()),
    };
    Some(Key::Text(field, pattern))
}

fn of_sources<T>(rule: &Rule, list: impl Fn(&Source) -> &Match<T>) -> Option<Vec<&T>> {
    alternatives(rule.from.iter().map(list))
}

fn of_operations<T>(rule: &Rule, list: impl Fn(&Operation) -> &Match<T>) -> Option<Vec<&T>> {
    alternatives(rule.to.iter().map(list))
}

fn of_conditions<T>(rule: &Rule, list: impl Fn(&Condition) -> Option<&Match<T>>) -> Option<Vec<&T>> {
    let asks = rule.when.iter().filter_map(list).find(|list| !list.any_of.is_empty());
    asks.map(|list| list.any_of.iter().collect())
}

/// All values of all alternatives, if each alternative asks for some.
fn alternatives<'a, T: 'a>(lists: impl Iterator<Item = &'a Match<T>>) -> Option<Vec<&'a T>> {
    let mut values = Vec::new();
    for list in lists {
        if list.any_of.is_empty() {
            return None;
        }
        values.extend(&list.any_of);
    }
    if values.is_empty() { None } else { Some(values) }
}

/// Rules by text patterns. Asking costs one lookup, and one more for each length that a prefix or suffix has.
#[derive(Clone, Debug, Default)]
struct Patterns {
    exact: HashMap<Box<[u8]>, RuleIds>,
    prefixes: BTreeMap<usize, HashMap<Box<[u8]>, RuleIds>>,
    suffixes: BTreeMap<usize, HashMap<Box<[u8]>, RuleIds>>,
}

impl Patterns {
    fn entry(&mut self, pattern: &Pattern) -> &mut RuleIds {
        match pattern {
            Pattern::Exact(text) => self.exact.entry(text.as_bytes().into()).or_default(),
            Pattern::Prefix(text) => {
                self.prefixes.entry(text.len()).or_default().entry(text.as_bytes().into()).or_default()
            }
            Pattern::Suffix(text) => {
                self.suffixes.entry(text.len()).or_default().entry(text.as_bytes().into()).or_default()
            }
            Pattern::Present => self.prefixes.entry(0).or_default().entry(Box::default()).or_default(),
        }
    }

    fn visit(&self, value: &[u8], visit: &mut impl FnMut(&[RuleId])) {
        if !self.exact.is_empty()
            && let Some(ids) = self.exact.get(value)
        {
            visit(ids);
        }
        for (length, ids) in self.prefixes.range(..=value.len()) {
            if let Some(ids) = ids.get(&value[..*length]) {
                visit(ids);
            }
        }
        for (length, ids) in self.suffixes.range(..=value.len()) {
            if let Some(ids) = ids.get(&value[value.len() - length..]) {
                visit(ids);
            }
        }
    }
}
