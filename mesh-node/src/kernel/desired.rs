//! PURE. What a pod is to the kernel: the entries of every map that are about its network namespace.
//!
//! In: a pod's facts. Out: [`Entries`], which [`diff`](super::diff) compares with what is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_common::abi::addr::{IpKey, Port};
use mesh_common::abi::capture::{InboundPortKey, NamespaceRules};
use mesh_common::model::Workload;
use mesh_common::model::workload::Exclusions;

/// What is done with a pod's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Enrolled, and not captured yet: its TCP connects are refused.
    Held,
    /// Enrolled and captured.
    Captured,
    /// Known as not enrolled: left alone.
    Passed,
}

/// Sockets that an enrolled pod may not make, because no hook captures them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedSockets {
    /// RAW sockets, except those of ping.
    pub raw: bool,
    /// SCTP and DCCP.
    pub transports: bool,
}

/// What the kernel must know of a pod. By default nothing: all of it is closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod's addresses; the first of each family is what its captured sockets show as their own.
    pub addresses: Vec<IpAddr>,
    /// What stays outside the mesh.
    pub exclusions: Exclusions,
    /// Ports that probes name.
    pub probe_ports: Vec<u16>,
}

/// The entries of all maps that are about one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// In `NAMESPACES`.
    pub rules: Option<NamespaceRules>,
    /// In `OUTBOUND_PORTS`.
    pub outbound_ports: BTreeSet<Port>,
    /// In `OUTBOUND_RANGES`: first address and bits of the prefix (of 128).
    pub outbound_ranges: BTreeSet<(IpKey, u32)>,
    /// In `INBOUND_PORTS`: flags.
    pub inbound_ports: BTreeMap<(IpKey, Port), u32>,
}

impl PodFacts {
    /// The facts of a workload.
    pub fn of(workload: &Workload) -> Self {
        Self {
            addresses: workload.addresses.to_vec(),
            exclusions: workload.details.exclusions.clone(),
            probe_ports: workload.details.probe_ports.to_vec(),
        }
    }

    /// The pod's first address of a family.
    pub fn first_address(&self, wanted: fn(&IpAddr) -> bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(wanted)
    }
}

impl Entries {
    /// The entries of a pod in a state.
    pub fn of(pod: &PodFacts, state: PodState, refused: RefusedSockets) -> Self {
        let mut entries = Self { rules: Some(rules(pod, state, refused)), ..Self::default() };
        if state == PodState::Passed {
            return entries;
        }
        entries.outbound_ports = pod.exclusions.outbound_ports.iter().map(|port| Port::new(*port)).collect();
        entries.outbound_ranges = pod.exclusions.outbound_cidrs.iter().map(range).collect();
        for address in &pod.addresses {
            for port in &pod.exclusions.inbound_ports {
                entries.mark(*address, *port, InboundPortKey::EXCLUDED);
            }
            for port in &pod.probe_ports {
                entries.mark(*address, *port, InboundPortKey::PROBE);
            }
        }
        entries
    }

    /// The addresses that these entries speak for.
    pub fn addresses(&self) -> impl Iterator<Item = IpKey> {
        self.rules.iter().flat_map(|rules| rules.addresses).filter(|address| !address.is_unspecified())
    }

    /// Whether they are about an enrolled pod.
    pub fn is_enrolled(&self) -> bool {
        self.rules.is_some_and(|rules| rules.state != NamespaceRules::STATE_PASSED)
    }

    /// Whether they may be about a pod with these addresses: where one side names none, nothing speaks against it.
    pub fn may_be_of(&self, addresses: &BTreeSet<IpKey>) -> bool {
        let mut own = self.addresses().peekable();
        addresses.is_empty() || own.peek().is_none() || own.any(|address| addresses.contains(&address))
    }

    /// Takes out what speaks for an address: another pod has it now.
    pub fn without_address(mut self, address: IpKey) -> Self {
        self.inbound_ports.retain(|(ip, _), _| *ip != address);
        self
    }

    /// The same with the pod held, if it was captured; without rules, held with nothing known of it.
    pub fn held(mut self) -> Self {
        let rules = self.rules.get_or_insert(NamespaceRules {
            addresses: [IpKey::UNSPECIFIED; 4],
            state: NamespaceRules::STATE_HELD,
            flags: 0,
            reserved: [0; 6],
        });
        if rules.state != NamespaceRules::STATE_PASSED {
            rules.state = NamespaceRules::STATE_HELD;
        }
        self
    }

    fn mark(&mut self, address: IpAddr, port: u16, flag: u32) {
        *self.inbound_ports.entry((address.into(), Port::new(port))).or_default() |= flag;
    }
}

fn rules(pod: &PodFacts, state: PodState, refused: RefusedSockets) -> NamespaceRules {
    let first = [pod.first_address(IpAddr::is_ipv4), pod.first_address(IpAddr::is_ipv6)];
    let further = pod.addresses.iter().copied().filter(|address| !first.contains(&Some(*address)));
    let mut addresses = [IpKey::UNSPECIFIED; 4];
    for (slot, address) in addresses.iter_mut().zip(first) {
        *slot = address.map(IpKey::from).unwrap_or_default();
    }
    for (slot, address) in addresses[2..].iter_mut().zip(further) {
        *slot = address.into();
    }
    let flags = [
        (!pod.exclusions.outbound_ports.is_empty(), NamespaceRules::HAS_OUTBOUND_PORTS),
        (!pod.exclusions.outbound_cidrs.is_empty(), NamespaceRules::HAS_OUTBOUND_RANGES),
        (refused.raw, NamespaceRules::REFUSE_RAW),
        (refused.transports, NamespaceRules::REFUSE_UNCAPTURED),
    ];
    NamespaceRules {
        addresses,
        state: match state {
            PodState::Held => NamespaceRules::STATE_HELD,
            PodState::Captured => NamespaceRules::STATE_CAPTURED,
            PodState::Passed => NamespaceRules::STATE_PASSED,
        },
        flags: flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag),
        reserved: [0; 6],
    }
}

/// A range in the mapped form: an IPv4 prefix is 96 bits longer there.
fn range(net: &ipnet::IpNet) -> (IpKey, u32) {
    let shift = if net.network().is_ipv4() { 96 } else { 0 };
    (net.network().into(), u32::from(net.prefix_len()) + shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: RefusedSockets = RefusedSockets { raw: false, transports: false };

    fn pod(addresses: &[&str]) -> PodFacts {
        PodFacts {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            exclusions: Exclusions::default(),
            probe_ports: Vec::new(),
        }
    }

    fn key(text: &str) -> IpKey {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn the_first_address_of_each_family_has_its_place() {
        let rules = rules(&pod(&["fd00::1", "10.0.0.1", "10.0.0.2"]), PodState::Captured, NOTHING);
        assert_eq!(rules.addresses, [key("10.0.0.1"), key("fd00::1"), key("10.0.0.2"), IpKey::UNSPECIFIED]);
    }

    #[test]
    fn an_ipv6_only_pod_has_no_ipv4_address() {
        let rules = rules(&pod(&["fd00::1"]), PodState::Captured, NOTHING);
        assert_eq!(rules.addresses[..2], [IpKey::UNSPECIFIED, key("fd00::1")]);
    }

    #[test]
    fn an_ipv4_range_is_matched_in_the_mapped_form() {
        assert_eq!(range(&"10.1.0.0/16".parse().unwrap()), (key("10.1.0.0"), 112));
        assert_eq!(range(&"fd00::/8".parse().unwrap()), (key("fd00::"), 8));
    }

    #[test]
    fn a_port_can_be_excluded_and_probed_on_every_address() {
        let mut pod = pod(&["10.0.0.1", "fd00::1"]);
        pod.exclusions.inbound_ports.push(80);
        pod.probe_ports = vec![80, 81];
        let entries = Entries::of(&pod, PodState::Captured, NOTHING);
        let both = InboundPortKey::EXCLUDED | InboundPortKey::PROBE;
        assert_eq!(entries.inbound_ports[&(key("10.0.0.1"), Port::new(80))], both);
        assert_eq!(entries.inbound_ports[&(key("fd00::1"), Port::new(81))], InboundPortKey::PROBE);
        assert_eq!(entries.inbound_ports.len(), 4);
    }

    #[test]
    fn a_pod_outside_the_mesh_has_only_its_state() {
        let mut pod = pod(&["10.0.0.1"]);
        pod.exclusions.outbound_ports.push(80);
        let entries = Entries::of(&pod, PodState::Passed, NOTHING);
        assert_eq!(entries.rules.unwrap().state, NamespaceRules::STATE_PASSED);
        assert!(entries.outbound_ports.is_empty() && entries.inbound_ports.is_empty());
    }

    #[test]
    fn entries_may_be_of_a_pod_unless_both_name_addresses_and_share_none() {
        let may_be = |own: &[&str], wanted: &[&str]| {
            let wanted = wanted.iter().map(|address| address.parse::<IpAddr>().unwrap().into()).collect();
            Entries::of(&pod(own), PodState::Held, NOTHING).may_be_of(&wanted)
        };
        assert!(may_be(&["10.0.0.1", "fd00::1"], &["fd00::1"]));
        assert!(may_be(&[], &["10.0.0.1"]) && may_be(&["10.0.0.1"], &[]));
        assert!(!may_be(&["10.0.0.1"], &["10.0.0.2", "fd00::1"]));
    }
}
