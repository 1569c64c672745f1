//! Messages to policies. What is not understood makes a policy that denies what it might have denied.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::model::policy::{
    Action, AuthorizationPolicy, Condition, Match, Mode, MutualTls, Operation, Pattern, PeerAuthentication,
    PolicyFault, Rule, Scope, Source,
};
use mesh_common::model::{NamespacedName, Text};
use mesh_common::snapshot::Delta;
use prost::Message;

use super::decode::{Reading, cidr, each, known, lenient_name, message, port, texts, unspecified};
use super::resource::{FieldError, Key, ResourceType, Update};
use super::{decode_external, messages};

/// Reads a policy, whatever is wrong with it.
pub(super) fn read(key: &Key, value: &[u8], root_namespace: &str) -> Reading {
    let name = lenient_name(&key.name);
    let mut reader = Reader { root_namespace, fault: None };
    let delta = match key.kind {
        ResourceType::PeerAuthentication => {
            Delta::UpsertPeerAuthentication(Arc::new(reader.peer_authentication(name, value)))
        }
        ResourceType::RequestAuthentication => {
            Delta::UpsertRequestAuthentication(Arc::new(reader.request_authentication(name, value)))
        }
        _ => Delta::UpsertAuthorizationPolicy(Arc::new(reader.authorization_policy(name, value))),
    };
    match reader.fault {
        None => Reading::Understood(Update::Delta(delta)),
        Some(fault) => Reading::Denies(Update::Delta(delta), fault),
    }
}

pub(super) struct Reader<'a> {
    root_namespace: &'a str,
    /// The first thing that is not understood.
    pub(super) fault: Option<FieldError>,
}

impl Reader<'_> {
    fn authorization_policy(&mut self, name: NamespacedName, value: &[u8]) -> AuthorizationPolicy {
        let policy = self.message::<messages::AuthorizationPolicy>(value).unwrap_or_default();
        let scope = self.scope(&name, policy.scope);
        let action = match known("action", policy.action) {
            Ok(messages::Action::Allow) => Action::Allow,
            Ok(messages::Action::Deny) => Action::Deny,
            Ok(messages::Action::Audit) => Action::Audit,
            Ok(messages::Action::Custom) => {
                let custom = policy.custom.as_ref().ok_or_else(|| unspecified("custom"));
                match custom.and_then(|custom| {
                    decode_external::custom(custom).map_err(|error| error.within("custom"))
                }) {
                    Ok(custom) => Action::Custom(Arc::new(custom)),
                    Err(error) => self.instead(error, Action::Deny),
                }
            }
            Ok(messages::Action::Unspecified) => self.instead(unspecified("action"), Action::Deny),
            Err(error) => self.instead(error, Action::Deny),
        };
        let mode = match known("mode", policy.mode) {
            Ok(messages::Mode::Enforce) => Mode::Enforce,
            Ok(messages::Mode::Audit) => Mode::Audit,
            Ok(messages::Mode::Unspecified) => self.instead(unspecified("mode"), Mode::Enforce),
            Err(error) => self.instead(error, Mode::Enforce),
        };
        let rules = each("rules", &policy.rules, rule);
        let rules = rules.unwrap_or_else(|error| self.instead(error, Vec::new()));
        let own = self.own_fault();
        let rules = if own.is_some() { Vec::new() } else { rules };
        let sent = policy.fault.map(|messages::PolicyFault { field, reason }| PolicyFault { field, reason });
        AuthorizationPolicy { name, scope, action, mode, rules, fault: own.or(sent).map(Arc::new) }
    }

    pub(super) fn own_fault(&self) -> Option<PolicyFault> {
        self.fault.as_ref().map(|FieldError { field, reason }| PolicyFault {
            field: field.clone(),
            reason: format!("{reason}; see that agent and controller have the same version"),
        })
    }

    fn peer_authentication(&mut self, name: NamespacedName, value: &[u8]) -> PeerAuthentication {
        let policy = self.message::<messages::PeerAuthentication>(value).unwrap_or_default();
        let scope = match self.scope(&name, policy.scope) {
            Scope::Services(_) => {
                let error = FieldError::new("scope", "a PeerAuthentication is about no Service");
                let whole = self.whole(&name);
                self.instead(error, whole)
            }
            scope => scope,
        };
        let mode = mutual_tls("mode", policy.mode);
        let mode = mode.unwrap_or_else(|error| self.instead(error, Some(MutualTls::Strict)));
        let mut ports = BTreeMap::new();
        for (number, mode) in policy.ports {
            let field = format!("ports[{number}]");
            let mode = mutual_tls(&field, mode);
            let mode = mode.unwrap_or_else(|error| self.instead(error, Some(MutualTls::Strict)));
            match port(&number) {
                Ok(number) => drop(ports.insert(number, mode)),
                Err(error) => self.instead(error.within(&field), ()),
            }
        }
        if self.fault.is_none() {
            return PeerAuthentication { name, scope, created: policy.created, mode, ports };
        }
        // Any field may have been about any port.
        let ports = ports.into_keys().map(|number| (number, Some(MutualTls::Strict))).collect();
        PeerAuthentication { name, scope, created: policy.created, mode: Some(MutualTls::Strict), ports }
    }

    /// Reads a message that has no field besides those that are known: what is read must be as long, written again, as
    /// what came.
    pub(super) fn message<M: Message + Default>(&mut self, value: &[u8]) -> Option<M> {
        match message::<M>(value) {
            Ok(message) => {
                if message.encoded_len() != value.len() {
                    self.instead(FieldError::whole("has a field that this version does not know"), ());
                }
                Some(message)
            }
            Err(error) => self.instead(error, None),
        }
    }

    pub(super) fn scope(&mut self, name: &NamespacedName, sent: Option<messages::Scope>) -> Scope {
        use messages::ScopeKind as Kind;
        match sent.and_then(|scope| scope.kind) {
            Some(Kind::Mesh(_)) => Scope::Mesh,
            Some(Kind::Namespace(namespace)) => Scope::Namespace(namespace.into()),
            Some(Kind::Selector(messages::Selector { namespace, labels })) => {
                Scope::Selector { namespace: namespace.map(Text::from), labels: texts(labels) }
            }
            Some(Kind::Services(services)) => {
                let name = |name: messages::ServiceName| NamespacedName::new(name.namespace, name.name);
                Scope::Services(services.names.into_iter().map(name).collect())
            }
            None => {
                let whole = self.whole(name);
                self.instead(unspecified("scope"), whole)
            }
        }
    }

    /// Everybody whom a policy of this name might be about.
    fn whole(&self, name: &NamespacedName) -> Scope {
        if name.namespace.is_empty() || *name.namespace == *self.root_namespace {
            Scope::Mesh
        } else {
            Scope::Namespace(Arc::clone(&name.namespace))
        }
    }

    pub(super) fn instead<T>(&mut self, error: FieldError, value: T) -> T {
        self.fault.get_or_insert(error);
        value
    }
}

fn mutual_tls(field: &str, mode: i32) -> Result<Option<MutualTls>, FieldError> {
    match known(field, mode)? {
        messages::MutualTls::Inherit => Ok(None),
        messages::MutualTls::Permissive => Ok(Some(MutualTls::Permissive)),
        messages::MutualTls::Strict => Ok(Some(MutualTls::Strict)),
        messages::MutualTls::Unspecified => Err(unspecified(field)),
    }
}

fn rule(rule: &messages::Rule) -> Result<Rule, FieldError> {
    Ok(Rule {
        from: each("from", &rule.from, source)?,
        to: each("to", &rule.to, operation)?,
        when: each("when", &rule.when, condition)?,
    })
}

fn source(source: &messages::Source) -> Result<Source, FieldError> {
    Ok(Source {
        principals: strings("principals", source.principals.as_ref())?,
        namespaces: strings("namespaces", source.namespaces.as_ref())?,
        service_accounts: strings("service_accounts", source.service_accounts.as_ref())?,
        ip_blocks: cidrs("ip_blocks", source.ip_blocks.as_ref())?,
        request_principals: strings("request_principals", source.request_principals.as_ref())?,
    })
}

fn operation(operation: &messages::Operation) -> Result<Operation, FieldError> {
    Ok(Operation {
        hosts: strings("hosts", operation.hosts.as_ref())?,
        ports: ports("ports", operation.ports.as_ref())?,
        methods: strings("methods", operation.methods.as_ref())?,
        paths: strings("paths", operation.paths.as_ref())?,
    })
}

fn condition(condition: &messages::Condition) -> Result<Condition, FieldError> {
    use messages::Test;
    match condition.test.as_ref().ok_or_else(|| unspecified("test"))? {
        Test::RequestHeader(header) => Ok(Condition::RequestHeader {
            name: header.name.as_str().into(),
            values: strings("values", header.values.as_ref())?,
        }),
        Test::SourceIp(ranges) => Ok(Condition::SourceIp(cidrs("source_ip", Some(ranges))?)),
        Test::SourceNamespace(values) => {
            Ok(Condition::SourceNamespace(strings("source_namespace", Some(values))?))
        }
        Test::SourcePrincipal(values) => {
            Ok(Condition::SourcePrincipal(strings("source_principal", Some(values))?))
        }
        Test::SourceServiceAccount(values) => {
            Ok(Condition::SourceServiceAccount(strings("source_service_account", Some(values))?))
        }
        Test::DestinationIp(ranges) => Ok(Condition::DestinationIp(cidrs("destination_ip", Some(ranges))?)),
        Test::DestinationPort(numbers) => {
            Ok(Condition::DestinationPort(ports("destination_port", Some(numbers))?))
        }
        Test::ConnectionServerName(values) => {
            Ok(Condition::ConnectionServerName(strings("connection_server_name", Some(values))?))
        }
        Test::RequestPrincipal(values) => {
            Ok(Condition::RequestPrincipal(strings("request_principal", Some(values))?))
        }
        Test::RequestAudiences(values) => {
            Ok(Condition::RequestAudiences(strings("request_audiences", Some(values))?))
        }
        Test::RequestPresenter(values) => {
            Ok(Condition::RequestPresenter(strings("request_presenter", Some(values))?))
        }
        Test::RequestClaim(claim) if claim.path.is_empty() => Err(unspecified("path")),
        Test::RequestClaim(claim) => Ok(Condition::RequestClaim {
            path: claim.path.iter().map(|name| Text::from(&**name)).collect(),
            values: strings("values", claim.values.as_ref())?,
        }),
    }
}

fn strings(field: &str, values: Option<&messages::StringMatch>) -> Result<Match<Pattern>, FieldError> {
    let Some(values) = values else { return Ok(Match::default()) };
    let read = |list, patterns| each(list, patterns, pattern).map_err(|error| error.within(field));
    Ok(Match { any_of: read("any_of", &values.any_of)?, none_of: read("none_of", &values.none_of)? })
}

fn cidrs(field: &str, ranges: Option<&messages::CidrMatch>) -> Result<Match<ipnet::IpNet>, FieldError> {
    let Some(ranges) = ranges else { return Ok(Match::default()) };
    let read = |list, members| each(list, members, cidr).map_err(|error: FieldError| error.within(field));
    Ok(Match { any_of: read("any_of", &ranges.any_of)?, none_of: read("none_of", &ranges.none_of)? })
}

fn ports(field: &str, numbers: Option<&messages::PortMatch>) -> Result<Match<u16>, FieldError> {
    let Some(numbers) = numbers else { return Ok(Match::default()) };
    let read = |list, members| each(list, members, port).map_err(|error: FieldError| error.within(field));
    Ok(Match { any_of: read("any_of", &numbers.any_of)?, none_of: read("none_of", &numbers.none_of)? })
}

pub(super) fn pattern(pattern: &messages::Pattern) -> Result<Pattern, FieldError> {
    use messages::PatternKind as Kind;
    match pattern.kind.as_ref().ok_or_else(|| unspecified("kind"))? {
        Kind::Exact(text) => Ok(Pattern::Exact(text.as_str().into())),
        Kind::Prefix(text) => Ok(Pattern::Prefix(text.as_str().into())),
        Kind::Suffix(text) => Ok(Pattern::Suffix(text.as_str().into())),
        Kind::Present(_) => Ok(Pattern::Present),
    }
}
