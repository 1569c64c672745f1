//! Foreign bytes as the messages of a call.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/grpc_messages.rs"]
mod body;

fuzz_target!(|input: &[u8]| body::run(input));
