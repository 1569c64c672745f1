//! The table of what the mesh may do in a cluster, from its manifests: each rule with the comment that says why.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Where the table is.
const DOCUMENT: &str = "docs/rights.md";
/// The manifests that have roles, and who is bound to them.
const MANIFESTS: [(&str, &str); 4] = [
    ("manifests/base/controller.yaml", "the controller"),
    ("manifests/foundation/agent-account.yaml", "every agent"),
    ("manifests/overlays/signing-requests/requests.yaml", "the controller, where this overlay is applied"),
    ("manifests/base/roles.yaml", "people, by the cluster's roles view, edit and admin"),
];
const HEAD: &str = "# Rights\n\n<!-- Written by `cargo xtask docs` from the manifests: change it there. -->\n\nWhat Nodemesh asks \
    of Kubernetes' access control, whole, and why. Nothing else is granted: no wildcard, no impersonation, no other Secret. \
    Rights on a node are not here: they stand in `manifests/base/agent.yaml`, each capability with its reason.\n";

/// A role as its manifest has it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Role {
    kind: String,
    name: String,
    namespace: Option<String>,
    rules: Vec<Rule>,
}

/// One rule, in the manifest's own words.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rule {
    why: String,
    groups: String,
    resources: String,
    names: String,
    verbs: String,
}

/// Returns the document's name and text.
///
/// # Errors
/// A manifest cannot be read, or has a rule that gives no reason.
pub fn document() -> Result<(&'static str, String)> {
    let mut text = HEAD.to_owned();
    for (name, who) in MANIFESTS {
        let path = workspace::root().join(name);
        let manifest = fs::read_to_string(&path).with_context(|| format!("read {name}"))?;
        let roles = roles(&manifest).with_context(|| format!("understand {name}"))?;
        if roles.is_empty() {
            bail!("{name} has no role: take it out of the list of manifests that have");
        }
        for role in roles {
            section(&mut text, &role, name, who);
        }
    }
    Ok((DOCUMENT, text))
}

fn section(text: &mut String, role: &Role, manifest: &str, who: &str) {
    let place =
        role.namespace.as_ref().map_or("in the whole cluster".to_owned(), |name| format!("in `{name}`"));
    let Role { kind, name, .. } = role;
    let mut push = |line: std::fmt::Arguments<'_>| text.write_fmt(line).expect("a String takes everything");
    push(format_args!("\n## {kind} `{name}`\n\nFor {who}, {place} (`{manifest}`).\n\n"));
    push(format_args!("| group | resources | only those named | verbs | why |\n|---|---|---|---|---|\n"));
    for Rule { why, groups, resources, names, verbs } in &role.rules {
        let group = if groups == "\"\"" { "core" } else { groups };
        push(format_args!("| {group} | {resources} | {names} | {verbs} | {why} |\n"));
    }
}

/// Reads the roles of a manifest, which is written as ours are: a rule's lists in one line each, its reason in the
/// comment above it. A rule without one goes with the rule before.
fn roles(manifest: &str) -> Result<Vec<Role>> {
    let mut roles = Vec::new();
    for document in manifest.split("\n---\n") {
        let mut role = Role::default();
        let mut comment = String::new();
        for line in document.lines() {
            take(&mut role, &mut comment, line);
        }
        if !matches!(role.kind.as_str(), "Role" | "ClusterRole") {
            continue;
        }
        if let Some(rule) = role.rules.iter().find(|rule| rule.why.is_empty() || rule.verbs.is_empty()) {
            bail!(
                "a rule of {} {} has no comment that says why, or no verbs: {rule:?}",
                role.kind,
                role.name
            );
        }
        roles.push(role);
    }
    Ok(roles)
}

fn take(role: &mut Role, comment: &mut String, line: &str) {
    let listed = |value: &str| value.trim_matches(['[', ']']).to_owned();
    if let Some(words) = line.strip_prefix("  # ") {
        *comment = format!("{comment} {words}").trim_start().to_owned();
    } else if let Some(kind) = line.strip_prefix("kind: ") {
        kind.clone_into(&mut role.kind);
    } else if let Some(name) = line.strip_prefix("  name: ").filter(|_| role.name.is_empty()) {
        name.clone_into(&mut role.name);
    } else if let Some(name) = line.strip_prefix("  namespace: ") {
        role.namespace = Some(name.to_owned());
    } else if let Some(groups) = line.strip_prefix("  - apiGroups: ") {
        let before = role.rules.last().map(|rule| rule.why.clone()).unwrap_or_default();
        let why = if comment.is_empty() { before } else { std::mem::take(comment) };
        role.rules.push(Rule { why, groups: listed(groups), ..Rule::default() });
    } else if let Some(rule) = role.rules.last_mut() {
        for (key, into) in [
            ("    resources: ", &mut rule.resources),
            ("    resourceNames: ", &mut rule.names),
            ("    verbs: ", &mut rule.verbs),
        ] {
            if let Some(value) = line.strip_prefix(key) {
                *into = listed(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "kind: ServiceAccount\nmetadata:\n  name: a\n---\nkind: Role\nmetadata:\n  name: a\n  \
        namespace: b\nrules:\n  # Because\n  # of it.\n  - apiGroups: [\"\"]\n    resources: [secrets]\n    \
        resourceNames: [one]\n    verbs: [get, update]\n  - apiGroups: [\"\"]\n    resources: [secrets]\n    \
        verbs: [create]\n";

    #[test]
    fn a_rule_is_read_with_its_reason() {
        let rule = |names: &str, verbs: &str| Rule {
            why: "Because of it.".into(),
            groups: "\"\"".into(),
            resources: "secrets".into(),
            names: names.into(),
            verbs: verbs.into(),
        };
        let role = Role {
            kind: "Role".into(),
            name: "a".into(),
            namespace: Some("b".into()),
            rules: vec![rule("one", "get, update"), rule("", "create")],
        };
        assert_eq!(roles(MANIFEST).unwrap(), [role]);
    }

    #[test]
    fn a_rule_without_a_reason_is_refused() {
        let silent = MANIFEST.replace("  # Because\n  # of it.\n", "");
        assert!(roles(&silent).unwrap_err().to_string().contains("no comment"));
    }
}
