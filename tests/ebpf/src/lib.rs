//! Kernel tests: verifier loads and verdicts of every program.
