//! PURE. How the mesh comes to trust another root: told to every agent, then signed with, then the one before is let go.
//!
//! In: what the authority's Secret has, and which agents trust what. Out: the one step that is next, or what it waits
//! for. No clock: time is an argument. A step is taken only when nothing that is valid would be refused after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use mesh_common::model::Text;

/// How much longer than a certificate lives the root before is trusted. A replica that cannot read the Secret signs with
/// the key before until the tokens that it knows run out, which takes a minute.
const MARGIN: Duration = Duration::from_secs(120);
/// Agents that are named of those that are waited for.
const MAX_NAMED: usize = 5;

/// Where the change of a root stands.
#[derive(Clone, Debug)]
pub(super) struct Rotation<'a> {
    /// Whether the Secret has a key that is to sign next; its root is trusted already.
    pub(super) has_next: bool,
    /// Since when the key signs that does, in UTC seconds since the epoch, while roots before it are still trusted.
    pub(super) signs_since: Option<u64>,
    /// How long a certificate lives.
    pub(super) lifetime: Duration,
    /// The agents that there are, by the uids of their pods.
    pub(super) agents: &'a BTreeMap<Text, Agent>,
    /// Those that have all roots of the Secret in force, by uid.
    pub(super) trusting: &'a BTreeSet<Text>,
}

/// The pod of an agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Agent {
    pub(super) pod: Text,
    pub(super) node: Text,
    /// Whether it follows a replica now.
    pub(super) is_connected: bool,
}

/// What is next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: one key signs, and nothing else is to go.
    Settled,
    /// To wait for these agents, which do not trust the next key's root yet.
    Distribute {
        /// Those that are waited for, by name.
        missing: Vec<Agent>,
        /// Of so many.
        agents: usize,
    },
    /// To sign with the next key.
    Sign,
    /// To wait until no certificate of the key before is valid any more.
    Expire {
        /// So long.
        left: Duration,
    },
    /// To wait for these agents, which do not trust the root that signs: none of its certificates may be valid any more,
    /// but nobody is left behind.
    Acknowledge {
        /// Those that are waited for, by name.
        missing: Vec<Agent>,
        /// Of so many.
        agents: usize,
    },
    /// To let go of the roots before.
    Retire,
    /// Nothing that is done here: somebody else signs.
    Elsewhere,
}

/// When the roots before are let go, of a key that signs `since` then.
pub(super) fn retires_at(since: u64, lifetime: Duration) -> u64 {
    since.saturating_add((lifetime + MARGIN).as_secs())
}

impl Rotation<'_> {
    /// What is next, at `now` in UTC seconds since the epoch.
    pub(super) fn step(&self, now: u64) -> Step {
        let (missing, agents) = (self.missing(), self.agents.len());
        if self.has_next {
            return match missing.is_empty() {
                true => Step::Sign,
                false => Step::Distribute { missing, agents },
            };
        }
        let Some(since) = self.signs_since else { return Step::Settled };
        // A clock that went back makes it wait longer, never shorter.
        let age = Duration::from_secs(now.saturating_sub(since));
        match (self.lifetime + MARGIN).checked_sub(age) {
            Some(left) if !left.is_zero() => Step::Expire { left },
            _ if !missing.is_empty() => Step::Acknowledge { missing, agents },
            _ => Step::Retire,
        }
    }

    /// The agents that do not have all roots in force, by name.
    fn missing(&self) -> Vec<Agent> {
        let missing = self.agents.iter().filter(|(uid, _)| !self.trusting.contains(*uid));
        let mut missing: Vec<Agent> = missing.map(|(_, agent)| agent.clone()).collect();
        missing.sort();
        missing
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settled => formatter.write_str("no root is being replaced"),
            Self::Distribute { missing, agents } => {
                write!(
                    formatter,
                    "1 of 3: {} of {agents} agents do not trust the next root yet ({})",
                    missing.len(),
                    named(missing)
                )
            }
            Self::Acknowledge { missing, agents } => write!(
                formatter,
                "3 of 3: {} of {agents} agents do not trust the root that signs ({})",
                missing.len(),
                named(missing)
            ),
            Self::Sign => {
                formatter.write_str("2 of 3: every agent trusts the next root; signing with its key")
            }
            Self::Expire { left } => {
                let minutes = left.as_secs().div_ceil(60);
                write!(
                    formatter,
                    "3 of 3: certificates of the root before may be valid for {minutes} minutes more"
                )
            }
            Self::Retire => formatter.write_str("3 of 3: letting go of the root before"),
            Self::Elsewhere => formatter.write_str("somebody else signs, and has a root of its own"),
        }
    }
}

fn named(agents: &[Agent]) -> String {
    let named: Vec<&str> = agents.iter().take(MAX_NAMED).map(|agent| &*agent.pod).collect();
    format!("{}{}", named.join(", "), if agents.len() > MAX_NAMED { ", ..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn agent(name: &str) -> Agent {
        Agent { pod: name.into(), node: "n".into(), is_connected: false }
    }

    fn agents(names: &[&str]) -> BTreeMap<Text, Agent> {
        names.iter().map(|name| (format!("uid-{name}").into(), agent(name))).collect()
    }

    fn trusting(names: &[&str]) -> BTreeSet<Text> {
        agents(names).into_keys().collect()
    }

    fn step(has_next: bool, signs_since: Option<u64>, trusts: &[&str], now: u64) -> Step {
        let (agents, trusting) = (agents(&["a", "b"]), trusting(trusts));
        Rotation { has_next, signs_since, lifetime: DAY, agents: &agents, trusting: &trusting }.step(now)
    }

    #[test]
    fn the_next_key_signs_when_every_agent_trusts_its_root() {
        let waits = |missing: &[&str]| Step::Distribute {
            missing: missing.iter().map(|name| agent(name)).collect(),
            agents: 2,
        };
        assert_eq!(step(true, None, &[], 0), waits(&["a", "b"]));
        assert_eq!(step(true, None, &["a"], u64::MAX), waits(&["b"]), "however long that takes");
        assert_eq!(step(true, None, &["a", "gone"], 0), waits(&["b"]));
        assert_eq!(step(true, None, &["a", "b", "gone"], 0), Step::Sign);
        assert_eq!(step(true, Some(0), &["a"], u64::MAX), waits(&["b"]), "one change after the other");
    }

    #[test]
    fn a_root_is_let_go_when_nothing_that_it_vouches_for_is_valid() {
        let end = (DAY + MARGIN).as_secs();
        assert_eq!(step(false, None, &[], 0), Step::Settled);
        assert_eq!(
            step(false, Some(100), &[], 99),
            Step::Expire { left: DAY + MARGIN },
            "the clock went back"
        );
        assert_eq!(step(false, Some(100), &[], 99 + end), Step::Expire { left: Duration::from_secs(1) });
        assert_eq!(step(false, Some(100), &["a", "b"], 100 + end), Step::Retire);
        let waits = Step::Acknowledge { missing: vec![agent("b")], agents: 2 };
        assert_eq!(waits.to_string(), "3 of 3: 1 of 2 agents do not trust the root that signs (b)");
        assert_eq!(step(false, Some(100), &["a"], u64::MAX), waits, "however long that takes");
    }

    #[test]
    fn who_is_waited_for_is_named() {
        let said = step(true, None, &["a"], 0).to_string();
        assert_eq!(said, "1 of 3: 1 of 2 agents do not trust the next root yet (b)");
    }
}
