//! Foreign bytes as requests, to our codec and to hyper.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/differential.rs"]
mod body;

fuzz_target!(|input: &[u8]| body::run(input));
