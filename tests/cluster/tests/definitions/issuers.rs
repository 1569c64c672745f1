//! RequestAuthentications: what the schema refuses, what the admission policy does, and that both judge as the code.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_common::http1::{FRAMING_FIELDS, IDENTITY_FIELDS};
use mesh_node::control::translate::Effect;
use serde_json::{Value, json};

use super::admission::{refused_and_reported, translated, yaml};
use super::{SERVER, apply, object, refused};

/// Where the translation has its own good and bad objects.
const VECTORS: &str = "../../mesh-node/testdata";
const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// One rule with fields besides the issuer, or instead of it.
fn rule(fields: &Value) -> String {
    let mut rule = json!({"issuer": "https://a.example"});
    rule.as_object_mut().expect("it is one").extend(fields.as_object().expect("fields").clone());
    json!({"jwtRules": [rule]}).to_string()
}

fn with_keys(mut fields: Value) -> String {
    fields["jwks"] = json!(KEYS);
    rule(&fields)
}

#[test]
fn a_wrong_request_authentication_is_refused_with_its_field() {
    let at = "spec.jwtRules[0]";
    let targets = "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]}";
    refused("RequestAuthentication", targets, "spec.targetRefs: Invalid value: cannot be given together");
    refused("RequestAuthentication", "{jwtRules: [{jwks: a}]}", &format!("{at}.issuer"));
    refused("RequestAuthentication", "{jwtRules: {}}", "spec.jwtRules");
    for (spec, field) in [
        (with_keys(json!({"issuer": ""})), "issuer"),
        (with_keys(json!({"issuer": "a".repeat(1025)})), "issuer"),
        (with_keys(json!({"isuer": "a"})), "isuer"),
        (with_keys(json!({"audiences": []})), "audiences"),
        (with_keys(json!({"audiences": [""]})), "audiences[0]"),
        (
            with_keys(json!({"jwksUri": "https://a.example/keys"})),
            "jwks: Invalid value: cannot be given together",
        ),
        (rule(&json!({"jwks": ""})), "jwks"),
        (rule(&json!({"jwksUri": "a.example/keys"})), "jwksUri"),
        (rule(&json!({"jwksUri": "ftp://a.example/keys"})), "jwksUri"),
        (rule(&json!({"jwksUri": "https://a.example/the keys"})), "jwksUri"),
        (rule(&json!({"jwksUri": "https://a.example/keys", "timeout": "5"})), "timeout"),
        (rule(&json!({"jwksUri": "https://a.example/keys", "timeout": "-5s"})), "timeout"),
        (with_keys(json!({"fromHeaders": [{"name": "a b"}]})), "fromHeaders[0].name"),
        (with_keys(json!({"fromHeaders": [{"prefix": "Bearer "}]})), "fromHeaders[0].name"),
        (with_keys(json!({"fromParams": [""]})), "fromParams[0]"),
        (with_keys(json!({"fromCookies": [""]})), "fromCookies[0]"),
        (with_keys(json!({"outputPayloadToHeader": ""})), "outputPayloadToHeader"),
        (with_keys(json!({"outputPayloadToHeader": "a:b"})), "outputPayloadToHeader"),
        (
            with_keys(json!({"outputClaimToHeaders": [{"header": "a b", "claim": "c"}]})),
            "outputClaimToHeaders[0].header",
        ),
        (with_keys(json!({"outputClaimToHeaders": [{"header": "a"}]})), "outputClaimToHeaders[0].claim"),
        (
            with_keys(json!({"outputClaimToHeaders": [{"header": "a", "claim": ""}]})),
            "outputClaimToHeaders[0].claim",
        ),
        (with_keys(json!({"spaceDelimitedClaims": [""]})), "spaceDelimitedClaims[0]"),
    ] {
        refused("RequestAuthentication", &spec, &format!("{at}.{field}"));
    }
    refused(
        "RequestAuthentication",
        &rule(&json!({})),
        "spec.jwtRules[0]: Invalid value: has neither jwks nor jwksUri",
    );
}

#[test]
fn keys_that_are_none_are_refused() {
    let jwks = |text: &str| rule(&json!({"jwks": text}));
    for (text, said) in [
        ("https://a.example/keys", "is not a JSON object"),
        (r#"[{"kty":"RSA"}]"#, "is not a JSON object"),
        ("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", "is not a JSON object"),
        ("{}", "has no list \"keys\""),
        (r#"{"keys":{"kty":"RSA"}}"#, "has no list \"keys\""),
        (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, "has no list \"keys\""),
        (r#"{"keys":[]}"#, "has no key that can be used"),
        (r#"{"keys":[{"kty":"oct","k":"AQAB"}]}"#, "has no key that can be used"),
    ] {
        let said = format!("spec.jwtRules.jwks: {said}");
        refused_and_reported("RequestAuthentication", &jwks(text), &said, "spec.jwtRules[0].jwks");
    }
}

#[test]
fn uris_that_no_keys_are_fetched_from_are_refused() {
    let closed = "leads to the machine itself or what only it may reach";
    for (uri, said) in [
        ("https://:443/keys", "must begin with https:// or http:// and a host"),
        ("https://?keys", "must begin with https:// or http:// and a host"),
        ("https://me:secret@a.example/keys", "must not hold a name or a password"),
        ("https://a.example:0/keys", "has a port that is none"),
        ("https://a.example:/keys", "has a port that is none"),
        ("https://a.example:65536", "has a port that is none"),
        ("https://a.example:0070000?a", "has a port that is none"),
        ("https://[fd00::7]:100000/", "has a port that is none"),
        ("http://127.0.0.1:8080/keys", closed),
        ("http://0.0.0.0/keys", closed),
        ("http://169.254.169.254/latest/meta-data", closed),
        ("http://100.100.100.200/", closed),
        ("http://192.0.0.192/", closed),
        ("http://168.63.129.16/", closed),
        ("http://224.0.0.1/", closed),
        ("http://255.255.255.255/", closed),
        ("http://[::]/keys", closed),
        ("http://[::1]:8080/keys", closed),
        ("http://[fe80::1]/keys", closed),
        ("http://[fec0::1]/keys", closed),
        ("http://[ff02::1]/keys", closed),
        ("http://[fd00:ec2::254]/keys", closed),
        ("http://[fd20:ce::254]/keys", closed),
    ] {
        let said = match said {
            said if said == closed => format!("spec.jwtRules.jwksUri: \"{uri}\" {said}"),
            said => format!("spec.jwtRules.jwksUri: {said}"),
        };
        let spec = rule(&json!({"jwksUri": uri}));
        refused_and_reported("RequestAuthentication", &spec, &said, "spec.jwtRules[0].jwksUri");
    }
    for (timeout, said) in [("0s", "is 0s"), ("61s", "is 61s"), ("1m1ms", "is 1m1ms"), ("1h", "is 1h")] {
        let spec = rule(&json!({"jwksUri": "https://a.example/keys", "timeout": timeout}));
        let said = format!("spec.jwtRules.timeout: {said}: write a time of more than 0s");
        refused_and_reported("RequestAuthentication", &spec, &said, "spec.jwtRules[0].timeout");
    }
}

#[test]
fn fields_that_no_rule_may_write_and_texts_that_are_not_read_are_refused() {
    let own = FRAMING_FIELDS.iter().chain(IDENTITY_FIELDS).map(|name| name.replace('*', "reason"));
    let spelled = ["X_Forwarded-Client_CERT", "transfer_encoding", "Content-Type", "content_type", "COOKIE"];
    for name in own.chain(spelled.map(str::to_owned)) {
        let said = format!("spec.jwtRules.outputPayloadToHeader: \"{name}\" cannot be written");
        let spec = with_keys(json!({"outputPayloadToHeader": name}));
        refused_and_reported("RequestAuthentication", &spec, &said, "spec.jwtRules[0].outputPayloadToHeader");
        let said = format!("spec.jwtRules.outputClaimToHeaders.header: \"{name}\" cannot be written");
        let good = json!({"header": "X-User", "claim": "sub"});
        let spec = with_keys(json!({"outputClaimToHeaders": [good, {"header": name, "claim": "sub"}]}));
        let path = "spec.jwtRules[0].outputClaimToHeaders[1].header";
        refused_and_reported("RequestAuthentication", &spec, &said, path);
    }
    // 1024 characters and 2048 bytes.
    let long = "é".repeat(1024);
    for (fields, said, path) in [
        (json!({"issuer": long}), "issuer", "issuer"),
        (json!({"audiences": ["a", long]}), "audiences", "audiences[1]"),
        (
            json!({"outputClaimToHeaders": [{"header": "a", "claim": long}]}),
            "outputClaimToHeaders.claim",
            "outputClaimToHeaders[0].claim",
        ),
    ] {
        let said = format!("spec.jwtRules.{said}: has 2048 bytes");
        let path = format!("spec.jwtRules[0].{path}");
        refused_and_reported("RequestAuthentication", &with_keys(fields), &said, &path);
    }
    let target = "{targetRefs: [{kind: Service, name: a, namespace: elsewhere}]}";
    let said = "spec.targetRefs.namespace: a policy cannot reach into another namespace";
    refused_and_reported("RequestAuthentication", target, said, "spec.targetRefs[0].namespace");
}

#[test]
fn what_is_right_of_a_request_authentication_is_taken() {
    let padded = format!("\n {KEYS}\n");
    for (index, spec) in [
        "{}".to_owned(),
        "{selector: null, targetRefs: [], jwtRules: []}".to_owned(),
        "{targetRefs: [{kind: Service, name: a, namespace: default}]}".to_owned(),
        with_keys(json!({
            "audiences": ["a"], "fromHeaders": [{"name": "X-Token", "prefix": "Token "}], "fromParams": ["token"],
            "fromCookies": ["session"], "outputPayloadToHeader": "X-Payload", "forwardOriginalToken": true,
            "outputClaimToHeaders": [{"header": "X-User", "claim": "realm.user"}], "spaceDelimitedClaims": ["roles"],
        })),
        rule(&json!({"jwks": padded})),
        rule(&json!({"jwksUri": "http://keycloak.auth.svc:8080/realms/shop/protocol/openid-connect/certs"})),
        rule(&json!({"jwksUri": "http://10.96.0.7:8080/keys?of=a@b:99999", "timeout": "60s"})),
        rule(&json!({"jwksUri": "https://[fd00:10:96::7]:8443/keys", "timeout": "1ms"})),
    ]
    .iter()
    .enumerate()
    {
        apply(&object("RequestAuthentication", &format!("users-{index}"), spec))
            .unwrap_or_else(|error| panic!("{spec}: {error}"));
    }
}

/// The objects that the translation's own tests are about: whatever it denies for is refused, the rest is taken.
#[test]
fn the_translations_own_objects_are_judged_alike() -> Result<()> {
    let (mut taken, mut refused) = (0, 0);
    for kind in ["authorization_policy", "peer_authentication", "request_authentication"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(VECTORS).join(kind);
        for path in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = path?.path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let object = yaml(&std::fs::read_to_string(&path)?);
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
            // Fails if it is there.
            let _ = SERVER.kubectl(&["create", "namespace", &namespace]);
            let findings = translated(object.clone())?;
            let is_wrong = findings.iter().any(|finding| finding.effect == Effect::Denies)
                || findings.iter().any(|finding| finding.error.field.ends_with(".mode"));
            let answer = apply(&object.to_string());
            ensure!(
                answer.is_err() == is_wrong,
                "{}: {answer:?}, the code says {findings:?}",
                path.display()
            );
            *(if is_wrong { &mut refused } else { &mut taken }) += 1;
        }
    }
    ensure!(taken >= 8 && refused >= 8, "{taken} were taken, {refused} refused");
    Ok(())
}
