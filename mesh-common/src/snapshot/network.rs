//! Values by range of addresses: all those whose range an address falls into, without trying each.

use std::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;

/// Values by range. Asking costs one lookup for each prefix length that occurs in the address's family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Networks<V> {
    ipv4_lengths: Vec<u8>,
    ipv6_lengths: Vec<u8>,
    values: HashMap<IpNet, V>,
}

impl<V> Default for Networks<V> {
    fn default() -> Self {
        Self { ipv4_lengths: Vec::new(), ipv6_lengths: Vec::new(), values: HashMap::new() }
    }
}

impl<V: Default> Networks<V> {
    /// The value of a range, made by default where there is none. Host bits do not matter.
    pub(super) fn entry(&mut self, range: IpNet) -> &mut V {
        let lengths = match range {
            IpNet::V4(_) => &mut self.ipv4_lengths,
            IpNet::V6(_) => &mut self.ipv6_lengths,
        };
        if let Err(index) = lengths.binary_search(&range.prefix_len()) {
            lengths.insert(index, range.prefix_len());
        }
        self.values.entry(range.trunc()).or_default()
    }
}

impl<V> Networks<V> {
    /// The values of the ranges that hold an address, the widest first.
    pub(super) fn of(&self, address: IpAddr) -> impl Iterator<Item = &V> {
        let lengths = match address {
            IpAddr::V4(_) => &self.ipv4_lengths,
            IpAddr::V6(_) => &self.ipv6_lengths,
        };
        lengths.iter().filter_map(move |&length| self.values.get(&IpNet::new(address, length).ok()?.trunc()))
    }

    /// Whether there is no range.
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether any range holds an address.
    pub(super) fn hold(&self, address: IpAddr) -> bool {
        self.of(address).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_that_holds_the_address_answers_and_no_other() {
        let mut networks = Networks::<&str>::default();
        for range in ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "fd00::/8", "::/0"] {
            *networks.entry(range.parse().unwrap()) = range;
        }
        let of = |address: &str| networks.of(address.parse().unwrap()).copied().collect::<Vec<_>>();
        assert_eq!(of("10.1.2.3"), ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"]);
        assert_eq!(of("10.2.2.3"), ["0.0.0.0/0", "10.0.0.0/8"]);
        assert_eq!(of("fd00::1"), ["::/0", "fd00::/8"]);
    }
}
