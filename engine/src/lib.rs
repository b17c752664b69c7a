//! Kariz's storage engine.

pub mod batch;
pub mod io;
mod producer;
pub mod types;
