//! Stage 4. May it: facts and a destination become a `Permit` or a `Denial`. Never waits, logs or reads a clock.
