//! How long pods wait for their first answer, which each asks for in its first instruction.

use std::fmt;

use anyhow::{Result, ensure};

/// Seconds from a pod's first instruction to its first answer, of many pods, in order.
#[derive(Clone, Debug)]
pub struct FirstAnswers(Vec<f64>);

impl FirstAnswers {
    /// Reads what pods said: each a line with the time when it began and that of its answer, in seconds by one clock.
    ///
    /// # Errors
    /// Not so many pods said it.
    pub fn read(said: &str, pods: usize) -> Result<Self> {
        let time = |line: &str| -> Option<f64> {
            let (began, answered) = line.split_once(' ')?;
            Some(answered.parse::<f64>().ok()? - began.parse::<f64>().ok()?)
        };
        let mut waits: Vec<f64> = said.lines().filter_map(time).collect();
        ensure!(waits.len() == pods, "{} of {pods} pods said how long they waited:\n{said}", waits.len());
        ensure!(pods > 0, "no pod was asked how long it waited");
        waits.sort_by(f64::total_cmp);
        Ok(Self(waits))
    }

    /// The value, in seconds, that a share of all does not exceed; 0.5 for the median.
    pub fn at(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a short list"
        )]
        let index = (share * (self.0.len() - 1) as f64).round() as usize;
        self.0[index]
    }
}

impl fmt::Display for FirstAnswers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |share| (self.at(share) * 1000.0).round();
        let [median, p90, p99] = [0.5, 0.9, 0.99].map(milliseconds);
        let [least, most] = [0.0, 1.0].map(milliseconds);
        let pods = self.0.len();
        write!(
            out,
            "of {pods} pods after {median} ms at the median, {p90} at p90, {p99} at p99, {least} to {most} at all"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pods_said_is_put_in_order() {
        let said = "10.5 10.9\nnot a time\n3.0 3.1\n7.0 9.0\n";
        let read = FirstAnswers::read(said, 3).unwrap();
        let text = "of 3 pods after 400 ms at the median, 2000 at p90, 2000 at p99, 100 to 2000 at all";
        assert_eq!(read.to_string(), text);
        assert!(FirstAnswers::read(said, 4).is_err());
        assert!(FirstAnswers::read("", 0).is_err());
    }
}
