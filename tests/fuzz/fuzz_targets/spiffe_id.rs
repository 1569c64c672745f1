//! Foreign bytes as a SPIFFE id.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/spiffe_id.rs"]
mod body;

fuzz_target!(|input: &[u8]| body::run(input));
