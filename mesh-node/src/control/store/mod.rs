//! What the files of a folder say, object by object: who claims what, who is right, and what stays in force when
//! nobody is. What is told of a file as a whole is in `whole`.
//!
//! In: the text of files. Out: [`Change`]s, and the list of what is wrong. Where two documents claim one object,
//! the last one counts (by file name, then by place in the file), as `kubectl apply -f DIR` would leave it. What
//! is refused leaves in force what was; text that is no YAML leaves in force all that its file said. Any order in
//! which good files come gives the same. Never: I/O.

mod whole;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use mesh_common::model::Text;

use super::documents::{self, Claim, Complaint, Document, MAX_OBJECTS, ObjectName, Place, Problem, Reader};
use super::enroller::Change;
use super::object::{Kind, Meaning, ObjectKey};
use super::translate::route::RouteReferences;
use super::translate::{DEFAULT_NAMESPACE, Effect};

pub use self::whole::Refusal;

/// Most other places or objects that are named where something stands more than once.
const MAX_NAMED: usize = 5;

/// All files of a folder.
#[derive(Debug)]
pub struct Store {
    reader: Reader,
    hasher: RandomState,
    files: BTreeMap<Text, File>,
    claims: HashMap<ObjectKey, BTreeMap<Place, Claim>>,
    /// Objects that more than one document claims.
    contested: BTreeSet<ObjectKey>,
    in_force: HashMap<ObjectKey, Meaning>,
    /// Objects whose claims changed since the last [`Store::changes`].
    stale: HashSet<ObjectKey>,
}

#[derive(Debug, Default)]
struct File {
    documents: Vec<Placed>,
    /// Why the file as a whole was not read; its documents are then those of the last time.
    refusal: Option<Refusal>,
    /// What it held before it was empty.
    emptied: Vec<ObjectKey>,
    /// Objects that a document which is no YAML now may have held, with its number.
    lingering: BTreeMap<ObjectKey, usize>,
}

/// What a file says, read and not yet taken.
#[derive(Debug, Default)]
pub struct FileText {
    documents: Vec<Placed>,
}

/// Reads a file apart from the store: a large one takes a while.
#[derive(Debug)]
pub struct FileReader {
    reader: Reader,
    hasher: RandomState,
    /// The documents that the file has now, by what they say.
    known: HashMap<u64, Arc<Document>>,
}

/// A document where it stands.
#[derive(Clone, Debug)]
struct Placed {
    line: usize,
    hash: u64,
    document: Arc<Document>,
}

impl File {
    fn is_unread(&self) -> bool {
        self.refusal.is_some() && self.documents.is_empty()
    }
}

impl FileReader {
    /// Reads what the file says. Documents whose text did not change are not read again.
    ///
    /// # Errors
    /// A file with more than [`MAX_OBJECTS`].
    pub fn read(&self, text: &str) -> Result<FileText, Refusal> {
        let too_many = |count: usize, what: &str| {
            let reason = format!(
                "has {count} {what}, at most {MAX_OBJECTS} of one file are read: split it into several files"
            );
            self.refusal(reason, text)
        };
        let read = |chunk: documents::Chunk<'_>| {
            let hash = self.hasher.hash_one(chunk.text);
            let document = match self.known.get(&hash) {
                Some(document) => Arc::clone(document),
                None => Arc::new(self.reader.document(chunk.text)),
            };
            Placed { line: chunk.line, hash, document }
        };
        let chunks = documents::documents(text);
        if chunks.len() > MAX_OBJECTS {
            return Err(too_many(chunks.len(), "documents"));
        }
        let documents: Vec<Placed> = chunks.into_iter().map(read).collect();
        match documents.iter().map(|placed| placed.document.objects.len()).sum() {
            count if count > MAX_OBJECTS => Err(too_many(count, "objects")),
            _ => Ok(FileText { documents }),
        }
    }
}

impl Store {
    /// An empty store.
    pub fn new(reader: Reader) -> Self {
        Self {
            reader,
            hasher: RandomState::new(),
            files: BTreeMap::new(),
            claims: HashMap::new(),
            contested: BTreeSet::new(),
            in_force: HashMap::new(),
            stale: HashSet::new(),
        }
    }

    /// What reads a file without the store.
    pub fn reader(&self, file: &str) -> FileReader {
        let documents = self.files.get(file).into_iter().flat_map(|before| &before.documents);
        let known = documents.map(|placed| (placed.hash, Arc::clone(&placed.document))).collect();
        FileReader { reader: self.reader.clone(), hasher: self.hasher.clone(), known }
    }

    /// Whether a file that says this claims an object no more, or says something else of a policy.
    pub fn takes_away(&self, file: &str, text: &FileText) -> bool {
        let Some(before) = self.files.get(file) else { return false };
        let after = text.documents.iter().flat_map(|placed| &placed.document.objects);
        let after: HashMap<&ObjectKey, &Claim> = after.map(|(key, claim)| (key, claim)).collect();
        let claims = before.documents.iter().flat_map(|placed| &placed.document.objects);
        let is_other = |(key, claim): &(ObjectKey, Claim)| match after.get(key) {
            Some(now) => key.kind.is_policy() && *now != claim,
            None => true,
        };
        claims.into_iter().any(is_other) || before.lingering.keys().any(|key| !after.contains_key(key))
    }

    /// Whether a policy of a file would deny for want of being understood, where none does now. Not of a new file.
    pub fn would_deny(&self, file: &str, text: &FileText) -> bool {
        let denies = |documents: &[Placed]| {
            let mut complaints = documents.iter().flat_map(|placed| &placed.document.complaints);
            complaints.any(|complaint| complaint.effect == Effect::Denies)
        };
        self.has_objects(file)
            && self.files.get(file).is_some_and(|before| !denies(&before.documents))
            && denies(&text.documents)
    }

    /// Takes what a file says now.
    pub fn put(&mut self, file: &Text, text: FileText) {
        let mut before = self.files.remove(file).unwrap_or_default();
        let FileText { documents } = text;
        let first_unreadable = documents.iter().position(|placed| !placed.document.is_readable);
        let emptied = if documents.is_empty() { before.held(&self.in_force) } else { Vec::new() };
        let mut lingering = BTreeMap::new();
        if let Some(index) = first_unreadable {
            // What denies only because it was not understood is not what the file said.
            let was_understood = |(key, claim): &&(ObjectKey, Claim)| !self.falls_back(key, claim);
            let objects = before.documents.iter().flat_map(|placed| &placed.document.objects);
            let said = objects.filter(was_understood).map(|(key, _)| key);
            lingering = said.chain(before.lingering.keys()).map(|key| (key.clone(), index + 1)).collect();
            for (key, _) in documents.iter().flat_map(|placed| &placed.document.objects) {
                lingering.remove(key);
            }
        }
        for (key, number) in std::mem::take(&mut before.lingering) {
            self.retract(&key, &Place { file: file.clone(), document: number });
        }
        self.retract_denials(file, before.refusal.take());
        let count = before.documents.len().max(documents.len());
        for index in 0..count {
            let old = before.documents.get(index).map(|placed| &placed.document);
            let new = documents.get(index).map(|placed| &placed.document);
            if !matches!((old, new), (Some(old), Some(new)) if Arc::ptr_eq(old, new)) {
                self.replace(&Place { file: file.clone(), document: index + 1 }, old, new);
            }
        }
        let unreadable = documents.iter().filter(|placed| !placed.document.is_readable);
        let objects = unreadable.flat_map(|placed| &placed.document.objects);
        self.stale.extend(objects.map(|(key, _)| key.clone()));
        for (key, number) in &lingering {
            self.claim(key, Place { file: file.clone(), document: *number }, Claim::Refused);
        }
        self.files.insert(file.clone(), File { documents, refusal: None, emptied, lingering });
    }

    /// Takes that a file is gone, with all that it said.
    pub fn remove(&mut self, file: &str) {
        let Some((file, mut before)) = self.files.remove_entry(file) else { return };
        self.retract_denials(&file, before.refusal.take());
        for (key, number) in before.lingering {
            self.retract(&key, &Place { file: file.clone(), document: number });
        }
        for (index, placed) in before.documents.iter().enumerate() {
            self.replace(&Place { file: file.clone(), document: index + 1 }, Some(&placed.document), None);
        }
    }

    /// Whether a file cannot be read, and never could be: nobody knows what it says.
    pub fn is_unread(&self, file: &str) -> bool {
        self.files.get(file).is_some_and(File::is_unread)
    }

    /// Whether there is such a file.
    pub fn has_unread(&self) -> bool {
        self.files.values().any(File::is_unread)
    }

    /// Names of the files that something is known of.
    pub fn files(&self) -> impl Iterator<Item = &Text> {
        self.files.keys()
    }

    /// Whether a file says anything.
    pub fn has_objects(&self, file: &str) -> bool {
        let objects = |file: &File| file.documents.iter().any(|placed| !placed.document.objects.is_empty());
        self.files.get(file).is_some_and(objects)
    }

    /// How many objects of each kind are in force.
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts: BTreeMap<_, _> = Kind::ALL.into_iter().map(|kind| (kind, 0)).collect();
        for key in self.in_force.keys() {
            *counts.entry(key.kind).or_default() += 1;
        }
        counts
    }

    /// Every route that is known.
    pub fn routes(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<RouteReferences>)> {
        self.in_force.iter().filter_map(|(key, meaning)| match meaning {
            Meaning::Route(route) => Some((key, route)),
            _ => None,
        })
    }

    /// What changed since this was asked last.
    pub fn changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for key in std::mem::take(&mut self.stale) {
            let after = self.winner(&key);
            let before = self.in_force.get(&key);
            if before == after.as_ref() {
                continue;
            }
            let before = match &after {
                Some(after) => self.in_force.insert(key.clone(), after.clone()),
                None => self.in_force.remove(&key),
            };
            changes.push(Change { key, before, after });
        }
        changes
    }

    /// All that is wrong with what the files say, in no order.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, file) in &self.files {
            problems.extend(self.of_the_whole(name, file));
            for (index, placed) in file.documents.iter().enumerate() {
                let place = Place { file: name.clone(), document: index + 1 };
                problems.extend(placed.document.complaints.iter().map(|complaint| Problem {
                    place: place.clone(),
                    line: placed.line + complaint.line.saturating_sub(1),
                    complaint: Complaint {
                        effect: self.effect(file, placed, complaint),
                        ..complaint.clone()
                    },
                }));
            }
        }
        problems.extend(self.contested.iter().flat_map(|key| self.duplicates(key)));
        problems
    }

    /// Where the document stands that says what an object is, and its line.
    pub fn place(&self, key: &ObjectKey) -> Option<(Place, usize)> {
        let claims = self.claims.get(key)?;
        let good = claims.iter().rev().find(|(_, claim)| matches!(claim, Claim::Good(_)));
        let (place, _) = good.or_else(|| claims.iter().next_back())?;
        Some((place.clone(), self.line(place)))
    }

    /// Finds the line of a problem that nobody looked for yet.
    pub fn locate(&self, problem: &mut Problem) {
        let Problem { place, line, complaint } = problem;
        let placed = place
            .document
            .checked_sub(1)
            .and_then(|index| self.files.get(&place.file).and_then(|file| file.documents.get(index)));
        let (0, Some(placed), Some(object), Some(field)) =
            (complaint.line, placed, &complaint.object, &complaint.field)
        else {
            return;
        };
        let found = key_of(object).and_then(|key| placed.document.find(&key, field));
        if let Some((field, line_in_document)) = found {
            *line = placed.line + line_in_document - 1;
            (complaint.line, complaint.field) = (line_in_document, Some(field));
        }
    }

    fn replace(&mut self, place: &Place, old: Option<&Arc<Document>>, new: Option<&Arc<Document>>) {
        for (key, _) in old.into_iter().flat_map(|document| &document.objects) {
            self.retract(key, place);
        }
        for (key, claim) in new.into_iter().flat_map(|document| &document.objects) {
            self.claim(key, place.clone(), claim.clone());
        }
    }

    fn claim(&mut self, key: &ObjectKey, place: Place, claim: Claim) {
        let claims = self.claims.entry(key.clone()).or_default();
        claims.insert(place, claim);
        if claims.len() > 1 {
            self.contested.insert(key.clone());
        }
        self.stale.insert(key.clone());
    }

    fn retract(&mut self, key: &ObjectKey, place: &Place) {
        if let Some(claims) = self.claims.get_mut(key) {
            claims.remove(place);
            if claims.len() < 2 {
                self.contested.remove(key);
            }
            if claims.is_empty() {
                self.claims.remove(key);
            }
        }
        self.stale.insert(key.clone());
    }

    /// The last good claim; without one, what was in force; without that, what denies most, except for a broken List
    /// whose policies of before are still in force.
    fn winner(&self, key: &ObjectKey) -> Option<Meaning> {
        let claims = self.claims.get(key)?;
        let good = claims.values().rev().find_map(|claim| match claim {
            Claim::Good(meaning) => Some(meaning),
            Claim::Refused | Claim::Unreadable(_) => None,
        });
        let fallback = || {
            claims.iter().rev().find_map(|(place, claim)| match claim {
                Claim::Unreadable(meaning) if !self.keeps_listed(key.kind, place) => Some(meaning),
                Claim::Unreadable(_) | Claim::Good(_) | Claim::Refused => None,
            })
        };
        good.or_else(|| self.in_force.get(key)).or_else(fallback).cloned()
    }

    /// Whether an object is in force as what denies most.
    fn falls_back(&self, key: &ObjectKey, claim: &Claim) -> bool {
        matches!(claim, Claim::Unreadable(meaning) if self.in_force.get(key) == Some(meaning))
    }

    /// Whether a claim comes from a List that is no YAML, of whose file policies of the same kind stay in force.
    fn keeps_listed(&self, kind: Kind, place: &Place) -> bool {
        let Some(file) = self.files.get(&place.file) else { return false };
        let placed = place.document.checked_sub(1).and_then(|index| file.documents.get(index));
        placed.is_some_and(|placed| placed.document.is_broken_list())
            && file.lingering.keys().any(|key| key.kind == kind)
    }

    /// What a complaint means, now that it is known what is in force.
    fn effect(&self, file: &File, placed: &Placed, complaint: &Complaint) -> Effect {
        let document = &placed.document;
        if !document.is_readable {
            let keeps = !file.lingering.is_empty() || !document.objects.is_empty();
            let denies = document.objects.iter().any(|(key, claim)| self.falls_back(key, claim));
            return if keeps && !denies { Effect::LastGoodKept } else { complaint.effect };
        }
        let key = complaint.object.as_ref().and_then(key_of);
        match complaint.effect {
            Effect::NotInForce if key.is_some_and(|key| self.in_force.contains_key(&key)) => {
                Effect::LastGoodKept
            }
            effect => effect,
        }
    }

    /// One problem for each document that claims the object.
    fn duplicates(&self, key: &ObjectKey) -> Vec<Problem> {
        let Some(claims) = self.claims.get(key) else { return Vec::new() };
        let wins = |(place, claim): (&Place, &Claim)| matches!(claim, Claim::Good(_)).then(|| place.clone());
        let winner = claims.iter().rev().find_map(wins);
        let problem = |place: &Place| {
            let others = claims.keys().filter(|other| *other != place).map(Place::to_string);
            let others = first_of(others, claims.len() - 1);
            let (reason, effect) = if winner.as_ref() == Some(place) {
                (format!("also stands in {others}; this one counts"), Effect::Warning)
            } else {
                (format!("also stands in {others}; this one does not count"), Effect::NotInForce)
            };
            let complaint = Complaint {
                line: 0,
                object: Some(ObjectName::from(key)),
                field: Some("metadata.name".to_owned()),
                reason,
                effect,
            };
            Problem { place: place.clone(), line: self.line(place), complaint }
        };
        claims.keys().map(problem).collect()
    }

    fn line(&self, place: &Place) -> usize {
        let file = self.files.get(&place.file);
        file.and_then(|file| file.documents.get(place.document.checked_sub(1)?))
            .map_or(0, |placed| placed.line)
    }
}

/// The first of some things, and how many more there are.
pub(super) fn first_of(things: impl Iterator<Item = String>, count: usize) -> String {
    let named: Vec<String> = things.take(MAX_NAMED).collect();
    match count.saturating_sub(MAX_NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn key_of(object: &ObjectName) -> Option<ObjectKey> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == object.kind)?;
    let namespace = match (kind.is_namespaced(), &*object.namespace) {
        (false, _) => "",
        (true, "") => DEFAULT_NAMESPACE,
        (true, namespace) => namespace,
    };
    Some(ObjectKey { kind, name: mesh_common::model::NamespacedName::new(namespace, &*object.name) })
}

#[cfg(test)]
mod tests;
