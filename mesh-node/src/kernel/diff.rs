//! PURE. From what is applied to what is desired: the operations on maps, in an order that never widens access.
//!
//! What an entry of `NAMESPACES` relies on is there before it, and goes after it.

use mesh_common::abi::addr::{IpKey, Port};
use mesh_common::abi::capture::NamespaceRules;

use super::desired::Entries;

/// One operation on a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Put rules for a namespace.
    PutRules(NamespaceRules),
    /// Remove the rules of a namespace.
    RemoveRules,
    /// Leave a destination port outside.
    PutOutboundPort(Port),
    /// Capture a destination port again.
    RemoveOutboundPort(Port),
    /// Leave a range of destinations outside.
    PutOutboundRange(IpKey, u32),
    /// Capture a range of destinations again.
    RemoveOutboundRange(IpKey, u32),
    /// Set what holds for a port of the pod.
    PutInboundPort(IpKey, Port, u32),
    /// A port of the pod is like any other again.
    RemoveInboundPort(IpKey, Port),
}

impl MapOp {
    /// Does to `entries` what the operation did to the maps.
    pub fn note(&self, entries: &mut Entries) {
        match *self {
            Self::PutRules(rules) => entries.rules = Some(rules),
            Self::RemoveRules => entries.rules = None,
            Self::PutOutboundPort(port) => {
                entries.outbound_ports.insert(port);
            }
            Self::RemoveOutboundPort(port) => {
                entries.outbound_ports.remove(&port);
            }
            Self::PutOutboundRange(ip, bits) => {
                entries.outbound_ranges.insert((ip, bits));
            }
            Self::RemoveOutboundRange(ip, bits) => {
                entries.outbound_ranges.remove(&(ip, bits));
            }
            Self::PutInboundPort(ip, port, flags) => {
                entries.inbound_ports.insert((ip, port), flags);
            }
            Self::RemoveInboundPort(ip, port) => {
                entries.inbound_ports.remove(&(ip, port));
            }
        }
    }
}

/// The operations that make `applied` equal to `desired`, both of one namespace.
pub fn diff(applied: &Entries, desired: &Entries) -> Vec<MapOp> {
    let mut ops = Vec::new();
    let new_ports = desired.outbound_ports.difference(&applied.outbound_ports);
    ops.extend(new_ports.map(|port| MapOp::PutOutboundPort(*port)));
    let new_ranges = desired.outbound_ranges.difference(&applied.outbound_ranges);
    ops.extend(new_ranges.map(|(ip, bits)| MapOp::PutOutboundRange(*ip, *bits)));
    for (&(ip, port), &flags) in &desired.inbound_ports {
        if applied.inbound_ports.get(&(ip, port)) != Some(&flags) {
            ops.push(MapOp::PutInboundPort(ip, port, flags));
        }
    }
    match (applied.rules, desired.rules) {
        (applied, Some(rules)) if applied != Some(rules) => ops.push(MapOp::PutRules(rules)),
        (Some(_), None) => ops.push(MapOp::RemoveRules),
        _ => {}
    }
    let old_ports = applied.outbound_ports.difference(&desired.outbound_ports);
    ops.extend(old_ports.map(|port| MapOp::RemoveOutboundPort(*port)));
    let old_ranges = applied.outbound_ranges.difference(&desired.outbound_ranges);
    ops.extend(old_ranges.map(|(ip, bits)| MapOp::RemoveOutboundRange(*ip, *bits)));
    for &(ip, port) in applied.inbound_ports.keys() {
        if !desired.inbound_ports.contains_key(&(ip, port)) {
            ops.push(MapOp::RemoveInboundPort(ip, port));
        }
    }
    ops
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn apply(mut entries: Entries, ops: &[MapOp]) -> Entries {
        ops.iter().for_each(|op| op.note(&mut entries));
        entries
    }

    fn ip() -> impl Strategy<Value = IpKey> {
        (0_u8..4).prop_map(|last| IpKey::from_v4([10, 0, 0, last]))
    }

    fn port() -> impl Strategy<Value = Port> {
        (0_u16..4).prop_map(Port::new)
    }

    fn rules() -> impl Strategy<Value = NamespaceRules> {
        (ip(), 0_u8..3, 0_u8..16).prop_map(|(ip, state, flags)| NamespaceRules {
            addresses: [ip, IpKey::UNSPECIFIED, IpKey::UNSPECIFIED, IpKey::UNSPECIFIED],
            state,
            flags,
            reserved: [0; 6],
        })
    }

    fn entries() -> impl Strategy<Value = Entries> {
        (
            proptest::option::of(rules()),
            proptest::collection::btree_set(port(), 0..4),
            proptest::collection::btree_set((ip(), 96_u32..129), 0..4),
            proptest::collection::btree_map((ip(), port()), 1_u32..4, 0..6),
        )
            .prop_map(|(rules, outbound_ports, outbound_ranges, inbound_ports)| Entries {
                rules,
                outbound_ports,
                outbound_ranges,
                inbound_ports,
            })
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_what_is_desired(applied in entries(), desired in entries()) {
            let ops = diff(&applied, &desired);
            prop_assert_eq!(apply(applied, &ops), desired);
        }

        #[test]
        fn what_is_desired_already_needs_nothing(entries in entries()) {
            prop_assert!(diff(&entries, &entries).is_empty());
        }

        #[test]
        fn exclusions_go_only_after_the_rules_that_count_on_them(applied in entries(), desired in entries()) {
            let ops = diff(&applied, &desired);
            let rules = ops.iter().position(|op| matches!(op, MapOp::PutRules(_) | MapOp::RemoveRules));
            let removal = ops.iter().position(|op| {
                matches!(op, MapOp::RemoveOutboundPort(_) | MapOp::RemoveOutboundRange(..))
            });
            if let (Some(rules), Some(removal)) = (rules, removal) {
                prop_assert!(rules < removal);
            }
        }
    }
}
