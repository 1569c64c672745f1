//! The name of one refusal: told to who was refused and to the log, and asked for by `mesh-node authz explain`.
//!
//! `NODE-RUN-CHANCE`: a mark of the node, a mark of the agent's run there, and chance. It says nothing of policies, and
//! gives nothing to who has not the agent's socket.

use std::fmt;
use std::str::FromStr;

/// The digits, without those that are read as others (Crockford's base 32).
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Digits of each part.
const PARTS: [usize; 3] = [5, 4, 12];
/// With a dash between the parts.
const LENGTH: usize = PARTS[0] + PARTS[1] + PARTS[2] + 2;

/// The name of one refusal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId([u8; LENGTH]);

/// What ids of one node begin with. Two nodes of a mesh can have the same one; hardly ever they do.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeMark(u32);

/// Text that is no id of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no id of a refusal: one is written as in {example}, and stands in the response's field \
         x-nodemesh-decision-id and in the access record's field decision", example = EXAMPLE)]
pub struct DecisionIdError;

const EXAMPLE: &str = "4k2nd-9xq1-7h3mz0v8w5rc";

impl NodeMark {
    /// The mark of a node of this name.
    pub fn of(name: &str) -> Self {
        // FNV-1a, folded: the same in every version, and short.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let folded = hash ^ (hash >> 25) ^ (hash >> 50);
        Self((folded & mask(PARTS[0])) as u32)
    }
}

impl fmt::Debug for NodeMark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for NodeMark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; PARTS[0]];
        write(&mut text, u64::from(self.0));
        formatter.write_str(std::str::from_utf8(&text).expect("digits are ASCII"))
    }
}

impl DecisionId {
    /// The id of a refusal: of this node, in this run of its agent (20 bits count), by chance (60 bits count).
    pub fn new(node: NodeMark, run: u32, chance: u64) -> Self {
        let mut text = [b'-'; LENGTH];
        let (node_part, rest) = text.split_at_mut(PARTS[0]);
        let (run_part, rest) = rest[1..].split_at_mut(PARTS[1]);
        write(node_part, u64::from(node.0));
        write(run_part, u64::from(run));
        write(&mut rest[1..], chance);
        Self(text)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits are ASCII")
    }

    /// Whether it is of a node with this mark.
    pub fn is_of(&self, node: NodeMark) -> bool {
        let mut text = [0; PARTS[0]];
        write(&mut text, u64::from(node.0));
        self.0[..PARTS[0]] == text
    }

    /// Whether it is of the same run of the same agent as another.
    pub fn is_of_run(&self, other: &Self) -> bool {
        let end = PARTS[0] + 1 + PARTS[1];
        self.0[..end] == other.0[..end]
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for DecisionId {
    type Err = DecisionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes: [u8; LENGTH] = text.as_bytes().try_into().map_err(|_| DecisionIdError)?;
        let bytes = bytes.map(|byte| byte.to_ascii_lowercase());
        let is_dash = |index: usize| index == PARTS[0] || index == PARTS[0] + 1 + PARTS[1];
        let is_good = |(index, byte): (usize, &u8)| match is_dash(index) {
            true => *byte == b'-',
            false => DIGITS.contains(byte),
        };
        if bytes.iter().enumerate().all(is_good) { Ok(Self(bytes)) } else { Err(DecisionIdError) }
    }
}

/// As many bits as so many digits hold.
const fn mask(digits: usize) -> u64 {
    (1 << (5 * digits)) - 1
}

/// Writes the lowest bits of a number, as many as there is room for.
fn write(text: &mut [u8], mut number: u64) {
    for digit in text.iter_mut().rev() {
        *digit = DIGITS[(number & 31) as usize];
        number >>= 5;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let node = NodeMark::of("node-a");
        let id = DecisionId::new(node, 0xabcde, u64::MAX);
        assert_eq!(id.as_str().len(), LENGTH);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        assert!(
            id.as_str().starts_with(&format!("{node}-")) && id.as_str().ends_with("-zzzzzzzzzzzz"),
            "{id}"
        );
        assert_eq!(EXAMPLE.parse::<DecisionId>().unwrap().as_str(), EXAMPLE);
    }

    #[test]
    fn an_id_tells_its_node_and_run() {
        let [a, b] = ["node-a", "node-b"].map(NodeMark::of);
        let id = DecisionId::new(a, 1, 7);
        assert!(id.is_of(a) && !id.is_of(b));
        assert!(id.is_of_run(&DecisionId::new(a, 1, 8)));
        assert!(!id.is_of_run(&DecisionId::new(a, 2, 7)) && !id.is_of_run(&DecisionId::new(b, 1, 7)));
    }

    #[test]
    fn what_is_no_id_is_not_read() {
        for text in [
            "",
            "4k2nd",
            "4k2nd-9xq1-7h3mz0v8w5r",
            "4k2nd-9xq1-7h3mz0v8w5rcc",
            "4k2nd.9xq1-7h3mz0v8w5rc",
            "4k2nd-9xq1-7h3mz0v8w5ri",
            "4k2nd-9xq1-7h3mz0v8w5ré",
            "../../../../../etc/hosts",
        ] {
            assert_eq!(text.parse::<DecisionId>(), Err(DecisionIdError), "{text:?}");
        }
    }
}
