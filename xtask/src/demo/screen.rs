//! What a person sees of the demo: steps, commands, observations, and whether each is as it should be.
//!
//! In: facts that were observed. Out: lines on standard output, in colour on a terminal. Never decides what is right.

use std::fmt::Display;
use std::io::{IsTerminal, stdout};
use std::time::Instant;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// Draws the demo and counts what was not as it should be.
pub(super) struct Screen {
    start: Instant,
    coloured: bool,
    steps: u32,
    right: u32,
    wrong: u32,
}

impl Screen {
    /// Begins to count the time.
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), coloured: stdout().is_terminal(), steps: 0, right: 0, wrong: 0 }
    }

    /// Draws the heading of the next step.
    pub(super) fn step(&mut self, title: &str) {
        self.steps += 1;
        let seconds = self.start.elapsed().as_secs_f64();
        let rule = "─".repeat(86_usize.saturating_sub(title.chars().count()));
        println!("\n{} {title} {rule} {seconds:4.1} s", self.paint(BOLD, format!("━━ {}", self.steps)));
    }

    /// Shows what is typed, and in which pod.
    pub(super) fn command(&self, place: &str, command: &str) {
        println!("  {} {command}", self.paint(DIM, format!("{place} $")));
    }

    /// Shows text as it came.
    pub(super) fn output(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("    {}", self.paint(DIM, line));
        }
    }

    /// Says something that needs no proof.
    pub(super) fn say(&self, text: impl Display) {
        println!("  {text}");
    }

    /// States an observation; `holds` says whether it is as it should be.
    pub(super) fn fact(&mut self, holds: bool, text: impl Display) {
        let mark = if holds { self.paint(GREEN, "✔") } else { self.paint(RED, "✘") };
        println!("  {mark} {text}");
        if holds {
            self.right += 1;
        } else {
            self.wrong += 1;
        }
    }

    /// Ends the demo: the count, and whether everything was as it should be.
    pub(super) fn end(&self) -> bool {
        let seconds = self.start.elapsed().as_secs_f64();
        let (right, wrong) = (self.right, self.wrong);
        let colour = if wrong == 0 { GREEN } else { RED };
        let text = format!("{right} observations as they should be, {wrong} not, in {seconds:.1} s");
        println!("\n{}", self.paint(colour, text));
        wrong == 0
    }

    fn paint(&self, colour: &str, text: impl Display) -> String {
        if self.coloured { format!("{colour}{text}{PLAIN}") } else { text.to_string() }
    }
}
