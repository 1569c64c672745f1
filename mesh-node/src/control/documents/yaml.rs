//! One document of YAML (or JSON, which is YAML) becomes a value, at a bounded cost.

use serde::de::DeserializeOwned;
use serde_saphyr::options::{AliasLimits, DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{DefaultMessageFormatter, MessageFormatter as _, Options};

/// Events, nodes: a 10 MB file of short entries has about two million.
const MAX_EVENTS: usize = 4_000_000;
/// Maps and lists in each other. Kubernetes objects have about fifteen, a level costs up to 32 KiB of stack.
const MAX_DEPTH: usize = 32;
/// What aliases may add to a document. Sharing a few labels is fine, growing exponentially is not.
const MAX_ALIAS_EVENTS: usize = 20_000;

/// Why a document is no YAML that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct YamlError {
    /// The line in the document, counted from 1, where it is known.
    pub(super) line: Option<usize>,
    /// What is wrong.
    pub(super) reason: String,
}

/// Reads one document.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| YamlError {
        line: error
            .location()
            .and_then(|location| usize::try_from(location.line()).ok())
            .filter(|line| *line > 0),
        reason: reason(error.without_snippet()),
    })
}

/// The library's words, where they are not about its own options, without what a terminal might obey.
fn reason(error: &serde_saphyr::Error) -> String {
    let said = match error {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => format!("{key:?} stands twice"),
        serde_saphyr::Error::DuplicateMappingKey { .. } => "a key stands twice".to_owned(),
        error => DefaultMessageFormatter.format_message(error).into_owned(),
    };
    let shown = |character: char| match character {
        '\\' | '"' | '\'' => character.to_string(),
        character => character.escape_debug().to_string(),
    };
    said.chars().map(shown).collect()
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: MAX_EVENTS,
            max_nodes: MAX_EVENTS,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: 1,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_merge_keys: 1_000,
        },
        alias_limits: alias_limits(),
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Merge,
        with_snippet: false,
    }
}

fn alias_limits() -> AliasLimits {
    serde_saphyr::alias_limits! {
        max_total_replayed_events: MAX_ALIAS_EVENTS,
        max_replay_stack_depth: 16,
        max_alias_expansions_per_anchor: 1_000,
    }
}
