//! PURE. What a policy's status says of agents, as `agents` and as condition `Programmed`; and when it is time to say it.
//!
//! In: how the policy stands, and what its status says. Out: the words. A thousand agents answer one after the other, come
//! and go: a count is no reason to write, so what changes by itself within seconds is waited for, and a number that
//! changes on and on is written after waits that grow.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::in_force::{MAX_NAMED, Named, Standing};
use super::status::{condition, shortened};
use crate::control::object::ObjectKey;
use crate::control::translate::Effect;

/// Whether agents have the policy in force; a word of the Gateway API.
pub(super) const PROGRAMMED: &str = "Programmed";
/// Agents do not understand it.
pub(super) const REFUSED: &str = "Refused";

/// How long a policy that was in force everywhere may be behind somewhere before that is said: agents answer within
/// milliseconds, and a policy whose keys or pods change all the time is behind somewhere at every look.
const BEHIND: Duration = Duration::from_secs(10);
/// How long it may be unknown whether a policy is in force where it was: longer than agents take to come again.
const OPEN: Duration = Duration::from_secs(60);
/// Before numbers are written again: at first, doubled each time, up to the last.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What is to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) needed: usize,
    pub(super) in_force: usize,
    pub(super) is_met: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// Somewhere it may be in force all the same.
    is_open: bool,
    /// Some agents follow nobody.
    is_away: bool,
}

impl Report {
    /// Of a policy that stands so; without a standing, nothing of it is in force anywhere.
    pub(super) fn of<'e>(standing: Option<&Standing>, mut effects: impl Iterator<Item = &'e Effect>) -> Self {
        let standing = standing.cloned();
        let is_kept = effects.any(|effect| *effect == Effect::LastGoodKept);
        let invalid = match (&standing, is_kept) {
            (None, _) => Some("nothing of it is in force: see Accepted"),
            (Some(_), true) => Some("agents have it as it was before: see Accepted"),
            (Some(_), false) => None,
        };
        let standing = standing.unwrap_or_default();
        let Standing { needed, in_force, .. } = standing;
        let (is_met, reason, message) = match invalid {
            Some(message) => (false, "Invalid", message.to_owned()),
            None if !standing.refused.is_empty() => (false, REFUSED, refusals(&standing)),
            None if in_force < needed => (false, "Pending", pending(&standing)),
            None if needed == 0 => {
                (true, PROGRAMMED, "no node with an agent has a pod that it may be about".to_owned())
            }
            None => (true, PROGRAMMED, String::new()),
        };
        let (is_open, is_away) = (standing.is_open, standing.away.count > 0);
        Self { needed, in_force, is_met, reason, message: shortened(message), is_open, is_away }
    }

    /// As `status.agents`.
    pub(super) fn agents(&self) -> Value {
        json!({"needed": self.needed, "inForce": self.in_force})
    }

    /// Whether a person has to act on it, who was not told before.
    pub(super) fn is_news(&self, status: &Value, generation: i64) -> bool {
        let before = condition(status, PROGRAMMED);
        let is_told = before["reason"] == REFUSED && before["observedGeneration"] == generation;
        self.reason == REFUSED && !is_told
    }
}

fn refusals(standing: &Standing) -> String {
    let mut said: Vec<String> = standing
        .refused
        .iter()
        .take(MAX_NAMED)
        .map(|(reason, nodes)| format!("{}: {reason}", named(nodes)))
        .collect();
    if let Some(more) = standing.refused.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        said.push(format!("and {more} more reasons"));
    }
    said.join("; ")
}

fn pending(standing: &Standing) -> String {
    let mut said = format!("in force in {} of {} agents", standing.in_force, standing.needed);
    for (what, nodes) in [("not answered yet", &standing.behind), ("follows no controller", &standing.away)] {
        if nodes.count > 0 {
            said = format!("{said}; {what}: {}", named(nodes));
        }
    }
    said
}

fn named(nodes: &Named) -> String {
    let first = nodes.first.iter().map(|node| format!("node {node}")).collect::<Vec<_>>().join(", ");
    match nodes.count - nodes.first.len() {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// What is waited for.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Since when policies are in force in fewer agents than need them.
    short: HashMap<ObjectKey, Instant>,
    /// When numbers may be written again, and how long was waited before.
    numbers: HashMap<ObjectKey, (Instant, Duration)>,
}

impl Patience {
    /// Whether a report is to take the place of what a status says of this generation of a policy.
    pub(super) fn is_time(
        &mut self,
        key: &ObjectKey,
        report: &Report,
        status: &Value,
        generation: i64,
        now: Instant,
    ) -> bool {
        let since = match report.in_force < report.needed {
            true => *self.short.entry(key.clone()).or_insert(now),
            false => self.short.remove(key).unwrap_or(now),
        };
        let before = condition(status, PROGRAMMED);
        let is_current = before["observedGeneration"] == generation;
        let had = status["agents"]["inForce"].as_u64();
        let Some(had) = had.filter(|_| is_current) else {
            self.numbers.remove(key);
            return true;
        };
        let (was_met, short) = (before["status"] == "True", now.saturating_duration_since(since));
        let is_refused_anew = report.reason == REFUSED && before["reason"] != REFUSED;
        // Fewer that need it are not fewer that lack it.
        let is_short = report.in_force < report.needed;
        let is_worse = is_short && ((was_met && !report.is_met) || (report.in_force as u64) < had);
        let awaited = match report {
            _ if !is_worse || is_refused_anew => Duration::ZERO,
            Report { is_open: true, .. } => OPEN,
            Report { is_away: true, .. } => Duration::ZERO,
            _ if was_met => BEHIND,
            _ => Duration::ZERO,
        };
        if short < awaited {
            return false;
        }
        let is_same = (before["status"] == "True") == report.is_met && before["reason"] == report.reason;
        if !is_same {
            self.numbers.remove(key);
            return true;
        }
        let says_more = status["agents"] != report.agents() || before["message"] != report.message;
        says_more && self.may_count(key, now)
    }

    /// Forgets policies that are gone, and numbers that have not changed for long.
    pub(super) fn tidy(&mut self, is_there: impl Fn(&ObjectKey) -> bool, now: Instant) {
        self.short.retain(|key, _| is_there(key));
        self.numbers.retain(|key, (next, _)| is_there(key) && now < *next + 2 * LONGEST_WAIT);
    }

    fn may_count(&mut self, key: &ObjectKey, now: Instant) -> bool {
        let wait = match self.numbers.get(key) {
            Some((next, _)) if now < *next => return false,
            Some((_, wait)) => (*wait * 2).min(LONGEST_WAIT),
            None => FIRST_WAIT,
        };
        self.numbers.insert(key.clone(), (now + wait, wait));
        true
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::model::{NamespacedName, Text};

    use super::*;
    use crate::control::object::Kind;

    fn named(nodes: &[&str], count: usize) -> Named {
        Named { count, first: nodes.iter().map(|node| Text::from(*node)).collect() }
    }

    fn standing(needed: usize, in_force: usize) -> Standing {
        Standing { needed, in_force, ..Standing::default() }
    }

    fn behind(needed: usize, in_force: usize) -> Standing {
        Standing { behind: named(&["a"], needed - in_force), ..standing(needed, in_force) }
    }

    fn report(standing: &Standing) -> Report {
        Report::of(Some(standing), [].iter())
    }

    fn key() -> ObjectKey {
        ObjectKey { kind: Kind::AuthorizationPolicy, name: NamespacedName::new("shop", "web") }
    }

    /// A status that says so, of generation 1.
    fn status(report: &Report) -> Value {
        let status = if report.is_met { "True" } else { "False" };
        json!({"agents": report.agents(), "conditions": [{
            "type": PROGRAMMED, "status": status, "reason": report.reason, "message": report.message,
            "observedGeneration": 1,
        }]})
    }

    /// How often the status is written while these are found, each so many seconds after the start.
    fn writes(found: &[(u64, Standing)]) -> Vec<u64> {
        let (mut patience, start, mut says) = (Patience::default(), Instant::now(), Value::Null);
        let mut writes = Vec::new();
        for (second, standing) in found {
            let report = report(standing);
            if patience.is_time(&key(), &report, &says, 1, start + Duration::from_secs(*second)) {
                writes.push(*second);
                says = status(&report);
            }
        }
        writes
    }

    #[test]
    fn it_says_who_has_it_not_and_why_in_bounded_words() {
        let said = |standing: &Standing| {
            let report = report(standing);
            (report.is_met, report.reason, report.message)
        };
        assert_eq!(said(&standing(3, 3)), (true, "Programmed", String::new()));
        assert!(said(&standing(0, 0)).2.starts_with("no node with an agent"));
        let late = Standing { away: named(&["b"], 1), ..behind(5, 2) };
        let message =
            "in force in 2 of 5 agents; not answered yet: node a and 2 more; follows no controller: node b";
        assert_eq!(said(&late), (false, "Pending", message.to_owned()));
        let refused =
            [("rules[0]: no".to_owned(), named(&["b", "c"], 2)), ("spec: no".to_owned(), named(&["d"], 1))];
        let (is_met, reason, message) = said(&Standing { refused: refused.into(), ..late });
        assert_eq!((is_met, reason), (false, REFUSED));
        assert_eq!(message, "node b, node c: rules[0]: no; node d: spec: no");
        let many =
            (0..100).map(|number| (format!("{number} {}", "é".repeat(200)), named(&["n"], 9))).collect();
        let (_, _, message) = said(&Standing { refused: many, ..standing(900, 0) });
        assert!(message.len() <= 1024, "{message}");
    }

    #[test]
    fn what_nobody_was_told_is_not_programmed_whatever_agents_have() {
        let none = Report::of(None, [].iter());
        assert_eq!((none.is_met, none.reason, none.needed), (false, "Invalid", 0));
        let kept = Report::of(Some(&standing(3, 3)), [Effect::LastGoodKept].iter());
        assert_eq!((kept.is_met, kept.reason, kept.in_force), (false, "Invalid", 3));
        let denies = Report::of(Some(&standing(3, 3)), [Effect::Denies].iter());
        assert!(denies.is_met, "the denial is in force");
    }

    #[test]
    fn a_thousand_agents_that_answer_one_after_the_other_are_a_few_writes() {
        let found: Vec<_> = (0..=500).map(|look| (look * 2, behind(1000, look as usize * 2))).collect();
        let writes = writes(&found);
        assert_eq!(
            writes,
            [
                0, 2, 4, 8, 16, 32, 64, 124, 184, 244, 304, 364, 424, 484, 544, 604, 664, 724, 784, 844, 904,
                964, 1000
            ]
        );
    }

    #[test]
    fn what_is_behind_for_a_moment_is_not_said_of_a_policy_that_was_in_force() {
        let whole = || standing(3, 3);
        assert_eq!(
            writes(&[(0, whole()), (2, behind(3, 1)), (4, whole()), (6, behind(3, 1)), (14, whole())]),
            [0]
        );
        assert_eq!(
            writes(&[(0, whole()), (2, behind(3, 1)), (10, behind(3, 2)), (12, behind(3, 2))]),
            [0, 12]
        );
        // Who may be there is waited for longer; who follows nobody is not.
        let open = || Standing { is_open: true, away: named(&["a"], 1), ..standing(3, 2) };
        assert_eq!(writes(&[(0, whole()), (2, open()), (32, open()), (34, whole())]), [0]);
        assert_eq!(writes(&[(0, whole()), (2, open()), (60, open()), (62, open())]), [0, 62]);
        // Where fewer agents need it nothing is waited for.
        assert_eq!(writes(&[(0, whole()), (2, standing(2, 2))]), [0, 2]);
        let away = Standing { is_open: false, ..open() };
        assert_eq!(writes(&[(0, whole()), (2, away)]), [0, 2]);
    }

    #[test]
    fn a_refusal_is_said_at_once_and_what_comes_into_force_too() {
        let refused = || Standing { refused: [("no".to_owned(), named(&["a"], 1))].into(), ..standing(3, 2) };
        assert_eq!(
            writes(&[(0, standing(3, 3)), (2, refused()), (4, refused()), (6, standing(3, 3))]),
            [0, 2, 6]
        );
        assert_eq!(writes(&[(0, behind(3, 0)), (2, behind(3, 0)), (4, standing(3, 3))]), [0, 4]);
        let report = report(&refused());
        assert!(report.is_news(&Value::Null, 1));
        assert!(!report.is_news(&status(&report), 1));
        assert!(report.is_news(&status(&report), 2), "of what the person wrote now nothing was said");
    }

    #[test]
    fn of_another_generation_all_is_said_anew() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        let whole = report(&standing(3, 3));
        assert!(patience.is_time(&key(), &whole, &status(&whole), 2, now));
        assert!(!patience.is_time(&key(), &whole, &status(&whole), 1, now));
        patience.is_time(&key(), &report(&behind(3, 1)), &status(&whole), 1, now);
        patience.tidy(|_| false, now);
        assert!(patience.short.is_empty() && patience.numbers.is_empty());
    }
}
