//! Foreign bytes on both sides of an HTTP/1.1 relay.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/http1.rs"]
mod body;

fuzz_target!(|input: &[u8]| body::run(input));
