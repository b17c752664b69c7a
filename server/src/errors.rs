//! From what the engine refuses to what Kafka's clients understand. No wildcard: a new kind of
//! refusal does not compile before somebody has thought of its code.

use kariz_engine::batch::{Fault, InflateError, RecordFault};
use kariz_engine::{AppendError, ProducerError, ReachError, ReadError};
use kariz_protocol::ErrorCode;

/// The code for a batch that is not accepted.
pub(crate) fn fault(fault: &Fault) -> ErrorCode {
    match fault {
        Fault::Empty
        | Fault::Magic(_)
        | Fault::Incomplete { .. }
        | Fault::More { .. }
        | Fault::Count { .. }
        | Fault::Crowded { .. }
        | Fault::Control
        | Fault::Producer { .. }
        | Fault::Transactional => ErrorCode::InvalidRecord,
        Fault::Records(RecordFault::Inflate(InflateError::TooLarge { .. })) => {
            ErrorCode::MessageTooLarge
        }
        Fault::Records(_) => ErrorCode::InvalidRecord,
        Fault::Length { .. } | Fault::Crc { .. } => ErrorCode::CorruptMessage,
        Fault::Codec(_) => ErrorCode::UnsupportedCompressionType,
        Fault::Timestamp { .. } | Fault::TimestampType => ErrorCode::InvalidTimestamp,
    }
}

/// The code for a batch that is not appended.
pub(crate) fn append(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::TooLarge { .. } => ErrorCode::MessageTooLarge,
        AppendError::LargerThanSegment { .. } => ErrorCode::RecordListTooLarge,
        AppendError::Fault(why) => fault(why),
        AppendError::NullKey => ErrorCode::InvalidRecord,
        AppendError::Producer(why) => producer(why),
        AppendError::Full | AppendError::Failed(_) => ErrorCode::KafkaStorageError,
        AppendError::Deleted => ErrorCode::UnknownTopicOrPartition,
        AppendError::Closed => ErrorCode::NotLeaderOrFollower,
    }
}

/// The code for a batch that does not follow its producer's last one.
fn producer(error: &ProducerError) -> ErrorCode {
    match error {
        ProducerError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
        ProducerError::StaleEpoch { .. } => ErrorCode::InvalidProducerEpoch,
    }
}

/// The code for an append that was accepted and then did not get as far as was asked.
pub(crate) fn reach(error: &ReachError) -> ErrorCode {
    match error {
        ReachError::Full | ReachError::Failed(_) => ErrorCode::KafkaStorageError,
        ReachError::Deleted => ErrorCode::UnknownTopicOrPartition,
    }
}

/// The code for a read that is not possible.
pub(crate) fn read(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Fenced(_)
        | ReadError::Ended(_)
        | ReadError::Records { .. }
        | ReadError::Io(_) => ErrorCode::KafkaStorageError,
        ReadError::Deleted => ErrorCode::UnknownTopicOrPartition,
    }
}
