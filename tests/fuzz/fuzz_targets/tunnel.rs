//! Foreign bytes as the records of a tunnel.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/tunnel.rs"]
mod body;

fuzz_target!(|input: &[u8]| body::run(input));
