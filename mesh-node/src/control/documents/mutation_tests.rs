//! Files that are nearly right: every object of `testdata/`, changed in a few places. The reader has too many dependencies
//! to be built with coverage for libFuzzer, so what it reads is changed here where readers of YAML are known to trip.

use std::path::Path;

use mesh_common::model::MeshSettings;
use proptest::prelude::*;

use super::*;

/// What means something to a reader of YAML, or of our kinds.
const PIECES: &[&str] = &[
    "---\n",
    "...\n",
    "\n",
    "\r\n",
    " ",
    "  ",
    "\t",
    ":",
    ": ",
    "- ",
    "-",
    "? ",
    "#",
    " #",
    "&a ",
    "*a",
    "<<: ",
    "<<: *a\n",
    "!!str ",
    "!x ",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "\\x",
    "\\u0000",
    "[",
    "]",
    "{",
    "}",
    ",",
    "~",
    "null",
    "true",
    "yes",
    "0",
    "-1",
    "0x1f",
    "1e400",
    ".nan",
    "65536",
    "\u{0}",
    "\u{7f}",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "é",
    "%YAML 1.2\n",
    "kind: List\nitems:\n",
    "items: []\n",
    "apiVersion: v1\n",
    "kind: AuthorizationPolicy\n",
    "action: DENY\n",
    "rules: [{}]\n",
    "namespace: other\n",
    "spec: {}\n",
    "name: ''\n",
];

fn kept() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let kinds = std::fs::read_dir(folder).unwrap().map(|kind| kind.unwrap().path());
    let files = kinds.flat_map(|kind| std::fs::read_dir(kind).unwrap().map(|file| file.unwrap().path()));
    let mut texts: Vec<String> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "yaml"))
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    texts.sort_unstable();
    assert!(texts.len() >= 30, "only {} files", texts.len());
    texts
}

/// One or two of them, changed in up to four places: a piece put in, a part left out, a part said twice.
fn changed() -> impl Strategy<Value = String> {
    let change = (0..3_u8, any::<prop::sample::Index>(), 1..30_usize, prop::sample::select(PIECES));
    let kept = prop::collection::vec(prop::sample::select(kept()), 1..3);
    (kept, prop::collection::vec(change, 0..5)).prop_map(|(kept, changes)| {
        let mut text = kept.join("\n---\n");
        for (kind, at, length, piece) in changes {
            let start = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.floor_char_boundary((start + length).min(text.len()));
            let part = text[start..end].to_owned();
            match kind {
                0 => text.insert_str(start, piece),
                1 => text.replace_range(start..end, ""),
                _ => text.insert_str(start, &part),
            }
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn no_change_brings_the_reader_down_or_makes_a_policy_vanish(text in changed()) {
        let reader = Reader::new(MeshSettings::default().into());
        let mut line = 0;
        for chunk in documents(&text) {
            prop_assert!(chunk.line > line, "documents have an order");
            line = chunk.line;
            let document = reader.document(chunk.text);
            holds(&document, chunk.text);
            let again = reader.document(chunk.text);
            prop_assert_eq!((&document.objects, &document.complaints), (&again.objects, &again.complaints));
        }
    }
}

/// The laws of a document, whatever it says.
fn holds(document: &Document, text: &str) {
    let lines = text.lines().count();
    for complaint in &document.complaints {
        // What is missing at its end is missing in the line after the last.
        assert!(complaint.line <= lines + 1, "line {} of {lines}: {complaint}", complaint.line);
        assert!(!complaint.reason.is_empty() && !complaint.reason.contains('\n'), "{complaint:?}");
    }
    let is_good = |claim: &Claim| matches!(claim, Claim::Good(_));
    if !document.objects.iter().all(|(_, claim)| is_good(claim)) || !document.is_readable {
        assert!(!document.complaints.is_empty(), "what is not taken is named");
    }
    // What is not read at all is named, but for a document that says nothing.
    let says_nothing = yaml::read::<serde_json::Value>(text)
        .is_ok_and(|value| value.is_null() || value["items"].as_array().is_some_and(Vec::is_empty));
    assert!(
        says_nothing || !document.objects.is_empty() || !document.complaints.is_empty(),
        "{text:?} vanished"
    );
}
