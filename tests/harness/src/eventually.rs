//! The one bounded wait of all tests.
//!
//! In: a reason, a limit and a probe. Out: what the probe found, or an error that names the reason.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long things may take that should take milliseconds, on a machine that does other work too.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Time between two looks: at least, and at most.
const INTERVAL: Duration = Duration::from_millis(5);
const LONG_INTERVAL: Duration = Duration::from_millis(500);

/// The part of a wait so far that its next rest is: by so much is found later what there is to find.
const PART: u32 = 16;

/// How many times longer than a look the rest after it is: a look that starts a program would take from others, and from what
/// is waited for, as much as it can get.
const LOOKS: u32 = 3;

/// Names how many times longer than its limit a wait may be: an emulated machine is slow.
const SLOWNESS: &str = "MESH_TEST_SLOWNESS";

/// Looks again and again until `probe` finds something.
///
/// # Errors
/// Nothing was found within `limit`; the text says what was waited for.
pub fn eventually<T>(reason: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    let limit = limit * slowness();
    loop {
        let looked = Instant::now();
        if let Some(found) = probe() {
            return Ok(found);
        }
        if start.elapsed() >= limit {
            bail!("waited {} ms in vain until {reason}", limit.as_millis());
        }
        thread::sleep(rest(start.elapsed(), looked.elapsed()));
    }
}

/// How long to rest between two looks of a bounded wait, after so long in all, and a look that took so long.
pub fn rest(waited: Duration, look: Duration) -> Duration {
    let shortest = INTERVAL * slowness();
    (waited / PART).max(look * LOOKS).clamp(shortest, LONG_INTERVAL.max(shortest))
}

/// Like [`eventually`], for a condition, and says how long it took.
///
/// # Errors
/// The condition did not hold within `limit`.
pub fn eventually_true(reason: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    eventually(reason, limit, || holds().then_some(()))?;
    Ok(start.elapsed())
}

fn slowness() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| std::env::var(SLOWNESS).ok().and_then(|text| text.parse().ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_in_vain_names_its_reason() {
        let error = eventually("the moon is blue", Duration::from_millis(1), || None::<()>).unwrap_err();
        assert_eq!(error.to_string(), "waited 1 ms in vain until the moon is blue");
    }

    #[test]
    fn who_looks_leaves_the_processor_to_others() {
        let milliseconds = Duration::from_millis;
        assert_eq!(
            rest(milliseconds(10), milliseconds(0)),
            INTERVAL,
            "what takes milliseconds is found at once"
        );
        assert_eq!(rest(milliseconds(1600), milliseconds(0)), milliseconds(100));
        assert_eq!(rest(milliseconds(0), milliseconds(50)), milliseconds(150), "a program was started");
        assert_eq!(rest(milliseconds(60_000), milliseconds(900)), LONG_INTERVAL);
    }

    #[test]
    fn what_the_probe_finds_is_returned() {
        let mut looks = 0;
        let found = eventually("three looks", PATIENCE, || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.unwrap(), 3);
    }
}
