//! What was measured of the control plane, and what was to be reached.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

/// One figure.
#[derive(Clone, Debug, PartialEq)]
struct Figure {
    name: String,
    unit: &'static str,
    value: f64,
    /// What it is to stay below.
    below: Option<f64>,
}

/// All of them, in the order in which they were measured.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<Figure>);

impl Figures {
    pub fn add(&mut self, name: impl Into<String>, unit: &'static str, value: f64, below: Option<f64>) {
        let figure = Figure { name: name.into(), unit, value, below };
        println!("{}", line(&figure));
        self.0.push(figure);
    }

    pub fn json(&self) -> Value {
        let figure = |figure: &Figure| {
            let Figure { name, unit, value, below } = figure;
            json!({"figure": name, "unit": unit, "value": value, "below": below,
                "reached": below.map(|below| value < &below)})
        };
        self.0.iter().map(figure).collect()
    }

    /// The table, and how many goals were reached.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for figure in &self.0 {
            let _ = writeln!(text, "{}", line(figure));
        }
        let goals: Vec<&Figure> = self.0.iter().filter(|figure| figure.below.is_some()).collect();
        let missed: Vec<&str> =
            goals.iter().filter(|goal| !goal.is_reached()).map(|goal| &*goal.name).collect();
        let _ = match missed.is_empty() {
            true => writeln!(text, "control: all {} goals reached", goals.len()),
            false => {
                let reached = goals.len() - missed.len();
                writeln!(
                    text,
                    "control: {reached} of {} goals reached; missed: {}",
                    goals.len(),
                    missed.join(", ")
                )
            }
        };
        text
    }
}

impl Figure {
    fn is_reached(&self) -> bool {
        self.below.is_none_or(|below| self.value < below)
    }
}

fn line(figure: &Figure) -> String {
    let Figure { name, unit, value, below } = figure;
    let goal = match below {
        Some(below) if figure.is_reached() => format!("below {below}"),
        Some(below) => format!("NOT below {below}"),
        None => String::new(),
    };
    format!("{name:<62} {value:>9.1} {unit:<3} {goal}")
}

/// The value below which this part of all lies.
///
/// # Panics
/// There are none.
pub fn quantile(sorted: &[Duration], part: f64) -> Duration {
    let last = sorted.len() - 1;
    sorted[((sorted.len() as f64 * part).ceil() as usize).saturating_sub(1).min(last)]
}

pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_names_what_was_missed() {
        let mut figures = Figures::default();
        figures.add("small", "MB", 1.0, Some(2.0));
        figures.add("large", "MB", 3.0, Some(2.0));
        figures.add("any", "s", 3.0, None);
        assert!(figures.table().ends_with("control: 1 of 2 goals reached; missed: large\n"));
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&values, 0.5), Duration::from_millis(50));
        assert_eq!(quantile(&values, 0.99), Duration::from_millis(99));
        assert_eq!(quantile(&values[..1], 0.99), Duration::from_millis(1));
    }
}
