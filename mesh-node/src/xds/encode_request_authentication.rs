//! RequestAuthentications to messages.

use mesh_common::model::request_authentication::{ClaimHeader, JwtRule, TokenLocation};
use mesh_common::model::{RequestAuthentication, Text};

use super::encode_policy::scope;
use super::messages;

pub(super) fn request_authentication(policy: &RequestAuthentication) -> messages::RequestAuthentication {
    let fault = policy
        .fault
        .as_ref()
        .map(|fault| messages::PolicyFault { field: fault.field.clone(), reason: fault.reason.clone() });
    messages::RequestAuthentication {
        scope: Some(scope(&policy.scope)),
        rules: policy.rules.iter().map(rule).collect(),
        fault,
    }
}

fn rule(rule: &JwtRule) -> messages::JwtRule {
    messages::JwtRule {
        issuer: rule.issuer.to_string(),
        audiences: strings(&rule.audiences),
        jwks: rule.keys.as_ref().map(|keys| keys.text().to_string()),
        locations: rule.locations.iter().map(location).collect(),
        forward_original: rule.forward_original,
        payload_header: rule.payload_header.as_ref().map(ToString::to_string),
        claim_headers: rule.claim_headers.iter().map(claim_header).collect(),
        space_delimited: strings(&rule.space_delimited),
        jwks_uri: rule.keys_uri.as_ref().map(ToString::to_string),
    }
}

fn location(location: &TokenLocation) -> messages::TokenLocation {
    use messages::LocationKind as Kind;
    let kind = match location {
        TokenLocation::Header { name, prefix } => {
            Kind::Header(messages::TokenHeader { name: name.to_string(), prefix: prefix.to_string() })
        }
        TokenLocation::Parameter(name) => Kind::Parameter(name.to_string()),
        TokenLocation::Cookie(name) => Kind::Cookie(name.to_string()),
    };
    messages::TokenLocation { kind: Some(kind) }
}

fn claim_header(written: &ClaimHeader) -> messages::ClaimHeader {
    messages::ClaimHeader { header: written.header.to_string(), claim: strings(&written.claim) }
}

fn strings(texts: &[Text]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}
