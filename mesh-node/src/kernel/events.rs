//! The ring buffer: refusals that the programs wrote down.

use std::net::SocketAddr;

use aya::maps::{MapData, RingBuf};
use mesh_common::abi::addr::{IpKey, Port};
use mesh_common::abi::event::RefusalEvent;
use mesh_common::abi::verdict::Verdict;

/// A connection or socket that a kernel program refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Nanoseconds of the monotonic clock.
    pub monotonic_ns: u64,
    /// Cookie of the network namespace; 0 for inbound ones.
    pub netns_cookie: u64,
    /// Who connected, where it is known.
    pub source: Option<SocketAddr>,
    /// What was asked for, where it is known.
    pub destination: Option<SocketAddr>,
    /// Why it was refused.
    pub reason: &'static str,
}

/// Reads what was written since the last time, at most `limit` records. Called by the clock: the programs wake
/// nobody. Records that did not fit are counted in the kernel (`event_lost`).
pub(super) fn drain(ring: &mut RingBuf<MapData>, limit: usize) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    while refusals.len() < limit {
        let Some(record) = ring.next() else {
            break;
        };
        refusals.extend(parse(&record));
    }
    refusals
}

/// `None`: a record of another version.
fn parse(record: &[u8]) -> Option<Refusal> {
    if record.len() < size_of::<RefusalEvent>() {
        return None;
    }
    // SAFETY: long enough, and every bit pattern is a valid event; the record need not be aligned.
    let event: RefusalEvent = unsafe { record.as_ptr().cast::<RefusalEvent>().read_unaligned() };
    let verdict = Verdict::from_code(event.verdict)?;
    Some(Refusal {
        monotonic_ns: event.monotonic_ns,
        netns_cookie: event.netns_cookie,
        source: address(event.source, event.source_port),
        destination: address(event.destination, event.destination_port),
        reason: verdict.reason(),
    })
}

fn address(ip: IpKey, port: Port) -> Option<SocketAddr> {
    (!ip.is_unspecified()).then(|| SocketAddr::new(ip.into(), port.number()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_or_unknown_record_is_left_out() {
        assert_eq!(parse(&[0; 10]), None);
        assert_eq!(parse(&[0xff; 56]), None);
    }

    #[test]
    fn a_record_comes_back() {
        let mut record = [0_u8; 56];
        record[16..32].copy_from_slice(&IpKey::from_v4([10, 0, 0, 1]).octets());
        record[48..50].copy_from_slice(&Port::new(80).octets());
        record[52] = Verdict::RefusedNoListener.code();
        let refusal = parse(&record).unwrap();
        assert_eq!(refusal.source, Some(SocketAddr::from(([10, 0, 0, 1], 80))));
        assert_eq!(refusal.destination, None);
        assert_eq!(refusal.reason, "no_listener");
    }
}
