//! The controller on an API server that does as it is told, also what a real one does only in trouble.

mod api;
mod trouble;
