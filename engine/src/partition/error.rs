//! Why an operation on a partition did not do what was asked: one enum an operation.

use crate::batch::{Fault, RecordFault};
use crate::producer::ProducerError;
use crate::types::Offset;
use std::io;
use std::sync::Arc;

/// Whether the records of an append that failed may be in the log all the same. A protocol has to
/// choose between "failed" and "unknown" by it; an idempotent producer may always try again.
///
/// ```
/// # use kariz_engine::{io::sim::{Faults, World}, *};
/// # World::new(1, Faults::none()).boot(|io| async move {
/// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
/// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
/// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
/// use kariz_engine::io::sim::{Fault, OpKind, Rule};
///
/// shard.io().set_faults(Faults::none().with(Rule::on(OpKind::Sync, Fault::Io)));
/// let span = log.append(&batch)?;
/// let error = log.reach(Mark::Durable, &span).await.unwrap_err();
/// assert_eq!(error.written(), Written::Maybe);
/// assert!(matches!(log.append(&batch), Err(AppendError::Failed(_))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).done().unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// They are not there, and never will be.
    No,
    /// They may be, now or after the next start.
    Maybe,
}

/// Why a batch was not appended. Nothing of it is in the log.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The batch is longer than `max.message.bytes`.
    #[error(
        "a batch of {bytes} bytes is larger than max.message.bytes={max}: send smaller ones, or raise that"
    )]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The batch does not fit in any segment of `segment.bytes`.
    #[error(
        "a batch of {bytes} bytes is larger than segment.bytes={max}: send smaller ones, or raise that"
    )]
    LargerThanSegment {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: u64,
    },
    /// Its timestamps, or its records, are not what the topic takes.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A compacted topic needs keys.
    #[error("a record without a key in a compacted topic")]
    NullKey,
    /// Its producer is out of sequence, or of an old epoch.
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// The disk is full, or the process has no descriptor left. Reads go on; try again later.
    #[error("the disk is full, or file descriptors have run out; nothing was written")]
    Full,
    /// The partition's disk failed, or its log is damaged: no writes until the engine is opened again.
    #[error("the partition takes no writes: {0}")]
    Failed(Arc<str>),
    /// The engine is shutting down.
    #[error("the engine is shutting down; nothing was written")]
    Closed,
    /// The partition was deleted.
    #[error("the partition was deleted")]
    Deleted,
}

/// Why what was appended will not come as far as was waited for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReachError {
    /// The disk was full, or no descriptor was left: the batch was not written.
    #[error("the disk was full, or file descriptors had run out; the batch was not written")]
    Full,
    /// The disk failed: the batch may or may not survive.
    #[error("the partition failed before the batch was safe: {0}")]
    Failed(Arc<str>),
    /// The partition was deleted meanwhile.
    #[error("the partition was deleted")]
    Deleted,
}

impl ReachError {
    /// Whether the records may be in the log all the same.
    #[must_use]
    pub fn written(&self) -> Written {
        match self {
            Self::Full | Self::Deleted => Written::No,
            Self::Failed(_) => Written::Maybe,
        }
    }
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No record is, or will be next, at that offset.
    #[error("offset {offset} is not in the log, which is {start}..{end}")]
    OutOfRange {
        /// What was asked for.
        offset: Offset,
        /// The first offset kept.
        start: Offset,
        /// The log end.
        end: Offset,
    },
    /// The log is damaged: restore the partition, or delete it.
    #[error("the partition is fenced: {0}")]
    Fenced(Arc<str>),
    /// The disk failed: all that was readable has been read, and no more comes.
    #[error("the partition takes no writes, so nothing more comes to read: {0}")]
    Ended(Arc<str>),
    /// Nobody looked into a batch when it was appended, and now its records cannot be read: pass it
    /// over.
    #[error("the batch at offset {offset} cannot be read: {fault}")]
    Records {
        /// Its first offset.
        offset: Offset,
        /// Why.
        fault: RecordFault,
    },
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The partition was deleted.
    #[error("the partition was deleted")]
    Deleted,
}

/// Why a log start was not moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrimError {
    /// Only what consumers can see can be trimmed.
    #[error("cannot trim to {to}: the high watermark is {high}")]
    PastHighWatermark {
        /// What was asked for.
        to: Offset,
        /// How far it may go.
        high: Offset,
    },
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}
