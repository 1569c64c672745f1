//! What every part of Nodemesh agrees on, and nothing does I/O in.
//!
//! Two halves share this crate because both are contracts. [`abi`] is the bytes shared with the kernel
//! programs: `no_std`, no allocation, no dependencies. The rest, behind feature `std`, is the pure domain, in
//! the order of the data path: what things are ([`model`]), what is known now ([`snapshot`]), where a connection
//! is meant to go ([`resolve`]), whether it may ([`policy`]) and where exactly ([`route`]); beside it the two
//! codecs of the wire, [`tunnel`] and [`http1`], what calls of [`grpc`] say, and the [`token`]s of end users. Nothing here waits,
//! logs, reads a clock or opens a socket.
#![cfg_attr(not(feature = "std"), no_std)]

pub mod abi;

#[cfg(feature = "std")]
pub mod grpc;
#[cfg(feature = "std")]
pub mod http1;
#[cfg(feature = "std")]
pub mod model;
#[cfg(feature = "std")]
pub mod policy;
#[cfg(feature = "std")]
pub mod resolve;
#[cfg(feature = "std")]
pub mod route;
#[cfg(feature = "std")]
pub mod snapshot;
#[cfg(feature = "std")]
pub mod token;
#[cfg(feature = "std")]
pub mod tunnel;
