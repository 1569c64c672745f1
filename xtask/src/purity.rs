//! Pure modules: what they may not name.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::lint::Finding;
use crate::source;
use crate::workspace;

/// Modules that decide and do nothing else: a file or a folder each.
const PURE: &[&str] = &[
    "mesh-common/src",
    "mesh-node/src/kernel/desired",
    "mesh-node/src/kernel/diff",
    "mesh-node/src/control/attachment",
    "mesh-node/src/control/translate",
    "mesh-node/src/identity/rotation",
    "mesh-node/src/telemetry/trace_context",
];

/// What a pure module may not name, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    ("tokio::", "waits"),
    ("hyper::", "does I/O"),
    ("rustls::", "holds keys"),
    ("aya::", "talks to the kernel"),
    ("kube::Client", "talks to the API server"),
    ("std::net::Tcp", "does I/O"),
    ("std::net::Udp", "does I/O"),
    ("std::fs", "does I/O"),
    ("std::io::std", "does I/O"),
    ("std::env", "reads the environment"),
    ("std::thread", "runs threads"),
    ("std::process", "runs programs"),
    ("tracing::", "logs"),
    ("println!", "prints"),
    ("Instant::now", "reads a clock"),
    ("SystemTime::now", "reads a clock"),
    ("async fn", "waits"),
    (".await", "waits"),
    ("Mutex<", "locks"),
    ("RwLock<", "locks"),
];

/// Checks every pure module.
pub fn check(findings: &mut Vec<Finding>) -> Result<()> {
    for place in PURE {
        for file in files(&workspace::root().join(place))? {
            // `abi` is bytes shared with the kernel: it implements aya's marker trait for them.
            if source::is_test_file(&file) || file.starts_with(workspace::root().join("mesh-common/src/abi"))
            {
                continue;
            }
            for (line, problem) in problems(&source::read(&file)?) {
                findings.push(Finding::at(&file, line, problem));
            }
        }
    }
    Ok(())
}

fn files(place: &Path) -> Result<Vec<PathBuf>> {
    let file = place.with_extension("rs");
    if file.exists() { Ok(vec![file]) } else { source::files(place) }
}

fn problems(text: &str) -> Vec<(usize, String)> {
    let mut problems = Vec::new();
    for line in source::code(text) {
        for (name, why) in FORBIDDEN {
            if line.code.contains(name) {
                problems.push((line.number, format!("a pure module names {name}, which {why}")));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_not_pure() {
        assert_eq!(problems("fn a() {\n    let now = Instant::now();\n}\n")[0].0, 2);
    }

    #[test]
    fn a_pure_modules_tests_may_do_io() {
        assert!(problems("#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n").is_empty());
    }
}
