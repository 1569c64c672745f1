//! What was measured, as ratios inside one round, with their spread.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

/// Result of one load of requests.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    /// Requests answered per second.
    pub per_second: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 99th percentile of latency in microseconds.
    pub p99_us: f64,
}

impl Requests {
    /// Summarises latencies in microseconds that were observed during `elapsed`.
    ///
    /// # Errors
    /// If nothing was answered.
    pub fn from_micros(mut micros: Vec<u32>, elapsed: Duration) -> anyhow::Result<Self> {
        ensure!(!micros.is_empty(), "the load got no answer");
        micros.sort_unstable();
        let at = |share: f64| f64::from(micros[((micros.len() - 1) as f64 * share) as usize]);
        Ok(Self {
            per_second: micros.len() as f64 / elapsed.as_secs_f64(),
            p50_us: at(0.5),
            p99_us: at(0.99),
        })
    }

    /// Reads what [`Requests::json`] wrote.
    ///
    /// # Errors
    /// A figure is missing.
    pub fn from_json(text: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(text).context("read the load's JSON")?;
        let figure =
            |name: &str| value[name].as_f64().with_context(|| format!("the load said no {name}: {text}"));
        Ok(Self { per_second: figure("per_second")?, p50_us: figure("p50_us")?, p99_us: figure("p99_us")? })
    }

    /// As JSON, for the process that started the load.
    pub fn json(&self) -> Value {
        json!({"per_second": self.per_second, "p50_us": self.p50_us, "p99_us": self.p99_us})
    }
}

/// One figure of one path in every round, in the order of the rounds.
#[derive(Debug, Default)]
pub struct Series {
    rounds: Vec<f64>,
}

/// All figures, in the order in which they were first measured.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

/// One figure of one kind of traffic, by path.
#[derive(Debug)]
struct Figure {
    kind: String,
    name: String,
    paths: BTreeMap<String, Series>,
}

/// Median, least and most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median of the rounds.
    pub median: f64,
    /// The least of the rounds.
    pub min: f64,
    /// The most of the rounds.
    pub max: f64,
}

impl Spread {
    /// The spread of values; `None` of no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Self { median: sorted[sorted.len() / 2], min, max })
    }
}

impl Report {
    /// Adds the next round's value.
    pub fn add(&mut self, kind: &str, figure: &str, path: &str, value: f64) {
        let known = self.figures.iter().position(|known| known.kind == kind && known.name == figure);
        let at = known.unwrap_or_else(|| {
            let paths = BTreeMap::new();
            self.figures.push(Figure { kind: kind.to_owned(), name: figure.to_owned(), paths });
            self.figures.len() - 1
        });
        self.figures[at].paths.entry(path.to_owned()).or_default().rounds.push(value);
    }

    /// What the rounds gave for one path.
    pub fn spread(&self, kind: &str, figure: &str, path: &str) -> Option<Spread> {
        Spread::of(&self.paths(kind, figure)?.get(path)?.rounds)
    }

    /// The same over another path's value of the same round.
    pub fn ratio(&self, kind: &str, figure: &str, path: &str, baseline: &str) -> Option<Spread> {
        ratios(self.paths(kind, figure)?, path, baseline)
    }

    fn paths(&self, kind: &str, figure: &str) -> Option<&BTreeMap<String, Series>> {
        let found = self.figures.iter().find(|known| known.kind == kind && known.name == figure);
        Some(&found?.paths)
    }

    /// A line per figure and path: the figure itself, and its ratio to `baseline` of the same rounds.
    pub fn table(&self, baseline: &str) -> String {
        let mut text = format!(
            "{:<12} {:<28} {:<10} {:>34} {:>28}\n",
            "traffic",
            "figure",
            "path",
            "median [min .. max]",
            format!("ratio to {baseline}")
        );
        let mut figures: Vec<&Figure> = self.figures.iter().collect();
        // Stable: within one kind the order stays.
        figures.sort_by_key(|figure| &figure.kind);
        for Figure { kind, name, paths } in figures {
            for (path, series) in paths {
                let spread = Spread::of(&series.rounds).map_or_else(|| "-".to_owned(), print);
                let ratio = ratios(paths, path, baseline).map_or_else(|| "-".to_owned(), print);
                let _ = writeln!(text, "{kind:<12} {name:<28} {path:<10} {spread:>34} {ratio:>28}");
            }
        }
        text
    }

    /// The same as JSON.
    pub fn json(&self, baseline: &str) -> Value {
        let rows: Vec<Value> = self
            .figures
            .iter()
            .flat_map(|Figure { kind, name, paths }| {
                paths.iter().map(move |(path, series)| {
                    let ratio = ratios(paths, path, baseline)
                        .map(|spread| json!({"median": spread.median, "min": spread.min, "max": spread.max}));
                    json!({"traffic": kind, "figure": name, "path": path, "rounds": series.rounds,
                           "ratio": ratio, "baseline": baseline})
                })
            })
            .collect();
        Value::Array(rows)
    }
}

/// The ratios of `path` to `baseline`, each inside its round.
fn ratios(paths: &BTreeMap<String, Series>, path: &str, baseline: &str) -> Option<Spread> {
    let base = &paths.get(baseline)?.rounds;
    let rounds = &paths.get(path)?.rounds;
    let ratios: Vec<f64> = rounds.iter().zip(base).map(|(value, base)| value / base).collect();
    Spread::of(&ratios)
}

/// Median, least and most, for a table.
pub fn print(spread: Spread) -> String {
    let digits = if spread.median >= 100.0 { 0 } else { 2 };
    format!("{:.digits$} [{:.digits$} .. {:.digits$}]", spread.median, spread.min, spread.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_inside_a_round() {
        let mut report = Report::default();
        for (mesh, envoy) in [(20.0, 10.0), (60.0, 20.0), (9.0, 9.0)] {
            report.add("http1", "requests/s at 32", "nodemesh", mesh);
            report.add("http1", "requests/s at 32", "envoy", envoy);
        }
        let rows = report.json("envoy");
        let row = rows.as_array().unwrap().iter().find(|row| row["path"] == "nodemesh").unwrap();
        assert_eq!(row["ratio"], json!({"median": 2.0, "min": 1.0, "max": 3.0}));
    }
}
