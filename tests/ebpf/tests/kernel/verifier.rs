//! Every program is accepted, at a small part of what the verifier may look at.

use anyhow::{Context as _, Result};

use crate::{stand, two_pods};

/// Instructions that the verifier looks at before it gives up (`BPF_COMPLEXITY_LIMIT_INSNS`, since Linux 5.2).
const LIMIT: u64 = 1_000_000;

#[test]
fn every_program_is_verified_with_under_5_percent_of_the_limit() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    println!("{}", stand.events("ready")[0]["kernel"].as_str().unwrap_or_default());
    let costs = stand.tell("costs")?;
    let costs = costs.as_array().context("costs are a list")?;
    assert_eq!(costs.len(), 11, "programs that are loaded");
    for cost in costs {
        let (name, bytes) = (&cost["name"], &cost["bytes"]);
        let verified = cost["verified"].as_u64().with_context(|| format!("{name} has a count"))?;
        println!("{name:>18} {verified:>6} instructions verified, {bytes:>5} bytes of machine code");
        assert!(verified < LIMIT / 20, "{name} takes {verified} instructions");
    }
    Ok(())
}
