//! Reads foreign bytes as a `grpc-timeout`, and holds the laws that no bytes may break.

use std::time::Duration;

use mesh_common::grpc::read_timeout;

pub fn run(input: &[u8]) {
    let read = read_timeout(input);
    let is_value = matches!(input, [digits @ .., b'H' | b'M' | b'S' | b'm' | b'u' | b'n']
        if (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit));
    assert_eq!(read.is_ok(), is_value, "{input:?}");
    let Ok(timeout) = read else { return };
    let (unit, digits) = input.split_last().expect("a value has a unit");
    let count: u64 = std::str::from_utf8(digits).expect("they are digits").parse().expect("they are few");
    // The other way round: so many of the unit, and nothing over.
    let (whole, rest) = match unit {
        b'H' => (timeout.as_secs() / 3600, timeout - Duration::from_secs(timeout.as_secs() / 3600 * 3600)),
        b'M' => (timeout.as_secs() / 60, timeout - Duration::from_secs(timeout.as_secs() / 60 * 60)),
        b'S' => (timeout.as_secs(), timeout - Duration::from_secs(timeout.as_secs())),
        b'm' => (
            u64::try_from(timeout.as_millis()).expect("few"),
            Duration::from_micros(timeout.as_micros() as u64 % 1000),
        ),
        b'u' => (
            u64::try_from(timeout.as_micros()).expect("few"),
            Duration::from_nanos(timeout.as_nanos() as u64 % 1000),
        ),
        _ => (u64::try_from(timeout.as_nanos()).expect("few"), Duration::ZERO),
    };
    assert_eq!((whole, rest), (count, Duration::ZERO));
}
