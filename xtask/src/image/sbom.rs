//! The bill of materials: CycloneDX 1.5, which scanners read.

use anyhow::{Context, Result};
use cargo_metadata::Package;
use serde_json::{Value, json};

use crate::image::packages::{Packages, key};
use crate::image::source::Source;

/// Writes it.
///
/// # Errors
/// If the program itself is not among the packages.
pub fn write(packages: &Packages, source: &Source) -> Result<String> {
    let is_root = |package: &&Package| package.name == "mesh-node";
    let root = packages.all.values().find(is_root).context("mesh-node is not among its packages")?;
    let mut parts: Vec<Value> =
        packages.all.values().filter(|package| !is_root(package)).map(component).collect();
    let libraries =
        [("glibc", &packages.glibc, "LGPL-2.1-or-later"), ("rust-std", &packages.rust, "MIT OR Apache-2.0")]
            .map(|(name, version, licence)| {
                let url = format!("pkg:generic/{name}@{version}");
                json!({
                    "type": "library", "bom-ref": url, "purl": url, "name": name, "version": version,
                    "licenses": [{"expression": licence}],
                })
            });
    parts.extend(libraries);
    let needs = packages.needs.iter().map(|(package, needs)| json!({"ref": package, "dependsOn": needs}));
    let mut subject = component(root);
    subject["type"] = json!("application");
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": source.created(), "component": subject},
        "components": parts,
        "dependencies": needs.collect::<Vec<_>>(),
    });
    Ok(format!("{bill:#}\n"))
}

fn component(package: &Package) -> Value {
    let url = key(package);
    let mut component = json!({
        "type": "library", "bom-ref": url, "purl": url,
        "name": package.name, "version": package.version.to_string(),
    });
    if let Some(licence) = &package.license {
        // Cargo took "/" for "OR" once.
        component["licenses"] = json!([{"expression": licence.replace('/', " OR ")}]);
    }
    if let Some(repository) = &package.repository {
        component["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_licence_and_a_reference_of_its_own() {
        let packages = Packages::read().unwrap();
        let source = Source { version: "0.1.0".to_owned(), revision: None, time: 0 };
        let bill: Value = serde_json::from_str(&write(&packages, &source).unwrap()).unwrap();
        let parts = bill["components"].as_array().unwrap();
        assert_eq!(parts.len(), packages.all.len() + 1, "all, without the program, with two libraries");
        let references: std::collections::BTreeSet<_> =
            parts.iter().map(|part| part["bom-ref"].as_str().unwrap()).collect();
        assert_eq!(references.len(), parts.len());
        for part in parts {
            assert!(part["licenses"][0]["expression"].is_string(), "{part}");
        }
    }
}
