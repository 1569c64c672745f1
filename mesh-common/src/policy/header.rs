//! Whether the values of a header field match.
//!
//! Each value of a repeated field is a value by itself, and so is each element of a list joined by commas
//! (RFC 9110 section 5.3: the two are the same thing), because applications disagree on which of them counts.

use super::matching::{Breadth, Case, holds, pattern_matches};
use crate::model::policy::{Match, Pattern};

/// Fields whose grammar has commas that join no list (RFC 9110 section 5.5, RFC 6265 section 5.4).
const NOT_LISTS: [&str; 14] = [
    "authorization",
    "cookie",
    "date",
    "expires",
    "from",
    "if-modified-since",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "proxy-authorization",
    "referer",
    "server",
    "set-cookie",
    "user-agent",
];

/// Whether a field of a request fulfils a condition. An absent field has no value: it matches no pattern, and
/// every negation.
pub(super) fn field_matches(
    name: &str,
    values: &Match<Pattern>,
    headers: &[(&[u8], &[u8])],
    breadth: Breadth,
) -> bool {
    let mut fields = headers
        .iter()
        .filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| value.trim_ascii())
        .peekable();
    if fields.peek().is_none() {
        return values.any_of.is_empty();
    }
    let is_list = !NOT_LISTS.contains(&name);
    match breadth {
        Breadth::Broad => {
            fields.any(|field| fits(values, field) || is_list && elements(field).any(|one| fits(values, one)))
        }
        Breadth::Narrow => fields.all(|field| fits_narrowly(values, field, is_list)),
    }
}

/// The whole field, or each element of it, must be asked for; neither may be ruled out. A pattern that names the
/// field letter by letter means all of it.
fn fits_narrowly(values: &Match<Pattern>, field: &[u8], is_list: bool) -> bool {
    let is_named = |pattern: &Pattern| {
        matches!(pattern, Pattern::Exact(_)) && pattern_matches(pattern, field, Case::Sensitive)
    };
    let whole = fits(values, field);
    if !is_list || !field.contains(&b',') {
        return whole;
    }
    let ruled_out =
        |one: &[u8]| values.none_of.iter().any(|pattern| pattern_matches(pattern, one, Case::Sensitive));
    if ruled_out(field) || elements(field).any(ruled_out) {
        return false;
    }
    values.any_of.iter().any(is_named) || elements(field).all(|one| fits(values, one))
}

fn fits(values: &Match<Pattern>, value: &[u8]) -> bool {
    holds(values, Breadth::Narrow, |pattern, _| pattern_matches(pattern, value, Case::Sensitive))
}

/// The elements of a list; empty ones do not count (RFC 9110 section 5.6.1.2).
fn elements(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    field.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&str], fields: &[&str], breadth: Breadth, expected: bool) {
        let pattern = |text: &str| match text.strip_suffix('*') {
            Some("") => Pattern::Present,
            Some(prefix) => Pattern::Prefix(prefix.into()),
            None => Pattern::Exact(text.into()),
        };
        let (not, of): (Vec<&str>, Vec<&str>) =
            values.iter().copied().partition(|text| text.starts_with('!'));
        let list = Match {
            any_of: of.iter().map(|text| pattern(text)).collect(),
            none_of: not.iter().map(|text| pattern(&text[1..])).collect(),
        };
        let headers: Vec<_> = fields.iter().map(|value| (b"X-Role".as_slice(), value.as_bytes())).collect();
        assert_eq!(
            field_matches("x-role", &list, &headers, breadth),
            expected,
            "{values:?} {fields:?} {breadth:?}"
        );
    }

    #[test]
    fn what_refuses_needs_one_value_that_matches() {
        check(&["admin"], &["user", "admin"], Breadth::Broad, true);
        check(&["admin"], &["user,admin"], Breadth::Broad, true);
        check(&["admin"], &["user , admin ,"], Breadth::Broad, true);
        check(&["admin"], &["user"], Breadth::Broad, false);
        check(&["admin"], &[], Breadth::Broad, false);
        check(&["!user"], &["user", "admin"], Breadth::Broad, true);
        check(&["!user"], &[], Breadth::Broad, true);
    }

    #[test]
    fn what_permits_needs_every_value_to_match() {
        check(&["admin"], &["user", "admin"], Breadth::Narrow, false);
        check(&["admin"], &["user,admin"], Breadth::Narrow, false);
        check(&["admin"], &["admin", "admin"], Breadth::Narrow, true);
        check(&["admin"], &["admin,admin"], Breadth::Narrow, true);
        check(&["user*"], &["user,admin"], Breadth::Narrow, false);
        check(&["user,admin"], &["user,admin"], Breadth::Narrow, true);
        check(&["!admin"], &["user,admin"], Breadth::Narrow, false);
        check(&["*"], &[""], Breadth::Narrow, false);
        check(&["admin"], &[], Breadth::Narrow, false);
        check(&["!admin"], &[], Breadth::Narrow, true);
    }

    #[test]
    fn a_comma_in_a_field_that_is_no_list_joins_nothing() {
        let agent = Match { any_of: vec![Pattern::Prefix("Mozilla/".into())], none_of: vec![] };
        let headers = [(b"user-agent".as_slice(), b"Mozilla/5.0 (KHTML, like Gecko)".as_slice())];
        assert!(field_matches("user-agent", &agent, &headers, Breadth::Narrow));
    }
}
