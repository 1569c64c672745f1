//! Foreign bytes as `host[:port]`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/authority.rs"]
mod body;

fuzz_target!(|input: &[u8]| body::run(input));
