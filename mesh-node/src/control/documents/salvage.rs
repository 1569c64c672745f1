//! What a text that is no YAML may have been meant to be. Only asked so that a policy is not skipped.

use std::collections::BTreeSet;

use super::ObjectName;

/// What a text seems to give.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Salvaged {
    /// The first `apiVersion`.
    pub(super) api_version: String,
    /// The first kind, namespace and name.
    pub(super) object: ObjectName,
    /// Every namespace.
    pub(super) namespaces: BTreeSet<String>,
}

/// Looks for keys and their plain values, wherever they stand.
pub(super) fn salvage(text: &str) -> Salvaged {
    let first = |key| scalars(text, key).next().unwrap_or_default().to_owned();
    Salvaged {
        api_version: first("apiVersion"),
        object: ObjectName { kind: first("kind"), namespace: first("namespace"), name: first("name") },
        namespaces: scalars(text, "namespace").map(str::to_owned).collect(),
    }
}

/// The plain values behind a key.
fn scalars<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(key).filter_map(move |(start, _)| {
        let before = text[..start].trim_end_matches(['"', '\'']).chars().next_back();
        if before.is_some_and(|before| before.is_alphanumeric() || "-_./$".contains(before)) {
            return None;
        }
        let rest = text[start + key.len()..].trim_start_matches(['"', '\'']).trim_start_matches([' ', '\t']);
        let value = rest.strip_prefix(':')?.split(['\n', ',', '}', '#']).next()?;
        let value = value.trim_matches([' ', '\t', '"', '\'', '\r']);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-./".contains(&byte);
        (!value.is_empty() && value.len() <= 253 && value.bytes().all(plain)).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, version: &str, object: (&str, &str, &str), namespaces: &[&str]) {
        let found = salvage(text);
        let ObjectName { kind, namespace, name } = &found.object;
        assert_eq!((&*found.api_version, (&**kind, &**namespace, &**name)), (version, object), "{text:?}");
        assert_eq!(found.namespaces.iter().collect::<Vec<_>>(), namespaces, "{text:?}");
    }

    #[test]
    fn the_keys_of_an_object_tell_what_it_is() {
        let text = "apiVersion: x/v1\nkind: AuthorizationPolicy # who\nmetadata:\n  name: 'web'\n  namespace: shop\nspec: [";
        check(text, "x/v1", ("AuthorizationPolicy", "shop", "web"), &["shop"]);
        check("kind: Pod\nmetadata: {name: a, namespace: b}\n", "", ("Pod", "b", "a"), &["b"]);
        check("{\"kind\": \"Pod\",\n\"name\":\"a\"", "", ("Pod", "", "a"), &[]);
        check("namespace: a\nnamespace: b\nnamespaces: [c]\nx.namespace: d", "", ("", "a", ""), &["a", "b"]);
        check("kind: [\nname: a b", "", ("", "", ""), &[]);
    }
}
