//! The Kafka server: the Kafka protocol over [`kariz_engine`].
//!
//! A core is a broker: each has a listener, its connections, its partitions and its own image of
//! the cluster, and shares nothing with the others on the way of a produce or a fetch. In the
//! order of a request's way:
//!
//! | Module | What it does |
//! |---|---|
//! | `accept`, `connection` | bytes to requests, answers to bytes, in order and bounded |
//! | `handlers` | one module an API |
//! | `routes` | topic name to partition, for the hot path |
//! | `errors` | the engine's refusals as Kafka's codes |
//! | `cluster` | the image, and the owner that writes its log |
//! | `http`, `metrics` | `/metrics` |
//! | [`check`], [`dump`] | the offline commands |
//!
//! *Architecture invariant:* nothing here touches a segment file or a clock but through the
//! engine; only [`check`], while none runs, lists directories itself.

mod accept;
mod block_on;
pub mod check;
mod cluster;
mod config;
mod connection;
mod core;
pub mod dump;
mod errors;
mod handlers;
mod http;
mod join;
mod metrics;
mod num;
mod repeats;
mod routes;
mod server;
#[cfg(test)]
#[path = "tests/simulation/mod.rs"]
mod simulation;

pub use config::OptionError;
pub use server::{Options, Server, StartError, StopError};
