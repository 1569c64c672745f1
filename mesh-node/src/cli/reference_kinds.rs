//! The reference of our kinds: every field with its type, its limits and what it means, from the definitions that the API
//! server is given.

use std::fmt::Write;

use serde_json::Value;

use super::reference::NOTE;

/// Writes the document from CustomResourceDefinitions as JSON.
pub(super) fn kinds(definitions: &[Value]) -> String {
    let mut text = format!(
        "# Kinds\n\n{NOTE}What each field of our kinds means, from `manifests/foundation/crds.yaml`. How to write policies is in the \
         [guide](policy-guide.md).\n\n`[]` stands for the entries of a list, `{{}}` for the values of a map. kubectl refuses an object with a \
         field that is not here; a policy in a folder of files that has one denies.\n"
    );
    for definition in definitions {
        kind(&mut text, definition);
    }
    text
}

fn kind(text: &mut String, definition: &Value) {
    let spec = &definition["spec"];
    let names = &spec["names"];
    for version in list(&spec["versions"]) {
        let schema = &version["schema"]["openAPIV3Schema"];
        let about = schema["description"].as_str().unwrap_or_default();
        push(text, format_args!("\n## {}\n\n{about}\n\n", word(&names["kind"])));
        push(text, format_args!("- `apiVersion: {}/{}`\n", word(&spec["group"]), word(&version["name"])));
        let short = list(&names["shortNames"]).iter().map(word).collect::<Vec<_>>().join("`, `");
        push(text, format_args!("- `kubectl get {}`, short `{short}`\n", word(&names["plural"])));
        text.push_str("\n| field | type | what |\n|---|---|---|\n");
        for part in ["spec", "status"] {
            fields(text, part, &schema["properties"][part]);
        }
    }
}

/// One row for what is at `path`, then the rows below it.
fn fields(text: &mut String, path: &str, schema: &Value) {
    let mut what = sentences(schema["description"].as_str().unwrap_or_default());
    limits(&mut what, schema);
    push(text, format_args!("| `{path}` | {} | {} |\n", kind_of(schema), what.join(" ")));
    below(text, path, schema);
}

fn below(text: &mut String, path: &str, schema: &Value) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, field) in properties {
            fields(text, &format!("{path}.{name}"), field);
        }
    }
    for (part, sign) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[part].is_object() {
            below(text, &format!("{path}{sign}"), &schema[part]);
        }
    }
}

/// As a person would say it: `list of string`.
fn kind_of(schema: &Value) -> String {
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("array"), _) => format!("list of {}", kind_of(&schema["items"])),
        (Some("object"), _) if schema["additionalProperties"].is_object() => {
            format!("map to {}", kind_of(&schema["additionalProperties"]))
        }
        (Some(kind), Some(format)) => format!("{kind} ({format})"),
        (Some(kind), None) => kind.to_owned(),
        (None, _) if schema["x-kubernetes-int-or-string"] == true => "integer or string".to_owned(),
        (None, _) => "any".to_owned(),
    }
}

fn limits(what: &mut Vec<String>, schema: &Value) {
    let mut say = |words: &str, value: &Value| {
        if !value.is_null() {
            what.push(format!("{words} {}.", shown(value)));
        }
    };
    say("One of", &schema["enum"]);
    say("Default", &schema["default"]);
    for (part, subject) in [("items", "Entries"), ("additionalProperties", "Values")] {
        if schema[part].is_object() {
            say(&format!("{subject}: one of"), &schema[part]["enum"]);
            say(&format!("{subject} match"), &schema[part]["pattern"]);
        }
    }
    say("Matches", &schema["pattern"]);
    say("At least", &schema["minimum"]);
    say("At most", &schema["maximum"]);
    say("Least number of entries:", &schema["minItems"]);
    say("Greatest number of entries:", &schema["maxItems"]);
    say("Required:", &schema["required"]);
    for rule in list(&schema["x-kubernetes-validations"]) {
        what.push(format!("Else refused: {}.", cell(word(&rule["message"]))));
    }
}

/// A value as code, several one after the other.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::String(text) => format!("`{}`", cell(text)),
        other => format!("`{}`", cell(&other.to_string())),
    }
}

/// A description as one cell.
fn sentences(description: &str) -> Vec<String> {
    let text = cell(&description.split_whitespace().collect::<Vec<_>>().join(" "));
    if text.is_empty() { Vec::new() } else { vec![text] }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_level_has_its_row_with_type_limits_and_rules() {
        let definition = json!({"spec": {
            "group": "example.dev",
            "names": {"kind": "Thing", "plural": "things", "shortNames": ["th"]},
            "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
                "description": "A thing.",
                "properties": {"spec": {"type": "object", "properties": {
                    "ports": {"type": "array", "maxItems": 4, "description": "Where.\nOr not.", "items": {
                        "type": "object",
                        "properties": {"mode": {"type": "string", "enum": ["A", "B"], "default": "A"}},
                    }},
                    "text": {"type": "string", "pattern": "^(a|b)$",
                        "x-kubernetes-validations": [{"message": "is too short", "rule": "false"}]},
                }}},
            }}}],
        }});
        let text = kinds(&[definition]);
        for row in [
            "## Thing",
            "- `apiVersion: example.dev/v1`",
            "| `spec.ports` | list of object | Where. Or not. Greatest number of entries: `4`. |",
            "| `spec.ports[].mode` | string | One of `A`, `B`. Default `A`. |",
            r"| `spec.text` | string | Matches `^(a\|b)$`. Else refused: is too short. |",
        ] {
            assert!(text.contains(row), "{row} is not in {text}");
        }
    }
}
