//! What an agent asks of a controller that tells it only what it asks for.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// What something is that an application dials. Written as an address, or as `port/30080`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Question {
    /// Whose address this is; IPv4 never in the mapped form.
    Address(IpAddr),
    /// Whose port this is at the addresses of nodes.
    NodePort(u16),
}

/// A text that is no question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor port/NUMBER")]
pub struct NoQuestion(String);

/// What stands before the number of a node port.
const PORT: &str = "port/";

impl fmt::Display for Question {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(formatter),
            Self::NodePort(port) => write!(formatter, "{PORT}{port}"),
        }
    }
}

impl FromStr for Question {
    type Err = NoQuestion;

    fn from_str(text: &str) -> Result<Self, NoQuestion> {
        let read = match text.strip_prefix(PORT) {
            Some(port) => port.parse().ok().map(Self::NodePort),
            None => text.parse::<IpAddr>().ok().map(|address| Self::Address(address.to_canonical())),
        };
        // One way to write each, so that two names are never one question.
        read.filter(|question| question.to_string() == text).ok_or_else(|| NoQuestion(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_nothing_else() {
        for text in ["10.96.0.10", "fd00::1", "port/30080", "port/0"] {
            assert_eq!(text.parse::<Question>().unwrap().to_string(), text);
        }
        for text in
            ["", "*", "web", "10.96.0.10:80", "::ffff:10.0.0.1", "FD00::1", "port/", "port/70000", "port/080"]
        {
            assert!(text.parse::<Question>().is_err(), "{text} was read");
        }
    }
}
