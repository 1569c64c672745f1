//! Stage 2. Who is speaking: certificates, verification, rotation. The only module with keys.
