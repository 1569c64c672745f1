//! Foreign bytes as the keys of an issuer.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/jwks.rs"]
mod body;

fuzz_target!(|input: &[u8]| body::run(input));
