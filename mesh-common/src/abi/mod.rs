//! The bytes shared with the kernel programs, defined once.
