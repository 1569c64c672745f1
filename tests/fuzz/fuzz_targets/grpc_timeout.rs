//! Foreign bytes as a `grpc-timeout`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/grpc_timeout.rs"]
mod body;

fuzz_target!(|input: &[u8]| body::run(input));
