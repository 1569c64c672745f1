//! The wire between daemons: frame codec and stream states. `docs/wire.md` is its text.
