//! YAML and JSON, read as strictly as an API server would: what is wrong is named by file, document, line and
//! field, and harms no other object.
//!
//! In: the text of one file. Out: [`Document`]s, each with the objects that it holds, already translated, and its
//! [`Problem`]s. Limits bound what any text can cost: [`MAX_FILE`], [`MAX_OBJECTS`], nesting, events, aliases. Never: I/O.

mod known;
mod line;
mod mesh;
mod misread;
mod read;
mod salvage;
mod split;
pub(in crate::control) mod strict;
mod yaml;

#[cfg(test)]
mod mutation_tests;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;

use std::fmt;

use mesh_common::model::Text;

pub(in crate::control) use mesh::mesh_config;
pub use read::Reader;
pub use split::{Chunk, documents};

use self::line::Source;
use super::object::{Meaning, ObjectKey};
use super::translate::Effect;

/// The largest file that is read, in bytes.
pub const MAX_FILE: usize = 10 * 1024 * 1024;

/// Most documents of one file, and most objects of its documents and Lists: taken in one step, for which edits of other
/// files wait, some 0.1 s.
pub const MAX_OBJECTS: usize = 10_000;

/// Most bytes of a name, a field or a reason that are kept of a mistake.
const MAX_SAID: usize = 1024;

/// Something wrong with a file, a document or an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it stands.
    pub place: Place,
    /// The line that is wrong, counted from 1 in the file; where that cannot be said, the document's first, or 0
    /// for the file as a whole.
    pub line: usize,
    /// What is wrong there.
    pub complaint: Complaint,
}

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// The line, counted from 1 in the document; 0 if nobody looked for it yet.
    pub line: usize,
    /// The object, as far as it could be read.
    pub object: Option<ObjectName>,
    /// The path of the field, as in `spec.rules[0].from[1].source.ipBlocks[0]`.
    pub field: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// What it means.
    pub effect: Effect,
}

/// A document of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file, relative to the folder.
    pub file: Text,
    /// The document, counted from 1; 0 for the file as a whole.
    pub document: usize,
}

/// What an object calls itself, readable or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// One document, read. Does not say where it stands, so that it can be kept while others around it change.
#[derive(Debug)]
pub struct Document {
    /// What it holds, in its order.
    pub objects: Vec<(ObjectKey, Claim)>,
    /// What is wrong with it.
    pub complaints: Vec<Complaint>,
    /// Whether it is YAML. If not, it may hold any object.
    pub is_readable: bool,
    source: Source,
}

impl Document {
    /// Whether it is no YAML and was meant as a `v1` List.
    pub fn is_broken_list(&self) -> bool {
        let is_list =
            |complaint: &Complaint| complaint.object.as_ref().is_some_and(|object| object.kind == "List");
        !self.is_readable && self.complaints.iter().any(is_list)
    }

    /// A field of one of its objects as the document has it, and its line, counted from 1 in the document.
    pub fn find(&self, key: &ObjectKey, field: &str) -> Option<(String, usize)> {
        self.source.find(key, field)
    }
}

/// What a document says of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// This.
    Good(Meaning),
    /// Nothing that can be taken; what was in force stays.
    Refused,
    /// Nothing that can be taken. What was in force stays; if nothing was, this is.
    Unreadable(Meaning),
}

/// A policy of a text that is not read.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::control) struct Denial {
    pub(in crate::control) key: ObjectKey,
    pub(in crate::control) claim: Claim,
    /// Whether it stands in a List, of which not every name is known.
    pub(in crate::control) is_listed: bool,
}

impl From<&ObjectKey> for ObjectName {
    fn from(key: &ObjectKey) -> Self {
        Self {
            kind: key.kind.name().to_owned(),
            namespace: key.name.namespace.to_string(),
            name: key.name.name.to_string(),
        }
    }
}

impl ObjectName {
    fn shortened(self) -> Self {
        let Self { kind, namespace, name } = self;
        Self { kind: shortened(kind), namespace: shortened(namespace), name: shortened(name) }
    }
}

/// What a file says, short enough to be said again of each of its mistakes.
fn shortened(mut text: String) -> String {
    if text.len() > MAX_SAID {
        text.truncate(text.floor_char_boundary(MAX_SAID));
        text.push('…');
    }
    text
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.document {
            0 => formatter.write_str(&self.file),
            document => write!(formatter, "{} (document {document})", self.file),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        match (&**namespace, &**name) {
            (_, "") => formatter.write_str(kind),
            ("", name) => write!(formatter, "{kind} {name}"),
            (namespace, name) => write!(formatter, "{kind} {namespace}/{name}"),
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = &self.object {
            write!(formatter, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(formatter, "{field}: ")?;
        }
        formatter.write_str(&self.reason)
    }
}

/// `FILE:LINE (document N): Kind namespace/name: field: reason`.
impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, line, complaint } = self;
        write!(formatter, "{}", place.file)?;
        if *line > 0 {
            write!(formatter, ":{line}")?;
        }
        if place.document > 0 {
            write!(formatter, " (document {})", place.document)?;
        }
        write!(formatter, ": {complaint}")
    }
}
