//! Stage 6. Carries a `Plan` out. Never chooses.
