//! Build, test, demo and bench: everything a person or CI runs.

fn main() {}
