//! PURE. How the test binaries of a suite run: in what order, which beside each other, how many tests of one at a time.

/// How those of a suite run.
#[derive(Clone, Copy)]
pub struct How {
    /// Those that run beside each other, begun in this order. What is not named runs alone, and first.
    beside: &'static [&'static str],
    /// At most so many.
    at_once: usize,
    /// How many tests of one run at a time, of two processors.
    of_two: usize,
}

/// One after the other, as many tests at a time as there are processors.
pub const USUAL: How = How { beside: &[], at_once: 1, of_two: 2 };

/// The same with more: most wait for something to happen on loopback, and leave four fifths of the processors unused.
pub const UNIT: How = How { of_two: 6, ..USUAL };

/// Those that wait for what is to happen and for what must not, twice as long as they compute and more, beside each other; the
/// longest first. One after the other those that hold to times, as that of a request beside bulk, that measure, or that are short.
pub const END_TO_END: How = How {
    beside: &[
        "deadlines",
        "hostile_answers",
        "controller",
        "inner_http",
        "versions",
        "issuer_keys",
        "policy_l4",
        "protocols",
        "hostile",
        "revocation",
        "end_users",
    ],
    at_once: 2,
    of_two: 3,
};

/// The two of WebSocket's suite beside each other: its client is one process, which asks one thing after the other.
pub const CONFORMANCE: How = How { beside: &["websocket_http2", "websocket"], at_once: 2, of_two: 2 };

/// Each has a Kubernetes of its own, of up to three nodes, and waits for it longer than it computes. The longest first, so that
/// none is left alone at the end.
pub const CLUSTER: How = How {
    beside: &[
        "controller",
        "faults",
        "mesh",
        "reboot",
        "rotation",
        "starts",
        "workloads",
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
        let place = |job: &T| self.beside.iter().position(|of| *of == name(job));
        let (mut beside, mut alone): (Vec<T>, Vec<T>) =
            jobs.into_iter().partition(|job| place(job).is_some());
        alone.sort_by(|one, other| name(one).cmp(name(other)));
        beside.sort_by_key(place);
        [Round { at_once: 1, jobs: alone }, Round { at_once: self.at_once, jobs: beside }]
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
    fn what_is_not_named_runs_alone_and_first() {
        let [alone, others] = CLUSTER.rounds(vec!["mesh", "nodes", "controller", "new"], |name| name);
        assert_eq!(alone, Round { at_once: 1, jobs: vec!["new", "nodes"] });
        assert_eq!(others, Round { at_once: 2, jobs: vec!["controller", "mesh"] });
        let [alone, others] = USUAL.rounds(vec!["mesh", "controller"], |name| name);
        assert_eq!((alone.jobs, others.jobs), (vec!["controller", "mesh"], vec![]));
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
            for name in how.beside {
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
        for name in CLUSTER.beside {
            let files = [tests.join(format!("{name}.rs")), tests.join(name).join("main.rs")];
            let text: String = files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
            assert!(!text.contains("mod machine;"), "{name} looks at the whole machine");
        }
    }
}
