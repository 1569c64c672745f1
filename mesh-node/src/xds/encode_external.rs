//! Authorization servers to messages.

use mesh_common::model::{AuthorizerProtocol, Custom, ExternalAuthorizer, HttpCheck};

use super::encode_policy::pattern;
use super::messages;

pub(super) fn custom(custom: &Custom) -> messages::Custom {
    messages::Custom {
        provider: custom.provider.to_string(),
        authorizer: custom.authorizer.as_deref().map(authorizer),
    }
}

fn authorizer(authorizer: &ExternalAuthorizer) -> messages::Authorizer {
    use messages::AuthorizerKind as Kind;
    messages::Authorizer {
        service: Some(messages::ServiceName {
            namespace: authorizer.service.namespace.to_string(),
            name: authorizer.service.name.to_string(),
        }),
        port: authorizer.port.into(),
        timeout: u64::try_from(authorizer.timeout.as_millis()).unwrap_or(u64::MAX),
        fail_open: authorizer.fail_open,
        status_on_error: authorizer.status_on_error.into(),
        body: authorizer.body.map(|body| messages::IncludedBody {
            max_bytes: body.max_bytes,
            allow_partial: body.allow_partial,
            pack_as_bytes: body.pack_as_bytes,
        }),
        kind: Some(match &authorizer.protocol {
            AuthorizerProtocol::Grpc => Kind::Grpc(messages::Empty {}),
            AuthorizerProtocol::Http(check) => Kind::Http(http(check)),
        }),
    }
}

fn http(check: &HttpCheck) -> messages::HttpCheck {
    let patterns = |patterns: &[_]| patterns.iter().map(pattern).collect();
    let additional = check.additional_headers.iter();
    messages::HttpCheck {
        path_prefix: check.path_prefix.to_string(),
        include_headers: patterns(&check.include_headers),
        additional_headers: additional
            .map(|(name, value)| messages::AdditionalHeader {
                name: name.to_string(),
                value: value.to_string(),
            })
            .collect(),
        to_upstream_on_allow: patterns(&check.to_upstream_on_allow),
        to_downstream_on_deny: patterns(&check.to_downstream_on_deny),
        to_downstream_on_allow: patterns(&check.to_downstream_on_allow),
    }
}
