//! The documents of a file, found without parsing it, so that a mistake in one harms no other.

/// The text of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Its first line in the file, counted from 1.
    pub line: usize,
    /// What stands between two separators, the first of them included.
    pub text: &'a str,
}

/// Splits at lines that begin with `---`: YAML allows them nowhere else (YAML 1.2.2 section 9.1.2). What is empty
/// but for comments and directives is no document of its own.
pub fn documents(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let mut open = Chunk { line: 1, text: "" };
    let mut start = 0;
    let mut offset = 0;
    let (mut has_content, mut has_directive) = (false, false);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        // The separator behind directives begins their document.
        let begins = is_separator(line) && (has_content || !has_directive);
        if begins && has_content {
            chunks.push(Chunk { text: &text[start..offset], ..open });
        }
        if begins {
            start = offset;
            open.line = index + 1;
            (has_content, has_directive) = (false, false);
        }
        has_content |= is_content(line);
        has_directive |= line.starts_with('%');
        offset += line.len();
    }
    if has_content {
        chunks.push(Chunk { text: &text[start..], ..open });
    }
    chunks
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_content(line: &str) -> bool {
    let line = if is_separator(line) { &line[3..] } else { line };
    let line = line.trim();
    !line.is_empty() && !line.starts_with(['#', '%']) && line != "..."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(usize, &str)]) {
        let chunks: Vec<_> = documents(text).into_iter().map(|chunk| (chunk.line, chunk.text)).collect();
        assert_eq!(chunks, expected, "{text:?}");
    }

    #[test]
    fn documents_are_separated_by_lines_that_begin_with_three_dashes() {
        check("a: 1\n---\nb: 2\n", &[(1, "a: 1\n"), (2, "---\nb: 2\n")]);
        check("---\na: 1\n--- # next\nb: 2", &[(1, "---\na: 1\n"), (3, "--- # next\nb: 2")]);
        check("a: 1\r\n---\r\nb: 2\r\n", &[(1, "a: 1\r\n"), (2, "---\r\nb: 2\r\n")]);
    }

    #[test]
    fn dashes_inside_a_document_separate_nothing() {
        check("a: |\n  ---\n  b\n", &[(1, "a: |\n  ---\n  b\n")]);
        check("----\n", &[(1, "----\n")]);
        check("a: ---\n", &[(1, "a: ---\n")]);
    }

    #[test]
    fn what_is_empty_is_no_document() {
        check("", &[]);
        check("# only words\n---\n---\n\n# and more\n", &[]);
        check("# head\n---\na: 1\n---\n", &[(2, "---\na: 1\n")]);
        check("\u{feff}a: 1\n", &[(1, "a: 1\n")]);
    }

    /// Where each separator looks at all before it, this does not end.
    #[test]
    fn a_file_of_separators_costs_one_look_at_each() {
        assert_eq!(documents(&format!("%a\n{}", "---\n".repeat(2_000_000))), []);
        assert_eq!(documents(&"# a\n---\n".repeat(1_000_000)), []);
    }

    #[test]
    fn a_directive_stays_with_its_document() {
        check("%YAML 1.2\n---\na: 1\n", &[(1, "%YAML 1.2\n---\na: 1\n")]);
    }
}
