//! Foreign bytes as HTTP/1.1 messages that are rebuilt.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/messages.rs"]
mod body;

fuzz_target!(|input: &[u8]| body::run(input));
