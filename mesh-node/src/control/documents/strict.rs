//! A value becomes a typed object, and every field that its type does not know is named.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Segment, Track};

use super::known::{Step, known};
use crate::control::translate::{FieldError, nearest};

/// Most unknown fields that are named of one object.
const MAX_UNKNOWN: usize = 20;

/// Most known fields that are named beside an unknown one that resembles none of them.
const MAX_KNOWN: usize = 12;

/// Reads an object. Gives all that is wrong with its fields, in the order in which they stand.
pub(in crate::control) fn read<K: DeserializeOwned>(value: &Value) -> Result<K, Vec<FieldError>> {
    let mut unknown = Vec::new();
    let mut track = Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let result = serde_ignored::deserialize(deserializer, |path| {
        let mut field = String::new();
        render(&path, &mut field);
        // The type of a custom resource does not say these two, the caller has looked at them.
        if field != "apiVersion" && field != "kind" && unknown.len() < MAX_UNKNOWN {
            unknown.push(FieldError { field, reason: unknown_field::<K>(&path) });
        }
    });
    match result {
        Ok(object) if unknown.is_empty() => Ok(object),
        Ok(_) => Err(unknown),
        Err(error) => {
            let error: serde_json::Error = error;
            unknown.push(FieldError { field: rendered(&track.path()), reason: error.to_string() });
            Err(unknown)
        }
    }
}

/// Why a field is refused, with the one that was probably meant, or those that there are.
fn unknown_field<K: DeserializeOwned>(path: &serde_ignored::Path<'_>) -> String {
    let mut steps = Vec::new();
    take_steps(path, &mut steps);
    let Some(Step::Field(field)) = steps.pop() else { return "unknown field".to_owned() };
    let known = known::<K>(&steps);
    match nearest(&field, known.iter().copied()) {
        Some(near) => format!("unknown field: did you mean {near}?"),
        None if (1..=MAX_KNOWN).contains(&known.len()) => {
            format!("unknown field: there are {}", known.join(", "))
        }
        None => "unknown field".to_owned(),
    }
}

fn take_steps(path: &serde_ignored::Path<'_>, steps: &mut Vec<Step>) {
    use serde_ignored::Path;
    match path {
        Path::Root => {}
        Path::Seq { parent, .. } => {
            take_steps(parent, steps);
            steps.push(Step::Entry);
        }
        Path::Map { parent, key } => {
            take_steps(parent, steps);
            steps.push(Step::Field(key.clone()));
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            take_steps(parent, steps);
        }
    }
}

/// Prints a path as translation does: `spec.ports[0].name`, `metadata.labels[some/key]`.
fn render(path: &serde_ignored::Path<'_>, text: &mut String) {
    use serde_ignored::Path;
    match path {
        Path::Root => {}
        Path::Seq { parent, index } => {
            render(parent, text);
            text.push_str(&format!("[{index}]"));
        }
        Path::Map { parent, key } => {
            render(parent, text);
            push_key(key, text);
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            render(parent, text);
        }
    }
}

fn rendered(path: &serde_path_to_error::Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } => push_key(key, &mut text),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}

fn push_key(key: &str, text: &mut String) {
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphabetic());
    if !plain {
        text.push_str(&format!("[{key}]"));
    } else if text.is_empty() {
        text.push_str(key);
    } else {
        text.push('.');
        text.push_str(key);
    }
}
