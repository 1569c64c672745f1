//! What of an AuthorizationPolicy is understood, and seldom meant.

use mesh_common::model::policy::Action;

use super::{Effect, Field, Finding, SPEC, pattern};
use crate::control::resources;

/// Most principals of one list that are looked at for what they may have been meant to be.
const MAX_ADVISED: usize = 64;

type Texts = Option<Vec<String>>;

/// Points at it. `own` is the mesh's trust domain.
pub(super) fn advise(
    spec: &resources::AuthorizationPolicySpec,
    action: &Action,
    own: &str,
    findings: &mut Vec<Finding>,
) {
    Adviser { action, own, findings }.advise(spec);
}

struct Adviser<'a> {
    action: &'a Action,
    own: &'a str,
    findings: &'a mut Vec<Finding>,
}

impl Adviser<'_> {
    fn warn(&mut self, field: &Field<'_>, reason: &str) {
        self.findings.push(Finding::new(Effect::Warning, field, reason));
    }

    fn advise(&mut self, spec: &resources::AuthorizationPolicySpec) {
        let rules = spec.rules.as_deref().unwrap_or_default();
        let path = SPEC.name("rules");
        if rules.is_empty() && *self.action != Action::Allow {
            self.warn(&path, "no rule: the policy never matches; an empty rule {} always does");
        }
        for (index, rule) in rules.iter().enumerate() {
            let rule_path = path.index(index);
            let to_path = rule_path.name("to");
            let is_alone = rule.from.is_none() && rule.when.is_none();
            for (index, to) in rule.to.iter().flatten().enumerate() {
                let entry = to_path.index(index);
                self.operation(&entry.name("operation"), &to.operation, is_alone);
            }
            let from_path = rule_path.name("from");
            for (index, from) in rule.from.iter().flatten().enumerate() {
                let (entry, source) = (from_path.index(index), &from.source);
                let field = entry.name("source");
                self.principals(&field.name("principals"), &source.principals);
                self.principals(&field.name("notPrincipals"), &source.not_principals);
            }
            let when_path = rule_path.name("when");
            let is_principal = |when: &resources::RuleCondition| when.key == "source.principal";
            let when = rule.when.iter().flatten().enumerate().filter(|(_, when)| is_principal(when));
            for (index, when) in when {
                let field = when_path.index(index);
                self.principals(&field.name("values"), &when.values);
                self.principals(&field.name("notValues"), &when.not_values);
            }
        }
    }

    fn principals(&mut self, field: &Field<'_>, principals: &Texts) {
        let own = self.own;
        for (index, text) in principals.iter().flatten().enumerate().take(MAX_ADVISED) {
            let is_good = pattern::principal(&field.index(index), text).is_ok();
            if let Some(other) = pattern::foreign_trust_domain(text, own).filter(|_| is_good) {
                let reason =
                    format!("is nobody's: no peer of trust domain {other} is let in, this mesh's is {own}");
                self.warn(&field.index(index), &reason);
            }
        }
    }

    fn operation(&mut self, field: &Field<'_>, operation: &resources::RuleOperation, is_alone: bool) {
        let lower = |text: &String| text.bytes().any(|byte| byte.is_ascii_lowercase());
        for (name, methods) in [("methods", &operation.methods), ("notMethods", &operation.not_methods)] {
            if methods.iter().flatten().any(lower) {
                self.warn(&field.name(name), "methods are compared with regard to case: GET, not get");
            }
        }
        match self.action {
            Action::Allow => self.negations(field, operation),
            Action::Deny if is_alone && *operation == paths_alone(operation) => {
                let reason = "DENY with paths alone permits every path that is not listed, also other ways to write the \
                              same to an application that reads them more freely: ALLOW with paths, or DENY with \
                              notPaths, leaves no such gap";
                self.warn(&field.name("paths"), reason);
            }
            Action::Deny | Action::Audit | Action::Custom(_) => {}
        }
    }

    /// ALLOW with negations: Istio's \"ALLOW with positive matching\" is the safe form.
    fn negations(&mut self, field: &Field<'_>, operation: &resources::RuleOperation) {
        let pairs = [
            ("notHosts", "host", &operation.hosts, &operation.not_hosts),
            ("notMethods", "method", &operation.methods, &operation.not_methods),
            ("notPaths", "path", &operation.paths, &operation.not_paths),
        ];
        for (name, what, _, _) in pairs.into_iter().filter(|(_, _, of, not)| not.is_some() && of.is_none()) {
            let reason = format!("ALLOW with {name} permits every {what} that is not listed, also new ones");
            self.warn(&field.name(name), &reason);
        }
    }
}

/// The same with nothing but its paths.
fn paths_alone(operation: &resources::RuleOperation) -> resources::RuleOperation {
    resources::RuleOperation {
        paths: Some(operation.paths.clone().unwrap_or_default()),
        ..resources::RuleOperation::default()
    }
}
