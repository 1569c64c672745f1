//! Messages to authorization servers.

use std::sync::Arc;
use std::time::Duration;

use mesh_common::model::external::MAX_INCLUDED_BODY;
use mesh_common::model::policy::Pattern;
use mesh_common::model::{
    AuthorizerProtocol, Custom, ExternalAuthorizer, HttpCheck, IncludedBody, NamespacedName, Text,
};

use super::decode::{each, port, unspecified};
use super::decode_policy::pattern;
use super::messages;
use super::resource::FieldError;

pub(super) fn custom(custom: &messages::Custom) -> Result<Custom, FieldError> {
    let provider = Text::from(&*custom.provider);
    let read =
        |authorizer| self::authorizer(&provider, authorizer).map_err(|error| error.within("authorizer"));
    let authorizer = custom.authorizer.as_ref().map(read).transpose()?.map(Arc::new);
    Ok(Custom { provider, authorizer })
}

fn authorizer(name: &Text, from: &messages::Authorizer) -> Result<ExternalAuthorizer, FieldError> {
    use messages::AuthorizerKind as Kind;
    let service = from.service.as_ref().ok_or_else(|| unspecified("service"))?;
    let status = u16::try_from(from.status_on_error).ok().filter(|status| (400..600).contains(status));
    let status = status.ok_or_else(|| FieldError::new("status_on_error", "is no status of an error"));
    Ok(ExternalAuthorizer {
        name: Arc::clone(name),
        service: NamespacedName::new(&*service.namespace, &*service.name),
        port: port(&from.port).map_err(|error| error.within("port"))?,
        timeout: Duration::from_millis(from.timeout),
        fail_open: from.fail_open,
        status_on_error: status?,
        body: from.body.as_ref().map(body).transpose()?,
        protocol: match from.kind.as_ref().ok_or_else(|| unspecified("kind"))? {
            Kind::Grpc(_) => AuthorizerProtocol::Grpc,
            Kind::Http(check) => AuthorizerProtocol::Http(http(check).map_err(|error| error.within("http"))?),
        },
    })
}

fn body(body: &messages::IncludedBody) -> Result<IncludedBody, FieldError> {
    let messages::IncludedBody { max_bytes, allow_partial, pack_as_bytes } = *body;
    if max_bytes > MAX_INCLUDED_BODY {
        return Err(FieldError::new("body.max_bytes", "is more than any controller says"));
    }
    Ok(IncludedBody { max_bytes, allow_partial, pack_as_bytes })
}

fn http(check: &messages::HttpCheck) -> Result<HttpCheck, FieldError> {
    let patterns =
        |field: &str, list: &[_]| -> Result<Vec<Pattern>, FieldError> { each(field, list, pattern) };
    let additional = check.additional_headers.iter();
    Ok(HttpCheck {
        path_prefix: check.path_prefix.as_str().into(),
        include_headers: patterns("include_headers", &check.include_headers)?,
        additional_headers: additional
            .map(|header| (header.name.as_str().into(), header.value.as_str().into()))
            .collect(),
        to_upstream_on_allow: patterns("to_upstream_on_allow", &check.to_upstream_on_allow)?,
        to_downstream_on_deny: patterns("to_downstream_on_deny", &check.to_downstream_on_deny)?,
        to_downstream_on_allow: patterns("to_downstream_on_allow", &check.to_downstream_on_allow)?,
    })
}
