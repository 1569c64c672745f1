//! Tests of HTTP/2: two agents in one process, real TLS and real sockets on loopback, the real stages that decide.

mod applications;
mod attacks;
mod call_deadlines;
mod conductor;
mod exchanges;
mod failures;
mod forms;
mod frames;
mod given_up;
mod hostile;
mod http1_callers;
mod idle;
mod interims;
mod messages;
mod pings;
mod slow;
mod taken_back;
mod unseen;
mod untaken;
mod versions;
mod virtual_clock;
mod websockets;
mod world;
