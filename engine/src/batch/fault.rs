//! Why a batch is refused, one variant a case, so that each finds its error code.

use super::records::RecordFault;
use crate::types::Timestamp;

/// Why a batch from a client is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No batch at all. Kafka: 87, as for every fault that names no other code.
    #[error("no batch: send exactly one a partition")]
    Empty,
    /// Another message format. Kafka: 87.
    #[error("format {0} of a batch: only format 2 (Kafka 0.11 and later) is accepted")]
    Magic(i8),
    /// Fewer bytes than the batch announces. Kafka: 87 (an incomplete batch is none).
    #[error("the batch announces {need} bytes and {have} came")]
    Incomplete {
        /// Bytes that the batch should have.
        need: usize,
        /// Bytes that came.
        have: usize,
    },
    /// Bytes after the first batch. Kafka: 87.
    #[error("{extra} bytes follow the batch: send exactly one a partition")]
    More {
        /// Bytes after the end of the first batch.
        extra: usize,
    },
    /// A length field that leaves no room for a head. Kafka: 2.
    #[error("a length field of {length} is too short for a batch")]
    Length {
        /// The length field.
        length: i32,
    },
    /// The bytes are not the ones that were sent. Kafka: 2.
    #[error("the batch's CRC-32C is {computed:08x}, its head says {stored:08x}: it was damaged")]
    Crc {
        /// What the head says.
        stored: u32,
        /// What the bytes say.
        computed: u32,
    },
    /// A count that is not positive or not the number of offsets. Kafka: 87.
    #[error("{count} records with a last offset delta of {last_offset_delta}")]
    Count {
        /// The record count.
        count: i32,
        /// The last offset delta, one less than the count in a client's batch.
        last_offset_delta: i32,
    },
    /// More records than the bytes can hold, even compressed as far as the codec goes; under
    /// [`Check::Opaque`](super::Check). Kafka: 87.
    #[error("{count} records cannot be in {bytes} bytes")]
    Crowded {
        /// The record count.
        count: i32,
        /// Bytes behind the head.
        bytes: usize,
    },
    /// A compression codec that does not exist. Kafka: 76.
    #[error("compression codec {0} is unknown: use gzip, snappy, lz4 or zstd")]
    Codec(u8),
    /// A control batch from a client. Kafka: 87.
    #[error("control batches are written by brokers only")]
    Control,
    /// A producer id without a usable sequence or epoch, or the reverse. Kafka: 87.
    #[error("producer id {id} with epoch {epoch} and sequence {sequence}")]
    Producer {
        /// The producer id.
        id: i64,
        /// The producer epoch.
        epoch: i16,
        /// The base sequence.
        sequence: i32,
    },
    /// A transactional batch that does not say whose. Kafka: 87.
    #[error("a transactional batch without a producer id")]
    Transactional,
    /// Records that cannot be read, under [`Check::Full`](super::Check). Kafka: 87, and 10 for
    /// those that inflate past the bound.
    #[error(transparent)]
    Records(#[from] RecordFault),
    /// A timestamp outside the topic's bounds, now. Kafka: 32.
    #[error(
        "timestamp {} is out of range at {}: up to {before_max_ms} ms before and {after_max_ms} ms \
         after are accepted (message.timestamp.before.max.ms, ...after.max.ms)",
        timestamp.0, now.0
    )]
    Timestamp {
        /// The timestamp out of bounds.
        timestamp: Timestamp,
        /// The broker's clock.
        now: Timestamp,
        /// `message.timestamp.before.max.ms`.
        before_max_ms: i64,
        /// `message.timestamp.after.max.ms`.
        after_max_ms: i64,
    },
    /// A client that claims the broker's timestamp type. Kafka: 32.
    #[error("a producer must not set the timestamp type LogAppendTime")]
    TimestampType,
}
