//! Whether what a token says matches. Without one nothing does, and every negation.

use smallvec::SmallVec;

use super::matching::{Case, pattern_matches};
use crate::model::policy::{Match, Pattern};
use crate::model::{EndUser, Text};

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
    let values = user.map(|user| user.values(path)).unwrap_or_default();
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
