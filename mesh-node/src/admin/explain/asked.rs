//! What is asked for: a request, put together as the data path would have it, or just a connection.

use mesh_common::http1::{FORWARDING_FIELDS, IDENTITY_FIELDS, StripList};
use mesh_common::model::request_authentication::TokenLocation;
use mesh_common::model::{RequestFacts, RequestTarget, ServerName};
use mesh_common::snapshot::Snapshot;
use mesh_common::token;

use super::documents::Question;
use super::parties::{Calling, Target};

/// What is asked for.
///
/// Not printable: it may have a token in it.
pub(super) struct Asked {
    /// `None`: a connection, whatever it carries.
    request: Option<Request>,
    /// What the connection's TLS asks for, if it is the application's own.
    pub(super) server_name: ServerName,
    pub(super) notes: Vec<String>,
}

struct Request {
    method: String,
    /// Path and query.
    target: String,
    host: String,
    headers: Vec<(String, String)>,
}

impl Asked {
    /// A connection, whose TLS asks for this name.
    pub(super) fn connection(server_name: ServerName) -> Self {
        Self { request: None, server_name, notes: Vec::new() }
    }

    /// A request without fields.
    pub(super) fn plain(method: &str, path: &str, host: &str) -> Self {
        let request = Request {
            method: method.to_owned(),
            target: path.to_owned(),
            host: host.to_owned(),
            headers: Vec::new(),
        };
        Self { request: Some(request), server_name: ServerName::Absent, notes: Vec::new() }
    }

    /// What a question asks for: a request if it says anything of one.
    pub(super) fn of(
        snapshot: &Snapshot,
        question: &Question,
        calling: &Calling,
        target: &Target,
    ) -> Result<Self, String> {
        let Question { method, path, host, headers, token, server_name, .. } = question;
        let said = [method, path, host, token];
        if said.iter().all(|said| said.is_none()) && headers.is_empty() {
            let name = server_name.as_deref().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
            return Ok(Self::connection(
                name.map_or(ServerName::Absent, |name| ServerName::Name(name.into())),
            ));
        }
        if server_name.is_some() {
            return Err("--sni: a connection whose bytes are TLS of its own has no request that can be read"
                .to_owned());
        }
        let method = method.as_deref().unwrap_or("GET");
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("--method: {method:?} is no method"));
        }
        let mut asked =
            Self::plain(method, path.as_deref().unwrap_or("/"), host.as_deref().unwrap_or(&target.host));
        let strip =
            StripList::of(if calling.identity.is_some() { IDENTITY_FIELDS } else { FORWARDING_FIELDS });
        for (name, value) in headers {
            if strip.covers(name.as_bytes()) {
                let note =
                    format!("the field {name:?} is taken out before policy looks: callers may not say it");
                asked.notes.push(note);
            } else {
                asked.add(name, value);
            }
        }
        if let Some(token) = token {
            asked.carry(snapshot, target, token);
        }
        Ok(asked)
    }

    fn add(&mut self, name: &str, value: &str) {
        if let Some(request) = &mut self.request {
            request.headers.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Puts a token where a rule of its issuer looks for it; else where the first rule does.
    fn carry(&mut self, snapshot: &Snapshot, target: &Target, token: &str) {
        let policies =
            target.pod.as_ref().and_then(|pod| snapshot.request_authentications(&pod.uid, target.address));
        let policies = policies.unwrap_or_default();
        if policies.is_empty() {
            self.notes.push("no RequestAuthentication is about it: nobody looks at the token".to_owned());
        }
        let issuer = token::issuer_of(token.as_bytes()).ok();
        let rules = || policies.iter().flat_map(|policy| &policy.rules);
        let own = rules().find(|rule| issuer.as_ref() == Some(&rule.issuer)).or_else(|| rules().next());
        match own.and_then(|rule| rule.locations.first()) {
            Some(TokenLocation::Header { name, prefix }) => self.add(name, &format!("{prefix}{token}")),
            Some(TokenLocation::Cookie(name)) => self.add("cookie", &format!("{name}={token}")),
            Some(TokenLocation::Parameter(name)) => {
                if let Some(request) = &mut self.request {
                    let mark = if request.target.contains('?') { '&' } else { '?' };
                    request.target = format!("{}{mark}{name}={token}", request.target);
                }
            }
            None => self.add("authorization", &format!("Bearer {token}")),
        }
    }

    pub(super) fn is_request(&self) -> bool {
        self.request.is_some()
    }

    /// Why the request would be answered with 400 before policy looks at it: code and words.
    pub(super) fn malformed(&self) -> Option<(&'static str, String)> {
        let error = RequestTarget::parse(self.request.as_ref()?.target.as_bytes()).err()?;
        Some((error.reason(), error.to_string()))
    }

    /// `GET server.shop/path`, without the query, where a token may stand.
    pub(super) fn line(&self) -> Option<String> {
        let Request { method, target, host, .. } = self.request.as_ref()?;
        let path = target.split('?').next().unwrap_or_default();
        Some(format!("{method} {host}{path}").escape_debug().to_string())
    }

    /// The path where it can be read in a second way, and that.
    pub(super) fn readings(&self) -> Option<(String, String)> {
        let target = RequestTarget::parse(self.request.as_ref()?.target.as_bytes()).ok()?;
        let second = target.path.second_reading()?;
        Some((target.path.as_str().to_owned(), second.to_owned()))
    }

    /// Shows the request, if it is a good one.
    pub(super) fn show(&self, judge: impl FnOnce(&RequestFacts<'_>)) {
        let Some(Request { method, target, host, headers }) = &self.request else { return };
        let Ok(target) = RequestTarget::parse(target.as_bytes()) else { return };
        let headers: Vec<(&[u8], &[u8])> =
            headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        judge(&RequestFacts {
            method: method.as_bytes(),
            host: host.as_bytes(),
            path: &target.path,
            query: target.query,
            headers: &headers,
            end_user: None,
            allowed_by: None,
        });
    }
}
