//! Foreign bytes as the beginning of a connection.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/hello.rs"]
mod body;

fuzz_target!(|input: &[u8]| body::run(input));
