//! PURE. What an authorization server said, read as strictly as what a client says: it may not write what frames a message.

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use mesh_common::http1::{GivenAnswer, is_own};
use mesh_common::model::{HeadEdits, HttpCheck, RequestFacts, Text};
use mesh_common::policy::ExternalDenial;

use super::check::matches_any;

/// Most fields that one word may write or remove.
const MAX_FIELDS: usize = 100;
/// The longest body of a refusal, in bytes.
pub(super) const MAX_BODY: usize = 64 << 10;
/// gRPC's code of what is fine.
const OK: i32 = 0;
/// What the caller of a refusal without a status is told.
const FORBIDDEN: u16 = 403;
/// Fields of a refusal over HTTP that its caller is shown always.
const ALWAYS: [&str; 5] =
    ["www-authenticate", "proxy-authenticate", "location", "content-type", "retry-after"];

/// What was said of a request.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::proxy) enum Word {
    /// It may pass.
    Allowed(Box<Allowance>),
    /// It may not.
    Refused(Box<GivenAnswer>),
    /// Nothing that counts.
    Failed(ExternalDenial),
}

/// With what a request passes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::proxy) struct Allowance {
    /// What is changed of the request's head.
    pub(in crate::proxy) request: HeadEdits,
    /// What is changed of its response's head.
    pub(in crate::proxy) response: HeadEdits,
}

impl Allowance {
    /// Shows a request to `judge` as the server `by` lets it pass.
    pub(in crate::proxy) fn show<T>(
        &self,
        by: &Text,
        request: &RequestFacts<'_>,
        judge: impl FnOnce(&RequestFacts<'_>) -> T,
    ) -> T {
        let allowed_by = Some(by);
        if self.request.is_empty() {
            return judge(&RequestFacts { allowed_by, ..*request });
        }
        let kept = request.headers.iter().filter(|(name, _)| !self.request.removes(name)).copied();
        let added = self.request.added.iter().map(|(name, value)| (name.as_bytes(), &**value));
        let headers: Vec<(&[u8], &[u8])> = kept.chain(added).collect();
        judge(&RequestFacts { headers: &headers, allowed_by, ..*request })
    }
}

/// What is not understood.
#[derive(Debug, PartialEq)]
struct Bad;

/// A field, its name in lower case.
type Written = (Text, Box<[u8]>);

/// Reads the answer to a CheckRequest.
pub(super) fn of_check(response: CheckResponse) -> Word {
    let code = response.status.map_or(OK, |status| status.code);
    let read = match (code, response.http_response) {
        (OK, None) => Ok(Word::Allowed(Box::default())),
        (OK, Some(HttpResponse::OkResponse(ok))) => allowed(ok),
        (OK, Some(_)) => Err(Bad),
        (_, Some(HttpResponse::DeniedResponse(denied))) => refused(denied),
        // As Envoy: the code decides.
        (_, _) => Ok(refusal(FORBIDDEN, Vec::new(), Vec::new())),
    };
    read.unwrap_or(Word::Failed(ExternalDenial::BadAnswer))
}

/// Reads the answer to a check over HTTP: its status, its fields in lower case, its body.
pub(super) fn of_http(
    check: &HttpCheck,
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
) -> Word {
    let named =
        |list: &[_], (name, _): &&(String, Vec<u8>)| matches_any(list, name) && !is_own(name.as_bytes());
    let read = match status {
        200 => {
            let request = headers.iter().filter(|field| named(&check.to_upstream_on_allow, field));
            let response = headers.iter().filter(|field| named(&check.to_downstream_on_allow, field));
            let edits = |fields: Vec<&(String, Vec<u8>)>| overwriting(fields.into_iter().cloned());
            edits(request.collect()).and_then(|request| {
                let response = edits(response.collect())?;
                Ok(Word::Allowed(Box::new(Allowance { request, response })))
            })
        }
        500.. | ..200 => Err(Bad),
        status => {
            let all = check.to_downstream_on_deny.is_empty();
            let is_shown = |field: &&(String, Vec<u8>)| {
                !is_own(field.0.as_bytes())
                    && (all || ALWAYS.contains(&&*field.0) || named(&check.to_downstream_on_deny, field))
            };
            let shown = headers.iter().filter(is_shown);
            let fields: Result<Vec<_>, Bad> = shown.map(|(name, value)| field(name, value)).collect();
            fields.and_then(bounded).map(|fields| refusal(status, fields, body))
        }
    };
    read.unwrap_or(Word::Failed(ExternalDenial::BadAnswer))
}

fn allowed(ok: OkHttpResponse) -> Result<Word, Bad> {
    // What would be changed, and is not here, is not passed over in silence.
    if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
        return Err(Bad);
    }
    let mut request = HeadEdits::default();
    for option in ok.headers {
        let (overwrites, (name, value)) = written(option, false)?;
        if overwrites {
            request.added.retain(|(other, _)| *other != name);
            request.removed.push(name.clone());
        }
        request.added.push((name, value));
    }
    for name in ok.headers_to_remove {
        let (name, _) = field(&name.to_ascii_lowercase(), b"")?;
        request.added.retain(|(other, _)| *other != name);
        request.removed.push(name);
    }
    let mut response = HeadEdits::default();
    for option in ok.response_headers_to_add {
        let (overwrites, (name, value)) = written(option, true)?;
        if overwrites {
            response.removed.push(name.clone());
        }
        response.added.push((name, value));
    }
    let is_bounded = |edits: &HeadEdits| edits.added.len() + edits.removed.len() <= 2 * MAX_FIELDS;
    if !is_bounded(&request) || !is_bounded(&response) {
        return Err(Bad);
    }
    Ok(Word::Allowed(Box::new(Allowance { request, response })))
}

fn refused(denied: DeniedHttpResponse) -> Result<Word, Bad> {
    let status = match denied.status.map_or(0, |status| status.code) {
        0 => FORBIDDEN,
        code => u16::try_from(code).map_err(|_| Bad)?,
    };
    if !(200..600).contains(&status) || denied.body.len() > MAX_BODY {
        return Err(Bad);
    }
    let fields: Result<Vec<_>, Bad> =
        denied.headers.into_iter().map(|option| Ok(written(option, true)?.1)).collect();
    Ok(refusal(status, bounded(fields?)?, denied.body.into_bytes()))
}

fn refusal(status: u16, fields: Vec<Written>, body: Vec<u8>) -> Word {
    // Without a body by their meaning (RFC 9110 sections 15.3.5, 15.4.5).
    let body = if matches!(status, 204 | 205 | 304) { Vec::new() } else { body };
    let reason = ExternalDenial::Refused.code();
    Word::Refused(Box::new(GivenAnswer { status, fields, body: body.into(), reason, decision: None }))
}

fn bounded<T>(fields: Vec<T>) -> Result<Vec<T>, Bad> {
    if fields.len() > MAX_FIELDS { Err(Bad) } else { Ok(fields) }
}

fn overwriting(fields: impl Iterator<Item = (String, Vec<u8>)>) -> Result<HeadEdits, Bad> {
    let mut edits = HeadEdits::default();
    for (name, value) in fields {
        let (name, value) = field(&name, &value)?;
        edits.removed.push(name.clone());
        edits.added.push((name, value));
    }
    if edits.added.len() > MAX_FIELDS { Err(Bad) } else { Ok(edits) }
}

/// A field that is written, and whether it takes the place of others of its name. Without a word of `append` a request's
/// fields are overwritten, as in Envoy; those of responses follow `append_action`.
fn written(option: HeaderValueOption, of_response: bool) -> Result<(bool, Written), Bad> {
    let action = option.append_action;
    let header = option.header.ok_or(Bad)?;
    let value = if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
    // Most servers still say only this.
    #[expect(deprecated, reason = "Envoy reads it, and servers write it")]
    let append = option.append;
    let appends = match append {
        Some(append) => append.value,
        None => of_response && action != i32::from(HeaderAppendAction::OverwriteIfExistsOrAdd),
    };
    Ok((!appends, field(&header.key.to_ascii_lowercase(), &value)?))
}

/// A field that may be written: its name in lower case.
fn field(name: &str, value: &[u8]) -> Result<Written, Bad> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_name = (1..=256).contains(&name.len()) && name.bytes().all(is_token);
    let is_value = value.len() <= 16 << 10
        && value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
    if !is_name || !is_value || is_own(name.as_bytes()) {
        return Err(Bad);
    }
    Ok((name.into(), value.trim_ascii().into()))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::HeaderValue;
    use envoy_types::pb::google::rpc::Status;
    use mesh_common::http1::{FRAMING_FIELDS, IDENTITY_FIELDS};
    use mesh_common::model::MeshSettings;
    use mesh_common::model::policy::Pattern;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::control::resources::RequestAuthentication;
    use crate::control::translate::request_authentication::request_authentication;

    fn option(key: &str, value: &str) -> HeaderValueOption {
        let header = HeaderValue { key: key.to_owned(), value: value.to_owned(), ..HeaderValue::default() };
        HeaderValueOption { header: Some(header), ..HeaderValueOption::default() }
    }

    fn ok(headers: Vec<HeaderValueOption>) -> Word {
        let ok = OkHttpResponse { headers, ..OkHttpResponse::default() };
        of_check(CheckResponse {
            http_response: Some(HttpResponse::OkResponse(ok)),
            ..CheckResponse::default()
        })
    }

    #[test]
    fn what_frames_a_message_or_says_who_calls_is_not_written() {
        for name in [
            "content-length",
            "Transfer-Encoding",
            "transfer_encoding",
            "connection",
            "host",
            ":path",
            "x-forwarded-client-cert",
            "x-nodemesh-reason",
            "a b",
            "",
        ] {
            assert_eq!(ok(vec![option(name, "x")]), Word::Failed(ExternalDenial::BadAnswer), "{name:?}");
        }
        for value in ["a\r\nb: c", "a\nb", "a\0"] {
            assert_eq!(ok(vec![option("x-a", value)]), Word::Failed(ExternalDenial::BadAnswer), "{value:?}");
        }
        let many = (0..=MAX_FIELDS).map(|number| option(&format!("x-{number}"), "y")).collect();
        assert_eq!(ok(many), Word::Failed(ExternalDenial::BadAnswer));
        let Word::Allowed(allowance) = ok(vec![option("X-Role", "admin")]) else {
            panic!("it may be written")
        };
        let expected = HeadEdits {
            removed: vec!["x-role".into()],
            added: vec![("x-role".into(), (*b"admin").into())],
            query: None,
        };
        assert_eq!(allowance.request, expected, "it takes the place of the caller's");
    }

    /// Names that the mesh writes itself and ones that resemble them, in all their spellings.
    fn field_name() -> impl Strategy<Value = String> {
        let known: Vec<&str> =
            FRAMING_FIELDS.iter().chain(IDENTITY_FIELDS).map(|name| name.trim_end_matches('*')).collect();
        let stem =
            prop_oneof![6 => prop::sample::select(known), 1 => Just("x-user"), 1 => Just("x-forwarded-for")];
        let end = prop_oneof![6 => Just(""), 1 => Just("s"), 1 => Just("-id"), 1 => Just("_")];
        (stem, end, any::<u32>(), any::<u32>()).prop_map(|(stem, end, dashes, capitals)| {
            let name = stem.chars().chain(end.chars()).enumerate();
            let spelled = name.map(|(index, letter)| match letter {
                '-' if dashes >> (index % 32) & 1 == 1 => '_',
                letter if capitals >> (index % 32) & 1 == 1 => letter.to_ascii_uppercase(),
                letter => letter,
            });
            spelled.collect()
        })
    }

    proptest! {
        #[test]
        fn tokens_and_servers_may_write_the_same_fields(name in field_name(), is_payload: bool) {
            let written = match is_payload {
                true => json!({"issuer": "a", "jwks": "{}", "outputPayloadToHeader": name}),
                false => {
                    json!({"issuer": "a", "jwks": "{}", "outputClaimToHeaders": [{"header": name, "claim": "sub"}]})
                }
            };
            let object = json!({
                "apiVersion": "policy.nodemesh.dev/v1alpha1", "kind": "RequestAuthentication",
                "metadata": {"name": "users", "namespace": "shop"}, "spec": {"jwtRules": [written]},
            });
            let object: RequestAuthentication = serde_json::from_value(object).expect("an object");
            let rules = request_authentication(&object, &MeshSettings::default()).expect("it has a name").value;
            let of_a_server = ok(vec![option(&name, "x")]);
            prop_assert_eq!(rules.policy.fault.is_some(), matches!(of_a_server, Word::Failed(_)), "{}", name);
        }
    }

    #[test]
    fn a_refusal_has_a_status_that_is_one() {
        let denied = |code| {
            let status = envoy_types::pb::envoy::r#type::v3::HttpStatus { code };
            let denied = DeniedHttpResponse { status: Some(status), ..DeniedHttpResponse::default() };
            let status = Some(Status { code: 7, ..Status::default() });
            let http_response = Some(HttpResponse::DeniedResponse(denied));
            match of_check(CheckResponse { status, http_response, ..CheckResponse::default() }) {
                Word::Refused(given) => given.status,
                Word::Failed(_) => 0,
                Word::Allowed(_) => panic!("{code}"),
            }
        };
        assert_eq!([0, 302, 401, 599].map(denied), [403, 302, 401, 599]);
        assert_eq!([-1, 1, 99, 101, 199, 600, 700, 70_000].map(denied), [0; 8]);
        // Neither a word of one kind with the code of another.
        let allowed = HttpResponse::OkResponse(OkHttpResponse::default());
        let status = Some(Status { code: 7, ..Status::default() });
        let word =
            of_check(CheckResponse { status, http_response: Some(allowed), ..CheckResponse::default() });
        assert!(matches!(word, Word::Refused(_)), "{word:?}");
        let denied = HttpResponse::DeniedResponse(DeniedHttpResponse::default());
        let word = of_check(CheckResponse { http_response: Some(denied), ..CheckResponse::default() });
        assert_eq!(word, Word::Failed(ExternalDenial::BadAnswer));
    }

    #[test]
    fn over_http_the_lists_say_which_fields_count() {
        let check = HttpCheck {
            to_upstream_on_allow: vec![Pattern::Prefix("x-up".into())],
            to_downstream_on_allow: vec![Pattern::Exact("x-down".into())],
            ..HttpCheck::default()
        };
        let fields = || -> Vec<(String, Vec<u8>)> {
            let named = ["x-up-1", "x-down", "x-secret", "content-length", "connection"];
            named.iter().map(|name| ((*name).to_owned(), b"1".to_vec())).collect()
        };
        let Word::Allowed(allowance) = of_http(&check, 200, fields(), Vec::new()) else {
            panic!("200 lets pass")
        };
        assert_eq!(allowance.request.removed, ["x-up-1".into()]);
        assert_eq!(allowance.response.removed, ["x-down".into()]);
        let Word::Refused(given) = of_http(&check, 401, fields(), b"no".to_vec()) else {
            panic!("401 refuses")
        };
        let names: Vec<&str> = given.fields.iter().map(|(name, _)| &**name).collect();
        assert_eq!((names, &*given.body), (vec!["x-up-1", "x-down", "x-secret"], &b"no"[..]));
        for status in [100, 199, 500, 503] {
            let word = of_http(&check, status, fields(), Vec::new());
            assert_eq!(word, Word::Failed(ExternalDenial::BadAnswer), "{status}");
        }
    }
}
