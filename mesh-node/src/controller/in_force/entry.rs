//! PURE. What one replica notes of its agents.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use mesh_common::model::Text;
use serde::{Deserialize, Serialize};

use crate::control::object::{Kind, ObjectKey};
use crate::controller::discovery::Progress;
use crate::controller::inventory::Policy;
use crate::xds::{Key, ResourceType};

/// Heaps of policies. Of 10,000 each has 80: an edit makes one heap of 128 unknown for as long as it takes to be noted.
const HEAPS: usize = 128;
/// Most bytes of exceptions in one entry, about.
const MAX_EXCEPTIONS: usize = 64 << 10;
/// Most bytes of a reason.
const MAX_REASON: usize = 256;

/// What stands for a node's name: 48 bits of its SHA-256, so that names of any length fit. Of 10,000 nodes two are one with a
/// chance of one in five million.
pub(super) type Tag = u64;

/// What one replica notes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Counts up with each writing: the replica lives.
    pub(super) beat: u64,
    /// Which policies it had seen.
    pub(super) policies: Fingerprints,
    /// The nodes whose agents follow it.
    pub(super) nodes: Tags,
    /// Where policies are not in force.
    #[serde(default)]
    pub(super) exceptions: Vec<Exception>,
    /// There are more.
    #[serde(default)]
    pub(super) is_cut: bool,
}

/// Where one policy is not in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exception {
    /// Which, as in `AuthorizationPolicy shop/web`; with `*` for a name, every one of its type.
    pub(super) policy: String,
    /// Why agents refuse it; without, they are behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// Places in the entry's nodes, in order.
    pub(super) nodes: Vec<usize>,
}

/// Which policies were seen, and in which state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Fingerprints(Vec<u64>);

/// Nodes, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Tags(pub(super) Vec<Tag>);

/// Not what an entry has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected hexadecimal numbers of {digits} digits")]
pub(super) struct NoNumbers {
    digits: usize,
}

/// What stands for a node's name.
pub(super) fn tag(node: &str) -> Tag {
    number(&[node.as_bytes()]) >> 16
}

/// The resource that agents are sent of a policy.
pub(super) fn resource(policy: &ObjectKey) -> Option<Key> {
    let kind = match policy.kind {
        Kind::AuthorizationPolicy => ResourceType::AuthorizationPolicy,
        Kind::PeerAuthentication => ResourceType::PeerAuthentication,
        Kind::RequestAuthentication => ResourceType::RequestAuthentication,
        _ => return None,
    };
    let name = &policy.name;
    Some(Key { kind, name: format!("{}/{}", name.namespace, name.name).into() })
}

impl Fingerprints {
    /// Of these policies.
    pub(super) fn of(policies: &BTreeMap<ObjectKey, Arc<Policy>>) -> Self {
        let mut heaps = Self::default();
        for (key, policy) in policies {
            let (name, uid) = (named(key), policy.uid.as_deref().unwrap_or_default());
            let state = number(&[name.as_bytes(), uid.as_bytes(), &policy.generation.to_be_bytes()]);
            // In any order: each is in its heap once.
            heaps.0[heap(&name)] ^= state;
        }
        heaps
    }

    /// Whether both had seen the same of the heap in which a policy is.
    pub(super) fn agree(&self, other: &Self, policy: &ObjectKey) -> bool {
        let heap = heap(&named(policy));
        self.0[heap] == other.0[heap]
    }
}

impl Default for Fingerprints {
    fn default() -> Self {
        Self(vec![0; HEAPS])
    }
}

impl TryFrom<String> for Fingerprints {
    type Error = NoNumbers;

    fn try_from(text: String) -> Result<Self, NoNumbers> {
        let heaps = numbers(&text, 16)?;
        if heaps.len() == HEAPS { Ok(Self(heaps)) } else { Err(NoNumbers { digits: 16 * HEAPS }) }
    }
}

impl From<Fingerprints> for String {
    fn from(heaps: Fingerprints) -> Self {
        text(&heaps.0, 16)
    }
}

impl TryFrom<String> for Tags {
    type Error = NoNumbers;

    fn try_from(text: String) -> Result<Self, NoNumbers> {
        numbers(&text, 12).map(Self)
    }
}

impl From<Tags> for String {
    fn from(tags: Tags) -> Self {
        text(&tags.0, 12)
    }
}

impl Entry {
    /// What a replica notes that had seen these policies before it looked how its agents stand.
    pub(super) fn new(policies: Fingerprints, progress: &Progress) -> Self {
        let places: BTreeMap<&Text, usize> =
            progress.nodes.iter().enumerate().map(|(place, node)| (node, place)).collect();
        // What is refused first: a person has to act on it.
        let mut all: Vec<Exception> = Vec::new();
        for (policy, nodes) in &progress.refused {
            let mut by_reason: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for (node, reason) in nodes {
                by_reason.entry(cut(reason)).or_default().extend(places.get(node));
            }
            all.extend(by_reason.into_iter().map(|(reason, nodes)| Exception {
                policy: policy.to_string(),
                reason: Some(reason.to_owned()),
                nodes,
            }));
        }
        all.extend(progress.behind.iter().map(|(policy, nodes)| {
            let nodes = nodes.iter().filter_map(|node| places.get(node).copied()).collect();
            Exception { policy: policy.to_string(), reason: None, nodes }
        }));
        all.retain(|exception| !exception.nodes.is_empty());
        let count = all.len();
        let mut bytes = 0;
        let exceptions: Vec<Exception> = all
            .into_iter()
            .take_while(|exception| {
                bytes += exception.size();
                bytes <= MAX_EXCEPTIONS
            })
            .collect();
        let is_cut = progress.is_cut || exceptions.len() < count;
        let nodes = Tags(progress.nodes.iter().map(|node| tag(node)).collect());
        Self { beat: 0, policies, nodes, exceptions, is_cut }
    }
}

impl Exception {
    /// Bytes that it takes, about: a place has up to five digits and a comma.
    fn size(&self) -> usize {
        64 + self.policy.len() + self.reason.as_ref().map_or(0, String::len) + 6 * self.nodes.len()
    }
}

fn named(key: &ObjectKey) -> String {
    key.to_string()
}

fn heap(name: &str) -> usize {
    usize::try_from(number(&[name.as_bytes()]) % HEAPS as u64).unwrap_or_default()
}

/// The same in every replica and version: 64 bits of the SHA-256 of the parts, each with its length.
fn number(parts: &[&[u8]]) -> u64 {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn text(numbers: &[u64], digits: usize) -> String {
    let mut text = String::with_capacity(numbers.len() * digits);
    for number in numbers {
        let _ = write!(text, "{number:0digits$x}");
    }
    text
}

fn numbers(text: &str, digits: usize) -> Result<Vec<u64>, NoNumbers> {
    let error = NoNumbers { digits };
    if !text.len().is_multiple_of(digits) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(error);
    }
    let places = (0..text.len()).step_by(digits);
    places.map(|at| u64::from_str_radix(&text[at..at + digits], 16).map_err(|_| error)).collect()
}

fn cut(reason: &str) -> &str {
    let end = (0..=MAX_REASON.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    &reason[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use mesh_common::model::NamespacedName;

    use super::*;

    fn policies(number: usize, changed: usize) -> BTreeMap<ObjectKey, Arc<Policy>> {
        let policy = |index: usize| {
            let name = NamespacedName::new("shop", format!("policy-{index}"));
            let key = ObjectKey { kind: Kind::AuthorizationPolicy, name };
            let generation = if index == changed { 2 } else { 1 };
            (key, Arc::new(Policy { generation, ..Policy::default() }))
        };
        (0..number).map(policy).collect()
    }

    fn progress(nodes: usize) -> Progress {
        let nodes = (0..nodes).map(|node| format!("node-{node:04}.example").into()).collect();
        Progress { nodes, ..Progress::default() }
    }

    fn key(name: &str) -> Key {
        Key { kind: ResourceType::AuthorizationPolicy, name: name.into() }
    }

    #[test]
    fn a_changed_policy_makes_its_own_heap_unknown_and_no_other() {
        let (before, after) = (policies(1000, usize::MAX), policies(1000, 7));
        let (one, other) = (Fingerprints::of(&before), Fingerprints::of(&after));
        let differing = before.keys().filter(|key| !one.agree(&other, key)).count();
        assert!((1..40).contains(&differing), "{differing}");
        let changed = before.keys().find(|key| &*key.name.name == "policy-7").unwrap();
        assert!(!one.agree(&other, changed));
        let mut again = before.clone();
        again.insert(
            changed.clone(),
            Arc::new(Policy { uid: Some("2".into()), ..(**before.get(changed).unwrap()).clone() }),
        );
        assert!(!Fingerprints::of(&again).agree(&one, changed), "one made anew is another one");
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let mut progress = progress(3);
        let nodes: Vec<Text> = progress.nodes.iter().cloned().collect();
        progress.behind.insert(key("shop/late"), [nodes[2].clone(), nodes[0].clone()].into());
        let refused = [(nodes[1].clone(), "no".to_owned()), (nodes[2].clone(), "no".to_owned())];
        progress.refused.insert(key("shop/odd"), refused.into());
        let entry = Entry::new(Fingerprints::of(&policies(9, 0)), &progress);
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
        let exception = |policy: &str, reason: Option<&str>, nodes: &[usize]| Exception {
            policy: format!("AuthorizationPolicy {policy}"),
            reason: reason.map(str::to_owned),
            nodes: nodes.to_vec(),
        };
        let expected = [exception("shop/odd", Some("no"), &[1, 2]), exception("shop/late", None, &[0, 2])];
        assert_eq!(entry.exceptions, expected);
        for wrong in [r#""0g""#, r#""00""#, "\"é0000000000\"", "7"] {
            assert!(serde_json::from_str::<Fingerprints>(wrong).is_err(), "{wrong}");
            assert!(serde_json::from_str::<Tags>(wrong).is_err(), "{wrong}");
        }
    }

    /// Three replicas at a time, during a rollout, must fit in 1 MiB.
    #[test]
    fn an_entry_is_bounded_whatever_the_agents_say() {
        let large = progress(10_000);
        let quiet = serde_json::to_string(&Entry::new(Fingerprints::default(), &large)).unwrap();
        assert!(quiet.len() < 123_000, "{}", quiet.len());
        let thousand = serde_json::to_string(&Entry::new(Fingerprints::default(), &progress(1000))).unwrap();
        assert!(thousand.len() < 14_500, "{}", thousand.len());
        let mut hostile = large;
        for policy in 0..100 {
            let said = |node: &Text| (node.clone(), format!("{node} {}", "é".repeat(2000)));
            let nodes = hostile.nodes.iter().take(40).map(said).collect();
            hostile.refused.insert(key(&format!("shop/{policy}")), nodes);
        }
        let entry = Entry::new(Fingerprints::default(), &hostile);
        assert!(entry.is_cut && !entry.exceptions.is_empty());
        let text = serde_json::to_string(&entry).unwrap();
        assert!(text.len() < 200_000, "{}", text.len());
    }
}
