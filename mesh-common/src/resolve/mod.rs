//! Stage 3. What was asked for: an address becomes a destination. Never waits, logs or fails; unknown is a value.
