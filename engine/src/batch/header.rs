//! The 61 bytes at the head of every batch, read in place.
//!
//! ```text
//!  0 base offset i64         8 length i32 (total - 12)   12 leader epoch i32   16 magic i8 = 2
//! 17 CRC-32C u32 of 21..    21 attributes i16            23 last offset delta i32
//! 27 base timestamp i64     35 max timestamp i64         43 producer id i64
//! 51 producer epoch i16     53 base sequence i32         57 record count i32   61 records
//! ```

use super::crc::crc32c_of_two;
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use zerocopy::byteorder::big_endian::{I16, I32, I64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;
/// Bytes that the length field does not count: the base offset and itself.
pub(super) const LENGTH_EXCLUDES: usize = 12;
/// Where the bytes begin over which the CRC is computed.
pub(super) const CRC_FROM: usize = 21;
/// Where the magic byte is, in this and in Kafka's two older formats.
pub(super) const MAGIC_AT: usize = 16;
/// The only format served: Kafka's v2.
pub const MAGIC: i8 = 2;

pub(super) const CODEC_MASK: i16 = 0x07;
pub(super) const LOG_APPEND_TIME: i16 = 0x08;
pub(super) const TRANSACTIONAL: i16 = 0x10;
pub(super) const CONTROL: i16 = 0x20;
pub(super) const DELETE_HORIZON: i16 = 0x40;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Google's block format, in snappy-java's framing or without it.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Codec {
    /// Every codec, by its number on the wire.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec that Kafka numbers `id`.
    #[must_use]
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// Kafka's number for it.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }
}

/// What the timestamps of a batch mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer set them, one a record.
    #[default]
    CreateTime,
    /// The broker set one for the whole batch, when it appended it: `max_timestamp`.
    LogAppendTime,
}

/// The head of a batch, as it lies in a buffer. Reading a field checks nothing but the layout.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Header {
    pub(super) base_offset: I64,
    pub(super) length: I32,
    pub(super) leader_epoch: I32,
    pub(super) magic: i8,
    pub(super) crc: U32,
    pub(super) attributes: I16,
    pub(super) last_offset_delta: I32,
    pub(super) base_timestamp: I64,
    pub(super) max_timestamp: I64,
    pub(super) producer_id: I64,
    pub(super) producer_epoch: I16,
    pub(super) base_sequence: I32,
    pub(super) count: I32,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

impl Header {
    /// The head at the start of `bytes`, if they are long enough to hold one.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// The bytes of this head.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        zerocopy::transmute!(*self)
    }

    /// The offset of the first record, or of the place where it was.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        Offset(self.base_offset.get())
    }

    /// The offset of the last record, or of the place where it was. Inclusive.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset().plus(i64::from(self.last_offset_delta.get()))
    }

    /// The first offset after this batch.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// `last_offset - base_offset`.
    #[must_use]
    pub fn last_offset_delta(&self) -> i32 {
        self.last_offset_delta.get()
    }

    /// Bytes of the whole batch by its length field, or `None` if that leaves no room for a head.
    #[must_use]
    pub fn total_bytes(&self) -> Option<usize> {
        let total = usize::try_from(self.length.get()).ok()?.checked_add(LENGTH_EXCLUDES)?;
        (total >= HEADER_BYTES).then_some(total)
    }

    /// The length field itself: all bytes after it.
    #[must_use]
    pub fn length(&self) -> i32 {
        self.length.get()
    }

    /// The term in which the batch was appended.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.leader_epoch.get())
    }

    /// The format's number.
    #[must_use]
    pub fn magic(&self) -> i8 {
        self.magic
    }

    /// The stored CRC-32C of all bytes from the attributes on.
    #[must_use]
    pub fn crc(&self) -> u32 {
        self.crc.get()
    }

    /// The attribute bits, as stored.
    #[must_use]
    pub fn attributes(&self) -> i16 {
        self.attributes.get()
    }

    /// How the records are compressed, or `None` for a number that means nothing yet.
    #[must_use]
    pub fn codec(&self) -> Option<Codec> {
        Codec::from_id(u8::try_from(self.attributes.get() & CODEC_MASK).ok()?)
    }

    /// Whether the records are compressed, by a codec that is known.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.codec().is_some_and(|codec| codec != Codec::None)
    }

    /// Who set the timestamps.
    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.has(LOG_APPEND_TIME) {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.has(TRANSACTIONAL)
    }

    /// Whether the batch holds a marker that the broker wrote, not records.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.has(CONTROL)
    }

    /// When compaction may drop the batch's tombstones, once compaction has set it.
    #[must_use]
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        self.has(DELETE_HORIZON).then(|| self.base_timestamp())
    }

    /// What the records' timestamps are counted from.
    #[must_use]
    pub fn base_timestamp(&self) -> Timestamp {
        Timestamp(self.base_timestamp.get())
    }

    /// The largest timestamp of the records, or the time of the append.
    #[must_use]
    pub fn max_timestamp(&self) -> Timestamp {
        Timestamp(self.max_timestamp.get())
    }

    /// Who produced the batch; [`ProducerId::NONE`] if it did not say.
    #[must_use]
    pub fn producer_id(&self) -> ProducerId {
        ProducerId(self.producer_id.get())
    }

    /// The producer's term.
    #[must_use]
    pub fn producer_epoch(&self) -> ProducerEpoch {
        ProducerEpoch(self.producer_epoch.get())
    }

    /// The sequence of the first record; -1 if there is none.
    #[must_use]
    pub fn base_sequence(&self) -> Sequence {
        Sequence(self.base_sequence.get())
    }

    /// The sequence of the last record; -1 if there is none.
    #[must_use]
    pub fn last_sequence(&self) -> Sequence {
        let base = self.base_sequence();
        if base.0 < 0 { base } else { base.plus(self.last_offset_delta.get()) }
    }

    /// Whether the producer numbers its records.
    #[must_use]
    pub fn has_producer_id(&self) -> bool {
        self.producer_id.get() >= 0
    }

    /// How many records the batch says it holds.
    #[must_use]
    pub fn count(&self) -> i32 {
        self.count.get()
    }

    /// Sets the CRC that belongs to this head before `body`.
    pub(super) fn sign(&mut self, body: &[u8]) {
        let crc = crc32c_of_two(self.to_bytes().get(CRC_FROM..).unwrap_or_default(), body);
        self.crc.set(crc);
    }

    fn has(&self, bit: i16) -> bool {
        self.attributes.get() & bit != 0
    }
}
