//! `grpc-timeout`: how long a caller waits for the end of its call (gRPC over HTTP/2, Timeout).

use std::time::Duration;

/// The field's name.
pub const TIMEOUT: &str = "grpc-timeout";

/// Most digits of a value.
const DIGITS: usize = 8;

/// A value that says nothing: servers of gRPC refuse such a call, each in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grpc-timeout is not 1 to 8 digits and one of H, M, S, m, u, n")]
pub struct MalformedTimeout;

/// Reads a value: 1 to 8 digits, then the unit. Zero, which the words of the protocol leave out, is what callers say whose
/// time is over, and means that.
///
/// # Errors
/// [`MalformedTimeout`] for anything else; white space and signs too.
pub fn read_timeout(value: &[u8]) -> Result<Duration, MalformedTimeout> {
    let (unit, digits) = value.split_last().ok_or(MalformedTimeout)?;
    if digits.is_empty() || digits.len() > DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return Err(MalformedTimeout);
    }
    let count = digits.iter().fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Ok(Duration::from_secs(count * 3600)),
        b'M' => Ok(Duration::from_secs(count * 60)),
        b'S' => Ok(Duration::from_secs(count)),
        b'm' => Ok(Duration::from_millis(count)),
        b'u' => Ok(Duration::from_micros(count)),
        b'n' => Ok(Duration::from_nanos(count)),
        _ => Err(MalformedTimeout),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_unit_is_what_the_protocol_says() {
        for (value, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("0n", Duration::ZERO),
            ("00000010S", Duration::from_secs(10)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(read_timeout(value.as_bytes()), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_is_no_value_is_none() {
        for value in [
            "",
            "S",
            "1",
            "10",
            "1s",
            "1h",
            "1 S",
            " 1S",
            "1S ",
            "+1S",
            "-1S",
            "1.5S",
            "1SS",
            "100000000S",
            "\u{661}S",
            "0x1S",
            "1S,2S",
        ] {
            assert_eq!(read_timeout(value.as_bytes()), Err(MalformedTimeout), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn any_number_of_any_unit_reads_as_what_it_is(count in 0u32..100_000_000, unit in 0usize..6) {
            let nanos: [u128; 6] = [3_600_000_000_000, 60_000_000_000, 1_000_000_000, 1_000_000, 1_000, 1];
            let value = format!("{count}{}", char::from(b"HMSmun"[unit]));
            let read = read_timeout(value.as_bytes()).unwrap();
            prop_assert_eq!(read.as_nanos(), u128::from(count) * nanos[unit]);
        }
    }
}
