//! What the kernel says of CPU and memory.

use std::fs;

use anyhow::{Context, Result};
use rustix::param::clock_ticks_per_second;

/// CPU seconds that the whole machine was busy since boot, with interrupts, without idling and waiting.
///
/// # Errors
/// `/proc/stat` cannot be read.
pub fn busy_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let line = stat.lines().next().context("/proc/stat has a first line")?;
    // proc(5): user, nice, system, idle, iowait, irq, softirq, steal.
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|&field| ticks.get(field)).sum();
    Ok(busy as f64 / clock_ticks_per_second() as f64)
}

/// CPU seconds that a process used, in user space and in the kernel.
///
/// # Errors
/// The process is gone.
pub fn process_seconds(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // proc(5): the name, in parentheses, may hold anything; utime and stime are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(')').context("a process has a name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    Ok(ticks.sum::<u64>() as f64 / clock_ticks_per_second() as f64)
}

/// Resident memory of a process in MB (10^6 bytes).
///
/// # Errors
/// The process is gone.
pub fn resident_megabytes(process: u32) -> Result<f64> {
    megabytes(process, "VmRSS:")
}

/// The most that it ever was.
///
/// # Errors
/// The process is gone.
pub fn peak_megabytes(process: u32) -> Result<f64> {
    megabytes(process, "VmHWM:")
}

/// Has the most that it ever was begin anew (proc(5): `/proc/PID/clear_refs`, since Linux 4.0).
///
/// # Errors
/// The process is gone.
pub fn forget_peak(process: u32) -> Result<()> {
    let path = format!("/proc/{process}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("write {path}"))
}

fn megabytes(process: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kilobytes = line.with_context(|| format!("a process has {field}"))?.trim().trim_end_matches(" kB");
    Ok(kilobytes.parse::<f64>().with_context(|| format!("read {field}"))? * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_computes_uses_cpu() {
        let own = std::process::id();
        let before = process_seconds(own).unwrap();
        while process_seconds(own).unwrap() <= before {}
        assert!(busy_seconds().unwrap() > 0.0);
    }
}
