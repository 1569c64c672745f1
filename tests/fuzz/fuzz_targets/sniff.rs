//! Foreign bytes as the first of a connection.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/sniff.rs"]
mod body;

fuzz_target!(|input: &[u8]| body::run(input));
