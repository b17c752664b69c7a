//! RecordBatch v2: the unit of the wire, of the log file and of the wire again.
//!
//! A batch is checked once, when it arrives ([`Batch::parse`]), and then kept byte for byte. What
//! the broker adds goes into a copy of the 61-byte head ([`Batch::stamp`]): base offset and leader
//! epoch lie outside the CRC, so the records are never read again, let alone copied here.
//!
//! Bytes that come from a log file are walked by [`Batches`] and checked by [`validate_stored`].
//!
//! **Invariant:** a [`Batch`] is exactly one batch whose CRC was right when it was parsed.

mod build;
mod check;
mod codec;
mod crc;
mod fault;
mod header;
mod records;
mod varint;
mod walk;

#[cfg(test)]
mod tests;

pub use build::{BatchBuilder, BuildError};
pub use check::{Check, TimestampBounds};
pub use codec::InflateError;
pub use crc::{crc32c, crc32c_of_two};
pub use fault::Fault;
pub use header::{Codec, HEADER_BYTES, Header, MAGIC, TimestampType};
pub use records::{Headers, Record, RecordFault, RecordIter, Records};
pub(crate) use walk::frame_head;
pub use walk::{BatchView, Batches, StoredFault, announced_bytes, frame, validate_stored};

use crate::types::{LeaderEpoch, Offset, Timestamp};
use bytes::Bytes;
use check::{Origin, check_count, check_head, check_records};
use header::{CRC_FROM, LOG_APPEND_TIME, MAGIC_AT};

/// One whole batch that passed [`Batch::parse`], byte for byte as it came.
#[derive(Clone, Debug)]
pub struct Batch {
    header: Header,
    wire: Bytes,
    oldest_timestamp: Timestamp,
    null_key: Option<bool>,
    inflated_bytes: usize,
}

impl Batch {
    /// Takes `wire` as one batch from a client.
    ///
    /// ```
    /// use kariz_engine::Batch;
    /// use kariz_engine::batch::{Check, Fault};
    ///
    /// # let wire = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?.wire().to_vec();
    /// let batch = Batch::parse(wire.clone().into(), Check::Opaque)?;
    /// assert_eq!(batch.wire(), &wire);
    ///
    /// let mut damaged = wire;
    /// damaged[70] ^= 1;
    /// assert!(matches!(Batch::parse(damaged.into(), Check::Opaque), Err(Fault::Crc { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Every [`Fault`] but those of timestamps, which need a topic and a clock:
    /// [`TimestampBounds::check`].
    pub fn parse(wire: Bytes, check: Check) -> Result<Self, Fault> {
        Self::parse_from(Origin::Client, wire, check)
    }

    /// As [`Batch::parse`], for batches of the broker's own: they may be control batches, and name
    /// a producer without numbering its records.
    ///
    /// # Errors
    /// Every [`Fault`] but `Control` and those of timestamps.
    pub fn parse_internal(wire: Bytes, check: Check) -> Result<Self, Fault> {
        Self::parse_from(Origin::Broker, wire, check)
    }

    fn parse_from(origin: Origin, wire: Bytes, check: Check) -> Result<Self, Fault> {
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
        check_head(&header, origin)?;
        let mut batch = Self::trusted(header, wire);
        if check == Check::Opaque {
            check_count(&header, batch.body().len())?;
        }
        if let Check::Full { inflated_bytes_max } = check {
            let seen = check_records(&header, batch.body(), inflated_bytes_max)?;
            batch.oldest_timestamp = seen.oldest;
            batch.null_key = Some(seen.null_key);
            batch.inflated_bytes = seen.inflated_bytes;
            if seen.newest != header.max_timestamp()
                && header.timestamp_type() == TimestampType::CreateTime
            {
                // As Kafka: what the producer says of its records gives way to what they say.
                batch.header.max_timestamp.set(seen.newest.0);
                batch.header.sign(batch.wire.get(HEADER_BYTES..).unwrap_or_default());
            }
        }
        Ok(batch)
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
        Ok(Self::trusted(header, wire))
    }

    /// Begins a batch of the caller's own.
    pub fn build() -> BatchBuilder {
        BatchBuilder::new()
    }

    /// A batch out of parts that are known to fit.
    fn trusted(header: Header, wire: Bytes) -> Self {
        Self {
            header,
            wire,
            oldest_timestamp: header.base_timestamp(),
            null_key: None,
            inflated_bytes: 0,
        }
    }

    /// Its head, as it came; but [`Check::Full`] puts a wrong maximum timestamp (and the CRC)
    /// right.
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

    /// The oldest timestamp of its records as far as is known: the first one's, or after
    /// [`Check::Full`] the true one.
    #[must_use]
    pub fn oldest_timestamp(&self) -> Timestamp {
        self.oldest_timestamp
    }

    /// Whether a record has no key, if that was looked at ([`Check::Full`]).
    #[must_use]
    pub fn has_null_key(&self) -> Option<bool> {
        self.null_key
    }

    /// What its records were inflated to when they were looked at ([`Check::Full`]); 0 if they are
    /// not compressed.
    #[must_use]
    pub fn inflated_bytes(&self) -> usize {
        self.inflated_bytes
    }

    /// Its records, at most `max_bytes` of them once inflated.
    ///
    /// ```
    /// use kariz_engine::Batch;
    ///
    /// let batch = Batch::build().record(Some(b"table 7"), Some(b"one coffee"), &[], None).done()?;
    /// for record in batch.records(1 << 20)?.iter() {
    ///     let record = record?;
    ///     assert_eq!((record.key, record.value), (Some(&b"table 7"[..]), Some(&b"one coffee"[..])));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RecordFault::Codec`], [`RecordFault::Inflate`].
    pub fn records(&self, max_bytes: usize) -> Result<Records<'_>, RecordFault> {
        Records::new(&self.header, self.body(), max_bytes)
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
            head.sign(self.body());
        }
        head
    }

    /// The whole batch as the leader stores it, in a buffer of its own.
    #[must_use]
    pub fn to_stored(&self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Bytes {
        let head = self.stamp(base_offset, leader_epoch, None);
        Bytes::from([&head.to_bytes()[..], self.body()].concat())
    }
}
