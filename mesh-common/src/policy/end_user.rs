//! Whether what a token says matches. Without one nothing does, and every negation.

use serde_json::Value;
use smallvec::SmallVec;

use super::matching::{Case, pattern_matches};
use crate::model::policy::{Match, Pattern};
use crate::model::{EndUser, Text};

/// The values of one claim; each is matched by itself.
type Values<'a> = SmallVec<[std::borrow::Cow<'a, str>; 4]>;

pub(super) fn principal_matches(list: &Match<Pattern>, user: Option<&EndUser>) -> bool {
    any_matches(list, user.and_then(|user| user.claims.principal()).map(|text| &**text))
}

pub(super) fn audiences_match(list: &Match<Pattern>, user: Option<&EndUser>) -> bool {
    let audiences: SmallVec<[&str; 4]> = user.into_iter().flat_map(|user| user.claims.audiences()).collect();
    any_matches(list, audiences)
}

pub(super) fn presenter_matches(list: &Match<Pattern>, user: Option<&EndUser>) -> bool {
    any_matches(list, user.and_then(|user| user.claims.presenter()))
}

pub(super) fn claim_matches(path: &[Text], list: &Match<Pattern>, user: Option<&EndUser>) -> bool {
    let values = user.map(|user| values(user, path)).unwrap_or_default();
    any_matches(list, values.iter().map(|value| &**value))
}

/// One of the values is asked for, and none is ruled out.
fn any_matches<'a>(list: &Match<Pattern>, values: impl IntoIterator<Item = &'a str>) -> bool {
    let fits = |patterns: &[Pattern], value: &str| {
        patterns.iter().any(|pattern| pattern_matches(pattern, value.as_bytes(), Case::Sensitive))
    };
    let mut asked = list.any_of.is_empty();
    for value in values {
        if fits(&list.none_of, value) {
            return false;
        }
        asked = asked || fits(&list.any_of, value);
    }
    asked
}

fn values<'a>(user: &'a EndUser, path: &[Text]) -> Values<'a> {
    let mut values = Values::new();
    let Some(claim) = user.claims.at(path.iter().map(|name| &**name)) else { return values };
    let is_list_of_words = match path {
        [name] => user.space_delimited.contains(name),
        _ => false,
    };
    match claim {
        Value::String(text) if is_list_of_words => {
            values.extend(text.split(' ').filter(|word| !word.is_empty()).map(Into::into));
        }
        Value::Array(list) => values.extend(list.iter().filter_map(text)),
        one => values.extend(text(one)),
    }
    values
}

/// Text, and the other plain values as JSON writes them.
fn text(value: &Value) -> Option<std::borrow::Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.into()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
