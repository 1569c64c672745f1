//! Messages to RequestAuthentications. What is not understood makes one that refuses every request.

use std::sync::Arc;

use bytes::Bytes;
use mesh_common::model::policy::PolicyFault;
use mesh_common::model::request_authentication::{ClaimHeader, JwtRule, TokenLocation};
use mesh_common::model::{NamespacedName, RequestAuthentication, Text};
use mesh_common::token::KeySet;
use prost::Message as _;

use super::decode::{each, unspecified};
use super::decode_policy::Reader;
use super::messages;
use super::resource::FieldError;

/// A RequestAuthentication that came, with the keys of the one before it in rules whose keys the controller has not fetched
/// yet: they come from the same URI.
pub fn keep_keys(before: &[u8], came: Bytes) -> Bytes {
    let Ok(mut message) = messages::RequestAuthentication::decode(&*came) else { return came };
    let lacks = |rule: &messages::JwtRule| rule.jwks.is_none() && rule.jwks_uri.is_some();
    // What this version does not know of it must stay in it, to be refused.
    if message.encoded_len() != came.len() || !message.rules.iter().any(lacks) {
        return came;
    }
    let Ok(before) = messages::RequestAuthentication::decode(before) else { return came };
    for rule in message.rules.iter_mut().filter(|rule| lacks(rule)) {
        let same = before.rules.iter().filter(|old| old.jwks_uri == rule.jwks_uri);
        rule.jwks = same.filter_map(|old| old.jwks.clone()).next();
    }
    message.encode_to_vec().into()
}

impl Reader<'_> {
    pub(super) fn request_authentication(
        &mut self,
        name: NamespacedName,
        value: &[u8],
    ) -> RequestAuthentication {
        let policy = self.message::<messages::RequestAuthentication>(value).unwrap_or_default();
        let scope = self.scope(&name, policy.scope);
        let rules = each("rules", &policy.rules, rule);
        let rules = rules.unwrap_or_else(|error| self.instead(error, Vec::new()));
        let own = self.own_fault();
        let rules = if own.is_some() { Vec::new() } else { rules };
        let sent = policy.fault.map(|messages::PolicyFault { field, reason }| PolicyFault { field, reason });
        RequestAuthentication { name, scope, rules, fault: own.or(sent).map(Arc::new) }
    }
}

fn rule(rule: &messages::JwtRule) -> Result<JwtRule, FieldError> {
    if rule.issuer.is_empty() {
        return Err(unspecified("issuer"));
    }
    let keys = rule.jwks.as_deref().map(KeySet::parse).transpose();
    let keys = keys.map_err(|error| FieldError::new("jwks", error.to_string()))?;
    let locations: Vec<TokenLocation> = each("locations", &rule.locations, location)?;
    if locations.is_empty() {
        return Err(unspecified("locations"));
    }
    Ok(JwtRule {
        issuer: rule.issuer.as_str().into(),
        audiences: texts(&rule.audiences),
        keys: keys.map(Arc::new),
        keys_uri: rule.jwks_uri.as_deref().map(Text::from),
        locations,
        forward_original: rule.forward_original,
        payload_header: rule.payload_header.as_deref().map(Text::from),
        claim_headers: each("claim_headers", &rule.claim_headers, claim_header)?,
        space_delimited: texts(&rule.space_delimited).into(),
    })
}

fn location(location: &messages::TokenLocation) -> Result<TokenLocation, FieldError> {
    use messages::LocationKind as Kind;
    Ok(match location.kind.as_ref().ok_or_else(|| unspecified("kind"))? {
        Kind::Header(header) => {
            TokenLocation::Header { name: header.name.as_str().into(), prefix: header.prefix.as_str().into() }
        }
        Kind::Parameter(name) => TokenLocation::Parameter(name.as_str().into()),
        Kind::Cookie(name) => TokenLocation::Cookie(name.as_str().into()),
    })
}

fn claim_header(written: &messages::ClaimHeader) -> Result<ClaimHeader, FieldError> {
    if written.claim.is_empty() {
        return Err(unspecified("claim"));
    }
    Ok(ClaimHeader { header: written.header.as_str().into(), claim: texts(&written.claim) })
}

fn texts(strings: &[String]) -> Vec<Text> {
    strings.iter().map(|text| text.as_str().into()).collect()
}
