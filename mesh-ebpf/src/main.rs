//! The kernel programs.

fn main() {}
