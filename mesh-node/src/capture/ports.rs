//! Which loopback ports a pod's listeners may take: ones that nobody else is likely to want.
//!
//! An application that binds a port which a listener has is told `EADDRINUSE`, on every address of the pod. So the
//! ports are those where IANA registers no service (RFC 6335, section 6: 49152 to 65535), and of them neither the
//! ephemeral ones, which a later `bind` to port 0 would hand to others once their listener is gone, nor those that the
//! pod itself names.

use std::io;
use std::ops::RangeInclusive;

use mesh_common::model::PodDetails;
use rustix::rand::{GetRandomFlags, getrandom};

use super::namespace::Namespace;

/// Linux's own ephemeral range, for where the namespace does not tell.
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;
/// Where no service is registered.
const DYNAMIC: RangeInclusive<u16> = 49_152..=65_535;
/// What needs no privilege.
const UNPRIVILEGED: RangeInclusive<u16> = 1_024..=65_535;
/// Of fewer than these too many may be taken.
const ENOUGH: usize = 256;

/// The ports that listeners of one namespace may take. Never empty.
#[derive(Debug)]
pub struct Ports(Vec<u16>);

impl Ports {
    /// Those for a pod in its namespace.
    pub fn of(namespace: &Namespace, pod: &PodDetails) -> Self {
        let ephemeral = namespace.run(|| Ok(ephemeral_range())).unwrap_or(EPHEMERAL);
        Self::outside(&ephemeral, &expected(pod))
    }

    /// Those for a namespace with that ephemeral range, whose pod is expected to listen on `expected`.
    fn outside(ephemeral: &RangeInclusive<u16>, expected: &[u16]) -> Self {
        let of = |range: RangeInclusive<u16>, is_free: &dyn Fn(&u16) -> bool| {
            range.filter(|port| is_free(port) && !expected.contains(port)).collect::<Vec<_>>()
        };
        let is_lasting = |port: &u16| !ephemeral.contains(port);
        let best = of(DYNAMIC, &is_lasting);
        if best.len() >= ENOUGH {
            return Self(best);
        }
        let registered = of(UNPRIVILEGED, &is_lasting);
        match registered.len() >= ENOUGH {
            true => Self(registered),
            false => Self(of(DYNAMIC, &|_| true)),
        }
    }

    /// One of them at random.
    ///
    /// # Errors
    /// The kernel gives no random number.
    pub fn draw(&self) -> io::Result<u16> {
        let mut random = [0; 4];
        getrandom(&mut random[..], GetRandomFlags::empty())?;
        Ok(self.0[u32::from_le_bytes(random) as usize % self.0.len()])
    }

    /// From the lowest to the highest.
    pub fn range(&self) -> RangeInclusive<u16> {
        self.0[0]..=self.0[self.0.len() - 1]
    }
}

/// The range of the namespace that the thread stands in.
fn ephemeral_range() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = text.split_whitespace().map_while(|bound| bound.parse().ok());
    match (bounds.next(), bounds.next()) {
        (Some(low), Some(high)) => low..=high,
        _ => EPHEMERAL,
    }
}

/// The ports that a pod says it listens on: those with a name, and those of its probes.
fn expected(pod: &PodDetails) -> Vec<u16> {
    pod.named_ports.iter().map(|(_, port)| *port).chain(pod.probe_ports.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_ephemeral_or_where_a_service_is_registered() {
        let Ports(ports) = Ports::outside(&EPHEMERAL, &[]);
        assert_eq!(ports, (61_000..=65_535).collect::<Vec<_>>());
    }

    #[test]
    fn no_port_is_one_that_the_pod_says_it_listens_on() {
        let pod = PodDetails {
            probe_ports: [61_616].into_iter().collect(),
            named_ports: [("stomp".into(), 61_613)].into_iter().collect(),
            ..PodDetails::default()
        };
        let Ports(ports) = Ports::outside(&EPHEMERAL, &expected(&pod));
        assert_eq!(ports.len(), 65_536 - 61_000 - 2);
        assert!(!ports.contains(&61_616) && !ports.contains(&61_613));
    }

    #[test]
    fn an_ephemeral_range_up_to_the_top_is_avoided_below_it() {
        let Ports(ports) = Ports::outside(&(32_768..=65_535), &[8_080]);
        assert_eq!(ports.len(), 32_768 - 1_024 - 1);
        assert!(ports.iter().all(|port| (1_024..32_768).contains(port)));
    }

    #[test]
    fn an_ephemeral_range_of_everything_still_gives_a_port() {
        for ephemeral in [1_024..=65_535, 1..=65_535, 1_100..=65_500] {
            let port = Ports::outside(&ephemeral, &[8_080]).draw().unwrap();
            assert!(DYNAMIC.contains(&port), "{port} for {ephemeral:?}");
        }
    }
}
