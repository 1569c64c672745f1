//! Prints an error and its causes, each once: "outer: middle: root".

use std::error::Error;
use std::fmt;

/// An error with its causes, for one line of a log.
#[derive(Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
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
}
