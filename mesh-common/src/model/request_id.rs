//! What tells a request from others, in every record and every application that it passes: Envoy's `x-request-id`.

use std::fmt;

use smallvec::SmallVec;

/// The field.
pub const REQUEST_ID: &str = "x-request-id";
/// The longest value of a caller's own that is recorded, in bytes.
const LONGEST: usize = 128;
/// A UUID has 36 bytes: what is made needs no memory of its own.
const USUAL: usize = 40;

/// The id of a request, in visible ASCII.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(SmallVec<[u8; USUAL]>);

impl RequestId {
    /// A random UUID (RFC 9562 section 5.4) from 122 of these bits.
    pub fn new(chance: u128) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let random = (chance & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let mut text = SmallVec::new();
        for at in 0..32 {
            if matches!(at, 8 | 12 | 16 | 20) {
                text.push(b'-');
            }
            text.push(DIGITS[(random >> (124 - 4 * at)) as usize & 0xf]);
        }
        Self(text)
    }

    /// What a caller gave; `None` if it has other bytes than visible ASCII, none, or more than 128. Such a value is carried
    /// as it is, and not recorded.
    pub fn given(value: &[u8]) -> Option<Self> {
        let is_fit = (1..=LONGEST).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
        is_fit.then(|| Self(SmallVec::from_slice(value)))
    }

    /// The value of the field.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("it is ASCII")
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_a_uuid_of_version_4() {
        assert_eq!(RequestId::new(0).as_str(), "00000000-0000-4000-8000-000000000000");
        assert_eq!(RequestId::new(u128::MAX).as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        let digits = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
        assert_eq!(RequestId::new(digits).as_str(), "01234567-89ab-4def-8123-456789abcdef");
    }

    #[test]
    fn what_is_given_is_kept_as_it_is_if_it_can_be_recorded() {
        let longest = [b'a'; LONGEST];
        for given in [&b"a"[..], b"1-d4f2;Root=1", &longest] {
            assert_eq!(
                RequestId::given(given).map(|id| id.as_str().as_bytes().to_vec()),
                Some(given.to_vec())
            );
        }
        for unfit in [&b""[..], b"a b", b"a\x1b[2J", b"\xff", &[b'a'; LONGEST + 1]] {
            assert_eq!(RequestId::given(unfit), None, "{unfit:?}");
        }
    }
}
