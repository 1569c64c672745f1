//! What a text that is no YAML may have been meant to be. Only asked so that a policy is not skipped.

use super::ObjectName;

/// The kind, namespace and name that the text seems to give, by its lines alone.
pub(super) fn object_name(text: &str) -> ObjectName {
    ObjectName {
        kind: scalar(text, "kind:").unwrap_or_default().to_owned(),
        namespace: scalar(text, "namespace:").unwrap_or_default().to_owned(),
        name: scalar(text, "name:").unwrap_or_default().to_owned(),
    }
}

/// The first plain value behind a key, wherever it stands.
fn scalar<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let value = text.lines().find_map(|line| {
        let line = line.trim_start_matches([' ', '\t', '-', '{', ',']);
        line.strip_prefix(key).or_else(|| line.strip_prefix(&format!("{:?}:", key.trim_end_matches(':'))))
    })?;
    let value = value.split(" #").next()?.trim_matches([' ', '\t', '"', '\'', ',', '\r']);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    (!value.is_empty() && value.len() <= 253 && value.bytes().all(plain)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: (&str, &str, &str)) {
        let found = object_name(text);
        assert_eq!((&*found.kind, &*found.namespace, &*found.name), expected, "{text:?}");
    }

    #[test]
    fn the_first_lines_of_an_object_tell_what_it_is() {
        let text = "apiVersion: x\nkind: AuthorizationPolicy # who\nmetadata:\n  name: 'web'\n  namespace: shop\nspec: [";
        check(text, ("AuthorizationPolicy", "shop", "web"));
        check("{\"kind\": \"Pod\",\n\"name\": \"a\"", ("Pod", "", "a"));
        check("kind: [\nname: a b", ("", "", ""));
    }
}
