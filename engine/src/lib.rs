//! Kariz's storage engine.

pub mod batch;
mod checkpoint;
pub mod config;
mod engine;
mod futures;
pub mod io;
mod journal;
mod log;
pub mod metrics;
mod num;
mod partition;
mod producer;
mod shard;
pub mod types;

pub use batch::Batch;
pub use config::LogConfig;
pub use engine::{AppError, Closed, Config, Engine, Handle, OpenError, Recovery, ShutdownError};
pub use log::TruncateError;
pub use partition::{
    AppendError, Event, Found, Mark, Marks, Partition, Reach, ReachError, ReadError, Slice, Span,
    TrimError, Want,
};
pub use producer::ProducerError;
pub use shard::{CreateError, PartitionRecovery, RecoveryReport, Shard};
pub use types::{
    Instant, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, ShardId, Timestamp, TopicId,
    TopicPartition,
};
