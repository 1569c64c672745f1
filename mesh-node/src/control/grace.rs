//! PURE. A moment for files that were good and now would deny: whoever writes them may not have finished.
//!
//! In: what a file says now. Out: whether it is put off, and until when. Time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mesh_common::model::Text;

use super::store::{FileText, Refusal};

/// How long a writer who closed a file half-way may take to write the rest.
const GRACE: Duration = Duration::from_secs(1);

/// Files whose new text is put off; their last one is in force.
#[derive(Debug, Default)]
pub(super) struct Grace {
    held: BTreeMap<Text, Held>,
}

#[derive(Debug)]
struct Held {
    text: FileText,
    /// Why the file cannot be read since then.
    refusal: Option<Refusal>,
    until: Instant,
}

impl Grace {
    /// Puts a text off. One that takes the place of another is put off no longer than that one was.
    pub(super) fn hold(&mut self, file: Text, text: FileText, now: Instant) {
        let until = self.held.get(&file).map_or(now + GRACE, |held| held.until);
        self.held.insert(file, Held { text, refusal: None, until });
    }

    /// A file cannot be read any more: its text is the last that it said, and counts when it is due.
    pub(super) fn refuse(&mut self, file: &str, refusal: &Refusal) {
        if let Some(held) = self.held.get_mut(file) {
            held.refusal = Some(refusal.clone());
        }
    }

    /// Something newer is known of a file.
    pub(super) fn forget(&mut self, file: &str) {
        self.held.remove(file);
    }

    /// Takes the texts that were put off for long enough, and why their files cannot be read now, if they cannot.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(Text, FileText, Option<Refusal>)> {
        let due = self.held.extract_if(.., |_, held| now >= held.until);
        due.map(|(file, held)| (file, held.text, held.refusal)).collect()
    }

    /// The files whose text is put off.
    pub(super) fn held(&self) -> impl Iterator<Item = &Text> {
        self.held.keys()
    }

    /// When the next one is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.held.values().map(|held| held.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_put_off_no_longer_for_being_written_again() {
        let (mut grace, start) = (Grace::default(), Instant::now());
        grace.hold("a.yaml".into(), FileText::default(), start);
        grace.hold("a.yaml".into(), FileText::default(), start + GRACE / 2);
        assert_eq!(grace.next_deadline(), Some(start + GRACE));
        assert!(grace.take_due(start + GRACE / 2).is_empty());
        assert_eq!(grace.take_due(start + GRACE).len(), 1);
        assert_eq!(grace.next_deadline(), None);
    }

    #[test]
    fn a_file_that_was_mended_is_not_put_off() {
        let (mut grace, start) = (Grace::default(), Instant::now());
        grace.hold("a.yaml".into(), FileText::default(), start);
        grace.forget("a.yaml");
        assert!(grace.take_due(start + GRACE).is_empty());
    }
}
