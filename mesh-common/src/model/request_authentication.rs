//! RequestAuthentications, translated: which tokens of end users are taken, where they stand, what becomes of them.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;
use smallvec::SmallVec;

use super::name::{NamespacedName, Text};
use super::policy::{PolicyFault, Scope};
use crate::token::{Claims, KeySet};

/// A RequestAuthentication. All that are about a workload count together.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestAuthentication {
    /// Namespace and name.
    pub name: NamespacedName,
    /// Whom it is about.
    pub scope: Scope,
    /// `spec.jwtRules`.
    pub rules: Vec<JwtRule>,
    /// What of it could not be understood: where a token may stand is not known, so that every request to whom it is
    /// about is refused.
    pub fault: Option<Arc<PolicyFault>>,
}

/// One entry of `spec.jwtRules`.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtRule {
    /// `issuer`.
    pub issuer: Text,
    /// `audiences`; empty for any.
    pub audiences: Vec<Text>,
    /// `jwks`, or what was fetched. `None` where there are none so far: tokens of the issuer are refused.
    pub keys: Option<Arc<KeySet>>,
    /// `jwksUri`, where the keys are those of there. Who has keys from there and is told a rule without any keeps them:
    /// who says it has not fetched them yet.
    pub keys_uri: Option<Text>,
    /// `fromHeaders`, `fromParams`, `fromCookies`, or what holds without them.
    pub locations: Vec<TokenLocation>,
    /// `forwardOriginalToken`.
    pub forward_original: bool,
    /// `outputPayloadToHeader`, in lower case.
    pub payload_header: Option<Text>,
    /// `outputClaimToHeaders`.
    pub claim_headers: Vec<ClaimHeader>,
    /// Claims that are lists of words with spaces between them.
    pub space_delimited: Arc<[Text]>,
}

/// Where a token may stand in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenLocation {
    /// In a header field, behind a prefix.
    Header {
        /// The field's name, in lower case.
        name: Text,
        /// What stands before the token; may be empty.
        prefix: Text,
    },
    /// In a parameter of the query.
    Parameter(Text),
    /// In a cookie.
    Cookie(Text),
}

/// One entry of `outputClaimToHeaders`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimHeader {
    /// The field's name, in lower case.
    pub header: Text,
    /// The names that lead to the claim.
    pub claim: Vec<Text>,
}

/// The person or program that a request's token speaks of.
#[derive(Clone, Debug, PartialEq)]
pub struct EndUser {
    /// What the token says.
    pub claims: Arc<Claims>,
    /// Which of its claims are lists of words.
    pub space_delimited: Arc<[Text]>,
}

impl EndUser {
    /// The values of a claim, each to be matched by itself; none if it is not there or holds no plain value.
    pub fn values<'a>(&'a self, path: &[Text]) -> SmallVec<[Cow<'a, str>; 4]> {
        let mut values = SmallVec::new();
        let Some(claim) = self.claims.at(path.iter().map(|name| &**name)) else { return values };
        let is_list_of_words = match path {
            [name] => self.space_delimited.contains(name),
            _ => false,
        };
        match claim {
            Value::String(text) if is_list_of_words => {
                values.extend(text.split(' ').filter(|word| !word.is_empty()).map(Into::into));
            }
            Value::Array(list) => values.extend(list.iter().filter_map(plain)),
            one => values.extend(plain(one)),
        }
        values
    }
}

/// Text, and the other plain values as JSON writes them.
fn plain(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.into()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl TokenLocation {
    /// Where a token stands if nothing is said: `Authorization: Bearer`, and the parameter `access_token`.
    pub fn usual() -> Vec<Self> {
        vec![
            Self::Header { name: "authorization".into(), prefix: "Bearer ".into() },
            Self::Parameter("access_token".into()),
        ]
    }
}

impl RequestAuthentication {
    /// The fields that its rules write: nobody else may.
    pub fn written_headers(&self) -> impl Iterator<Item = &Text> {
        self.rules.iter().flat_map(|rule| {
            rule.payload_header.iter().chain(rule.claim_headers.iter().map(|claim| &claim.header))
        })
    }
}
