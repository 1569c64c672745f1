//! Stage 1. Accepted sockets become `Captured`: whose they are and what the application asked for.
