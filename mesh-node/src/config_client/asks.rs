//! What this agent asks the controller, in which order, and what it takes back.
//!
//! In: questions of the cores, each for a pod. Out: one batch after the other, each once all of the one before are settled.
//! Pods have their turn one after the other, so one that dials many addresses delays no other, and where there are too many
//! questions those of pods with more than their share go first. Never: a question taken back whose address somebody uses.
//! Pure: no clock, no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use mesh_common::model::{Question, WorkloadUid};

/// Most questions that are kept; the controller takes twice as many.
pub(super) const MAX_QUESTIONS: usize = 8192;
/// Where there is no room, so many are taken back at once: looking which they are costs a look at all.
const TAKEN_BACK: usize = MAX_QUESTIONS / 16;
/// Most questions of one batch.
const BATCH: usize = 64;
/// Most questions of one pod that wait for their turn.
const MAX_WAITING: usize = 128;
/// What nobody used for so long is taken back.
pub(super) const IDLE: Duration = Duration::from_secs(600);

/// The use that is made of what a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Usage {
    /// Since the last one ended.
    Idle(Duration),
    /// A connection is open.
    Open,
}

/// All questions.
#[derive(Debug, Default)]
pub(super) struct Asks {
    /// Those that the controller has, or is about to have, with the pod that asked first.
    questions: HashMap<Question, WorkloadUid>,
    /// Those of them, and those taken back, of which it has not said that it knows.
    unsettled: BTreeSet<Question>,
    /// Those that wait, by pod.
    waiting: BTreeMap<WorkloadUid, VecDeque<Question>>,
    waiting_at_all: BTreeSet<Question>,
    /// Whose turn it was last.
    last: Option<WorkloadUid>,
}

/// What is said to the controller at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) taken_back: Vec<Question>,
    pub(super) asked: Vec<Question>,
}

impl Asks {
    /// A pod wants to know; says whether that is asked, or will be.
    pub(super) fn want(&mut self, question: Question, pod: &WorkloadUid) -> bool {
        if self.questions.contains_key(&question) || self.waiting_at_all.contains(&question) {
            return true;
        }
        let waiting = self.waiting.entry(pod.clone()).or_default();
        if waiting.len() >= MAX_WAITING {
            return false;
        }
        waiting.push_back(question);
        self.waiting_at_all.insert(question)
    }

    /// Questions that were asked before the agent was started.
    pub(super) fn restore(&mut self, questions: impl Iterator<Item = Question>) {
        self.questions.extend(questions.map(|question| (question, WorkloadUid("".into()))));
    }

    /// All that a new stream begins with.
    pub(super) fn begin(&mut self) -> Vec<Question> {
        self.unsettled = self.questions.keys().copied().collect();
        self.unsettled.iter().copied().collect()
    }

    /// The controller knows of it.
    pub(super) fn settle(&mut self, question: Question) {
        self.unsettled.remove(&question);
    }

    /// How many questions there are.
    pub(super) fn len(&self) -> usize {
        self.questions.len()
    }

    /// Whether there is something to ask, and it may be said now.
    pub(super) fn has_next(&self) -> bool {
        self.unsettled.is_empty() && !self.waiting.is_empty()
    }

    /// The next questions, and those for which they leave no room.
    pub(super) fn next(&mut self, usage: impl Fn(Question) -> Usage) -> Batch {
        let wanted = self.waiting_at_all.len().min(BATCH);
        let mut batch = Batch::default();
        if self.questions.len() + wanted > MAX_QUESTIONS {
            batch.taken_back = self.dispensable(usage);
            self.take_back(&batch.taken_back);
        }
        while batch.asked.len() < wanted && self.questions.len() < MAX_QUESTIONS {
            let Some((question, pod)) = self.next_in_turn() else { break };
            self.questions.insert(question, pod);
            self.unsettled.insert(question);
            batch.asked.push(question);
        }
        if self.questions.len() >= MAX_QUESTIONS {
            // All are in use: who waits is refused, and does not keep others from asking later.
            self.waiting.clear();
            self.waiting_at_all.clear();
        }
        batch
    }

    /// What nobody used for long, if it may be said now.
    pub(super) fn idle(&mut self, usage: impl Fn(Question) -> Usage) -> Batch {
        if !self.unsettled.is_empty() {
            return Batch::default();
        }
        let is_idle =
            |question: &&Question| usage(**question) >= Usage::Idle(IDLE) && usage(**question) != Usage::Open;
        let taken_back: Vec<_> = self.questions.keys().filter(is_idle).take(TAKEN_BACK).copied().collect();
        self.take_back(&taken_back);
        Batch { taken_back, asked: Vec::new() }
    }

    fn take_back(&mut self, questions: &[Question]) {
        for question in questions {
            self.questions.remove(question);
            self.unsettled.insert(*question);
        }
    }

    /// One question of the pod behind the one whose turn it was.
    fn next_in_turn(&mut self) -> Option<(Question, WorkloadUid)> {
        let behind = |last: &WorkloadUid| {
            self.waiting.range(last.clone()..).map(|(pod, _)| pod).find(|pod| *pod != last)
        };
        let pod = self.last.as_ref().and_then(behind).or_else(|| self.waiting.keys().next())?.clone();
        let waiting = self.waiting.get_mut(&pod)?;
        let question = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&pod);
        }
        let question = question?;
        self.waiting_at_all.remove(&question);
        self.last = Some(pod.clone());
        Some((question, pod))
    }

    /// Questions without which it goes best: first those over their pod's share, and of these the longest unused.
    fn dispensable(&self, usage: impl Fn(Question) -> Usage) -> Vec<Question> {
        let mut by_pod: HashMap<&WorkloadUid, Vec<(Duration, Question)>> = HashMap::new();
        for (question, pod) in &self.questions {
            let of_pod = by_pod.entry(pod).or_default();
            if let Usage::Idle(idle) = usage(*question) {
                of_pod.push((idle, *question));
            }
        }
        let share = MAX_QUESTIONS / by_pod.len().max(1);
        let mut candidates = Vec::new();
        for of_pod in by_pod.values_mut() {
            of_pod.sort_unstable();
            let ranked = of_pod.iter().enumerate();
            candidates.extend(ranked.map(|(rank, (idle, question))| (rank >= share, *idle, *question)));
        }
        candidates.sort_unstable_by(|one, other| other.cmp(one));
        candidates.into_iter().take(TAKEN_BACK).map(|(_, _, question)| question).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn question(number: u32) -> Question {
        Question::Address(Ipv4Addr::from(number).into())
    }

    fn pod(name: &str) -> WorkloadUid {
        WorkloadUid(name.into())
    }

    fn unused(_: Question) -> Usage {
        Usage::Idle(Duration::ZERO)
    }

    /// Asks all that waits, and settles it.
    fn ask_all(asks: &mut Asks, usage: impl Fn(Question) -> Usage + Copy) -> Vec<Batch> {
        let mut batches = Vec::new();
        while asks.has_next() {
            let batch = asks.next(usage);
            batch.asked.iter().chain(&batch.taken_back).for_each(|question| asks.settle(*question));
            batches.push(batch);
        }
        batches
    }

    #[test]
    fn one_pod_that_asks_much_delays_no_other() {
        let mut asks = Asks::default();
        let asked = (0..1000).filter(|number| asks.want(question(*number), &pod("many"))).count();
        assert_eq!(asked, MAX_WAITING);
        assert!(asks.want(question(5000), &pod("few")));
        assert!(asks.next(unused).asked.contains(&question(5000)));
        assert!(!asks.has_next(), "the batch is not settled");
    }

    #[test]
    fn what_is_asked_is_asked_once() {
        let mut asks = Asks::default();
        assert!(asks.want(question(1), &pod("a")) && asks.want(question(1), &pod("b")));
        assert_eq!(ask_all(&mut asks, unused).len(), 1);
        assert!(asks.want(question(1), &pod("b")) && !asks.has_next());
        assert_eq!(asks.begin(), [question(1)]);
    }

    #[test]
    fn a_pod_that_asks_without_end_loses_its_own() {
        let mut asks = Asks::default();
        let few: Vec<_> = (0..100).map(|number| question(1 << 24 | number)).collect();
        few.iter().for_each(|question| assert!(asks.want(*question, &pod("few"))));
        ask_all(&mut asks, unused);
        for number in 0..30_000 {
            assert!(asks.want(question(number), &pod("many")));
            if number % 100 == 0 {
                ask_all(&mut asks, |question| {
                    Usage::Idle(Duration::from_secs(u64::from(few.contains(&question))))
                });
            }
        }
        assert!(asks.len() <= MAX_QUESTIONS);
        assert!(
            few.iter().all(|question| asks.questions.contains_key(question)),
            "another pod's were taken back"
        );
    }

    #[test]
    fn what_is_open_stays_and_what_is_idle_goes() {
        let mut asks = Asks::default();
        assert!([1, 2, 3].into_iter().all(|number| asks.want(question(number), &pod("a"))));
        ask_all(&mut asks, unused);
        let usage = |asked: Question| match asked {
            _ if asked == question(1) => Usage::Open,
            _ if asked == question(2) => Usage::Idle(IDLE),
            _ => Usage::Idle(Duration::ZERO),
        };
        assert_eq!(asks.idle(usage).taken_back, [question(2)]);
        assert!(asks.want(question(2), &pod("a")) && !asks.has_next(), "it waits until it is confirmed");
        asks.settle(question(2));
        assert_eq!(asks.next(usage).asked, [question(2)]);
    }

    #[test]
    fn where_all_are_open_none_is_taken_back() {
        let mut asks = Asks::default();
        // Each that is one too many costs a look at all: a hundred tell as much as ten thousand.
        let many = u32::try_from(MAX_QUESTIONS).unwrap() + 100;
        for number in 0..many {
            asks.want(question(number), &pod(&(number % 50).to_string()));
            let batches = ask_all(&mut asks, |_| Usage::Open);
            assert!(batches.iter().all(|batch| batch.taken_back.is_empty()));
        }
        assert_eq!(asks.len(), MAX_QUESTIONS);
        assert!(!asks.has_next());
    }

    proptest! {
        #[test]
        fn whatever_is_wanted_there_is_an_end_and_every_pod_has_its_turn(
            wants in prop::collection::vec((0..20_000_u32, 0..8_u8, any::<bool>()), 1..3000),
        ) {
            let mut asks = Asks::default();
            for (number, name, asks_now) in wants {
                asks.want(question(number), &pod(&name.to_string()));
                if asks_now && asks.has_next() {
                    let waiting: Vec<_> = asks.waiting.keys().cloned().collect();
                    let batch = asks.next(unused);
                    prop_assert!(batch.asked.len() <= BATCH && asks.len() <= MAX_QUESTIONS);
                    let asked = |pod: &WorkloadUid| batch.asked.iter().any(|question| asks.questions.get(question) == Some(pod));
                    prop_assert!(waiting.iter().all(asked), "a pod had no turn");
                    batch.asked.iter().chain(&batch.taken_back).for_each(|question| asks.settle(*question));
                }
            }
        }
    }
}
