//! PURE. Which namespaces have the mesh's roots, which are to have them, and where they are written next.
//!
//! In: what the watches on Namespaces and on ConfigMaps say, the roots, and whether enrolled namespaces need a copy. Out:
//! one namespace after the other that lacks the roots or has others. A copy that the mesh made is kept true for as long
//! as it is there, whatever becomes of its namespace's labels: a pod may have mounted it. None is ever removed.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};

use crate::control::translate::namespace::RootsFor;

/// What a ConfigMap of the name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// Tells what it holds; `None` if it has no roots at all.
    roots: Option<Sum>,
    /// Whether the mesh made it, and not somebody who took the name.
    is_ours: bool,
}

/// Of ten thousand copies, what they hold is not kept.
type Sum = [u8; 32];

impl Copy {
    pub(super) fn new(roots: Option<&str>, is_ours: bool) -> Self {
        Self { roots: roots.map(sum), is_ours }
    }
}

/// What a watch says of a namespace, or of the ConfigMap in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News<T> {
    /// A list begins; what it does not have is gone when it has ended.
    Begun,
    /// It is there.
    There(String, T),
    /// It is there, and cannot be understood: what was before counts on.
    Unclear(String),
    /// It is gone, or says nothing that matters.
    Gone(String),
    /// The list has ended.
    Ended,
}

/// What one watch said, by namespace.
#[derive(Debug)]
struct Watched<T> {
    known: BTreeMap<String, T>,
    /// What the list under way has had so far.
    listing: Option<BTreeSet<String>>,
    /// Whether everything was listed once.
    is_complete: bool,
}

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), listing: None, is_complete: false }
    }
}

impl<T> Watched<T> {
    /// Takes it, and returns the namespaces about which there is something new.
    fn hear(&mut self, news: News<T>) -> Vec<String> {
        match news {
            News::Begun => self.listing = Some(BTreeSet::new()),
            News::Unclear(name) => self.is_listed(&name),
            News::There(name, value) => {
                self.is_listed(&name);
                self.known.insert(name.clone(), value);
                return vec![name];
            }
            News::Gone(name) => {
                self.known.remove(&name);
                return vec![name];
            }
            News::Ended => {
                self.is_complete = true;
                let listed = self.listing.take().unwrap_or_default();
                return self
                    .known
                    .extract_if(.., |name, _| !listed.contains(name))
                    .map(|(name, _)| name)
                    .collect();
            }
        }
        Vec::new()
    }

    fn is_listed(&mut self, name: &str) {
        if let Some(listing) = &mut self.listing {
            listing.insert(name.to_owned());
        }
    }
}

/// What is known, and what follows.
#[derive(Debug)]
pub(super) struct Ledger {
    /// It has its copy otherwise: agents mount that.
    root_namespace: String,
    namespaces: Watched<RootsFor>,
    copies: Watched<Copy>,
    /// What is to be everywhere.
    roots: Option<(String, Sum)>,
    /// Whether enrolled namespaces need copies: there is no ClusterTrustBundle for them.
    are_needed: bool,
    due: BTreeSet<String>,
    /// Those where the API server refused the last write.
    refused: BTreeSet<String>,
}

impl Ledger {
    pub(super) fn new(root_namespace: String) -> Self {
        Self {
            root_namespace,
            namespaces: Watched::default(),
            copies: Watched::default(),
            roots: None,
            are_needed: false,
            due: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }

    pub(super) fn hear_namespace(&mut self, news: News<RootsFor>) {
        let names = self.namespaces.hear(news);
        self.judge(names);
    }

    pub(super) fn hear_copy(&mut self, news: News<Copy>) {
        let names = self.copies.hear(news);
        self.judge(names);
    }

    /// Takes the roots, and whether enrolled namespaces need a copy of their own.
    pub(super) fn aim(&mut self, roots: &str, are_needed: bool) {
        if self.are_needed == are_needed && self.roots().is_some_and(|before| before == roots) {
            return;
        }
        self.roots = Some((roots.to_owned(), sum(roots)));
        self.are_needed = are_needed;
        let names = self.namespaces.known.keys().chain(self.copies.known.keys()).cloned().collect();
        self.judge(names);
    }

    /// The roots, once they are known.
    pub(super) fn roots(&self) -> Option<&str> {
        self.roots.as_ref().map(|(roots, _)| &**roots)
    }

    /// The namespace that is to be written next. None before everything was listed: what is there already would be written
    /// again.
    pub(super) fn next(&self) -> Option<&str> {
        let knows_all = self.namespaces.is_complete && self.copies.is_complete;
        self.due.first().filter(|_| knows_all).map(String::as_str)
    }

    /// How many are to be written, refused ones with them.
    pub(super) fn open(&self) -> usize {
        self.due.len() + self.refused.len()
    }

    /// Takes that the roots were written there.
    pub(super) fn written(&mut self, namespace: &str) {
        let Some((_, sum)) = &self.roots else { return };
        self.copies.known.insert(namespace.to_owned(), Copy { roots: Some(*sum), is_ours: true });
        // The list under way was perhaps made before.
        self.copies.is_listed(namespace);
        self.due.remove(namespace);
    }

    /// Takes that the API server refused it: others come first.
    pub(super) fn refused(&mut self, namespace: &str) {
        if let Some(name) = self.due.take(namespace) {
            self.refused.insert(name);
        }
    }

    /// Has what was refused tried again.
    pub(super) fn retry(&mut self) {
        let names = std::mem::take(&mut self.refused).into_iter().collect();
        self.judge(names);
    }

    fn judge(&mut self, names: Vec<String>) {
        for name in names {
            self.refused.remove(&name);
            if self.is_due(&name) {
                self.due.insert(name);
            } else {
                self.due.remove(&name);
            }
        }
    }

    fn is_due(&self, namespace: &str) -> bool {
        let Some((_, roots)) = &self.roots else { return false };
        let is_wanted = match self.namespaces.known.get(namespace) {
            Some(RootsFor::Asked) => true,
            Some(RootsFor::Enrolled) => self.are_needed,
            None => false,
        };
        namespace != self.root_namespace
            && match self.copies.known.get(namespace) {
                Some(copy) => (is_wanted || copy.is_ours) && copy.roots.as_ref() != Some(roots),
                None => is_wanted,
            }
    }
}

fn sum(roots: &str) -> Sum {
    let mut sum = Sum::default();
    sum.copy_from_slice(digest(&SHA256, roots.as_bytes()).as_ref());
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "nodemesh-system";

    fn enrolled(name: &str) -> News<RootsFor> {
        News::There(name.into(), RootsFor::Enrolled)
    }

    fn copy(name: &str, roots: &str, is_ours: bool) -> News<Copy> {
        News::There(name.into(), Copy::new(Some(roots), is_ours))
    }

    /// Everything was listed, and these are the enrolled namespaces.
    fn ledger(namespaces: &[&str], copies: Vec<News<Copy>>) -> Ledger {
        let mut ledger = Ledger::new(ROOT.into());
        ledger.aim("new", true);
        ledger.hear_namespace(News::Begun);
        namespaces.iter().for_each(|name| ledger.hear_namespace(enrolled(name)));
        ledger.hear_namespace(News::Ended);
        ledger.hear_copy(News::Begun);
        copies.into_iter().for_each(|copy| ledger.hear_copy(copy));
        assert_eq!(ledger.next(), None, "nobody knows yet what is there");
        ledger.hear_copy(News::Ended);
        ledger
    }

    /// Writes all that is due, and says where.
    fn write(ledger: &mut Ledger) -> Vec<String> {
        let mut written = Vec::new();
        while let Some(name) = ledger.next().map(str::to_owned) {
            ledger.written(&name);
            written.push(name);
        }
        written
    }

    #[test]
    fn only_what_lacks_the_roots_or_has_others_is_written() {
        let copies = vec![copy("has", "new", true), copy("old", "old", true), copy(ROOT, "old", true)];
        let mut ledger = ledger(&["has", "lacks", "old", ROOT], copies);
        assert_eq!(write(&mut ledger), ["lacks", "old"]);
        ledger.hear_namespace(enrolled("later"));
        ledger.hear_copy(copy("has", "edited", true));
        ledger.hear_copy(News::Gone("old".into()));
        assert_eq!(write(&mut ledger), ["has", "later", "old"]);
        ledger.aim("next", true);
        assert_eq!(write(&mut ledger).len(), 4);
    }

    #[test]
    fn a_copy_that_the_mesh_made_stays_true_and_nobody_elses_is_touched() {
        let mut ledger = ledger(&["shop"], vec![copy("theirs", "mine", false), copy("left", "old", true)]);
        assert_eq!(write(&mut ledger), ["left", "shop"]);
        ledger.hear_namespace(News::Gone("shop".into()));
        ledger.aim("next", false);
        assert_eq!(write(&mut ledger), ["left", "shop"]);
        ledger.hear_copy(News::Gone("shop".into()));
        assert_eq!(ledger.next(), None, "nothing asks for it any more");
        ledger.hear_namespace(enrolled("theirs"));
        assert_eq!(ledger.next(), None, "there is a ClusterTrustBundle");
        ledger.hear_namespace(News::There("theirs".into(), RootsFor::Asked));
        assert_eq!(write(&mut ledger), ["theirs"]);
    }

    #[test]
    fn what_a_new_list_does_not_have_is_gone_and_what_is_unclear_counts_on() {
        let mut ledger = ledger(&["a", "b", "c"], Vec::new());
        write(&mut ledger);
        ledger.hear_copy(News::Begun);
        ledger.hear_copy(copy("a", "new", true));
        assert_eq!(ledger.next(), None, "the list is not over");
        ledger.hear_copy(News::Ended);
        assert_eq!(write(&mut ledger), ["b", "c"]);
        ledger.hear_namespace(News::Begun);
        ledger.hear_namespace(News::Unclear("a".into()));
        ledger.hear_namespace(enrolled("c"));
        ledger.hear_namespace(News::Ended);
        ["a", "b", "c"].iter().for_each(|name| ledger.hear_copy(News::Gone((*name).into())));
        assert_eq!(write(&mut ledger), ["a", "c"]);
    }

    #[test]
    fn what_is_refused_waits_behind_all_others() {
        let mut ledger = ledger(&["a", "b"], Vec::new());
        ledger.refused("a");
        assert_eq!(write(&mut ledger), ["b"]);
        assert_eq!(ledger.open(), 1);
        ledger.retry();
        assert_eq!((ledger.next(), ledger.open()), (Some("a"), 1));
        ledger.refused("a");
        ledger.hear_namespace(News::Gone("a".into()));
        assert_eq!(ledger.open(), 0);
    }
}
