//! Drives any Kafka-compatible broker at full speed and checks every record.
//!
//! In the order of a run, each module importing only what stands above it:
//!
//! | Module | What it knows |
//! |---|---|
//! | [`clock`], [`num`] | time; conversions |
//! | [`schedule`] | when each request is due |
//! | [`workload`] | what is sent: limits, batches, what a record says about itself |
//! | [`verify`] | what must be found again, and the reader that looks for it |
//! | [`stats`] | counting, histograms, CPU time |
//! | [`client`] | Kafka's protocol as a client speaks it |
//! | [`exec`] | phases: pinned threads, connections, load |
//! | [`probe`] | the machine: what it is, what its basic operations cost |
//! | [`report`] | the result, as text, JSON and interval log |
//! | [`embedded`] | the main job's own server |
//! | [`cli`], [`job`] | flags; a whole run |
//!
//! *Architecture invariant:* what checks the server shares no code with it but the protocol:
//! batches, CRC and verification here are the load generator's own.

pub mod cli;
pub mod client;
pub mod clock;
pub mod embedded;
pub mod exec;
pub mod job;
pub mod num;
pub mod probe;
pub mod report;
pub mod schedule;
pub mod stats;
pub mod verify;
pub mod workload;
