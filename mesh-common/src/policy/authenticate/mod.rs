//! Who asks, besides the calling workload: the tokens of a request, held to the RequestAuthentications about its
//! destination.
//!
//! A request without a token has no end user, and goes on. One whose token does not hold goes nowhere, and so does one
//! with tokens that differ: it could not be said who asks.

mod locate;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;
use smallvec::SmallVec;

use self::locate::{Found, locate, query_without};
use super::denial::{Denial, DenialReason, PolicyKind, PolicyName};
use crate::model::request_authentication::{JwtRule, TokenLocation};
use crate::model::{
    ConnectionFacts, Direction, EndUser, HeadEdits, RequestAuthentication, RequestFacts, Text,
};
use crate::resolve::Destination;
use crate::snapshot::Snapshot;
use crate::token::{self, Claims, Expected, TokenCache, TokenFault};

/// The longest value of a field that is made of a claim.
const MAX_CLAIM: usize = 4096;

/// What the tokens of a request say, and what is therefore changed of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Authenticated {
    /// Whom a token speaks of.
    pub end_user: Option<EndUser>,
    /// What is left out and added before the request is decided and sent on.
    pub edits: HeadEdits,
}

/// A rule, and the object that has it.
#[derive(Clone, Copy)]
struct Ruled<'a> {
    policy: &'a RequestAuthentication,
    rule: &'a JwtRule,
}

/// The RequestAuthentications about a destination; never none.
#[derive(Debug)]
pub struct Asked<'a>(SmallVec<[&'a Arc<RequestAuthentication>; 4]>);

/// Who asks for tokens of the requests for a destination. `None` where nobody does: outbound, and where no
/// RequestAuthentication is about it.
pub fn tokens_asked<'a>(
    snapshot: &'a Snapshot,
    facts: &ConnectionFacts,
    destination: &Destination,
) -> Option<Asked<'a>> {
    if facts.direction == Direction::Outbound {
        return None;
    }
    // An unknown pod is refused by whoever authorises.
    let policies = snapshot.request_authentications(&facts.local.uid, destination.address)?;
    (!policies.is_empty()).then_some(Asked(policies))
}

impl Asked<'_> {
    /// Reads the tokens of a request; `now` in seconds since the epoch.
    ///
    /// # Errors
    /// A [`Denial`] for a token that does not hold, or a RequestAuthentication that is not understood.
    pub fn authenticate(
        &self,
        request: &RequestFacts<'_>,
        now: u64,
        cache: &mut TokenCache,
    ) -> Result<Authenticated, Denial> {
        let policies = &self.0;
        if let Some(policy) = policies.iter().find(|policy| policy.fault.is_some()) {
            return Err(denial(policy, DenialReason::PolicyFault));
        }
        let rules: SmallVec<[Ruled<'_>; 4]> = policies
            .iter()
            .flat_map(|policy| policy.rules.iter().map(|rule| Ruled { policy, rule }))
            .collect();
        let written = policies.iter().flat_map(|policy| policy.written_headers());
        let mut edits = HeadEdits { removed: written.cloned().collect(), ..HeadEdits::default() };
        let found = locate(rules.iter().flat_map(|ruled| &ruled.rule.locations), request, &edits);
        let Some(Found { location: _, token }) = found.first() else {
            return Ok(Authenticated { end_user: None, edits });
        };
        let refuse = |fault| {
            let first = rules.first().map_or_else(|| &**policies[0], |ruled| ruled.policy);
            Err(denial(first, DenialReason::InvalidToken(fault)))
        };
        if found.iter().any(|other| other.token != *token) {
            return refuse(TokenFault::Several);
        }
        let issuer = match token::issuer_of(token) {
            Ok(issuer) => issuer,
            Err(fault) => return refuse(fault),
        };
        let mut last = None;
        for ruled in rules.iter().filter(|ruled| ruled.takes(&issuer, &found)) {
            match ruled.verify(token, now, cache) {
                Ok(claims) => {
                    let end_user = ruled.carry(claims, request, &found, &mut edits);
                    return Ok(Authenticated { end_user: Some(end_user), edits });
                }
                Err(fault) => last = Some((ruled.policy, fault)),
            }
        }
        match last {
            Some((policy, fault)) => Err(denial(policy, DenialReason::InvalidToken(fault))),
            None => refuse(TokenFault::Issuer),
        }
    }
}

fn denial(policy: &RequestAuthentication, reason: DenialReason) -> Denial {
    let name = PolicyName { kind: PolicyKind::RequestAuthentication, name: policy.name.clone() };
    Denial { reason, policy: Some(name), rule: None }
}

impl Authenticated {
    /// What is changed of the request; `None` if nothing is.
    pub fn into_edits(self) -> Option<HeadEdits> {
        (!self.edits.is_empty()).then_some(self.edits)
    }

    /// Shows the request to `judge` as it will be sent on, with whom its token speaks of.
    pub fn show<T>(&self, request: &RequestFacts<'_>, judge: impl FnOnce(&RequestFacts<'_>) -> T) -> T {
        let query = self.edits.query(request.query);
        let end_user = self.end_user.as_ref();
        if self.edits.is_empty() {
            return judge(&RequestFacts { query, end_user, ..*request });
        }
        let kept = request.headers.iter().filter(|(name, _)| !self.edits.removes(name)).copied();
        let added = self.edits.added.iter().map(|(name, value)| (name.as_bytes(), &**value));
        let headers: SmallVec<[(&[u8], &[u8]); 32]> = kept.chain(added).collect();
        judge(&RequestFacts { query, end_user, headers: &headers, ..*request })
    }
}

impl Ruled<'_> {
    /// Whether it is about tokens of an issuer that stand where these do.
    fn takes(&self, issuer: &str, found: &[Found<'_>]) -> bool {
        *self.rule.issuer == *issuer && found.iter().any(|found| self.rule.locations.contains(found.location))
    }

    fn verify(&self, token: &[u8], now: u64, cache: &mut TokenCache) -> Result<Arc<Claims>, TokenFault> {
        let JwtRule { issuer, audiences, keys, .. } = self.rule;
        let keys = keys.as_ref().ok_or(TokenFault::KeysMissing)?;
        token::verify(token, Expected { issuer, audiences, keys }, now, cache)
    }

    /// Takes the token out of the request, and puts what is asked for in.
    fn carry(
        &self,
        claims: Arc<Claims>,
        request: &RequestFacts<'_>,
        found: &[Found<'_>],
        edits: &mut HeadEdits,
    ) -> EndUser {
        let JwtRule { payload_header, claim_headers, forward_original, space_delimited, .. } = self.rule;
        if !forward_original {
            remove_token(request, found, edits);
        }
        if let Some(name) = payload_header {
            edits.added.push((Arc::clone(name), claims.encoded().as_bytes().into()));
        }
        for wanted in claim_headers {
            let claim = claims.at(wanted.claim.iter().map(|name| &**name)).and_then(field_value);
            if let Some(value) = claim {
                edits.added.push((Arc::clone(&wanted.header), value));
            }
        }
        EndUser { claims, space_delimited: Arc::clone(space_delimited) }
    }
}

fn remove_token(request: &RequestFacts<'_>, found: &[Found<'_>], edits: &mut HeadEdits) {
    let mut parameters: SmallVec<[&Text; 2]> = SmallVec::new();
    let mut cookies: SmallVec<[&Text; 2]> = SmallVec::new();
    for Found { location, .. } in found {
        match location {
            TokenLocation::Header { name, .. } => edits.removed.push(Arc::clone(name)),
            TokenLocation::Parameter(name) => parameters.push(name),
            TokenLocation::Cookie(name) => cookies.push(name),
        }
    }
    if let (false, Some(query)) = (parameters.is_empty(), request.query) {
        edits.query = Some(query_without(query, &parameters));
    }
    if !cookies.is_empty() {
        let left = locate::cookies_without(request, &cookies);
        edits.removed.push("cookie".into());
        edits.added.extend(left.map(|left| ("cookie".into(), left)));
    }
}

/// A claim as the value of a field: text, numbers and booleans, if they are something that a field can hold.
fn field_value(claim: &Value) -> Option<Box<[u8]>> {
    let text = match claim {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => claim.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    let is_plain = text.len() <= MAX_CLAIM
        && text.trim_ascii().len() == text.len()
        && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic() || !byte.is_ascii());
    is_plain.then(|| text.into_bytes().into())
}
