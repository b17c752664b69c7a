//! What a client's batch must be before it is accepted.

use super::Batch;
use super::codec::plain_bytes_max;
use super::fault::Fault;
use super::header::{CODEC_MASK, Header, TimestampType};
use super::records::{RecordFault, Records};
use crate::types::Timestamp;

/// How much of a batch is looked at before it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The head and the CRC; the records stay opaque.
    Opaque,
    /// Every record as well, inflated if need be.
    Full {
        /// The most that the records may inflate to.
        inflated_bytes_max: usize,
    },
}

/// What reading every record of a batch showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The least timestamp of a record, [`Timestamp::NONE`] aside.
    pub(super) oldest: Timestamp,
    /// The largest timestamp of a record.
    pub(super) newest: Timestamp,
    /// Whether a record has no key, which a compacted topic refuses.
    pub(super) null_key: bool,
    /// Bytes that came out of the codec; 0 if nothing was compressed.
    pub(super) inflated_bytes: usize,
}

/// Reads every record of a client's batch: the head must tell the truth about them.
pub(super) fn check_records(header: &Header, body: &[u8], max: usize) -> Result<Seen, Fault> {
    let records = Records::new(header, body, max)?;
    let mut seen = Seen {
        oldest: Timestamp::NONE,
        newest: Timestamp::NONE,
        null_key: false,
        inflated_bytes: if header.is_compressed() { records.plain().len() } else { 0 },
    };
    let base = header.base_offset();
    // `check_head` found count == last offset delta + 1, and the iterator wants deltas that rise
    // up to the last: the first one that leaves a gap is not its index.
    for (index, record) in (0..).zip(&records) {
        let record = record?;
        let delta = record.offset.since(base);
        if delta != i64::from(index) {
            let delta = i32::try_from(delta).unwrap_or(i32::MAX);
            return Err(RecordFault::OffsetDelta { index, delta, last: delta }.into());
        }
        if record.timestamp != Timestamp::NONE {
            let first = seen.oldest == Timestamp::NONE;
            seen.oldest = if first { record.timestamp } else { seen.oldest.min(record.timestamp) };
            seen.newest = if first { record.timestamp } else { seen.newest.max(record.timestamp) };
        }
        seen.null_key |= record.key.is_none();
    }
    Ok(seen)
}

/// Who made a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Client,
    Broker,
}

/// The least bytes of a record: its length, attributes, two deltas, the lengths of key and value,
/// and how many headers.
const RECORD_BYTES_MIN: u64 = 7;

/// Whether a body of `bytes` can hold as many records as its head says, for want of a look at them:
/// a count takes offsets, a segment has 2^31 of them, and 70 bytes must not have a partition roll.
pub(super) fn check_count(header: &Header, bytes: usize) -> Result<(), Fault> {
    let count = header.count();
    let plain = header.codec().map_or(0, |codec| plain_bytes_max(codec, bytes));
    let fits = u64::try_from(count).is_ok_and(|count| count <= plain / RECORD_BYTES_MIN);
    if fits { Ok(()) } else { Err(Fault::Crowded { count, bytes }) }
}

/// What must hold of a head before any record is looked at.
pub(super) fn check_head(header: &Header, origin: Origin) -> Result<(), Fault> {
    let (count, last_offset_delta) = (header.count(), header.last_offset_delta());
    if count <= 0 || last_offset_delta != count - 1 {
        return Err(Fault::Count { count, last_offset_delta });
    }
    if header.codec().is_none() {
        let id = header.attributes() & CODEC_MASK;
        return Err(Fault::Codec(u8::try_from(id).unwrap_or(u8::MAX)));
    }
    if origin == Origin::Client && header.is_control() {
        return Err(Fault::Control);
    }
    let (id, epoch, sequence) =
        (header.producer_id().0, header.producer_epoch().0, header.base_sequence().0);
    // The broker's own batches (markers, offsets in a transaction) have an id, but no sequence.
    let numbered = sequence >= 0 || origin == Origin::Broker;
    if id >= 0 && (epoch < 0 || !numbered) {
        return Err(Fault::Producer { id, epoch, sequence });
    }
    if id < 0 && header.is_transactional() {
        return Err(Fault::Transactional);
    }
    Ok(())
}

/// How far a producer's timestamps may lie from the broker's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampBounds {
    /// `message.timestamp.before.max.ms`.
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub after_max_ms: i64,
}

impl TimestampBounds {
    /// Checks the oldest and the largest timestamp of a batch, for a topic of type `kind`. Without
    /// this one client could make a segment immortal: retention goes by the largest timestamp.
    /// Under [`Check::Opaque`] the first record's timestamp stands for the oldest.
    ///
    /// # Errors
    /// [`Fault::Timestamp`], [`Fault::TimestampType`].
    pub fn check(self, batch: &Batch, kind: TimestampType, now: Timestamp) -> Result<(), Fault> {
        if batch.header().timestamp_type() == TimestampType::LogAppendTime {
            return Err(Fault::TimestampType);
        }
        if kind == TimestampType::LogAppendTime {
            return Ok(());
        }
        for timestamp in [batch.oldest_timestamp(), batch.header().max_timestamp()] {
            if timestamp == Timestamp::NONE {
                continue;
            }
            let age_ms = now.0.saturating_sub(timestamp.0);
            if age_ms > self.before_max_ms || age_ms.saturating_neg() > self.after_max_ms {
                return Err(Fault::Timestamp {
                    timestamp,
                    now,
                    before_max_ms: self.before_max_ms,
                    after_max_ms: self.after_max_ms,
                });
            }
        }
        Ok(())
    }
}
