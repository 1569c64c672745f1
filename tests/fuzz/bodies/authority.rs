//! Reads foreign bytes as `host[:port]`, and holds the laws that no bytes may break.

use std::net::{IpAddr, SocketAddr};

use mesh_common::http1::{Authority, MAX_HOST};

pub fn run(input: &[u8]) {
    let Ok(read) = Authority::parse(input) else { return };
    let spelled = std::str::from_utf8(read.as_bytes()).expect("an authority is ASCII");
    assert!(!spelled.is_empty() && spelled.len() <= MAX_HOST + ":65535".len());
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._~:[]".contains(&byte);
    assert!(spelled.bytes().all(plain), "{spelled} holds what no host holds");
    assert_eq!(Authority::parse(spelled.as_bytes()).as_ref(), Ok(&read), "spelling twice is spelling once");
    let unbracketed = spelled.trim_start_matches('[').trim_end_matches(']');
    let address =
        spelled.parse().ok().or(unbracketed.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 80)));
    if let Some(address) = address {
        assert_eq!(Authority::of(address), read, "an address has one spelling");
    }
}
