//! The command line: talks to a running agent over its Unix socket.
