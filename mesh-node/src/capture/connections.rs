//! Counts the TCP connections of a namespace, from `/proc/net/tcp`: those that were there before it was captured.

use std::fs;
use std::io;

/// `TCP_ESTABLISHED` in the kernel's table.
const ESTABLISHED: &str = "01";

/// Established connections of the namespace that the thread stands in, loopback left out.
pub(super) fn established() -> io::Result<usize> {
    let v4 = fs::read_to_string("/proc/thread-self/net/tcp")?;
    // No IPv6 is no error.
    let v6 = fs::read_to_string("/proc/thread-self/net/tcp6").unwrap_or_default();
    Ok(count(&v4) + count(&v6))
}

/// Lines are `sl local_address rem_address st ...`, addresses in hexadecimal words of the machine's byte order.
fn count(table: &str) -> usize {
    let lines = table.lines().skip(1).map(str::split_ascii_whitespace);
    lines
        .filter_map(|mut fields| Some((fields.nth(1)?, fields.next()?, fields.next()?)))
        .filter(|(local, remote, state)| *state == ESTABLISHED && !is_loopback(local) && !is_loopback(remote))
        .count()
}

fn is_loopback(address: &str) -> bool {
    let ip = address.split(':').next().unwrap_or_default();
    match ip.len() {
        8 => ip.ends_with("7F"),
        _ => {
            ip == "00000000000000000000000001000000"
                || (ip.starts_with("0000000000000000FFFF0000") && ip.ends_with("7F"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_and_loopback_are_left_out() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
            1: 0A01010A:D431 0A02010A:1F90 01 00000000:00000000\n\
            2: 0100007F:D431 0100007F:1F90 01 00000000:00000000\n\
            3: 0A01010A:D432 0A02010A:1F90 06 00000000:00000000\n";
        assert_eq!(count(table), 1);
    }

    #[test]
    fn ipv6_and_mapped_loopback_are_told() {
        assert!(is_loopback("00000000000000000000000001000000:0050"));
        assert!(is_loopback("0000000000000000FFFF00000100007F:0050"));
        assert!(!is_loopback("0000000000000000FFFF00000A01010A:0050"));
        assert!(!is_loopback("77FD0000000000000000000001000000:0050"));
    }
}
