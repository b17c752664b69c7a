//! RecordBatch v2: the unit of the wire, of the log file and of the wire again.
//!
//! A batch is checked once, when it arrives ([`Batch::parse`]), and then kept byte for byte. What
//! the broker adds goes into a copy of the 61-byte head ([`Batch::stamp`]): base offset and leader
//! epoch lie outside the CRC, so the records are never read again, let alone copied here.
//!
//! Bytes that come from a log file are walked by [`Batches`] and checked by [`validate_stored`].
//!
//! **Invariant:** a [`Batch`] is exactly one batch whose CRC was right when it was parsed.

mod crc;
mod header;
mod walk;

#[cfg(test)]
mod tests;

pub use crc::{crc32c, crc32c_of_two};
pub use header::{Codec, HEADER_BYTES, Header, MAGIC, TimestampType};
pub use walk::{BatchView, Batches, StoredFault, announced_bytes, frame, validate_stored};

use crate::types::{LeaderEpoch, Offset, Timestamp};
use bytes::Bytes;
use header::{CRC_FROM, LOG_APPEND_TIME, MAGIC_AT};

/// How much of a batch is looked at before it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The head and the CRC; the records stay opaque.
    Opaque,
}

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
    /// A timestamp outside the topic's bounds, now. Kafka: 32.
    #[error(
        "timestamp {timestamp:?} is out of range at {now:?}: up to {before_max_ms} ms before and \
         {after_max_ms} ms after are accepted (message.timestamp.before.max.ms, ...after.max.ms)"
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

/// One whole batch that passed [`Batch::parse`], byte for byte as it came.
#[derive(Clone, Debug)]
pub struct Batch {
    header: Header,
    wire: Bytes,
}

impl Batch {
    /// Takes `wire` as one batch from a client.
    ///
    /// # Errors
    /// Every [`Fault`] but those of timestamps, which need a topic and a clock:
    /// [`TimestampBounds::check`].
    pub fn parse(wire: Bytes, check: Check) -> Result<Self, Fault> {
        let batch = Self::parse_internal(wire, check)?;
        if batch.header.is_control() {
            return Err(Fault::Control);
        }
        Ok(batch)
    }

    /// As [`Batch::parse`], for batches of the broker's own: control batches may pass.
    ///
    /// # Errors
    /// Every [`Fault`] but `Control` and those of timestamps.
    pub fn parse_internal(wire: Bytes, _check: Check) -> Result<Self, Fault> {
        let have = wire.len();
        if have == 0 {
            return Err(Fault::Empty);
        }
        // The older formats keep their magic at the same place, and may be shorter than our head.
        if let Some(&magic) = wire.get(MAGIC_AT)
            && i8::from_be_bytes([magic]) != MAGIC
        {
            return Err(Fault::Magic(i8::from_be_bytes([magic])));
        }
        let Some(&header) = Header::read(&wire) else {
            return Err(Fault::Incomplete { need: HEADER_BYTES, have });
        };
        let Some(need) = header.total_bytes() else {
            return Err(Fault::Length { length: header.length() });
        };
        if need > have {
            return Err(Fault::Incomplete { need, have });
        }
        if need < have {
            return Err(Fault::More { extra: have - need });
        }
        let (stored, computed) = (header.crc(), crc32c(wire.get(CRC_FROM..).unwrap_or_default()));
        if stored != computed {
            return Err(Fault::Crc { stored, computed });
        }
        check_head(&header)?;
        Ok(Self { header, wire })
    }

    /// Takes `wire` as one batch that a broker has stamped and stored: offsets, and gaps in them,
    /// are kept. For followers and for tools.
    ///
    /// # Errors
    /// Every [`StoredFault`]; bytes after the batch are `Length`.
    pub fn from_stored(wire: Bytes) -> Result<Self, StoredFault> {
        let header = validate_stored(&wire)?;
        if header.total_bytes() != Some(wire.len()) {
            return Err(StoredFault::Length { length: header.length() });
        }
        Ok(Self { header, wire })
    }

    /// Its head, as it came.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What follows the head, as stored: the records, perhaps compressed.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.wire.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// The whole batch, as it came.
    #[must_use]
    pub fn wire(&self) -> &Bytes {
        &self.wire
    }

    /// Bytes of the whole batch, head and body.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.wire.len()
    }

    /// How many offsets the batch takes.
    #[must_use]
    pub fn offsets(&self) -> i64 {
        i64::from(self.header.last_offset_delta()) + 1
    }

    /// The head under which the leader stores the batch: with its place and its term, and, on a
    /// topic with `LogAppendTime`, with the time of the append, which costs a second CRC.
    #[must_use]
    pub fn stamp(
        &self,
        base_offset: Offset,
        leader_epoch: LeaderEpoch,
        append_time: Option<Timestamp>,
    ) -> Header {
        let mut head = self.header;
        head.base_offset.set(base_offset.0);
        head.leader_epoch.set(leader_epoch.0);
        if let Some(now) = append_time {
            // As Kafka: the base timestamp stays, for the records' deltas count from it.
            head.attributes.set(head.attributes.get() | LOG_APPEND_TIME);
            head.max_timestamp.set(now.0);
            let crc =
                crc32c_of_two(head.to_bytes().get(CRC_FROM..).unwrap_or_default(), self.body());
            head.crc.set(crc);
        }
        head
    }
}

/// What must hold of a head before any record is looked at.
fn check_head(header: &Header) -> Result<(), Fault> {
    let (count, last_offset_delta) = (header.count(), header.last_offset_delta());
    if count <= 0 || last_offset_delta != count - 1 {
        return Err(Fault::Count { count, last_offset_delta });
    }
    if header.codec().is_none() {
        let id = header.attributes() & header::CODEC_MASK;
        return Err(Fault::Codec(u8::try_from(id).unwrap_or(u8::MAX)));
    }
    let (id, epoch, sequence) =
        (header.producer_id().0, header.producer_epoch().0, header.base_sequence().0);
    // A marker carries its producer's id and epoch, but no sequence.
    let numbered = epoch >= 0 && (sequence >= 0 || header.is_control());
    if id >= 0 && !numbered {
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
    /// Checks the first and the largest timestamp of a batch, for a topic of type `kind`. Without
    /// this one client could make a segment immortal: retention goes by the largest timestamp.
    ///
    /// # Errors
    /// [`Fault::Timestamp`], [`Fault::TimestampType`].
    pub fn check(self, header: &Header, kind: TimestampType, now: Timestamp) -> Result<(), Fault> {
        if header.timestamp_type() == TimestampType::LogAppendTime {
            return Err(Fault::TimestampType);
        }
        if kind == TimestampType::LogAppendTime {
            return Ok(());
        }
        for timestamp in [header.base_timestamp(), header.max_timestamp()] {
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
