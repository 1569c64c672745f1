//! Keys of issuers that the controllers fetch: what a person sees of it with kubectl.

use anyhow::{Result, ensure};
use mesh_test_cluster::mesh::{Mesh, PATIENCE, WAIT};
use mesh_test_harness::eventually::eventually;

const ISSUER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/issuer.yaml");
/// That of RFC 8037, appendix A.2.
const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// False with the reason while a fetch fails, true when it does not any more, nothing where none is made.
pub fn the_status_says_whether_keys_were_fetched(mesh: &Mesh) -> Result<()> {
    mesh.kubectl(&["apply", "-f", ISSUER])?;
    mesh.kubectl(&["wait", "--namespace=outside", "--for=condition=Ready", WAIT, "pod/issuer"])?;
    has_failed(mesh, "published", "answered 404")?;
    // Soon: each fetch that fails has the next one wait longer, up to a minute.
    let publish = format!("echo '{KEYS}' > /tmp/www/keys.json");
    mesh.kubectl(&["exec", "--namespace=outside", "issuer", "--", "sh", "-c", &publish])?;
    has_failed(mesh, "closed", "is a loopback address, which keys are not fetched from")?;
    has_failed(mesh, "nowhere", "the name does not resolve")?;
    eventually("a person who looks is told of the failure", PATIENCE, || {
        let described = mesh.kubectl(&["describe", "nmra", "nowhere"]).ok()?;
        let (_, events) = described.split_once("\nEvents:")?;
        (events.contains("FetchFailed") && events.contains("nobody.outside.svc.cluster.local")).then_some(())
    })?;
    mesh.kubectl(&["wait", "--for=condition=KeysFetched", WAIT, "nmra/published"])?;
    ensure!(condition(mesh, "published")? == "True Fetched ", "the condition is another one");
    ensure!(column(mesh, "published")? == "True", "it is shown otherwise");
    has_failed(mesh, "closed", "is a loopback address")?;
    mesh.kubectl(&["wait", "--for=condition=Accepted", WAIT, "nmra/given"])?;
    ensure!(condition(mesh, "given")? == "  ", "something is said of keys that are not fetched");
    mesh.kubectl(&["delete", "--wait=false", "-f", ISSUER]).map(drop)
}

fn has_failed(mesh: &Mesh, name: &str, reason: &str) -> Result<()> {
    eventually(&format!("the status of {name} says: {reason}"), PATIENCE, || {
        let said = condition(mesh, name).ok()?;
        let is_failure =
            said.starts_with("False FetchFailed spec.jwtRules[0].jwksUri: keys cannot be fetched from ");
        (is_failure && said.contains(reason)).then_some(())
    })?;
    ensure!(column(mesh, name)? == "False", "{name} is shown otherwise");
    Ok(())
}

/// Status, reason and message of the condition about keys.
fn condition(mesh: &Mesh, name: &str) -> Result<String> {
    let of = |field: &str| format!("{{.status.conditions[?(@.type=='KeysFetched')].{field}}}");
    let path = format!("jsonpath={} {} {}", of("status"), of("reason"), of("message"));
    mesh.kubectl(&["get", "nmra", name, "-o", &path])
}

/// What stands under KEYS.
fn column(mesh: &Mesh, name: &str) -> Result<String> {
    let table = mesh.kubectl(&["get", "nmra", name])?;
    let (head, row) = table.split_once('\n').unwrap_or_default();
    // Columns begin where their names do.
    let at = head.find("KEYS").unwrap_or_default();
    Ok(row[at.min(row.len())..].split_whitespace().next().unwrap_or_default().to_owned())
}
