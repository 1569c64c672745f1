//! What a refused request seems to have asked for: for logs alone, nothing is decided on it.

/// The longest part that is kept, in bytes.
const MAX_PART: usize = 512;

/// Method and path as they came. What cannot be told is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedFor {
    /// The method.
    pub method: Box<str>,
    /// The target without its query.
    pub path: Box<str>,
}

impl AskedFor {
    /// Takes what is known elsewhere.
    pub fn new(method: &[u8], target: &[u8]) -> Self {
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        Self { method: part(method), path: part(path) }
    }

    /// Looks at the first line of a head, whole or not.
    pub fn of_head(head: &[u8]) -> Self {
        let mut lines = head.split(|byte| matches!(byte, b'\r' | b'\n'));
        let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
        let mut words = line.split(|byte| *byte == b' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next());
        let is_method = !method.is_empty() && method.iter().all(u8::is_ascii_alphabetic);
        // Without a target behind it, it may be anything.
        target.filter(|_| is_method).map_or_else(Self::default, |target| Self::new(method, target))
    }
}

fn part(bytes: &[u8]) -> Box<str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_PART)]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_is_told_as_far_as_it_can_be() {
        for (head, method, path) in [
            ("GET /a%zz?secret=1 HTTP/1.1\r\nhost: a\r\n\r\n", "GET", "/a%zz"),
            ("\r\nPOST /a", "POST", "/a"),
            ("GET /a b HTTP/1.1\n", "GET", "/a"),
            ("GET", "", ""),
            ("\u{16}\u{3}\u{1} x", "", ""),
            ("", "", ""),
        ] {
            let asked = AskedFor::of_head(head.as_bytes());
            assert_eq!((&*asked.method, &*asked.path), (method, path), "{head:?}");
        }
        assert_eq!(AskedFor::of_head(format!("GET /{}", "a".repeat(9999)).as_bytes()).path.len(), MAX_PART);
    }
}
