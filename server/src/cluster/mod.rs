//! The cluster: what there is (the image, a fold of `__cluster_metadata`), and who may change it.
//!
//! ```text
//! handler -> Control -> owner (core 0): validate, append to the log, wait until it is durable
//!                         -> every core: create or delete partitions, fold the records, answer
//! ```
//!
//! *Architecture invariant:* handlers read the image of their own core and change nothing. The
//! records are Kafka's own, so that a log written by a controller quorum folds to the same image.

pub(crate) mod apply;
pub(crate) mod control;
pub(crate) mod image;
pub(crate) mod local;
pub(crate) mod log;
pub(crate) mod names;
pub(crate) mod owner;
pub(crate) mod start;
