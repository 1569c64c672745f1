//! RequestAuthentication: every issuer, key set and name is read once, here.
//!
//! A rule whose keys are not understood has none: tokens of its issuer are refused. Anything else that is not understood
//! leaves open where a token may stand, and every request to whom the object is about is refused.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use mesh_common::http1::{StripList, is_own};
use mesh_common::model::policy::PolicyFault;
use mesh_common::model::request_authentication::{ClaimHeader, JwtRule, TokenLocation};
use mesh_common::model::{MeshSettings, NamespacedName, RequestAuthentication, Text};
use mesh_common::token::KeySet;
use serde::Deserialize as _;
use serde_json::Value;

use super::{
    Effect, Field, FieldError, Finding, SPEC, Translated, key_address, namespaced_name, policy_scope,
};
use crate::control::resources::{self, PolicyTargetReference, WorkloadSelector};

/// Most entries of any list of a RequestAuthentication.
const MAX_ENTRIES: usize = 64;
/// The longest text but a key set, in bytes.
const MAX_TEXT: usize = 1024;
/// Claims that are lists of words whoever issues them, as with Istio.
const LISTS_OF_WORDS: [&str; 2] = ["scope", "permission"];
/// What no rule may write, in any spelling, besides what only the mesh writes ([`is_own`]): it says how the body is read, and
/// where tokens are.
const NOT_WRITTEN: StripList<'static> = StripList::of(&["content-type", "cookie"]);

/// How long keys may take to come where nothing is said, as with Istio.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long they may take at most: a place among those that are fetched is taken meanwhile.
const LONGEST_FETCH: Duration = Duration::from_secs(60);

/// A RequestAuthentication, before the keys are known that are published elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRules {
    /// The object; without keys in rules that name a URI.
    pub policy: RequestAuthentication,
    /// Those rules.
    pub remote: Vec<RemoteKeys>,
}

/// Where the keys of a rule are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteKeys {
    /// The place of the rule in `jwtRules`.
    pub rule: usize,
    /// `jwksUri`.
    pub uri: Text,
    /// `timeout`.
    pub timeout: Duration,
}

/// Translates a RequestAuthentication. One that is not understood comes back with its `fault`.
///
/// # Errors
/// If it has no name.
pub fn request_authentication(
    object: &resources::RequestAuthentication,
    settings: &MeshSettings,
) -> Result<Translated<TokenRules>, FieldError> {
    let name = namespaced_name(&object.metadata)?;
    let spec = &object.spec;
    let mut reader = Reader { findings: Vec::new(), fault: None, remote: Vec::new() };
    let targets = spec.target_refs.as_deref().unwrap_or_default();
    let scope = policy_scope::of_targets(&name, spec.selector.as_ref(), targets, settings);
    let scope = scope.unwrap_or_else(|error| {
        reader.deny(error);
        policy_scope::whole(&name, settings)
    });
    let path = SPEC.name("jwtRules");
    let rules = reader.bounded(&path, spec.jwt_rules.as_deref());
    let rules = rules.iter().enumerate().map(|(index, rule)| reader.rule(&path.index(index), index, rule));
    let rules = rules.collect();
    let Reader { findings, fault, remote } = reader;
    let (rules, remote) = if fault.is_some() { Default::default() } else { (rules, remote) };
    let policy = RequestAuthentication { name, scope, rules, fault };
    Ok(Translated { value: TokenRules { policy, remote }, findings })
}

/// What a RequestAuthentication is taken for whose object could not even be read.
pub fn unreadable(
    object: &Value,
    name: NamespacedName,
    error: &FieldError,
    settings: &MeshSettings,
) -> TokenRules {
    let spec = &object["spec"];
    let selector = Option::<WorkloadSelector>::deserialize(&spec["selector"]);
    let targets = Option::<Vec<PolicyTargetReference>>::deserialize(&spec["targetRefs"]);
    let scope = match (selector, targets) {
        (Ok(selector), Ok(targets)) => {
            let targets = targets.unwrap_or_default();
            policy_scope::of_targets(&name, selector.as_ref(), &targets, settings).ok()
        }
        _ => None,
    };
    let scope = scope.unwrap_or_else(|| policy_scope::whole(&name, settings));
    let policy = RequestAuthentication { name, scope, rules: Vec::new(), fault: Some(fault(error)) };
    TokenRules { policy, remote: Vec::new() }
}

fn fault(error: &FieldError) -> Arc<PolicyFault> {
    Arc::new(PolicyFault { field: error.field.clone(), reason: error.reason.clone() })
}

/// Reads rules, and keeps what is wrong with them.
struct Reader {
    findings: Vec<Finding>,
    /// The first thing that leaves open what a token is.
    fault: Option<Arc<PolicyFault>>,
    remote: Vec<RemoteKeys>,
}

impl Reader {
    fn deny(&mut self, error: FieldError) {
        self.fault.get_or_insert_with(|| fault(&error));
        self.findings.push(Finding { error, effect: Effect::Denies });
    }

    fn rule(&mut self, field: &Field<'_>, index: usize, rule: &resources::JwtRule) -> JwtRule {
        let issuer = self.text(&field.name("issuer"), &rule.issuer);
        let audiences = self.texts(&field.name("audiences"), rule.audiences.as_deref());
        if rule.audiences.as_ref().is_some_and(Vec::is_empty) {
            let reason = "is empty: leave it out to take tokens for any audience";
            self.deny(FieldError::new(&field.name("audiences"), reason));
        }
        let mut locations = self.locations(field, rule);
        if locations.is_empty() {
            locations = TokenLocation::usual();
        }
        let payload_header = rule.output_payload_to_header.as_deref();
        let payload_header =
            payload_header.map(|name| self.output(&field.name("outputPayloadToHeader"), name));
        let mut space_delimited = LISTS_OF_WORDS.map(Text::from).to_vec();
        let more = self.texts(&field.name("spaceDelimitedClaims"), rule.space_delimited_claims.as_deref());
        space_delimited.extend(more);
        JwtRule {
            issuer,
            audiences,
            keys: self.keys(field, index, rule),
            keys_uri: None,
            locations,
            forward_original: rule.forward_original_token.unwrap_or(false),
            payload_header,
            claim_headers: self.claim_headers(field, rule),
            space_delimited: space_delimited.into(),
        }
    }

    /// Without keys no token of the issuer can hold: said as what denies, though the rest of the object counts.
    fn keys(&mut self, field: &Field<'_>, index: usize, rule: &resources::JwtRule) -> Option<Arc<KeySet>> {
        let (jwks, uri) = (field.name("jwks"), field.name("jwksUri"));
        let mut without = |field: &Field<'_>, reason: String| {
            self.findings.push(Finding::new(Effect::Denies, field, reason));
            None
        };
        let text = match (&rule.jwks, &rule.jwks_uri) {
            (Some(_), Some(_)) => return without(&jwks, "cannot be given together with jwksUri".to_owned()),
            (None, None) => return without(field, "has neither jwks nor jwksUri".to_owned()),
            (None, Some(text)) => {
                if let Err(reason) = check_uri(text) {
                    return without(&uri, format!("{reason}: tokens of the issuer are refused"));
                }
                let timeout = self.timeout(&field.name("timeout"), rule.timeout.as_deref());
                self.remote.push(RemoteKeys { rule: index, uri: text.as_str().into(), timeout });
                return None;
            }
            (Some(text), None) => text,
        };
        let keys = match KeySet::parse(text) {
            Ok(keys) => keys,
            Err(error) => return without(&jwks, format!("{error}: tokens of the issuer are refused")),
        };
        if keys.is_empty() {
            return without(
                &jwks,
                "has no key that can be used: tokens of the issuer are refused".to_owned(),
            );
        }
        for skipped in keys.skipped() {
            let reason = format!("keys[{}] {}", skipped.index, skipped.reason);
            self.findings.push(Finding::new(Effect::FieldIgnored, &jwks, reason));
        }
        Some(Arc::new(keys))
    }

    fn timeout(&mut self, field: &Field<'_>, text: Option<&str>) -> Duration {
        let Some(text) = text else { return FETCH_TIMEOUT };
        let mut instead = |reason: String, duration| {
            self.findings.push(Finding::new(Effect::FieldIgnored, field, reason));
            duration
        };
        match humantime::parse_duration(text) {
            Ok(duration) if duration > LONGEST_FETCH => {
                instead(format!("is {text}: 60s are waited at most"), LONGEST_FETCH)
            }
            Ok(duration) if !duration.is_zero() => duration,
            _ => instead(format!("{text:?} is no duration: write it as in 5s"), FETCH_TIMEOUT),
        }
    }

    fn locations(&mut self, field: &Field<'_>, rule: &resources::JwtRule) -> Vec<TokenLocation> {
        let mut locations = Vec::new();
        let headers = field.name("fromHeaders");
        for (index, header) in self.bounded(&headers, rule.from_headers.as_deref()).iter().enumerate() {
            let entry = headers.index(index);
            let name = self.field_name(&entry.name("name"), &header.name);
            let prefix = header.prefix.as_deref().unwrap_or_default().into();
            locations.push(TokenLocation::Header { name, prefix });
        }
        let parameters = self.texts(&field.name("fromParams"), rule.from_params.as_deref());
        locations.extend(parameters.into_iter().map(TokenLocation::Parameter));
        let cookies = self.texts(&field.name("fromCookies"), rule.from_cookies.as_deref());
        locations.extend(cookies.into_iter().map(TokenLocation::Cookie));
        locations
    }

    fn claim_headers(&mut self, field: &Field<'_>, rule: &resources::JwtRule) -> Vec<ClaimHeader> {
        let path = field.name("outputClaimToHeaders");
        let entries = self.bounded(&path, rule.output_claim_to_headers.as_deref());
        let entry = |(index, entry): (usize, &resources::ClaimToHeader)| {
            let at = path.index(index);
            let header = self.output(&at.name("header"), &entry.header);
            let claim = self.text(&at.name("claim"), &entry.claim);
            ClaimHeader { header, claim: claim.split('.').map(Text::from).collect() }
        };
        entries.iter().enumerate().map(entry).collect()
    }

    /// A field that the mesh writes: not one that means something to it.
    fn output(&mut self, field: &Field<'_>, name: &str) -> Text {
        let lower = self.field_name(field, name);
        if is_own(lower.as_bytes()) || NOT_WRITTEN.covers(lower.as_bytes()) {
            self.deny(FieldError::new(
                field,
                format!("{name:?} cannot be written: choose a name of your own"),
            ));
        }
        lower
    }

    fn field_name(&mut self, field: &Field<'_>, name: &str) -> Text {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || name.len() > MAX_TEXT || !name.bytes().all(is_token) {
            self.deny(FieldError::new(field, format!("{name:?} is not the name of a header field")));
        }
        name.to_ascii_lowercase().into()
    }

    fn texts(&mut self, field: &Field<'_>, list: Option<&[String]>) -> Vec<Text> {
        let list = self.bounded(field, list);
        list.iter().enumerate().map(|(index, text)| self.text(&field.index(index), text)).collect()
    }

    fn text(&mut self, field: &Field<'_>, text: &str) -> Text {
        if text.is_empty() || text.len() > MAX_TEXT {
            let reason = format!("has {} bytes: 1 to {MAX_TEXT} are read", text.len());
            self.deny(FieldError::new(field, reason));
        }
        text.into()
    }

    fn bounded<'a, T>(&mut self, field: &Field<'_>, list: Option<&'a [T]>) -> &'a [T] {
        let list = list.unwrap_or_default();
        if list.len() <= MAX_ENTRIES {
            return list;
        }
        let reason = format!("has {} entries, at most {MAX_ENTRIES} are read", list.len());
        self.deny(FieldError::new(field, reason));
        &[]
    }
}

/// What can be fetched: a host by HTTP, with nothing secret in it, since everybody who sees the object's status reads it.
/// Where a name leads is seen when it is resolved, each time.
fn check_uri(text: &str) -> Result<(), Cow<'static, str>> {
    let uri = text.parse::<Uri>().map_err(|_| "is no URI")?;
    let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().filter(|authority| is_known && !authority.host().is_empty());
    let authority = authority.ok_or("must begin with https:// or http:// and a host")?;
    if authority.as_str().contains('@') {
        return Err("must not hold a name or a password".into());
    }
    if text.len() > MAX_TEXT * 2 {
        return Err("is longer than 2048 bytes".into());
    }
    let host = authority.host();
    if authority.as_str() != host && authority.port_u16().is_none_or(|port| port == 0) {
        return Err("has a port that is none: 1 to 65535".into());
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse().ok().and_then(key_address::forbidden) {
        Some(what) => Err(format!("leads to {what}, which keys are not fetched from").into()),
        None => Ok(()),
    }
}
