//! The daemon of a node.
//!
//! The folders are the data path, in its order: [`capture`], [`identity`], resolve, policy, route (pure, in
//! `mesh_common`) and [`transport`]. [`proxy`] is the only conductor. A module may import only modules above it
//! in this list; `cargo xtask lint` checks that.

pub mod args;

pub mod config;

pub mod system;

pub mod telemetry;

pub mod kernel;

pub mod xds;

pub mod control;

pub mod capture;

pub mod identity;

pub mod key_sets;

pub mod config_client;

pub mod transport;

pub mod proxy;

pub mod admin;

pub mod controller;

pub mod cli;

pub mod app;
