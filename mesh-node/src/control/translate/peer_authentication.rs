//! PeerAuthentication. What is not understood of it counts as STRICT.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_common::model::policy::{MutualTls, PeerAuthentication, Scope};
use mesh_common::model::{MeshSettings, NamespacedName};
use serde::Deserialize as _;
use serde_json::Value;

use super::{Effect, Field, FieldError, Finding, SPEC, Translated, namespaced_name, policy_scope, port_text};
use crate::control::resources::{self, MutualTlsMode, MutualTlsSettings, WorkloadSelector};

/// The age of one that is not understood: the older of a scope is in force, and it must be, whatever its age.
const UNKNOWN_AGE: u64 = 0;

/// Translates a PeerAuthentication. One that is not understood is STRICT for all that it might be about.
///
/// # Errors
/// If it has no name.
pub fn peer_authentication(
    object: &resources::PeerAuthentication,
    settings: &MeshSettings,
) -> Result<Translated<PeerAuthentication>, FieldError> {
    let name = namespaced_name(&object.metadata)?;
    let spec = &object.spec;
    let created = created(&object.metadata);
    let strict = |name: NamespacedName, scope: Scope, error: FieldError| Translated {
        value: PeerAuthentication {
            name,
            scope,
            created: UNKNOWN_AGE,
            mode: Some(MutualTls::Strict),
            ports: BTreeMap::new(),
        },
        findings: vec![Finding { error, effect: Effect::Denies }],
    };
    let whole = policy_scope::whole(&name, settings);
    let scope = match policy_scope::of_selector(&name, spec.selector.as_ref(), settings) {
        Ok(scope) => scope,
        Err(error) => return Ok(strict(name, whole, error)),
    };
    let mut findings = Vec::new();
    let ports = match ports(spec, &mut findings) {
        Ok(ports) if ports.is_empty() || scope != whole => ports,
        Ok(_) => {
            let error = FieldError::new(&SPEC.name("portLevelMtls"), "needs a selector with labels");
            return Ok(strict(name, scope, error));
        }
        Err(error) => return Ok(strict(name, scope, error)),
    };
    let mtls = SPEC.name("mtls");
    let mode = spec.mtls.as_ref().and_then(|settings| mode(&mtls, settings, &mut findings));
    Ok(Translated { value: PeerAuthentication { name, scope, created, mode, ports }, findings })
}

/// What a PeerAuthentication is taken for whose object could not even be read: STRICT, about the workloads that it
/// still names.
pub fn unreadable(object: &Value, name: NamespacedName, settings: &MeshSettings) -> PeerAuthentication {
    let selector = Option::<WorkloadSelector>::deserialize(&object["spec"]["selector"]).ok();
    let scope =
        selector.and_then(|selector| policy_scope::of_selector(&name, selector.as_ref(), settings).ok());
    let scope = scope.unwrap_or_else(|| policy_scope::whole(&name, settings));
    PeerAuthentication {
        name,
        scope,
        created: UNKNOWN_AGE,
        mode: Some(MutualTls::Strict),
        ports: BTreeMap::new(),
    }
}

/// `portLevelMtls`.
fn ports(
    spec: &resources::PeerAuthenticationSpec,
    findings: &mut Vec<Finding>,
) -> Result<BTreeMap<u16, Option<MutualTls>>, FieldError> {
    let path = SPEC.name("portLevelMtls");
    let mut ports = BTreeMap::new();
    for (port, settings) in spec.port_level_mtls.iter().flatten() {
        let field = path.key(port);
        ports.insert(port_text(&field, port)?, mode(&field, settings, findings));
    }
    Ok(ports)
}

fn created(metadata: &ObjectMeta) -> u64 {
    let seconds = metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default()
}

fn mode(field: &Field<'_>, settings: &MutualTlsSettings, findings: &mut Vec<Finding>) -> Option<MutualTls> {
    match settings.mode? {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Permissive => Some(MutualTls::Permissive),
        MutualTlsMode::Strict => Some(MutualTls::Strict),
        MutualTlsMode::Disable => {
            let reason = "DISABLE is not supported: the mode is inherited, as with UNSET";
            findings.push(Finding::new(Effect::FieldIgnored, &field.name("mode"), reason));
            None
        }
    }
}
