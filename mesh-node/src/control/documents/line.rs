//! On which line of a document a field stands. Only asked for where something is wrong.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::yaml;
use crate::control::object::ObjectKey;

/// The shape of a document: where its keys and entries stand, and nothing of what they say.
#[derive(Debug)]
enum Shape {
    Map(Vec<(Spanned<String>, Spanned<Shape>)>),
    List(Vec<Spanned<Shape>>),
    Scalar,
}

/// The lines of a document's fields.
#[derive(Debug)]
pub(super) struct Lines(Option<Spanned<Shape>>);

impl Lines {
    /// Reads a document again for its shape.
    pub(super) fn of(text: &str) -> Self {
        Self(yaml::read(text).ok())
    }

    /// The line of a field, counted from 1 in the document; of the nearest field around it, if it is not there.
    pub(super) fn line(&self, field: &str) -> Option<usize> {
        self.find(field).map(|(line, _)| line)
    }

    /// The same, and whether the field itself stands there.
    fn find(&self, field: &str) -> Option<(usize, bool)> {
        let mut node = self.0.as_ref()?;
        let mut line = node.referenced.line();
        let mut is_there = true;
        for step in steps(field) {
            let found = match &node.value {
                Shape::Map(entries) => entries
                    .iter()
                    .find(|(key, _)| key.value == step)
                    .map(|(key, value)| (key.referenced.line(), value)),
                Shape::List(entries) => step
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| entries.get(index))
                    .map(|entry| (entry.referenced.line(), entry)),
                Shape::Scalar => None,
            };
            let Some((next_line, next)) = found else {
                is_there = false;
                break;
            };
            (line, node) = (next_line, next);
        }
        usize::try_from(line).ok().filter(|line| *line > 0).map(|line| (line, is_there))
    }
}

/// A document that was read, kept to find fields in it that are wrong only beside other objects.
#[derive(Debug, Default)]
pub(super) struct Source {
    text: Box<str>,
    /// Where the objects of a List stand, as in `items[3]`.
    items: BTreeMap<ObjectKey, String>,
    lines: OnceLock<Lines>,
}

impl Source {
    pub(super) fn new(text: &str, items: BTreeMap<ObjectKey, String>) -> Self {
        Self { text: text.into(), items, lines: OnceLock::new() }
    }

    /// A field of an object as the document has it, and its line.
    pub(super) fn find(&self, key: &ObjectKey, field: &str) -> Option<(String, usize)> {
        let lines = self.lines.get_or_init(|| Lines::of(&self.text));
        let in_document = |field: &str| match self.items.get(key) {
            Some(item) => format!("{item}.{field}"),
            None => field.to_owned(),
        };
        let field = in_document(field);
        let found = lines.find(&field)?;
        let twin = twin(&field).and_then(|twin| Some((lines.find(&twin)?, twin)));
        match twin.filter(|((_, is_there), _)| !found.1 && *is_there) {
            Some(((line, _), twin)) => Some((twin, line)),
            None => Some((field, found.0)),
        }
    }
}

/// Addresses stand in a list, or one of them in a field of its own.
fn twin(field: &str) -> Option<String> {
    match field.strip_suffix("IPs") {
        Some(stem) => Some(format!("{stem}IP")),
        None => field.ends_with("IP").then(|| format!("{field}s")),
    }
}

/// `spec.rules[0].x` in steps: `spec`, `rules`, `0`, `x`. What stands in brackets is one step, dots and all.
fn steps(field: &str) -> impl Iterator<Item = &str> {
    let mut rest = field;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return None;
        }
        if let Some(inner) = rest.strip_prefix('[') {
            let end = inner.find(']').unwrap_or(inner.len());
            rest = inner.get(end + 1..).unwrap_or_default();
            return Some(&inner[..end]);
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let step;
        (step, rest) = rest.split_at(end);
        Some(step)
    })
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("YAML")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Shape::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = seq.next_element()? {
            entries.push(entry);
        }
        Ok(Shape::List(entries))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        Shape::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Shape::Scalar)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }
}
