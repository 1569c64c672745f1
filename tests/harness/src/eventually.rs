//! The one bounded wait of all tests.
//!
//! In: a reason, a limit and a probe. Out: what the probe found, or an error that names the reason.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long things may take that should take milliseconds, on a machine that does other work too.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(5);

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
        if let Some(found) = probe() {
            return Ok(found);
        }
        if start.elapsed() >= limit {
            bail!("waited {} ms in vain until {reason}", limit.as_millis());
        }
        thread::sleep(INTERVAL * slowness());
    }
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
    fn what_the_probe_finds_is_returned() {
        let mut looks = 0;
        let found = eventually("three looks", PATIENCE, || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.unwrap(), 3);
    }
}
