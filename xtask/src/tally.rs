//! Counts what passed and failed: tests, from what their binaries print, and the steps themselves.

use std::time::Duration;

use crate::busy::Busy;

/// What passed and failed so far.
#[derive(Default)]
pub struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    steps: Vec<String>,
    failures: Vec<String>,
}

impl Tally {
    /// Returns how many tests and steps were counted.
    pub fn tests(&self) -> usize {
        self.passed + self.failed
    }

    /// Returns whether anything failed.
    pub fn has_failed(&self) -> bool {
        self.failed > 0
    }

    /// Reads a line that `cargo test` wrote.
    pub fn read(&mut self, line: &str) {
        if let Some(test) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(test.to_string());
        }
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        // "ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s"
        let count = |word: &str| -> usize {
            result
                .split([';', '.'])
                .filter_map(|part| part.trim().strip_suffix(word)?.trim().parse::<usize>().ok())
                .sum()
        };
        self.passed += count("passed");
        // A test that cannot run fails: an ignored one is no better.
        self.failed += count("failed") + count("ignored");
    }

    /// Counts a test binary that ended without saying what failed, as on a crash or at its deadline.
    pub fn count_crash(&mut self, counted_before: usize, what: &str) {
        if self.tests() == counted_before {
            self.failed += 1;
            self.failures.push(what.to_owned());
        }
    }

    /// Counts a step; `busy` says how busy it had the processors.
    pub fn step(&mut self, name: &str, took: Duration, busy: Option<Busy>, passed: bool) {
        let verdict = if passed { "passed" } else { "FAILED" };
        let busy = busy.map(|busy| format!("  {busy}")).unwrap_or_default();
        self.steps.push(format!("{name:<12} {verdict:<8} {:>7.1} s{busy}", took.as_secs_f64()));
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.failures.push(format!("step {name}"));
        }
    }

    /// Counts a step that was left out.
    pub fn skip(&mut self, name: &str, reason: &str) {
        self.skipped += 1;
        self.steps.push(format!("{name:<12} SKIPPED  {reason}"));
    }

    /// Returns the steps, a line each, and then what failed.
    pub fn report(&self) -> String {
        let mut lines = self.steps.clone();
        lines.extend(self.failures.iter().map(|failure| format!("FAILED: {failure}")));
        lines.join("\n")
    }

    /// Returns the closing line.
    pub fn line(&self) -> String {
        let Self { passed, failed, skipped, .. } = self;
        match skipped {
            0 => format!("{passed} passed, {failed} failed"),
            _ => format!("{passed} passed, {failed} failed, {skipped} skipped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_over_binaries() {
        let mut tally = Tally::default();
        tally.read(
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        tally.read("test a::b ... FAILED");
        tally.read("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.21s");
        tally.step("unit", Duration::from_secs(1), None, false);
        assert_eq!(tally.line(), "7 passed, 2 failed");
        assert!(tally.report().contains("FAILED: a::b"));
    }

    #[test]
    fn an_ignored_test_is_a_failed_one() {
        let mut tally = Tally::default();
        tally.read(
            "test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        assert!(tally.has_failed());
    }

    #[test]
    fn a_skipped_step_shows_in_the_closing_line() {
        let mut tally = Tally::default();
        tally.step("unit", Duration::ZERO, None, true);
        tally.skip("advisories", "no database");
        assert_eq!(tally.line(), "1 passed, 0 failed, 1 skipped");
    }
}
