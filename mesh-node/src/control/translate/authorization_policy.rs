//! AuthorizationPolicy: every pattern is read once, here.
//!
//! What is not understood makes the policy a faulty one, with what denies most in place of what is unknown: the
//! widest scope, DENY for the action, `Enforce` for the mode. All that is wrong is reported, not just the first.

use std::sync::Arc;

use mesh_common::model::policy::{
    Action, AuthorizationPolicy, Condition, Match, Mode, Operation, PolicyFault, Rule, Source,
};
use mesh_common::model::{Custom, MeshSettings, NamespacedName, Text, TrustDomain};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::condition_key::RequestKey;
use super::{
    Effect, Field, FieldError, Finding, METADATA, SPEC, Translated, advise, namespaced_name, pattern,
    policy_scope, port_text, resembles,
};
use crate::control::resources::{
    self, AuthorizationAction, PolicyMode, PolicyTargetReference, WorkloadSelector,
};

/// Istio's annotation for a policy that is only evaluated.
const DRY_RUN: &str = "istio.io/dry-run";
/// The fields of any object of Kubernetes.
const OBJECT_FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
/// The fields of `spec`.
const SPEC_FIELDS: [&str; 6] = ["selector", "targetRefs", "action", "provider", "mode", "rules"];
/// Most entries of any list of a policy.
const MAX_ENTRIES: usize = 512;

/// Translates an AuthorizationPolicy. One that is not understood comes back with its `fault`.
///
/// # Errors
/// If it has no name.
pub fn authorization_policy(
    object: &resources::AuthorizationPolicy,
    settings: &MeshSettings,
) -> Result<Translated<AuthorizationPolicy>, FieldError> {
    let name = namespaced_name(&object.metadata)?;
    let spec = &object.spec;
    let trust_domain = settings.trust_domain.clone();
    let mut reader = Reader { namespace: name.namespace.clone(), trust_domain, findings: Vec::new() };
    let targets = spec.target_refs.as_deref().unwrap_or_default();
    let scope = policy_scope::of_targets(&name, spec.selector.as_ref(), targets, settings);
    let scope = scope.unwrap_or_else(|error| {
        reader.deny(error);
        policy_scope::whole(&name, settings)
    });
    let dry_run = object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DRY_RUN));
    let dry_run = dry_run.map(String::as_str);
    let mode = match dry_run {
        Some("true") => Mode::Audit,
        _ => spec.mode.map_or(Mode::Enforce, Mode::from),
    };
    if let Some(other) = dry_run.filter(|value| !matches!(*value, "true" | "false")) {
        let reason = format!("{other:?} is neither \"true\" nor \"false\": the policy is enforced");
        let annotations = METADATA.name("annotations");
        reader.warn(&annotations.key(DRY_RUN), &reason);
    }
    let action = reader.action(spec);
    if mode == Mode::Audit && matches!(action, Action::Custom(_)) {
        let reason = "CUSTOM cannot be tried without being in force: its server would have to be asked";
        match dry_run {
            Some("true") => reader.deny(FieldError::new(&METADATA.name("annotations").key(DRY_RUN), reason)),
            _ => reader.deny(FieldError::new(&SPEC.name("mode"), reason)),
        }
    }
    let rules = reader.rules(spec.rules.as_deref().unwrap_or_default());
    advise::advise(spec, &action, &reader.trust_domain.to_string(), &mut reader.findings);
    let policy = AuthorizationPolicy { name, scope, action, mode, rules, fault: None };
    Ok(reader.finish(policy))
}

/// What a policy is taken for whose object could not even be read.
///
/// `object` is what the YAML or JSON says; whatever of it still makes sense counts, so that the policy denies no
/// more than it might have. Where its action is in doubt it counts as DENY.
pub fn unreadable(
    object: &Value,
    name: NamespacedName,
    error: &FieldError,
    settings: &MeshSettings,
) -> AuthorizationPolicy {
    let spec = &object["spec"];
    let mode = field::<PolicyMode>(&spec["mode"]);
    let selector = field::<WorkloadSelector>(&spec["selector"]);
    let targets = field::<Vec<PolicyTargetReference>>(&spec["targetRefs"]);
    let scope = match (selector, targets) {
        (Ok(selector), Ok(targets)) => {
            let targets = targets.unwrap_or_default();
            policy_scope::of_targets(&name, selector.as_ref(), &targets, settings).ok()
        }
        _ => None,
    };
    AuthorizationPolicy {
        scope: scope.unwrap_or_else(|| policy_scope::whole(&name, settings)),
        action: certain_action(object).unwrap_or(Action::Deny),
        mode: mode.map_or(Mode::Enforce, |mode| mode.map_or(Mode::Enforce, Mode::from)),
        rules: Vec::new(),
        fault: Some(fault(error)),
        name,
    }
}

/// The action of a policy that could not be read, if there can be no doubt of it: it is given where it belongs, or
/// nothing stands where it might have been meant to be given.
fn certain_action(object: &Value) -> Option<Action> {
    let spec = &object["spec"];
    if has_other_action(object, true) {
        return None;
    }
    match field::<AuthorizationAction>(&spec["action"]) {
        Ok(Some(AuthorizationAction::Allow)) => Some(Action::Allow),
        Ok(Some(AuthorizationAction::Audit)) => Some(Action::Audit),
        // One that asks is taken for one that refuses.
        Ok(Some(AuthorizationAction::Deny | AuthorizationAction::Custom)) => Some(Action::Deny),
        Ok(None) if has_only(object, &OBJECT_FIELDS) && has_only(spec, &SPEC_FIELDS) => Some(Action::Allow),
        Ok(None) | Err(_) => None,
    }
}

/// Whether a field that looks like `action` stands anywhere but in `spec`. Labels may have any name.
fn has_other_action(value: &Value, is_object: bool) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, value)| match name.as_str() {
            "labels" | "matchLabels" | "annotations" => false,
            "spec" if is_object => {
                let spec = value.as_object().into_iter().flatten();
                let mut others = spec.filter(|(name, _)| *name != "action");
                others.any(|(name, value)| resembles(name, "action") || has_other_action(value, false))
            }
            name => resembles(name, "action") || has_other_action(value, false),
        }),
        Value::Array(entries) => entries.iter().any(|entry| has_other_action(entry, false)),
        _ => false,
    }
}

/// Whether a value is an object without any other fields.
fn has_only(value: &Value, known: &[&str]) -> bool {
    value.as_object().is_some_and(|fields| fields.keys().all(|name| known.contains(&name.as_str())))
}

/// One field of an object that could not be read whole; `None` if it is not given.
fn field<T: DeserializeOwned>(value: &Value) -> Result<Option<T>, serde_json::Error> {
    Option::deserialize(value)
}

fn fault(error: &FieldError) -> Arc<PolicyFault> {
    Arc::new(PolicyFault { field: error.field.clone(), reason: error.reason.clone() })
}

impl From<PolicyMode> for Mode {
    fn from(mode: PolicyMode) -> Self {
        match mode {
            PolicyMode::Enforce => Self::Enforce,
            PolicyMode::Audit => Self::Audit,
        }
    }
}

/// Reads rules, and keeps what is wrong with them.
struct Reader {
    namespace: Text,
    trust_domain: TrustDomain,
    findings: Vec<Finding>,
}

type Texts = Option<Vec<String>>;

impl Reader {
    fn finish(self, policy: AuthorizationPolicy) -> Translated<AuthorizationPolicy> {
        let denies = self.findings.iter().find(|finding| finding.effect == Effect::Denies);
        let fault = denies.map(|finding| fault(&finding.error));
        let rules = if fault.is_some() { Vec::new() } else { policy.rules };
        Translated { value: AuthorizationPolicy { rules, fault, ..policy }, findings: self.findings }
    }

    /// What a match means, and whom CUSTOM asks.
    fn action(&mut self, spec: &resources::AuthorizationPolicySpec) -> Action {
        let field = SPEC.name("provider");
        let action = spec.action.unwrap_or(AuthorizationAction::Allow);
        if action != AuthorizationAction::Custom && spec.provider.is_some() {
            self.deny(FieldError::new(&field, "is for action: CUSTOM alone"));
        }
        match action {
            AuthorizationAction::Allow => Action::Allow,
            AuthorizationAction::Deny => Action::Deny,
            AuthorizationAction::Audit => Action::Audit,
            AuthorizationAction::Custom => {
                let provider = spec.provider.as_ref().map_or("", |provider| &provider.name);
                if provider.is_empty() {
                    self.deny(FieldError::new(&field.name("name"), "is missing: action: CUSTOM asks it"));
                }
                // Whether there is one of the name, `Enroller` knows.
                Action::Custom(Arc::new(Custom { provider: provider.into(), authorizer: None }))
            }
        }
    }

    fn deny(&mut self, error: FieldError) {
        self.findings.push(Finding { error, effect: Effect::Denies });
    }

    fn warn(&mut self, field: &Field<'_>, reason: &str) {
        self.findings.push(Finding::new(Effect::Warning, field, reason));
    }

    /// A list of at most [`MAX_ENTRIES`], else nothing of it.
    fn bounded<'a, T>(&mut self, field: &Field<'_>, list: &'a [T]) -> &'a [T] {
        if list.len() <= MAX_ENTRIES {
            return list;
        }
        self.deny(FieldError::new(
            field,
            format!("has {} entries, at most {MAX_ENTRIES} are read", list.len()),
        ));
        &[]
    }

    fn rules(&mut self, rules: &[resources::AuthorizationRule]) -> Vec<Rule> {
        let path = SPEC.name("rules");
        let rules = self.bounded(&path, rules);
        rules.iter().enumerate().map(|(index, rule)| self.rule(&path.index(index), rule)).collect()
    }

    fn rule(&mut self, field: &Field<'_>, rule: &resources::AuthorizationRule) -> Rule {
        let from_path = field.name("from");
        let from = self.entries(&from_path, rule.from.as_deref());
        let from = from.iter().enumerate().map(|(index, from)| {
            let entry = from_path.index(index);
            self.source(&entry.name("source"), &from.source)
        });
        let from = from.collect();
        let to_path = field.name("to");
        let to = self.entries(&to_path, rule.to.as_deref());
        let to = to.iter().enumerate().map(|(index, to)| {
            let entry = to_path.index(index);
            self.operation(&entry.name("operation"), &to.operation)
        });
        let to = to.collect();
        let when_path = field.name("when");
        let when = self.bounded(&when_path, rule.when.as_deref().unwrap_or_default());
        let when = when.iter().enumerate();
        let when = when.filter_map(|(index, when)| self.condition(&when_path.index(index), when));
        Rule { from, to, when: when.collect() }
    }

    /// `from` and `to`: what is left out matches everything, so an empty list cannot be told from a mistake.
    fn entries<'a, T>(&mut self, field: &Field<'_>, list: Option<&'a [T]>) -> &'a [T] {
        if list.is_some_and(<[T]>::is_empty) {
            self.deny(FieldError::new(field, "is empty: leave it out to match everything"));
        }
        self.bounded(field, list.unwrap_or_default())
    }

    fn source(&mut self, field: &Field<'_>, source: &resources::RuleSource) -> Source {
        if *source == resources::RuleSource::default() {
            self.deny(FieldError::new(field, "is empty: leave out from to match every caller"));
        }
        let own = self.namespace.clone();
        let account = |field: &Field<'_>, text: &str| pattern::service_account(field, text, &own);
        Source {
            principals: self.matches(
                field,
                ("principals", &source.principals),
                ("notPrincipals", &source.not_principals),
                pattern::principal,
            ),
            namespaces: self.matches(
                field,
                ("namespaces", &source.namespaces),
                ("notNamespaces", &source.not_namespaces),
                pattern::namespace,
            ),
            service_accounts: self.matches(
                field,
                ("serviceAccounts", &source.service_accounts),
                ("notServiceAccounts", &source.not_service_accounts),
                account,
            ),
            ip_blocks: self.matches(
                field,
                ("ipBlocks", &source.ip_blocks),
                ("notIpBlocks", &source.not_ip_blocks),
                pattern::ip_block,
            ),
            request_principals: self.matches(
                field,
                ("requestPrincipals", &source.request_principals),
                ("notRequestPrincipals", &source.not_request_principals),
                pattern::pattern,
            ),
        }
    }

    fn operation(&mut self, field: &Field<'_>, operation: &resources::RuleOperation) -> Operation {
        if *operation == resources::RuleOperation::default() {
            self.deny(FieldError::new(field, "is empty: leave out to to match everything"));
        }
        Operation {
            hosts: self.matches(
                field,
                ("hosts", &operation.hosts),
                ("notHosts", &operation.not_hosts),
                pattern::host,
            ),
            ports: self.matches(
                field,
                ("ports", &operation.ports),
                ("notPorts", &operation.not_ports),
                port_text,
            ),
            methods: self.matches(
                field,
                ("methods", &operation.methods),
                ("notMethods", &operation.not_methods),
                pattern::method,
            ),
            paths: self.matches(
                field,
                ("paths", &operation.paths),
                ("notPaths", &operation.not_paths),
                pattern::path,
            ),
        }
    }

    fn condition(&mut self, field: &Field<'_>, condition: &resources::RuleCondition) -> Option<Condition> {
        let lists = (("values", &condition.values), ("notValues", &condition.not_values));
        let is_empty = |texts: &Texts| texts.as_ref().is_none_or(Vec::is_empty);
        if is_empty(&condition.values) && is_empty(&condition.not_values) {
            self.deny(FieldError::new(field, "has neither values nor notValues"));
            return None;
        }
        let own = self.namespace.clone();
        Some(match condition.key.as_str() {
            "source.ip" => Condition::SourceIp(self.matches(field, lists.0, lists.1, pattern::ip_block)),
            "source.namespace" => {
                Condition::SourceNamespace(self.matches(field, lists.0, lists.1, pattern::namespace))
            }
            "source.principal" => {
                Condition::SourcePrincipal(self.matches(field, lists.0, lists.1, pattern::principal))
            }
            "source.serviceAccount" => {
                let read = |field: &Field<'_>, text: &str| pattern::service_account(field, text, &own);
                Condition::SourceServiceAccount(self.matches(field, lists.0, lists.1, read))
            }
            "destination.ip" => {
                Condition::DestinationIp(self.matches(field, lists.0, lists.1, pattern::ip_block))
            }
            "destination.port" => {
                Condition::DestinationPort(self.matches(field, lists.0, lists.1, port_text))
            }
            "connection.sni" => {
                Condition::ConnectionServerName(self.matches(field, lists.0, lists.1, pattern::server_name))
            }
            key => match RequestKey::of(key) {
                Some(key) => key.condition(self.matches(field, lists.0, lists.1, pattern::pattern)),
                None => {
                    self.deny(FieldError::new(&field.name("key"), format!("{key:?} is not supported")));
                    return None;
                }
            },
        })
    }

    /// A field and its negation, each value read by `read`.
    fn matches<T>(
        &mut self,
        field: &Field<'_>,
        (name, texts): (&str, &Texts),
        (not_name, not_texts): (&str, &Texts),
        read: impl Fn(&Field<'_>, &str) -> Result<T, FieldError>,
    ) -> Match<T> {
        Match {
            any_of: self.values(&field.name(name), texts.as_deref(), &read),
            none_of: self.values(&field.name(not_name), not_texts.as_deref(), &read),
        }
    }

    fn values<T>(
        &mut self,
        field: &Field<'_>,
        texts: Option<&[String]>,
        read: impl Fn(&Field<'_>, &str) -> Result<T, FieldError>,
    ) -> Vec<T> {
        if texts.is_some_and(<[String]>::is_empty) {
            // It would match everything, and was hardly meant to.
            self.deny(FieldError::new(field, "is empty: leave it out to match everything"));
        }
        let mut values = Vec::new();
        for (index, text) in self.bounded(field, texts.unwrap_or_default()).iter().enumerate() {
            match read(&field.index(index), text) {
                Ok(value) => values.push(value),
                Err(error) => self.deny(error),
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(object: &str, expected: Option<Action>) {
        let object: Value = serde_saphyr::from_str(object).unwrap();
        assert_eq!(certain_action(&object), expected, "{object}");
    }

    #[test]
    fn an_action_is_certain_only_if_nothing_else_could_be_meant() {
        check("{spec: {}}", Some(Action::Allow));
        check("{kind: x, metadata: {lables: {}}, spec: {rules: [{form: []}]}}", Some(Action::Allow));
        check("{spec: {action: ALLOW, rulez: []}}", Some(Action::Allow));
        check("{spec: {action: AUDIT}, more: 1}", Some(Action::Audit));
        check("{spec: {action: DENY}}", Some(Action::Deny));
        check("{spec: {selector: {matchLabels: {action: x}}}}", Some(Action::Allow));
        for doubtful in [
            "{spec: {acton: DENY}}",
            "{spec: {Action: DENY}}",
            "{spec: {action: ALLOW, Action: DENY}}",
            "{spec: {rulez: []}}",
            "{spec: {}, action: DENY}",
            "{spec: {action: ALLOW}, action: DENY}",
            "{spek: {action: DENY}}",
            "{spek: {action: DENY}, spec: {}}",
            "{metadata: {action: DENY}, spec: {}}",
            "{spec: {rules: [{action: DENY}]}}",
            "{spec: {action: deny}}",
            "{spec: [action]}",
            "{metadata: {}}",
        ] {
            check(doubtful, None);
        }
    }

    #[test]
    fn the_fields_of_spec_are_all_known() {
        let schema = schemars::schema_for!(resources::AuthorizationPolicySpec);
        let properties = schema.get("properties").and_then(Value::as_object).unwrap();
        let mut known = SPEC_FIELDS;
        known.sort_unstable();
        assert_eq!(
            properties.keys().map(String::as_str).collect::<std::collections::BTreeSet<_>>(),
            known.into()
        );
    }
}
