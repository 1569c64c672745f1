//! What was measured of each attack, and what was to be reached.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::rows::Row;
use crate::report::{Spread, print};

/// The client's p99 under attack, over what it was.
const LATENCY: f64 = 2.0;
/// Memory over the limit, CPU over the attacker's.
const AMPLIFICATION: f64 = 10.0;
/// Of one core. What both daemons use less is not told from their own work.
const QUIET: f64 = 0.02;

/// One round of one row.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// The client's p99 in microseconds, before and beside the attack.
    pub p99_us: [f64; 2],
    /// The same without a mesh: the same attack on the server itself.
    pub direct_p99_us: [f64; 2],
    /// Calls of the client that failed, in the mesh.
    pub failed: u64,
    /// Most that a daemon grew, MB.
    pub grown: f64,
    /// CPU seconds of both daemons above what they use without the attack.
    pub daemons: f64,
    /// CPU seconds of the attacker.
    pub attacker: f64,
    /// How long the attack lasted, seconds.
    pub seconds: f64,
    /// What the daemon did, counted.
    pub did: BTreeMap<String, u64>,
}

/// All rounds of one row.
#[derive(Clone, Debug)]
pub struct Measured {
    pub row: Row,
    pub rounds: Vec<Round>,
}

/// What is judged, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Answers,
    Latency,
    Memory,
    Cpu,
}

impl Goal {
    fn name(self) -> &'static str {
        match self {
            Self::Answers => "failed calls",
            Self::Latency => "p99",
            Self::Memory => "memory",
            Self::Cpu => "CPU",
        }
    }
}

impl Measured {
    fn spread(&self, of: impl Fn(&Round) -> f64) -> Spread {
        let values: Vec<f64> = self.rounds.iter().map(of).collect();
        Spread::of(&values).unwrap_or(Spread { median: f64::NAN, min: f64::NAN, max: f64::NAN })
    }

    fn latency(&self) -> Spread {
        self.spread(|round| round.p99_us[1] / round.p99_us[0])
    }

    fn direct(&self) -> Spread {
        self.spread(|round| round.direct_p99_us[1] / round.direct_p99_us[0])
    }

    fn cpu(&self) -> Spread {
        self.spread(|round| round.daemons / round.attacker)
    }

    fn is_quiet(&self) -> bool {
        self.spread(|round| round.daemons / round.seconds).median < QUIET
    }

    /// Goals that were missed; nothing is wanted of what is no attack.
    fn missed(&self) -> Vec<Goal> {
        let Some(limit) = self.row.limit else { return Vec::new() };
        let failed: u64 = self.rounds.iter().map(|round| round.failed).sum();
        let checks = [
            (Goal::Answers, failed == 0),
            (Goal::Latency, self.latency().median < LATENCY),
            (Goal::Memory, self.spread(|round| round.grown).max < AMPLIFICATION * limit.megabytes),
            (Goal::Cpu, self.cpu().median < AMPLIFICATION || self.is_quiet()),
        ];
        checks.into_iter().filter(|(_, reached)| !reached).map(|(goal, _)| goal).collect()
    }

    fn did(&self) -> String {
        let mut all = BTreeMap::<&str, u64>::new();
        for (what, count) in self.rounds.iter().flat_map(|round| &round.did) {
            *all.entry(what).or_default() += count;
        }
        let each: Vec<String> = all.iter().map(|(what, count)| format!("{what} {count}")).collect();
        each.join(", ")
    }

    /// A line of the table; also what is said while it is measured.
    pub fn line(&self) -> String {
        let missed = self.missed();
        let missed: Vec<&str> = missed.iter().map(|goal| goal.name()).collect();
        let verdict = match (self.row.limit, missed.is_empty()) {
            (None, _) => "no goal".to_owned(),
            (Some(_), true) => "reached".to_owned(),
            (Some(_), false) => format!("MISSED: {}", missed.join(", ")),
        };
        let limit = self.row.limit.map_or_else(|| "-".to_owned(), |limit| format!("{:.1}", limit.megabytes));
        let cpu = match self.is_quiet() {
            true => "under 2% of a core".to_owned(),
            false => print(self.cpu()),
        };
        format!(
            "{:<30} {:>8.2} {:>22} {:>22} {:>8.1} {limit:>6} {cpu:>22}  {verdict:<24} {}",
            self.row.name,
            self.spread(|round| round.p99_us[0]).median / 1e3,
            print(self.latency()),
            print(self.direct()),
            self.spread(|round| round.grown).max,
            self.did(),
        )
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let rounds: Vec<Value> = self
            .rounds
            .iter()
            .map(|round| {
                json!({"p99_us": round.p99_us, "direct_p99_us": round.direct_p99_us, "failed": round.failed,
                       "grown_mb": round.grown, "daemons_cpu_s": round.daemons, "attacker_cpu_s": round.attacker,
                       "seconds": round.seconds, "did": round.did})
            })
            .collect();
        let limit = self.row.limit.map(|limit| json!({"mb": limit.megabytes, "of": limit.of}));
        let missed: Vec<&str> = self.missed().into_iter().map(Goal::name).collect();
        json!({"attack": self.row.name, "limit": limit, "rounds": rounds, "missed": missed})
    }
}

/// What stands above the lines.
pub fn head() -> String {
    format!(
        "{:<30} {:>8} {:>22} {:>22} {:>8} {:>6} {:>22}  {:<24} {}",
        "attack",
        "p99 ms",
        "under it, to before",
        "the same, no mesh",
        "grown MB",
        "limit",
        "CPU to attacker's",
        "goals",
        "what the attacker saw"
    )
}

/// The table, the limits, and how many attacks stayed within all goals.
pub fn table(all: &[Measured]) -> String {
    let mut text = head() + "\n";
    for measured in all {
        let _ = writeln!(text, "{}", measured.line());
    }
    let _ = writeln!(text, "\np99 below {LATENCY} x, memory and CPU below {AMPLIFICATION} x; limits:");
    let mut said: Vec<&str> = Vec::new();
    for limit in all.iter().filter_map(|measured| measured.row.limit) {
        if !said.contains(&limit.of) {
            said.push(limit.of);
            let _ = writeln!(text, "  {:.1} MB: {}", limit.megabytes, limit.of);
        }
    }
    let attacks: Vec<_> = all.iter().filter(|measured| measured.row.limit.is_some()).collect();
    let missed: Vec<_> = attacks
        .iter()
        .filter(|measured| !measured.missed().is_empty())
        .map(|measured| measured.row.name)
        .collect();
    let _ = write!(text, "attacks: {} of {} within all goals", attacks.len() - missed.len(), attacks.len());
    match missed.is_empty() {
        true => text.push('\n'),
        false => {
            let _ = writeln!(text, "; missed: {}", missed.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attacks::rows::ROWS;

    fn measured(p99: f64, daemons: f64) -> Measured {
        let round = Round {
            p99_us: [100.0, p99],
            direct_p99_us: [50.0, 50.0],
            daemons,
            attacker: 0.1,
            seconds: 1.0,
            ..Round::default()
        };
        let row = ROWS.into_iter().find(|row| row.limit.is_some()).unwrap();
        Measured { row, rounds: vec![round] }
    }

    #[test]
    fn the_last_line_names_what_was_missed() {
        let text = table(&[measured(150.0, 0.5), measured(250.0, 0.5), measured(150.0, 1.5)]);
        assert!(
            text.ends_with("attacks: 1 of 3 within all goals; missed: rapid reset, rapid reset\n"),
            "{text}"
        );
        assert!(text.contains("MISSED: p99") && text.contains("MISSED: CPU"), "{text}");
    }

    #[test]
    fn cpu_that_cannot_be_told_from_none_is_no_amplification() {
        let mut idle = measured(100.0, 0.01);
        idle.rounds[0].attacker = 0.0001;
        assert_eq!(idle.missed(), []);
    }
}
