//! The order of the modules: a module may import only what stands to its left.

use std::path::Path;

use anyhow::Result;

use crate::lint::Finding;
use crate::source;
use crate::workspace;

/// Modules of `mesh-common`, in order.
const COMMON: &[&str] =
    &["abi", "token", "model", "tunnel", "http1", "grpc", "snapshot", "resolve", "policy", "route"];

/// Modules of `mesh-node`, in order.
const NODE: &[&str] = &[
    "args",
    "config",
    "drain",
    "system",
    "telemetry",
    "kernel",
    "xds",
    "control",
    "capture",
    "identity",
    "key_sets",
    "config_client",
    "transport",
    "proxy",
    "admin",
    "controller",
    "cli",
    "app",
];

/// Who may import what: one owner per dependency.
const OWNERS: &[(&str, &[&str])] = &[
    ("aya", &["kernel"]),
    ("kube", &["control", "controller"]),
    ("k8s_openapi", &["control", "controller"]),
    ("rcgen", &["identity"]),
    ("prost", &["xds", "proxy"]),
    ("envoy_types", &["xds", "config_client", "controller", "proxy"]),
    ("tonic", &["xds", "config_client", "controller"]),
    // key_sets asks the servers of issuers, which speak HTTP and nothing of ours.
    ("hyper", &["key_sets", "transport", "proxy", "admin", "controller", "cli"]),
    ("h2", &["transport", "proxy"]),
];

/// Checks the order in every crate that has one.
pub fn check(findings: &mut Vec<Finding>) -> Result<()> {
    for (crate_name, order, owners) in [("mesh-common", COMMON, &[][..]), ("mesh-node", NODE, OWNERS)] {
        let folder = workspace::root().join(crate_name).join("src");
        for file in source::files(&folder)? {
            let inside = file.strip_prefix(&folder).expect("the file was found below the folder");
            if source::is_test_file(inside) || is_root(inside) {
                continue;
            }
            let text = source::read(&file)?;
            for (line, problem) in problems(inside, &text, order, owners) {
                findings.push(Finding::at(&file, line, problem));
            }
        }
    }
    Ok(())
}

/// The crate's own roots and binaries compose all modules.
fn is_root(inside: &Path) -> bool {
    inside == Path::new("lib.rs") || inside == Path::new("main.rs") || inside.starts_with("bin")
}

fn problems(inside: &Path, text: &str, order: &[&str], owners: &[(&str, &[&str])]) -> Vec<(usize, String)> {
    let path = module_path(inside);
    let module = path[0].as_str();
    let Some(place) = order.iter().position(|name| *name == module) else {
        return vec![(1, format!("module {module} has no place in xtask/src/layers.rs"))];
    };
    let mut problems = Vec::new();
    for (line, imported) in imports(text, path.len()) {
        match order.iter().position(|name| *name == imported) {
            Some(other) if other > place => problems.push((
                line,
                format!("{module} imports {imported}, which stands to its right in the layers"),
            )),
            _ => {}
        }
    }
    for line in source::code(text) {
        for (dependency, allowed) in owners {
            if !allowed.contains(&module) && names_crate(&line.code, dependency) {
                problems.push((
                    line.number,
                    format!("{module} names {dependency}, which only {} may", allowed.join(", ")),
                ));
            }
        }
    }
    problems
}

/// Returns a file's module path: `kernel/diff.rs` is `[kernel, diff]`, `kernel/mod.rs` is `[kernel]`.
fn module_path(inside: &Path) -> Vec<String> {
    let mut path: Vec<String> =
        inside.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if path.len() > 1 && path.last().is_some_and(|name| name == "mod") {
        path.pop();
    }
    path
}

/// Returns the top-level modules that a source names through `crate::` or enough `super::`, with their lines.
fn imports(text: &str, depth: usize) -> Vec<(usize, String)> {
    let lines = source::code(text);
    let mut joined = String::new();
    let mut starts = Vec::new();
    for line in &lines {
        starts.push((joined.len(), line.number));
        joined.push_str(line.code.trim());
        joined.push(' ');
    }
    let line_at = |offset: usize| {
        let index = starts.partition_point(|(start, _)| *start <= offset);
        starts[index - 1].1
    };
    let mut found = Vec::new();
    for prefix in ["crate::".to_string(), "super::".repeat(depth)] {
        for (offset, _) in joined.match_indices(&prefix) {
            if joined[..offset].ends_with(|letter: char| letter.is_alphanumeric() || "_:".contains(letter)) {
                continue;
            }
            let line = line_at(offset);
            found.extend(first_names(&joined[offset + prefix.len()..]).into_iter().map(|name| (line, name)));
        }
    }
    found
}

/// Returns the first name of a path, or the first name of each member of a `{...}` group.
fn first_names(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        return vec![identifier(rest)];
    };
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut expects_name = true;
    for (offset, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expects_name = true,
            _ if letter.is_whitespace() => {}
            _ if expects_name => {
                names.push(identifier(&group[offset..]));
                expects_name = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

fn names_crate(code: &str, dependency: &str) -> bool {
    let path = format!("{dependency}::");
    code.match_indices(&path).any(|(offset, _)| {
        !code[..offset].ends_with(|letter: char| letter.is_alphanumeric() || "_:".contains(letter))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(inside: &str, text: &str) -> Vec<(usize, String)> {
        problems(Path::new(inside), text, &["model", "policy", "route"], &[("aya", &["model"])])
    }

    #[test]
    fn an_import_to_the_right_is_found_with_its_line() {
        let found = check("policy/evaluate.rs", "use std::fmt;\nuse crate::route::Plan;\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, 2);
        assert!(found[0].1.contains("policy imports route"));
    }

    #[test]
    fn an_import_to_the_left_is_allowed() {
        assert!(check("route/mod.rs", "use crate::policy::Permit;\n").is_empty());
    }

    #[test]
    fn a_group_over_several_lines_is_read() {
        let found = check("policy/mod.rs", "use crate::{\n    model::{Name, Uid},\n    route,\n};\n");
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn super_reaches_other_modules_too() {
        assert_eq!(check("policy/mod.rs", "use super::route::Plan;\n").len(), 1);
        assert_eq!(check("policy/deny/mod.rs", "use super::super::route::Plan;\n").len(), 1);
        assert!(check("policy/deny.rs", "use super::route::Plan;\n").is_empty());
    }

    #[test]
    fn a_dependency_has_one_owner() {
        assert_eq!(check("policy/mod.rs", "use aya::Ebpf;\n").len(), 1);
        assert!(check("model/mod.rs", "use aya::Ebpf;\n").is_empty());
    }

    #[test]
    fn a_module_without_a_place_is_found() {
        assert_eq!(check("drawer.rs", "").len(), 1);
    }
}
