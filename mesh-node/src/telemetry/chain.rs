//! Prints an error and its causes, each once: "outer: middle: root".

use std::error::Error;
use std::fmt;

/// An error with its causes, for one line of a log.
#[derive(Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        formatter.write_str(&told)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Errors of libraries, as kube's, have their causes in their own text too.
            if !told.contains(&text) {
                write!(formatter, ": {text}")?;
                told = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("read the folder {folder}")]
    struct Outer {
        folder: &'static str,
        #[source]
        cause: std::io::Error,
    }

    #[test]
    fn every_cause_is_printed_once() {
        let cause = std::io::Error::other("disk is gone");
        let error = Outer { folder: "/etc/mesh", cause };
        assert_eq!(Chain(&error).to_string(), "read the folder /etc/mesh: disk is gone");
    }

    /// As libraries have it: what it says ends with what its cause says.
    #[derive(Debug, thiserror::Error)]
    #[error("open ({cause})")]
    struct Repeats {
        #[source]
        cause: std::io::Error,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("start")]
    struct Start(#[source] Repeats);

    #[test]
    fn a_cause_that_an_error_has_told_is_not_told_again() {
        let error = Start(Repeats { cause: std::io::Error::other("disk is gone") });
        assert_eq!(Chain(&error).to_string(), "start: open (disk is gone)");
    }
}
