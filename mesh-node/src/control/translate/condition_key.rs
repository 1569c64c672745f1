//! Keys of conditions that are about a request: which part of it.

use mesh_common::model::Text;
use mesh_common::model::policy::{Condition, Match, Pattern};

use super::pattern::is_token_byte;

/// The part of a request that a condition is about.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RequestKey {
    Header(Text),
    Principal,
    Audiences,
    Presenter,
    Claim(Vec<Text>),
}

impl RequestKey {
    /// Reads a key; `None` if it is none of a request.
    pub(super) fn of(key: &str) -> Option<Self> {
        match key {
            "request.auth.principal" => Some(Self::Principal),
            "request.auth.audiences" => Some(Self::Audiences),
            "request.auth.presenter" => Some(Self::Presenter),
            _ => match key.strip_prefix("request.auth.claims") {
                Some(path) => claim(path).map(Self::Claim),
                None => header(key).map(Self::Header),
            },
        }
    }

    pub(super) fn condition(self, values: Match<Pattern>) -> Condition {
        match self {
            Self::Header(name) => Condition::RequestHeader { name, values },
            Self::Principal => Condition::RequestPrincipal(values),
            Self::Audiences => Condition::RequestAudiences(values),
            Self::Presenter => Condition::RequestPresenter(values),
            Self::Claim(path) => Condition::RequestClaim { path, values },
        }
    }
}

/// The name in `request.headers[NAME]`, in lower case.
fn header(key: &str) -> Option<Text> {
    let name = key.strip_prefix("request.headers[")?.strip_suffix(']')?;
    let good = !name.is_empty() && name.bytes().all(is_token_byte);
    good.then(|| name.to_ascii_lowercase().into())
}

/// The names in `[NAME][NAME]`. None of them holds a bracket.
fn claim(path: &str) -> Option<Vec<Text>> {
    let names = path.strip_prefix('[')?.strip_suffix(']')?.split("][");
    names.map(|name| (!name.is_empty() && !name.contains(['[', ']'])).then(|| name.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_which_part_of_a_request_is_meant() {
        let claim = |path: &[&str]| Some(RequestKey::Claim(path.iter().map(|name| (*name).into()).collect()));
        for (key, expected) in [
            ("request.headers[X-Role]", Some(RequestKey::Header("x-role".into()))),
            ("request.auth.principal", Some(RequestKey::Principal)),
            ("request.auth.audiences", Some(RequestKey::Audiences)),
            ("request.auth.presenter", Some(RequestKey::Presenter)),
            ("request.auth.claims[groups]", claim(&["groups"])),
            ("request.auth.claims[realm][roles]", claim(&["realm", "roles"])),
            ("request.auth.claims[https://example.org/roles]", claim(&["https://example.org/roles"])),
        ] {
            assert_eq!(RequestKey::of(key), expected, "{key}");
        }
        for key in [
            "request.auth.claims",
            "request.auth.claims[]",
            "request.auth.claims[a][]",
            "request.auth.claims[a",
            "request.auth.claims[a]b",
            "request.auth.claims[a]b[c]",
            "request.auth.claims[[a]]",
            "request.auth.claims.a",
            "request.auth",
            "request.headers[]",
            "source.ip",
        ] {
            assert_eq!(RequestKey::of(key), None, "{key}");
        }
    }
}
