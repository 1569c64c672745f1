//! What is to be reached, and whether it was.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::detect::Spoken;
use crate::figures;
use crate::report::{Report, Spread, print};
use crate::world::{Traffic, Way};

/// Something to be reached by the median of the rounds.
#[derive(Clone, Copy, Debug)]
struct Goal {
    /// The kind of traffic, as it stands in the table.
    kind: &'static str,
    figure: &'static str,
    measure: Measure,
    wanted: Wanted,
}

/// Of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    /// Of Nodemesh's figure over that of another way in the same round.
    RatioTo(Way),
    /// Of Nodemesh's figure itself.
    Own,
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

/// A goal and what was measured.
#[derive(Debug)]
pub struct Outcome {
    goal: Goal,
    measured: Spread,
}

impl Measure {
    fn other(self) -> Option<Way> {
        match self {
            Self::RatioTo(other) => Some(other),
            Self::Own => None,
        }
    }
}

const fn ratio(traffic: Traffic, figure: &'static str, wanted: Wanted) -> Goal {
    Goal { kind: traffic.name(), figure, measure: Measure::RatioTo(Way::Envoy), wanted }
}

/// What was added since an earlier commit may cost a twentieth.
const fn kept(traffic: Traffic, figure: &'static str) -> Goal {
    let measure = Measure::RatioTo(Way::Earlier);
    Goal { kind: traffic.name(), figure, measure, wanted: Wanted::AtLeast(0.95) }
}

const fn own(traffic: Traffic, figure: &'static str, wanted: Wanted) -> Goal {
    Goal { kind: traffic.name(), figure, measure: Measure::Own, wanted }
}

/// To find out what is spoken takes less than a round trip.
const fn found_out(spoken: Spoken) -> Goal {
    let figure = figures::DETECTION_ROUND_TRIPS;
    Goal { kind: spoken.name(), figure, measure: Measure::Own, wanted: Wanted::AtMost(1.0) }
}

const GOALS: &[Goal] = &[
    ratio(Traffic::L4, figures::RATE_AT_32, Wanted::AtLeast(1.7)),
    ratio(Traffic::L4, figures::P50_AT_1, Wanted::AtMost(0.9)),
    ratio(Traffic::L4, figures::NEW_CONNECTIONS, Wanted::AtLeast(3.0)),
    ratio(Traffic::L4, figures::BULK, Wanted::AtLeast(1.1)),
    ratio(Traffic::L4, figures::MEMORY_IDLE, Wanted::AtMost(0.3)),
    ratio(Traffic::L4, figures::MEMORY_HELD, Wanted::AtMost(0.3)),
    own(Traffic::L4, figures::BESIDE_BULK_TO_QUIET, Wanted::AtMost(5.0)),
    ratio(Traffic::Http1, figures::RATE_AT_32, Wanted::AtLeast(3.5)),
    ratio(Traffic::Http1, figures::P50_AT_1, Wanted::AtMost(0.4)),
    ratio(Traffic::Http1, figures::NEW_CONNECTIONS, Wanted::AtLeast(1.5)),
    ratio(Traffic::Http1, figures::BULK, Wanted::AtLeast(1.0)),
    ratio(Traffic::Http1, figures::MEMORY_IDLE, Wanted::AtMost(0.3)),
    ratio(Traffic::Http1, figures::MEMORY_HELD, Wanted::AtMost(0.3)),
    own(Traffic::Http1, figures::BESIDE_BULK_TO_QUIET, Wanted::AtMost(5.0)),
    ratio(Traffic::Grpc, figures::RATE_AT_32, Wanted::AtLeast(1.5)),
    ratio(Traffic::Grpc, figures::P50_AT_1, Wanted::AtMost(0.7)),
    kept(Traffic::L4, figures::RATE_AT_32),
    kept(Traffic::Http1, figures::RATE_AT_32),
    kept(Traffic::Grpc, figures::RATE_AT_32),
    found_out(Spoken::ServerFirst),
    found_out(Spoken::ClientFirst),
    found_out(Spoken::Http),
    found_out(Spoken::HttpRuled),
];

/// Compares every goal that was measured.
pub fn outcomes(report: &Report) -> Vec<Outcome> {
    let measured = |goal: &Goal| {
        let mesh = Way::Nodemesh.name();
        match goal.measure {
            Measure::RatioTo(other) => report.ratio(goal.kind, goal.figure, mesh, other.name()),
            Measure::Own => report.spread(goal.kind, goal.figure, mesh),
        }
    };
    GOALS.iter().filter_map(|goal| Some(Outcome { goal: *goal, measured: measured(goal)? })).collect()
}

/// A line per goal, and one that says how many were reached.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let Goal { kind, figure, measure, wanted } = outcome.goal;
        let what = match measure {
            Measure::RatioTo(other) => format!("{figure}, to {}", other.name()),
            Measure::Own => figure.to_owned(),
        };
        let verdict = if outcome.is_reached() { "reached" } else { "MISSED" };
        let (wanted, measured) = (wanted.to_string(), print(outcome.measured));
        let _ = writeln!(text, "{kind:<12} {what:<42} {wanted:>8} {measured:>28}  {verdict}");
    }
    let missed = outcomes.iter().filter(|outcome| !outcome.is_reached());
    let missed: Vec<String> =
        missed.map(|outcome| format!("{} {}", outcome.goal.kind, outcome.goal.figure)).collect();
    let reached = outcomes.len() - missed.len();
    let _ = write!(text, "{reached} of {} goals reached", outcomes.len());
    match missed.is_empty() {
        true => text.push('\n'),
        false => text.push_str(&format!("; missed: {}\n", missed.join(", "))),
    }
    text
}

/// The same as JSON.
pub fn json(outcomes: &[Outcome]) -> Value {
    let row = |outcome: &Outcome| {
        let Goal { kind, figure, measure, wanted } = outcome.goal;
        let Spread { median, min, max } = outcome.measured;
        json!({"traffic": kind, "figure": figure, "ratio_to": measure.other().map(Way::name),
               "wanted": wanted.to_string(), "median": median, "min": min, "max": max,
               "reached": outcome.is_reached()})
    };
    outcomes.iter().map(row).collect()
}

impl Outcome {
    fn is_reached(&self) -> bool {
        match self.goal.wanted {
            Wanted::AtLeast(least) => self.measured.median >= least,
            Wanted::AtMost(most) => self.measured.median <= most,
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(formatter, ">= {least:.1}"),
            Self::AtMost(most) => write!(formatter, "<= {most:.1}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_judged_by_the_median_of_the_ratios() {
        let mut report = Report::default();
        for (mesh, envoy) in [(17.0, 10.0), (34.0, 10.0), (10.0, 10.0)] {
            report.add("l4", figures::RATE_AT_32, "nodemesh", mesh);
            report.add("l4", figures::RATE_AT_32, "envoy", envoy);
        }
        report.add("l4", figures::BESIDE_BULK_TO_QUIET, "nodemesh", 6.0);
        let outcomes = outcomes(&report);
        let reached: Vec<bool> = outcomes.iter().map(Outcome::is_reached).collect();
        assert_eq!(reached, [true, false]);
        assert!(table(&outcomes).ends_with("1 of 2 goals reached; missed: l4 p50 beside bulk / quiet\n"));
    }
}
