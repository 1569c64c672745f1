//! The mesh's configuration: Istio's MeshConfig, in a ConfigMap, of which what is understood is read.
//!
//! In: the YAML of its key, as a value. Out: the authorization servers that it names. What is not known is named and left
//! out, the rest counts; a server of which something is not understood is not there at all, and policies that name it
//! refuse what they match.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::model::external::MAX_INCLUDED_BODY;
use mesh_common::model::policy::Pattern;
use mesh_common::model::{
    AuthorizerProtocol, ExternalAuthorizer, HttpCheck, IncludedBody, MeshSettings, NamespacedName, Text,
};
use serde::Deserialize;
use serde_json::Value;

use super::pattern::is_token_byte;
use super::{Effect, Field, FieldError, Finding, Translated, port_number};
use crate::control::documents::strict;

/// The name of the ConfigMap; it stands in the root namespace.
pub const NAME: &str = "nodemesh";
/// The key of it that is read.
pub const KEY: &str = "mesh";
/// Where the key's YAML stands, as faults name it.
pub const ROOT: &str = "data.mesh";

/// Most servers that are read, and most entries of any list of one.
const MAX_ENTRIES: usize = 64;
/// The longest text, in bytes.
const MAX_TEXT: usize = 1024;
/// Istio's, and the longest.
const TIMEOUT: Duration = Duration::from_secs(600);
/// What a caller is told where a server says nothing.
const STATUS_ON_ERROR: u16 = 403;

/// What is read of the mesh's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshConfig {
    /// `extensionProviders` that decide about requests, each name once.
    pub authorizers: Vec<Arc<ExternalAuthorizer>>,
}

/// Whether a ConfigMap of this name is the mesh's configuration.
pub fn is_mesh_config(name: &NamespacedName, settings: &MeshSettings) -> bool {
    *name.name == *NAME && name.namespace == settings.root_namespace
}

/// `envoyExtAuthzGrpc`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GrpcFields {
    service: String,
    port: i32,
    timeout: Option<String>,
    fail_open: Option<bool>,
    status_on_error: Option<Value>,
    include_request_body_in_check: Option<BodyFields>,
}

/// `envoyExtAuthzHttp`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpFields {
    service: String,
    port: i32,
    timeout: Option<String>,
    fail_open: Option<bool>,
    status_on_error: Option<Value>,
    include_request_body_in_check: Option<BodyFields>,
    path_prefix: Option<String>,
    #[serde(default)]
    include_request_headers_in_check: Vec<String>,
    #[serde(default)]
    include_additional_headers_in_check: BTreeMap<String, String>,
    #[serde(default)]
    headers_to_upstream_on_allow: Vec<String>,
    #[serde(default)]
    headers_to_downstream_on_deny: Vec<String>,
    #[serde(default)]
    headers_to_downstream_on_allow: Vec<String>,
}

/// `includeRequestBodyInCheck`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BodyFields {
    max_request_bytes: u32,
    #[serde(default)]
    allow_partial_message: bool,
    #[serde(default)]
    pack_as_bytes: bool,
}

/// Translates the value of the key.
pub fn mesh_config(value: &Value, settings: &MeshSettings) -> Translated<MeshConfig> {
    let mut reader = Reader { settings, findings: Vec::new() };
    let root = Field::Root(ROOT);
    let mut authorizers = Vec::new();
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                match &**name {
                    "extensionProviders" => authorizers = reader.providers(&root.name(name), value),
                    name => reader.leave_out(&root.name(name), "is not read: there is extensionProviders"),
                }
            }
        }
        _ => reader.leave_out(&root, "is no map with Istio's fields of MeshConfig"),
    }
    Translated { value: MeshConfig { authorizers }, findings: reader.findings }
}

/// Reads the configuration, and keeps what is wrong with it.
struct Reader<'s> {
    settings: &'s MeshSettings,
    findings: Vec<Finding>,
}

type Read<T> = Result<T, Vec<FieldError>>;

impl Reader<'_> {
    fn leave_out(&mut self, field: &Field<'_>, reason: &str) {
        self.findings.push(Finding::new(Effect::FieldIgnored, field, reason));
    }

    fn providers(&mut self, field: &Field<'_>, value: &Value) -> Vec<Arc<ExternalAuthorizer>> {
        let Some(entries) = value.as_array() else {
            self.leave_out(field, "is no list");
            return Vec::new();
        };
        if entries.len() > MAX_ENTRIES {
            self.leave_out(field, &format!("has {} entries, at most {MAX_ENTRIES} are read", entries.len()));
            return Vec::new();
        }
        let mut read: BTreeMap<Text, Option<Arc<ExternalAuthorizer>>> = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            let field = field.index(index);
            match self.provider(&field, entry) {
                Ok(authorizer) => {
                    let name = authorizer.name.clone();
                    // Which of two is meant cannot be said: there is none.
                    if read.insert(name.clone(), Some(Arc::new(authorizer))).is_some() {
                        self.leave_out(&field.name("name"), "stands twice: there is no server of the name");
                        read.insert(name, None);
                    }
                }
                Err(errors) => self
                    .findings
                    .extend(errors.into_iter().map(|error| Finding { error, effect: Effect::FieldIgnored })),
            }
        }
        read.into_values().flatten().collect()
    }

    fn provider(&self, field: &Field<'_>, entry: &Value) -> Read<ExternalAuthorizer> {
        let wrong = |field: &Field<'_>, reason: &str| Err(vec![FieldError::new(field, reason)]);
        let Some(fields) = entry.as_object() else { return wrong(field, "is no map") };
        let name = fields.get("name").and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() || name.len() > MAX_TEXT {
            return wrong(&field.name("name"), "is missing, or no name of at most 1024 bytes");
        }
        let mut others = fields.iter().filter(|(key, _)| *key != "name");
        let kind = others.next();
        if let Some((other, _)) = others.next() {
            return wrong(&field.name(other), "a server is either envoyExtAuthzGrpc or envoyExtAuthzHttp");
        }
        match kind {
            Some((kind, value)) if kind == "envoyExtAuthzGrpc" => {
                let field = field.name(kind);
                self.grpc(&field, name, typed(&field, value)?).map_err(|error| vec![error])
            }
            Some((kind, value)) if kind == "envoyExtAuthzHttp" => {
                let field = field.name(kind);
                self.http(&field, name, typed(&field, value)?).map_err(|error| vec![error])
            }
            Some((other, _)) => {
                wrong(&field.name(other), "is not read: there are envoyExtAuthzGrpc and envoyExtAuthzHttp")
            }
            None => wrong(field, "has neither envoyExtAuthzGrpc nor envoyExtAuthzHttp"),
        }
    }

    fn grpc(
        &self,
        field: &Field<'_>,
        name: &str,
        from: GrpcFields,
    ) -> Result<ExternalAuthorizer, FieldError> {
        Ok(ExternalAuthorizer {
            name: name.into(),
            protocol: AuthorizerProtocol::Grpc,
            service: self.service(&field.name("service"), &from.service)?,
            port: port_number(&field.name("port"), from.port)?,
            timeout: timeout(&field.name("timeout"), from.timeout.as_deref())?,
            fail_open: from.fail_open.unwrap_or_default(),
            status_on_error: status(&field.name("statusOnError"), from.status_on_error.as_ref())?,
            body: body(&field.name("includeRequestBodyInCheck"), from.include_request_body_in_check)?,
        })
    }

    fn http(
        &self,
        field: &Field<'_>,
        name: &str,
        from: HttpFields,
    ) -> Result<ExternalAuthorizer, FieldError> {
        let list = |name: &str, list: &[String]| patterns(&field.name(name), list);
        let additional = field.name("includeAdditionalHeadersInCheck");
        let prefix = from.path_prefix.unwrap_or_default();
        if !prefix.is_empty() && (!prefix.starts_with('/') || !is_plain_path(&prefix)) {
            return Err(FieldError::new(
                &field.name("pathPrefix"),
                format!("{prefix:?} is no path: it begins with '/', and has no '?' or '#' and no spaces"),
            ));
        }
        let check = HttpCheck {
            path_prefix: prefix.trim_end_matches('/').into(),
            include_headers: list("includeRequestHeadersInCheck", &from.include_request_headers_in_check)?,
            additional_headers: additional_headers(&additional, &from.include_additional_headers_in_check)?,
            to_upstream_on_allow: list("headersToUpstreamOnAllow", &from.headers_to_upstream_on_allow)?,
            to_downstream_on_deny: list("headersToDownstreamOnDeny", &from.headers_to_downstream_on_deny)?,
            to_downstream_on_allow: list("headersToDownstreamOnAllow", &from.headers_to_downstream_on_allow)?,
        };
        Ok(ExternalAuthorizer {
            name: name.into(),
            protocol: AuthorizerProtocol::Http(check),
            service: self.service(&field.name("service"), &from.service)?,
            port: port_number(&field.name("port"), from.port)?,
            timeout: timeout(&field.name("timeout"), from.timeout.as_deref())?,
            fail_open: from.fail_open.unwrap_or_default(),
            status_on_error: status(&field.name("statusOnError"), from.status_on_error.as_ref())?,
            body: body(&field.name("includeRequestBodyInCheck"), from.include_request_body_in_check)?,
        })
    }

    /// `[NAMESPACE/]HOST`: a Service by its DNS name, or `NAMESPACE/NAME`.
    fn service(&self, field: &Field<'_>, text: &str) -> Result<NamespacedName, FieldError> {
        let refuse = || {
            let domain = &self.settings.cluster_domain;
            let reason = format!("{text:?} is no Service: NAME.NAMESPACE.svc.{domain}, or NAMESPACE/NAME");
            FieldError::new(field, reason)
        };
        let (given, host) = text.split_once('/').map_or((None, text), |(given, host)| (Some(given), host));
        let suffix = format!(".svc.{}", self.settings.cluster_domain);
        let short = host.strip_suffix(&suffix).or_else(|| host.strip_suffix(".svc")).unwrap_or(host);
        let (name, namespace) = match (short.split_once('.'), given) {
            (Some((name, namespace)), None) => (name, namespace),
            (Some((name, namespace)), Some(given)) if given == namespace => (name, namespace),
            (None, Some(given)) => (short, given),
            _ => return Err(refuse()),
        };
        let is_label = |text: &str| {
            let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            (1..=63).contains(&text.len()) && text.bytes().all(is_letter)
        };
        let is_good = is_label(name) && is_label(namespace);
        is_good.then(|| NamespacedName::new(namespace, name)).ok_or_else(refuse)
    }
}

/// A value whose every field is known. Paths of faults begin at `field`.
fn typed<T: serde::de::DeserializeOwned>(field: &Field<'_>, value: &Value) -> Read<T> {
    strict::read(value).map_err(|errors| {
        let within = |error: FieldError| {
            let path =
                if error.field.is_empty() { field.to_string() } else { format!("{field}.{}", error.field) };
            FieldError { field: path, reason: error.reason }
        };
        errors.into_iter().map(within).collect()
    })
}

/// `0.25s`, `5s`, `1m30s`, as Istio writes durations.
fn timeout(field: &Field<'_>, text: Option<&str>) -> Result<Duration, FieldError> {
    let Some(text) = text else { return Ok(TIMEOUT) };
    let refuse =
        || FieldError::new(field, format!("{text:?} is no time of more than 0 s and at most 600 s, as 0.5s"));
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits =
            rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').ok_or_else(refuse)?;
        let number: f64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = &rest[digits..];
        let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let unit = units.into_iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(refuse)?;
        rest = &rest[unit.0.len()..];
        seconds += number * unit.1;
    }
    let timeout = Duration::try_from_secs_f64(seconds).map_err(|_| refuse())?;
    if timeout < Duration::from_millis(1) || timeout > TIMEOUT { Err(refuse()) } else { Ok(timeout) }
}

/// `statusOnError`: Istio has it as text.
fn status(field: &Field<'_>, value: Option<&Value>) -> Result<u16, FieldError> {
    let read = match value {
        None => return Ok(STATUS_ON_ERROR),
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_u64().and_then(|status| u16::try_from(status).ok()),
    };
    let is_error = |status: &u16| (400..600).contains(status);
    read.filter(is_error).ok_or_else(|| FieldError::new(field, "is no status of an error: 400 to 599"))
}

fn body(field: &Field<'_>, body: Option<BodyFields>) -> Result<Option<IncludedBody>, FieldError> {
    let Some(BodyFields { max_request_bytes, allow_partial_message, pack_as_bytes }) = body else {
        return Ok(None);
    };
    if !(1..=MAX_INCLUDED_BODY).contains(&max_request_bytes) {
        let reason = format!("{max_request_bytes} is not within 1 to {MAX_INCLUDED_BODY}");
        return Err(FieldError::new(&field.name("maxRequestBytes"), reason));
    }
    Ok(Some(IncludedBody {
        max_bytes: max_request_bytes,
        allow_partial: allow_partial_message,
        pack_as_bytes,
    }))
}

fn patterns(field: &Field<'_>, list: &[String]) -> Result<Vec<Pattern>, FieldError> {
    if list.len() > MAX_ENTRIES {
        return Err(FieldError::new(field, format!("has more than {MAX_ENTRIES} entries")));
    }
    list.iter().enumerate().map(|(index, text)| pattern(&field.index(index), text)).collect()
}

/// The name of a field, `abc*` or `*abc`.
fn pattern(field: &Field<'_>, text: &str) -> Result<Pattern, FieldError> {
    let lower = text.to_ascii_lowercase();
    let (pattern, literal) = match (lower.strip_suffix('*'), lower.strip_prefix('*')) {
        (Some(prefix), _) => (Pattern::Prefix(prefix.into()), prefix),
        (None, Some(suffix)) => (Pattern::Suffix(suffix.into()), suffix),
        (None, None) => (Pattern::Exact((&*lower).into()), &*lower),
    };
    if is_name(literal) {
        return Ok(pattern);
    }
    Err(FieldError::new(field, format!("{text:?} is no name of a header, abc* or *abc")))
}

fn additional_headers(
    field: &Field<'_>,
    headers: &BTreeMap<String, String>,
) -> Result<Vec<(Text, Text)>, FieldError> {
    if headers.len() > MAX_ENTRIES {
        return Err(FieldError::new(field, format!("has more than {MAX_ENTRIES} entries")));
    }
    let read = |(name, value): (&String, &String)| {
        let is_value =
            value.len() <= MAX_TEXT && value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let lower = name.to_ascii_lowercase();
        if !is_name(&lower) || !is_value {
            return Err(FieldError::new(
                &field.key(name),
                "is no name of a header with a value of visible ASCII",
            ));
        }
        Ok((lower.into(), value.as_str().into()))
    };
    headers.iter().map(read).collect()
}

fn is_name(text: &str) -> bool {
    (1..=MAX_TEXT).contains(&text.len()) && text.bytes().all(|byte| is_token_byte(byte) && byte != b'*')
}

fn is_plain_path(path: &str) -> bool {
    path.len() <= MAX_TEXT && path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<String>, Vec<String>) {
        let value: Value = serde_saphyr::from_str(text).unwrap();
        let Translated { value, findings } = mesh_config(&value, &MeshSettings::default());
        let named = value.authorizers.iter().map(|authorizer| authorizer.name.to_string()).collect();
        (named, findings.iter().map(|finding| finding.error.to_string()).collect())
    }

    #[test]
    fn what_is_not_understood_is_named_and_the_rest_counts() {
        let text = r#"
defaultConfig: {}
extensionProviders:
  - name: opa
    envoyExtAuthzGrpc: {service: opa.auth.svc.cluster.local, port: 9191}
  - name: misspelt
    envoyExtAuthzGrpc: {service: opa.auth, port: 9191, failOpn: true}
  - name: traced
    zipkin: {service: zipkin.istio-system, port: 9411}
  - name: both
    envoyExtAuthzGrpc: {service: opa.auth, port: 9191}
    envoyExtAuthzHttp: {service: opa.auth, port: 9191}
  - name: twice
    envoyExtAuthzGrpc: {service: opa.auth, port: 9191}
  - name: twice
    envoyExtAuthzGrpc: {service: opa.auth, port: 9192}
  - envoyExtAuthzGrpc: {service: opa.auth, port: 9191}
"#;
        let (named, found) = read(text);
        assert_eq!(named, ["opa"]);
        let expected = [
            "data.mesh.defaultConfig: is not read: there is extensionProviders",
            "data.mesh.extensionProviders[1].envoyExtAuthzGrpc.failOpn: unknown field: did you mean failOpen?",
            "data.mesh.extensionProviders[2].zipkin: is not read: there are envoyExtAuthzGrpc and envoyExtAuthzHttp",
            "data.mesh.extensionProviders[3].envoyExtAuthzHttp: a server is either envoyExtAuthzGrpc or envoyExtAuthzHttp",
            "data.mesh.extensionProviders[5].name: stands twice: there is no server of the name",
            "data.mesh.extensionProviders[6].name: is missing, or no name of at most 1024 bytes",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn every_field_of_a_server_is_read() {
        let text = r#"
extensionProviders:
  - name: opa
    envoyExtAuthzHttp:
      service: auth/opa.auth.svc.cluster.local
      port: 8000
      timeout: 0.25s
      failOpen: true
      statusOnError: "503"
      pathPrefix: /check/
      includeRequestHeadersInCheck: [Cookie, x-auth-*]
      includeAdditionalHeadersInCheck: {X-Mesh: nodemesh}
      headersToUpstreamOnAllow: [authorization]
      headersToDownstreamOnDeny: [set-cookie]
      headersToDownstreamOnAllow: ["*-session"]
      includeRequestBodyInCheck: {maxRequestBytes: 8192, allowPartialMessage: true, packAsBytes: true}
"#;
        let value: Value = serde_saphyr::from_str(text).unwrap();
        let Translated { value, findings } = mesh_config(&value, &MeshSettings::default());
        assert_eq!(findings, []);
        let expected = ExternalAuthorizer {
            name: "opa".into(),
            protocol: AuthorizerProtocol::Http(HttpCheck {
                path_prefix: "/check".into(),
                include_headers: vec![Pattern::Exact("cookie".into()), Pattern::Prefix("x-auth-".into())],
                additional_headers: vec![("x-mesh".into(), "nodemesh".into())],
                to_upstream_on_allow: vec![Pattern::Exact("authorization".into())],
                to_downstream_on_deny: vec![Pattern::Exact("set-cookie".into())],
                to_downstream_on_allow: vec![Pattern::Suffix("-session".into())],
            }),
            service: NamespacedName::new("auth", "opa"),
            port: 8000,
            timeout: Duration::from_millis(250),
            fail_open: true,
            status_on_error: 503,
            body: Some(IncludedBody { max_bytes: 8192, allow_partial: true, pack_as_bytes: true }),
        };
        assert_eq!(value.authorizers, [Arc::new(expected)]);
    }

    #[track_caller]
    fn check_refused(fields: &str, field: &str) {
        let text = format!("extensionProviders: [{{name: a, envoyExtAuthzHttp: {{{fields}}}}}]");
        let (named, found) = read(&text);
        assert!(named.is_empty(), "{fields}");
        assert!(
            found[0].starts_with(&format!("data.mesh.extensionProviders[0].envoyExtAuthzHttp.{field}:")),
            "{found:?}"
        );
    }

    #[test]
    fn a_field_that_makes_no_sense_is_refused_by_its_name() {
        let good = "service: opa.auth, port: 80";
        assert_eq!(
            read(&format!("extensionProviders: [{{name: a, envoyExtAuthzHttp: {{{good}}}}}]")).0,
            ["a"]
        );
        check_refused("service: opa, port: 80", "service");
        check_refused("service: other/opa.auth, port: 80", "service");
        check_refused("service: auth.example.com, port: 80", "service");
        check_refused("service: opa.auth, port: 0", "port");
        for timeout in ["0s", "601s", "5", "-1s", "1d", "s", "1e9s"] {
            check_refused(&format!("{good}, timeout: '{timeout}'"), "timeout");
        }
        check_refused(&format!("{good}, statusOnError: 200"), "statusOnError");
        check_refused(&format!("{good}, statusOnError: '99'"), "statusOnError");
        check_refused(&format!("{good}, pathPrefix: check"), "pathPrefix");
        check_refused(&format!("{good}, pathPrefix: '/a?b'"), "pathPrefix");
        check_refused(
            &format!("{good}, includeRequestHeadersInCheck: ['*']"),
            "includeRequestHeadersInCheck[0]",
        );
        check_refused(&format!("{good}, headersToUpstreamOnAllow: ['a b']"), "headersToUpstreamOnAllow[0]");
        let field = "includeAdditionalHeadersInCheck";
        check_refused(&format!("{good}, {field}: {{a: \"b\\r\\nc\"}}"), &format!("{field}[a]"));
        let field = "includeRequestBodyInCheck";
        check_refused(
            &format!("{good}, {field}: {{maxRequestBytes: 0}}"),
            &format!("{field}.maxRequestBytes"),
        );
        check_refused(
            &format!("{good}, {field}: {{maxRequestBytes: 1048577}}"),
            &format!("{field}.maxRequestBytes"),
        );
    }
}
