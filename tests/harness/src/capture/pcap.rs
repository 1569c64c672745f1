//! Reads a pcap file: link, IP and TCP headers, and streams put together by sequence number.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Carried;

/// How a file begins whose times are in microseconds, or in nanoseconds.
const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;
/// What tcpdump writes for the interface `any`.
const LINUX_SLL2: u32 = 276;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const SYN: u8 = 0x02;

/// One direction of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Who sends.
    pub from: SocketAddr,
    /// Who receives.
    pub to: SocketAddr,
}

/// The bytes of one direction of one connection, in order, each once.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Between whom.
    pub flow: Flow,
    /// When its first packet was seen, since 1970.
    pub begun: Duration,
    /// What was sent. A gap (a packet from before the capture) is left out.
    pub bytes: Vec<u8>,
}

impl Stream {
    /// How often `wanted` is in it.
    pub fn count(&self, wanted: &[u8]) -> usize {
        self.bytes.windows(wanted.len().max(1)).filter(|window| *window == wanted).count()
    }
}

/// One TCP segment.
struct Segment<'packet> {
    flow: Flow,
    sequence: u32,
    flags: u8,
    payload: &'packet [u8],
}

/// What is known of a flow while the file is read.
struct Assembly {
    begun: Duration,
    /// Sequence number of the first byte; offsets count from it, so that wrapping does no harm.
    base: u32,
    pieces: BTreeMap<u32, Vec<u8>>,
}

/// Reads a whole file in the classic format, of this machine's byte order.
pub(super) fn read(file: &[u8]) -> Result<Carried> {
    let header = file.get(..24).context("a pcap file has a header")?;
    let part_of_second = match u32_at(header, 0) {
        Some(MICROSECONDS) => Duration::from_micros(1),
        Some(NANOSECONDS) => Duration::from_nanos(1),
        _ => bail!("not a pcap file of this machine"),
    };
    let link = u32_at(header, 20).context("the header is whole")?;
    let mut carried = Carried::default();
    let mut assemblies: BTreeMap<(Flow, u32), Assembly> = BTreeMap::new();
    let mut generations: BTreeMap<Flow, u32> = BTreeMap::new();
    let mut rest = &file[24..];
    while let Some(length) = u32_at(rest, 8) {
        let end = 16 + length as usize;
        let Some(packet) = rest.get(16..end) else { break };
        let [seconds, parts] = [0, 4].map(|at| u32_at(rest, at).unwrap_or_default());
        let seen = Duration::from_secs(seconds.into()) + part_of_second * parts;
        rest = &rest[end..];
        carried.packets += 1;
        let Some(segment) = segment(link, packet) else { continue };
        carried.payload_bytes += segment.payload.len();
        add(&mut assemblies, &mut generations, seen, &segment);
    }
    let streams = assemblies.into_iter().map(|((flow, _), assembly)| Stream {
        flow,
        begun: assembly.begun,
        bytes: assembly.join(),
    });
    carried.streams = streams.collect();
    Ok(carried)
}

/// A SYN with another sequence number begins a new connection between the same ports.
fn add(
    assemblies: &mut BTreeMap<(Flow, u32), Assembly>,
    generations: &mut BTreeMap<Flow, u32>,
    seen: Duration,
    segment: &Segment<'_>,
) {
    let syn = segment.flags & SYN != 0;
    let base = if syn { segment.sequence.wrapping_add(1) } else { segment.sequence };
    let generation = generations.entry(segment.flow).or_default();
    let known = assemblies.get(&(segment.flow, *generation));
    if syn && known.is_some_and(|assembly| assembly.base != base) {
        *generation += 1;
    }
    let assembly = assemblies.entry((segment.flow, *generation)).or_insert_with(|| Assembly {
        begun: seen,
        base,
        pieces: BTreeMap::new(),
    });
    if segment.payload.is_empty() {
        return;
    }
    let offset = segment.sequence.wrapping_add(u32::from(syn)).wrapping_sub(assembly.base);
    let piece = assembly.pieces.entry(offset).or_default();
    if piece.len() < segment.payload.len() {
        *piece = segment.payload.to_vec();
    }
}

impl Assembly {
    fn join(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut next = 0_usize;
        for (offset, piece) in self.pieces {
            let known = next.saturating_sub(offset as usize);
            if let Some(new) = piece.get(known..) {
                bytes.extend_from_slice(new);
                next = offset as usize + piece.len();
            }
        }
        bytes
    }
}

fn segment(link: u32, packet: &[u8]) -> Option<Segment<'_>> {
    let (ethertype, payload) = match link {
        ETHERNET => (u16_be(packet, 12)?, packet.get(14..)?),
        LINUX_SLL2 => (u16_be(packet, 0)?, packet.get(20..)?),
        _ => return None,
    };
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(payload),
        ETHERTYPE_IPV6 => ipv6(payload),
        _ => None,
    }
}

fn ipv4(packet: &[u8]) -> Option<Segment<'_>> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    if *packet.get(9)? != TCP {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(bytes)))
    };
    // Padding of short frames stands behind the total length.
    let total = usize::from(u16_be(packet, 2)?);
    tcp(address(12)?, address(16)?, packet.get(header..total.min(packet.len()))?)
}

fn ipv6(packet: &[u8]) -> Option<Segment<'_>> {
    if *packet.get(6)? != TCP {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(bytes)))
    };
    let total = 40 + usize::from(u16_be(packet, 4)?);
    tcp(address(8)?, address(24)?, packet.get(40..total.min(packet.len()))?)
}

fn tcp(from: IpAddr, to: IpAddr, packet: &[u8]) -> Option<Segment<'_>> {
    let header = usize::from(packet.get(12)? >> 4) * 4;
    Some(Segment {
        flow: Flow {
            from: SocketAddr::new(from, u16_be(packet, 0)?),
            to: SocketAddr::new(to, u16_be(packet, 2)?),
        },
        sequence: u32::from_be_bytes(packet.get(4..8)?.try_into().ok()?),
        flags: *packet.get(13)?,
        payload: packet.get(header..)?,
    })
}

fn u16_be(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with these TCP segments, one each second: sequence number, flags, payload.
    fn file(segments: &[(u32, u8, &[u8])]) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, ETHERNET] {
            file.extend(word.to_ne_bytes());
        }
        for (time, (sequence, flags, payload)) in (1..).zip(segments) {
            let mut packet = vec![0; 12];
            packet.extend(ETHERTYPE_IPV4.to_be_bytes());
            let total = u16::try_from(40 + payload.len()).unwrap();
            packet.extend([0x45, 0]);
            packet.extend(total.to_be_bytes());
            packet.extend([0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            packet.extend([0x12, 0x34, 0, 80]);
            packet.extend(sequence.to_be_bytes());
            packet.extend([0, 0, 0, 0, 0x50, *flags, 0, 0, 0, 0, 0, 0]);
            packet.extend(*payload);
            let length = u32::try_from(packet.len()).unwrap();
            for word in [time, 0, length, length] {
                file.extend(word.to_ne_bytes());
            }
            file.extend(packet);
        }
        file
    }

    #[test]
    fn a_marker_in_two_segments_out_of_order_is_found() {
        let carried =
            read(&file(&[(u32::MAX, SYN, b""), (5, 0, b"MARKER"), (0, 0, b"PLAIN"), (0, 0, b"PLAIN")]))
                .unwrap();
        assert_eq!(carried.count(b"PLAINMARKER"), 1);
        assert_eq!(carried.packets, 4);
    }

    #[test]
    fn the_same_ports_used_again_are_another_stream() {
        let carried =
            read(&file(&[(9, SYN, b""), (10, 0, b"one"), (99, SYN, b""), (100, 0, b"two")])).unwrap();
        let texts: Vec<_> = carried.streams.iter().map(|stream| stream.bytes.as_slice()).collect();
        assert_eq!(texts, [b"one", b"two"]);
        let begun: Vec<_> = carried.streams.iter().map(|stream| stream.begun.as_secs()).collect();
        assert_eq!(begun, [1, 3]);
    }
}
