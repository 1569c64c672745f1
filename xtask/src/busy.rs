//! How busy the processors of this machine were: by this suite and by whatever else runs, as the kernel counts.
//!
//! In: what `/proc/stat` says at two moments. Out: the part of the time between them in which they computed. What is low is a
//! suite that waits, of which more might run at a time.

use std::fmt;
use std::fs;

/// Time of all processors together since the machine started, in ticks of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processors {
    all: u64,
    idle: u64,
}

/// The part of a time in which the processors computed, in hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy(u64);

impl Processors {
    /// Those of now; `None` where the kernel does not say.
    pub fn now() -> Option<Self> {
        Self::read(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// How busy they were since then; `None` if no time has passed.
    pub fn busy_since(self, before: Self) -> Option<Busy> {
        let all = self.all.saturating_sub(before.all);
        let idle = self.idle.saturating_sub(before.idle).min(all);
        (100 * (all - idle)).checked_div(all).map(Busy)
    }

    fn read(text: &str) -> Option<Self> {
        let ticks = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = ticks.split_whitespace().map_while(|word| word.parse().ok()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; what guests take is in user, too (proc_stat(5)).
        let [_, _, _, idle, waiting, ..] = ticks[..] else { return None };
        Some(Self { all: ticks.iter().take(8).sum(), idle: idle + waiting })
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "processors {} % busy", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_not_busy() {
        let read = |text: &str| Processors::read(text).unwrap();
        let before = read("cpu  100 0 50 800 50 0 0 0 90 0\ncpu0 1 1 1 1 1 1 1 1\n");
        assert_eq!(before, Processors { all: 1000, idle: 850 });
        let after = read("cpu  160 10 80 850 100 0 0 0 95 0\n");
        assert_eq!(after.busy_since(before), Some(Busy(50)));
        assert_eq!(before.busy_since(before), None);
        assert_eq!(Busy(50).to_string(), "processors 50 % busy");
        assert_eq!(Processors::read("intr 1 2 3"), None);
    }
}
