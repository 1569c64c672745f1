//! The desk at which changed files are worked on: read, taken into the store, made a snapshot of.
//!
//! In: batches of changed files. Out: the snapshot after them, and what is wrong. A large batch is read apart from the
//! desk, as a [`Job`], so that it holds up no edit of another file. What would take an object away or change a policy
//! waits for it: the object, or a stricter policy, may stand in what is being read. Time is an argument. Never: I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use mesh_common::model::{MeshSettings, Text};
use mesh_common::snapshot::Snapshot;

use super::MAX_LISTED;
use super::advice::{self, Advice};
use super::attachment;
use super::documents::{Complaint, ObjectName, Place, Problem, Reader};
use super::grace::Grace;
use super::key_ring::{KeyNews, Wanted};
use super::object::Kind;
use super::reconciler::Reconciler;
use super::store::{FileReader, FileText, Refusal, Store};
use super::translate::Effect;
use super::watch_dir::{Content, Reading};

/// What is said of a file whose text is put off.
pub(super) const WAITS: &str =
    "was changed, and waits up to 1 s to be written whole: a policy in it is not understood yet";

/// Texts of one file that wait, at most: while one batch is read a writer may have written a file this often without one
/// of its texts being lost that could be read.
const MAX_WAITING: usize = 4;

/// Bytes of text up to which a batch is read at the desk: some 20 ms.
pub(super) const LARGE: usize = 128 * 1024;

/// What is worked with. Moved to a thread of its own meanwhile.
#[derive(Debug)]
pub(super) struct Desk {
    store: Store,
    grace: Grace,
    reconciler: Reconciler,
    /// Whether the first batch, the whole folder, was taken.
    is_begun: bool,
    /// Whether every file could be read once, all of them at one time: what one says that cannot be may be a policy.
    /// Before that nothing comes into force.
    is_whole: bool,
    /// Files that wait until what is being read is taken, and are then read in one batch.
    waiting: BTreeMap<Text, Waiting>,
    /// The files of the job that is being read, without those of which something newer was taken meanwhile.
    reading: Option<BTreeSet<Text>>,
}

/// What a file that waits said, the last at the end: one that turns out not to be readable takes nothing from those
/// before it.
#[derive(Debug, Default)]
struct Waiting(VecDeque<Content>);

/// Files that are read apart from the desk, each with what it said, the last at the end.
#[derive(Debug)]
pub(super) struct Job(Vec<(Text, Waiting, FileReader)>);

/// Files that were read.
#[derive(Debug)]
pub(super) struct Batch(Vec<(Text, Said)>);

/// What was found in a file.
#[derive(Debug)]
enum Said {
    Text(FileText),
    Refused(Refusal),
    Gone,
}

/// What a batch led to.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) snapshot: Arc<Snapshot>,
    /// Whether it may come into force.
    pub(super) is_whole: bool,
    pub(super) files: usize,
    pub(super) changes: usize,
    pub(super) objects: BTreeMap<Kind, usize>,
}

impl Job {
    /// Reads the files: the part that takes long.
    pub(super) fn read(self) -> Batch {
        let read = |(file, Waiting(contents), reader): (Text, Waiting, FileReader)| {
            said(contents, &reader).into_iter().map(move |said| (file.clone(), said))
        };
        Batch(self.0.into_iter().flat_map(read).collect())
    }
}

/// What a file said last that can be read, and then why it cannot be read any more.
fn said(contents: VecDeque<Content>, reader: &FileReader) -> Vec<Said> {
    let mut refusal = None;
    for content in contents.into_iter().rev() {
        let refused = match content {
            Content::Text(text) => match reader.read(&text) {
                Ok(text) => return [Said::Text(text)].into_iter().chain(refusal).collect(),
                Err(refused) => refused,
            },
            Content::Gone => return [Said::Gone].into_iter().chain(refusal).collect(),
            Content::Refused { reason, seen } => reader.refusal(reason, &seen),
        };
        refusal.get_or_insert(Said::Refused(refused));
    }
    refusal.into_iter().collect()
}

impl Desk {
    pub(super) fn new(mesh: Arc<MeshSettings>) -> Self {
        Self {
            store: Store::new(Reader::new(Arc::clone(&mesh))),
            grace: Grace::default(),
            reconciler: Reconciler::new(mesh),
            is_begun: false,
            is_whole: false,
            waiting: BTreeMap::new(),
            reading: None,
        }
    }

    /// When a text that was put off is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.is_behind() { None } else { self.grace.next_deadline() }
    }

    /// Takes files that changed, or none, to see to what is due. `None`: they wait for a [`Job`].
    pub(super) fn take(&mut self, readings: Vec<Reading>, now: Instant) -> Option<Applied> {
        let size = |reading: &Reading| match &reading.content {
            Content::Text(text) | Content::Refused { seen: text, .. } => text.len(),
            Content::Gone => 0,
        };
        if self.is_begun && readings.iter().map(size).sum::<usize>() > LARGE {
            self.wait(readings);
            return None;
        }
        self.is_begun = true;
        if !self.is_behind() {
            let batch = self.job(alone(readings)).read();
            return Some(self.apply(batch, now));
        }
        let batch = self.job(alone(readings.clone())).read();
        if self.takes_away(&batch) {
            self.wait(readings);
            return None;
        }
        for (file, _) in &batch.0 {
            self.waiting.remove(file);
            if let Some(reading) = &mut self.reading {
                reading.remove(file);
            }
        }
        Some(self.apply(batch, now))
    }

    /// Takes keys that were fetched, or were not.
    pub(super) fn learn(&mut self, news: Vec<KeyNews>) -> Applied {
        self.reconciler.learn(news);
        self.applied(0, 0)
    }

    /// The URIs to fetch keys from, if they changed since this was asked last.
    pub(super) fn take_wanted(&mut self) -> Option<Wanted> {
        self.reconciler.take_wanted()
    }

    /// What is to be read next apart from the desk, if anything is and nothing is being read.
    pub(super) fn next_job(&mut self) -> Option<Job> {
        if self.reading.is_some() || self.waiting.is_empty() {
            return None;
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.reading = Some(waiting.keys().cloned().collect());
        Some(self.job(waiting))
    }

    /// Files that changed and of which nothing newer was taken.
    pub(super) fn behind(&self) -> BTreeSet<Text> {
        self.reading.iter().flatten().chain(self.waiting.keys()).cloned().collect()
    }

    /// Takes what a job read, except files of which something newer was taken meanwhile.
    pub(super) fn finish(&mut self, batch: Batch, now: Instant) -> Applied {
        let files = self.reading.take().unwrap_or_default();
        let current = batch.0.into_iter().filter(|(file, _)| files.contains(file));
        self.apply(Batch(current.collect()), now)
    }

    /// All that is wrong, by file and line: first what denies, last what the mesh has no use for.
    pub(super) fn problems(&self, snapshot: &Snapshot, trouble: Option<Problem>) -> Vec<Problem> {
        let mut problems = self.store.problems();
        problems.extend(trouble);
        problems.extend(self.grace.held().map(|file| file_problem(file, WAITS)));
        if self.is_whole {
            let routes = attachment::advice(self.store.routes(), snapshot);
            let advice = advice::advice(snapshot).into_iter().chain(routes).chain(self.of_keys());
            problems.extend(advice.filter_map(|advice| self.problem(advice)));
        } else {
            // What another object lacks may stand in what cannot be read.
            problems
                .iter_mut()
                .filter(|problem| self.store.is_unread(&problem.place.file))
                .for_each(withholds);
        }
        sort(&mut problems);
        let listed = problems.len().min(MAX_LISTED);
        problems[..listed].iter_mut().for_each(|problem| self.store.locate(problem));
        sort(&mut problems[..listed]);
        problems
    }

    /// Whether there is more to be taken than was.
    fn is_behind(&self) -> bool {
        self.reading.is_some() || !self.waiting.is_empty()
    }

    fn job(&self, files: impl IntoIterator<Item = (Text, Waiting)>) -> Job {
        let with_reader = |(file, contents): (Text, Waiting)| {
            let reader = self.store.reader(&file);
            (file, contents, reader)
        };
        Job(files.into_iter().map(with_reader).collect())
    }

    // All that waits becomes one batch: a file that was renamed meanwhile is never gone under both names.
    fn wait(&mut self, readings: Vec<Reading>) {
        for (file, Waiting(contents)) in alone(readings) {
            self.waiting.entry(file).or_default().extend(contents);
        }
    }

    fn takes_away(&self, batch: &Batch) -> bool {
        batch.0.iter().any(|(file, said)| match said {
            Said::Text(text) => self.store.takes_away(file, text),
            // What waits or is being read of it may be the last that can be.
            Said::Refused(_) => {
                let is_being_read = self.reading.as_ref().is_some_and(|files| files.contains(file));
                is_being_read || self.waiting.contains_key(file)
            }
            Said::Gone => self.store.has_objects(file),
        })
    }

    fn apply(&mut self, Batch(batch): Batch, now: Instant) -> Applied {
        let files = batch.len();
        for (file, said) in batch {
            match said {
                Said::Text(text) if self.store.would_deny(&file, &text) => {
                    self.grace.hold(file, text, now);
                    continue;
                }
                Said::Text(text) => self.store.put(&file, text),
                Said::Refused(refusal) => {
                    self.grace.refuse(&file, &refusal);
                    self.store.refuse(&file, refusal);
                    continue;
                }
                Said::Gone => self.store.remove(&file),
            }
            self.grace.forget(&file);
        }
        // A text that was put off and may have been replaced does not come into force before that is known.
        if !self.is_behind() {
            for (file, text, refusal) in self.grace.take_due(now) {
                self.store.put(&file, text);
                if let Some(refusal) = refusal {
                    self.store.refuse(&file, refusal);
                }
            }
        }
        let changes = self.store.changes();
        let count = changes.len();
        self.reconciler.apply(changes);
        self.is_whole |= !self.store.has_unread();
        self.applied(files, count)
    }

    fn applied(&mut self, files: usize, changes: usize) -> Applied {
        Applied {
            snapshot: Arc::new(self.reconciler.snapshot()),
            is_whole: self.is_whole,
            files,
            changes,
            objects: self.store.counts(),
        }
    }

    /// What is wrong with keys that are fetched.
    fn of_keys(&self) -> impl Iterator<Item = Advice> {
        self.reconciler.key_standings().into_iter().flat_map(|(key, standing)| {
            standing.faults.into_iter().map(move |(error, effect)| Advice {
                key: key.clone(),
                field: error.field,
                reason: error.reason,
                effect,
            })
        })
    }

    /// An advice where its object stands; `None` if that has gone meanwhile.
    fn problem(&self, advice: Advice) -> Option<Problem> {
        let Advice { key, field, reason, effect } = advice;
        let (place, line) = self.store.place(&key)?;
        let complaint =
            Complaint { line: 0, object: Some(ObjectName::from(&key)), field: Some(field), reason, effect };
        Some(Problem { place, line, complaint })
    }
}

impl Waiting {
    /// Adds what a file said since then. Of texts before that were refused nobody knows yet, so the last few are kept.
    fn extend(&mut self, contents: VecDeque<Content>) {
        for content in contents {
            let Self(known) = self;
            match (&content, known.back()) {
                // What was there before it was gone does not count any more.
                (Content::Gone, _) => known.clear(),
                (Content::Refused { .. }, Some(Content::Refused { .. })) => drop(known.pop_back()),
                _ => {}
            }
            known.push_back(content);
            if known.len() > MAX_WAITING {
                known.pop_front();
            }
        }
    }
}

/// Each file with what it says, and no more.
fn alone(readings: Vec<Reading>) -> impl Iterator<Item = (Text, Waiting)> {
    readings.into_iter().map(|Reading { file, content }| (file, Waiting([content].into())))
}

/// Says of a problem that nothing comes into force for it.
fn withholds(problem: &mut Problem) {
    problem.complaint.effect = Effect::NothingInForce;
}

fn sort(problems: &mut [Problem]) {
    problems.sort_by(|a, b| {
        let order = |problem: &Problem| match problem.complaint.effect {
            Effect::NothingInForce | Effect::Unread | Effect::Denies => 0,
            Effect::NotRead => 2,
            _ => 1,
        };
        (order(a), a).cmp(&(order(b), b))
    });
}

/// What is wrong with the folder, or with a file of it, as a whole.
pub(super) fn file_problem(file: &Text, reason: &str) -> Problem {
    Problem {
        place: Place { file: file.clone(), document: 0 },
        line: 0,
        complaint: Complaint {
            line: 0,
            object: None,
            field: None,
            reason: reason.to_owned(),
            effect: Effect::LastGoodKept,
        },
    }
}
