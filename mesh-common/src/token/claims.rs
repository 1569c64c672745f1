//! What a token says, once its signature holds (RFC 7519).

use serde_json::{Map, Value};

use super::{Text, TokenFault, json};

/// The payload of a token. Registered claims are of their types.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    issuer: Text,
    subject: Option<Text>,
    principal: Option<Text>,
    expires: Option<u64>,
    not_before: Option<u64>,
    all: Map<String, Value>,
    /// As it was signed, in base64url.
    encoded: Box<str>,
}

impl Claims {
    /// Reads a payload. `encoded` is the same in base64url.
    pub(super) fn parse(payload: &[u8], encoded: &[u8]) -> Result<Self, TokenFault> {
        let all = json::object(payload).ok_or(TokenFault::Payload)?;
        let issuer: Text =
            text(&all, "iss")?.filter(|issuer| !issuer.is_empty()).ok_or(TokenFault::Issuer)?.into();
        let subject: Option<Text> = text(&all, "sub")?.map(Into::into);
        let named = subject.as_deref().filter(|subject| !subject.is_empty());
        let principal = named.map(|subject| format!("{issuer}/{subject}").into());
        let (expires, not_before) = (moment(&all, "exp")?, moment(&all, "nbf")?);
        match all.get("aud") {
            None | Some(Value::String(_)) => {}
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => {}
            Some(_) => return Err(TokenFault::Claim),
        }
        let encoded = String::from_utf8_lossy(encoded).into();
        Ok(Self { issuer, subject, principal, expires, not_before, all, encoded })
    }

    /// Claims that nobody signed, for tests.
    #[cfg(test)]
    pub(crate) fn unsigned(payload: &Value) -> Self {
        Self::parse(payload.to_string().as_bytes(), b"").expect("claims of their types")
    }

    /// `iss`.
    pub fn issuer(&self) -> &Text {
        &self.issuer
    }

    /// `sub`.
    pub fn subject(&self) -> Option<&Text> {
        self.subject.as_ref()
    }

    /// `iss/sub`; of a token with both.
    pub fn principal(&self) -> Option<&Text> {
        self.principal.as_ref()
    }

    /// `aud`: each of them.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        let (one, list) = match self.all.get("aud") {
            Some(Value::Array(list)) => (None, &**list),
            other => (other, &[][..]),
        };
        one.into_iter().chain(list).filter_map(Value::as_str)
    }

    /// `azp`.
    pub fn presenter(&self) -> Option<&str> {
        self.at(["azp"]).and_then(Value::as_str)
    }

    /// `exp`, seconds since the epoch.
    pub fn expires(&self) -> Option<u64> {
        self.expires
    }

    /// `nbf`.
    pub(super) fn not_before(&self) -> Option<u64> {
        self.not_before
    }

    /// The claim at a path of names.
    pub fn at<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> Option<&Value> {
        let mut path = path.into_iter();
        let first = self.all.get(path.next()?)?;
        path.try_fold(first, |value, name| value.as_object()?.get(name))
    }

    /// The payload as it was signed, in base64url without padding.
    pub fn encoded(&self) -> &str {
        &self.encoded
    }
}

fn text<'c>(claims: &'c Map<String, Value>, name: &str) -> Result<Option<&'c str>, TokenFault> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or(TokenFault::Claim),
    }
}

/// Whole seconds, none of them before the epoch.
fn moment(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, TokenFault> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(TokenFault::Claim),
    }
}
