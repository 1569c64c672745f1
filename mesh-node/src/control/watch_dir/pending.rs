//! Files that something happened to, and when each may be read. Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mesh_common::model::Text;

/// How long a file must stay away before it is given up: editors remove a file and write it anew.
const GONE_FOR: Duration = Duration::from_millis(40);
/// How long a writer who never closes a file must be quiet before it is read all the same.
const QUIET_FOR: Duration = Duration::from_secs(5);
/// How long an emptied file is given to be written.
const EMPTY_FOR: Duration = Duration::from_millis(40);

/// Files by what is awaited of them.
#[derive(Debug, Default)]
pub(super) struct Pending {
    files: BTreeMap<Text, Awaited>,
    /// Files that were found empty, and when.
    emptied: BTreeMap<Text, Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// Nothing since then: it may be read.
    Ready(Instant),
    /// That its writer closes it, at the latest then.
    Closing(Instant),
    /// That it stays away until then.
    Away(Instant),
}

impl Pending {
    /// Someone writes it.
    pub(super) fn writing(&mut self, file: Text, now: Instant) {
        self.files.insert(file, Awaited::Closing(now + QUIET_FOR));
    }

    /// It is whole.
    pub(super) fn written(&mut self, file: Text, now: Instant) {
        self.files.insert(file, Awaited::Ready(now));
    }

    /// It is not there any more.
    pub(super) fn gone(&mut self, file: Text, now: Instant) {
        self.files.insert(file, Awaited::Away(now + GONE_FOR));
    }

    /// It differs from what is known of it; nobody told when it was written.
    pub(super) fn seen(&mut self, file: Text, now: Instant) {
        self.files.entry(file).or_insert(Awaited::Ready(now));
    }

    /// Whether someone writes it.
    pub(super) fn is_being_written(&self, file: &str) -> bool {
        matches!(self.files.get(file), Some(Awaited::Closing(_)))
    }

    /// A file that someone writes, if there is any.
    pub(super) fn being_written(&self) -> Option<&Text> {
        let mut files = self.files.iter();
        files.find(|(_, awaited)| matches!(awaited, Awaited::Closing(_))).map(|(file, _)| file)
    }

    /// Whether an empty file has been empty for long enough. If not, it becomes ready again when it has.
    pub(super) fn was_empty_before(&mut self, file: &Text, now: Instant) -> bool {
        let since = *self.emptied.entry(file.clone()).or_insert(now);
        if now >= since + EMPTY_FOR {
            self.emptied.remove(file);
            return true;
        }
        self.files.insert(file.clone(), Awaited::Closing(since + EMPTY_FOR));
        false
    }

    /// It was found to say something.
    pub(super) fn filled(&mut self, file: &str) {
        self.emptied.remove(file);
    }

    /// Takes the files that may be read now. While a file is away, the others wait a little with it: a renamed file
    /// is gone under one name and there under another, and both are one change.
    pub(super) fn take_ready(&mut self, now: Instant) -> Vec<Text> {
        let is_ready = |awaited: &Awaited| now >= self.deadline(awaited);
        let ready: Vec<Text> = self
            .files
            .iter()
            .filter(|(_, awaited)| is_ready(awaited))
            .map(|(file, _)| file.clone())
            .collect();
        for file in &ready {
            self.files.remove(file);
        }
        ready
    }

    /// When the next file may be read.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.files.values().map(|awaited| self.deadline(awaited)).min()
    }

    fn deadline(&self, awaited: &Awaited) -> Instant {
        match awaited {
            Awaited::Ready(since) => {
                let away = self.files.values().filter_map(|other| match other {
                    Awaited::Away(until) => Some(*until),
                    Awaited::Ready(_) | Awaited::Closing(_) => None,
                });
                away.max().map_or(*since, |until| until.min(*since + GONE_FOR))
            }
            Awaited::Closing(until) | Awaited::Away(until) => *until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_file_is_ready_when_it_is_closed() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.writing("a".into(), start);
        assert!(pending.take_ready(at(start, 1000)).is_empty());
        pending.written("a".into(), start);
        assert_eq!(pending.take_ready(at(start, 1000)), ["a".into()]);
        assert_eq!(pending.next_deadline(), None);
    }

    #[test]
    fn a_file_that_is_written_again_is_awaited_again() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.written("a".into(), start);
        pending.writing("a".into(), start);
        assert!(pending.take_ready(start).is_empty());
        assert!(pending.is_being_written("a"));
    }

    #[test]
    fn a_writer_who_never_closes_is_not_awaited_for_ever() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.writing("a".into(), start);
        assert_eq!(pending.next_deadline(), Some(start + QUIET_FOR));
        assert_eq!(pending.take_ready(start + QUIET_FOR), ["a".into()]);
    }

    #[test]
    fn a_file_that_comes_back_at_once_was_never_gone() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.gone("a".into(), start);
        assert!(pending.take_ready(at(start, 10)).is_empty());
        pending.writing("a".into(), at(start, 10));
        assert!(pending.take_ready(at(start, 100)).is_empty());
    }

    #[test]
    fn an_emptied_file_is_given_a_moment() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        let file: Text = "a".into();
        assert!(!pending.was_empty_before(&file, start));
        assert!(pending.take_ready(at(start, 10)).is_empty());
        assert_eq!(pending.take_ready(start + EMPTY_FOR), ["a".into()]);
        assert!(pending.was_empty_before(&file, start + EMPTY_FOR));
    }

    #[test]
    fn a_renamed_file_is_one_change() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.gone("a".into(), start);
        pending.written("b".into(), start);
        assert!(pending.take_ready(at(start, 10)).is_empty());
        assert_eq!(pending.take_ready(start + GONE_FOR), ["a".into(), "b".into()]);
    }

    #[test]
    fn a_stream_of_removals_delays_nothing_for_long() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.written("b".into(), start);
        pending.gone("a".into(), at(start, 30));
        assert_eq!(pending.take_ready(start + GONE_FOR), ["b".into()]);
    }
}
