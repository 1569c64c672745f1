//! Objects of `testdata/` and what they become.
//!
//! `KIND/NAME.yaml` is the object, `KIND/NAME.expected` what its translation prints as. To write the expected
//! values anew after the model changed, run the tests with `NODEMESH_BLESS=1` and read the difference.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use mesh_common::model::MeshSettings;
use serde::de::DeserializeOwned;

use super::*;

pub(crate) fn settings() -> MeshSettings {
    MeshSettings::default()
}

/// Translates every object of one kind, and compares what each becomes with what stands beside it.
#[track_caller]
fn check<K: DeserializeOwned, T: Debug>(kind: &str, translate: impl Fn(&K) -> T) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(kind);
    let mut objects: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    objects.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    assert!(!objects.is_empty(), "no object in {}", folder.display());
    for path in objects {
        let text = std::fs::read_to_string(&path).unwrap();
        let object: K =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let actual = format!("{:#?}\n", translate(&object));
        let expected = path.with_extension("expected");
        if std::env::var_os("NODEMESH_BLESS").is_some() {
            std::fs::write(&expected, &actual).unwrap();
        }
        let expected = std::fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(actual, expected, "{}", path.display());
    }
}

#[test]
fn pods_become_workloads() {
    check("pod", |object| pod::pod(object, &settings(), pod::Origin::Folder));
}

#[test]
fn namespaces_say_whether_their_pods_are_enrolled() {
    check("namespace", namespace::namespace);
}

#[test]
fn nodes_have_addresses_and_a_zone() {
    check("node", node::node);
}

#[test]
fn services_become_services() {
    check("service", |object| service::service(object, &settings()));
}

#[test]
fn endpoint_slices_become_endpoints() {
    check("endpoint_slice", endpoint_slice::endpoint_slice);
}

#[test]
fn authorization_policies_become_policies() {
    check("authorization_policy", |object| authorization_policy::authorization_policy(object, &settings()));
}

#[test]
fn request_authentications_become_rules() {
    let translate = |object: &_| request_authentication::request_authentication(object, &settings());
    check("request_authentication", translate);
}

#[test]
fn peer_authentications_become_modes() {
    check("peer_authentication", |object| peer_authentication::peer_authentication(object, &settings()));
}
