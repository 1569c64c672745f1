//! What load generators say: wrk for requests and bulk.

use anyhow::{Context, bail};

use crate::report::Requests;

/// Reads what `wrk --latency` printed.
///
/// # Errors
/// If a line is missing, or wrk saw failed requests.
pub fn read_wrk(text: &str) -> anyhow::Result<Requests> {
    if let Some(errors) = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors"))
    {
        bail!("wrk saw failures: {}", errors.trim());
    }
    let after = |label: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
        line.map(str::trim).with_context(|| format!("wrk printed no line {label:?}:\n{text}"))
    };
    Ok(Requests {
        per_second: after("Requests/sec:")?.parse().context("read wrk's Requests/sec")?,
        p50_us: micros(after("50%")?)?,
        p99_us: micros(after("99%")?)?,
    })
}

/// Reads a duration as wrk prints it: `27.00us`, `1.20ms`, `2.00s`.
fn micros(text: &str) -> anyhow::Result<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6)];
    let (number, scale) = units
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))
        .with_context(|| format!("read the duration {text:?} of wrk"))?;
    Ok(number.parse::<f64>().with_context(|| format!("read the duration {text:?} of wrk"))? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_read_in_every_unit() {
        let text = "  Latency Distribution\n     50%   27.50us\n     99%    1.20ms\n  10 requests in 2.00s, 1.00KB read\nRequests/sec:  82944.12\n";
        let read = read_wrk(text).unwrap();
        assert_eq!((read.per_second, read.p50_us, read.p99_us), (82944.12, 27.5, 1200.0));
    }

    #[test]
    fn failed_requests_are_not_a_measurement() {
        assert!(read_wrk("  Non-2xx or 3xx responses: 5\nRequests/sec: 1\n").is_err());
    }
}
