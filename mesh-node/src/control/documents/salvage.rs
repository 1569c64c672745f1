//! What a text that is no YAML may have been meant to be. Only asked so that a policy is not skipped.

use std::collections::BTreeSet;

use super::{ObjectName, misread};
use crate::control::object::Kind;
use crate::control::translate::resembles;

/// The longest name of an object, in bytes.
const MAX_VALUE: usize = 253;

/// What a text seems to give.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Salvaged {
    /// The first kind, namespace and name.
    pub(super) object: ObjectName,
    /// The policy kinds that it may hold objects of.
    pub(super) policies: BTreeSet<Kind>,
    /// Every namespace.
    pub(super) namespaces: BTreeSet<String>,
}

/// Looks for keys and their plain values, wherever they stand.
pub(super) fn salvage(text: &str) -> Salvaged {
    let first = |key| scalars(text, key).next().unwrap_or_default().to_owned();
    let namespaces = scalars(text, "namespace").map(str::to_owned).collect();
    // A List may say last that it is one.
    if scalars(text, "kind").any(|kind| resembles(kind, "List")) {
        let object = ObjectName { kind: "List".to_owned(), ..ObjectName::default() };
        return Salvaged { object, policies: listed(text), namespaces };
    }
    let object = ObjectName { kind: first("kind"), namespace: first("namespace"), name: first("name") };
    let first = misread::policy_kind(&object.kind, &first("apiVersion"));
    // Where the line between two documents was forgotten, a kind stands at the margin for each.
    let others = at_margin(text, "kind").filter_map(|kind| misread::policy_kind(kind, ""));
    Salvaged { object, policies: first.into_iter().chain(others).collect(), namespaces }
}

/// The kinds of the policies in a List.
fn listed(text: &str) -> BTreeSet<Kind> {
    let kinds: Vec<Kind> = scalars(text, "kind").filter_map(|kind| misread::policy_kind(kind, "")).collect();
    let mut ours = scalars(text, "apiVersion").filter_map(|version| misread::policy_kind("", version));
    // Of our group more than there are kinds: the kind of one cannot be read.
    let unknown = ours.nth(kinds.len());
    kinds.into_iter().chain(unknown).collect()
}

/// The plain values behind a key of the outermost mapping.
fn at_margin<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = text.lines().filter(move |line| line.trim_start_matches(['"', '\'']).starts_with(key));
    lines.filter_map(move |line| scalars(line, key).next())
}

/// The plain values behind a key.
fn scalars<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(key).filter_map(move |(start, _)| {
        let before = text[..start].trim_end_matches(['"', '\'']).chars().next_back();
        if before.is_some_and(|before| before.is_alphanumeric() || "-_./$".contains(before)) {
            return None;
        }
        let rest = text[start + key.len()..].trim_start_matches(['"', '\'']).trim_start_matches([' ', '\t']);
        // No further than a value may be long: a line of many keys would be looked through once for each.
        let line = rest.strip_prefix(':')?.trim_start_matches([' ', '\t']);
        let line = &line[..line.floor_char_boundary(2 * MAX_VALUE)];
        let value = line.split(['\n', ',', '}', '#']).next()?;
        let value = value.trim_matches([' ', '\t', '"', '\'', '\r']);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-./".contains(&byte);
        (!value.is_empty() && value.len() <= MAX_VALUE && value.bytes().all(plain)).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, object: (&str, &str, &str), namespaces: &[&str], policies: &[Kind]) {
        let found = salvage(text);
        let ObjectName { kind, namespace, name } = &found.object;
        assert_eq!((&**kind, &**namespace, &**name), object, "{text:?}");
        assert_eq!(found.namespaces.iter().collect::<Vec<_>>(), namespaces, "{text:?}");
        assert_eq!(found.policies.into_iter().collect::<Vec<_>>(), policies, "{text:?}");
    }

    #[test]
    fn the_keys_of_an_object_tell_what_it_is() {
        let text = "apiVersion: x/v1\nkind: AuthorizationPolicy # who\nmetadata:\n  name: 'web'\n  namespace: shop\nspec: [";
        check(text, ("AuthorizationPolicy", "shop", "web"), &["shop"], &[Kind::AuthorizationPolicy]);
        check("kind: Pod\nmetadata: {name: a, namespace: b}\n", ("Pod", "b", "a"), &["b"], &[]);
        check("{\"kind\": \"Pod\",\n\"name\":\"a\"", ("Pod", "", "a"), &[], &[]);
        check("namespace: a\nnamespace: b\nnamespaces: [c]\nx.namespace: d", ("", "a", ""), &["a", "b"], &[]);
        check(&format!("name: {}x", " ".repeat(1000)), ("", "", "x"), &[], &[]);
        check("kind: [\nname: a b", ("", "", ""), &[], &[]);
    }

    #[test]
    fn a_list_may_hold_policies_wherever_it_says_that_it_is_one() {
        let items = "- kind: Pod\n- kind: PeerAuthentication\n";
        let peer = &[Kind::PeerAuthentication];
        check(&format!("kind: List\nitems:\n{items}"), ("List", "", ""), &[], peer);
        check(&format!("items:\n{items}kind: List\n"), ("List", "", ""), &[], peer);
        check(&format!("data:\n{items}kind: ConfigMap\n"), ("Pod", "", ""), &[], &[]);
        check("kind: List\nitems: [{kind: Pod}]", ("List", "", ""), &[], &[]);
        let nameless = "kind: List\nitems:\n- apiVersion: policy.nodemesh.dev/v1alpha1\n  kind: [\n";
        check(nameless, ("List", "", ""), &[], &[Kind::AuthorizationPolicy]);
    }

    #[test]
    fn a_forgotten_line_between_two_objects_hides_no_policy() {
        let service = "kind: Service\nmetadata:\n  name: web\n";
        let policy =
            "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata:\n  name: a\n";
        check(&format!("{service}{policy}"), ("Service", "", "web"), &[], &[Kind::AuthorizationPolicy]);
        check("kind: ConfigMap\ndata: |\n  kind: AuthorizationPolicy\n", ("ConfigMap", "", ""), &[], &[]);
    }

    /// Where each key is followed to the end of its line, this does not end.
    #[test]
    fn a_line_of_keys_costs_one_look_at_each() {
        check(&"namespace: ".repeat(100_000), ("", "", ""), &[], &[]);
    }
}
