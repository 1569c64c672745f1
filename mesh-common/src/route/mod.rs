//! Stage 5. Where exactly: a `Permit` becomes a `Plan`. Never runs without a permit.
