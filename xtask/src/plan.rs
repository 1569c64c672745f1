//! PURE. How the test binaries of a suite run: in what order, which beside each other, how many tests of one at a time.

/// How those of a suite run.
#[derive(Clone, Copy)]
pub struct How {
    /// Those that run alone, and first, in the order of their names.
    alone: &'static [&'static str],
    /// Those that are begun first of the others, in this order; then the rest, in that of their names.
    longest: &'static [&'static str],
    /// At most so many of the others run beside each other.
    at_once: usize,
    /// How many tests of one run at a time, of two processors.
    of_two: usize,
}

/// One after the other, as many tests at a time as there are processors.
pub const USUAL: How = How { alone: &[], longest: &[], at_once: 1, of_two: 2 };

/// The same with more: most wait for something to happen on loopback, and leave four fifths of the processors unused.
pub const UNIT: How = How { of_two: 6, ..USUAL };

/// They wait for what is to happen and for what must not, twice as long as they compute and more. Alone are those that measure how
/// long it takes who behaves, or who is cut off.
pub const END_TO_END: How = How {
    alone: &["attacks", "live", "slow_network"],
    longest: &[
        "deadlines",
        "controller",
        "first_instruction",
        "inner_http",
        "versions",
        "limits",
        "crash",
        "issuer_keys",
        "on_demand",
        "policy_l4",
        "rotation",
        "protocols",
        "hostile",
        "churn",
        "daemon",
    ],
    at_once: 3,
    of_two: 3,
};

/// The two of WebSocket's suite beside the others: its client is one process, which asks one thing after the other.
pub const CONFORMANCE: How = How { longest: &["websocket_http2", "websocket"], at_once: 2, ..USUAL };

/// Each has a Kubernetes of its own, of up to three nodes, and waits for it longer than it computes. The longest first, so that
/// none is left alone at the end. What looks at the whole machine is alone.
pub const CLUSTER: How = How {
    alone: &["nodes"],
    longest: &[
        "controller",
        "faults",
        "mesh",
        "workloads",
        "starts",
        "rotation",
        "reboot",
        "definitions",
        "install",
    ],
    at_once: 2,
    of_two: 2,
};

/// Some that run, at most so many at a time, begun in this order.
#[derive(Debug, PartialEq, Eq)]
pub struct Round<T> {
    pub at_once: usize,
    pub jobs: Vec<T>,
}

impl How {
    /// Puts those of a suite into rounds, in which the order is the same each time.
    pub fn rounds<T>(self, jobs: Vec<T>, name: impl Fn(&T) -> &str) -> [Round<T>; 2] {
        let (mut alone, mut others): (Vec<T>, Vec<T>) =
            jobs.into_iter().partition(|job| self.alone.contains(&name(job)));
        alone.sort_by(|one, other| name(one).cmp(name(other)));
        others.sort_by(|one, other| name(one).cmp(name(other)));
        let place = |job: &T| self.longest.iter().position(|of| *of == name(job)).unwrap_or(usize::MAX);
        others.sort_by_key(place);
        [Round { at_once: 1, jobs: alone }, Round { at_once: self.at_once, jobs: others }]
    }

    /// How many tests of one run at a time.
    pub fn threads(self, processors: usize) -> usize {
        (processors * self.of_two / 2).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn who_is_alone_is_first_and_then_the_longest() {
        let [alone, others] = CLUSTER.rounds(vec!["one", "mesh", "nodes", "controller", "new"], |name| name);
        assert_eq!(alone, Round { at_once: 1, jobs: vec!["nodes"] });
        assert_eq!(others, Round { at_once: 2, jobs: vec!["controller", "mesh", "new", "one"] });
        let [alone, others] = USUAL.rounds(vec!["mesh", "controller"], |name| name);
        assert_eq!((alone.jobs, others.jobs), (vec![], vec!["controller", "mesh"]));
    }

    #[test]
    fn who_waits_most_runs_more_tests_than_there_are_processors() {
        assert_eq!([1, 2, 16].map(|processors| USUAL.threads(processors)), [1, 2, 16]);
        assert_eq!([1, 2, 16].map(|processors| END_TO_END.threads(processors)), [1, 3, 24]);
    }

    #[test]
    fn every_name_is_that_of_a_test() {
        for (folder, how) in [
            ("tests/cluster/tests", CLUSTER),
            ("tests/conformance/tests", CONFORMANCE),
            ("tests/e2e/tests", END_TO_END),
        ] {
            let tests = workspace::root().join(folder);
            for name in how.alone.iter().chain(how.longest) {
                let is_there =
                    tests.join(format!("{name}.rs")).exists() || tests.join(name).join("main.rs").exists();
                assert!(is_there, "there is no {name}");
            }
        }
    }

    /// What looks at the whole machine sees what others do.
    #[test]
    fn who_looks_at_the_whole_machine_is_alone() {
        let tests = workspace::root().join("tests/cluster/tests");
        let mut looking = Vec::new();
        for entry in std::fs::read_dir(tests).unwrap() {
            let path = entry.unwrap().path();
            let file = if path.is_dir() { path.join("main.rs") } else { path.clone() };
            if std::fs::read_to_string(file).is_ok_and(|text| text.contains("mod machine;")) {
                looking.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
            }
        }
        assert_eq!(looking, CLUSTER.alone);
    }
}
