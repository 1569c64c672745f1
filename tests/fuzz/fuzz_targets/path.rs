//! Foreign bytes as the target of a request.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/path.rs"]
mod body;

fuzz_target!(|input: &[u8]| body::run(input));
