//! Making a batch: for the broker's own records, for thin servers and for tests.

use super::codec::deflate;
use super::header::{self, Codec, HEADER_BYTES, Header, LENGTH_EXCLUDES, MAGIC};
use super::{Batch, varint};
use crate::types::{ProducerEpoch, ProducerId, Sequence, Timestamp};
use bytes::Bytes;

/// Why no batch could be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no record in it.
    #[error("a batch needs a record")]
    Empty,
    /// Lengths in a batch are 32-bit integers.
    #[error("a batch or one of its fields passes 2 GiB: build more batches")]
    TooLarge,
    /// The codec failed.
    #[error("the records could not be compressed: {0}")]
    Compress(#[from] std::io::Error),
}

/// A batch in the making; see [`Batch::build`].
///
/// ```
/// use kariz_engine::batch::Codec;
/// use kariz_engine::{Batch, ProducerEpoch, ProducerId, Sequence, Timestamp};
///
/// let mut builder = Batch::build()
///     .producer(ProducerId(7), ProducerEpoch(0), Sequence(0))
///     .compress(Codec::Lz4)
///     .record(Some(b"table 7"), Some(b"one coffee"), &[("waiter", Some(b"Ada"))], Timestamp(1));
/// for _ in 0..9 {
///     builder.add(None, Some(b"one more"), &[], Timestamp(2));
/// }
/// let batch = builder.done()?;
/// assert_eq!((batch.offsets(), batch.header().codec()), (10, Some(Codec::Lz4)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a batch is made by `done`"]
pub struct BatchBuilder {
    records: Vec<u8>,
    /// One record, before its length is known.
    record: Vec<u8>,
    count: i32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
    producer: (ProducerId, ProducerEpoch, Sequence),
    attributes: i16,
    codec: Codec,
    too_large: bool,
}

impl BatchBuilder {
    pub(super) fn new() -> Self {
        Self {
            records: Vec::new(),
            record: Vec::new(),
            count: 0,
            base_timestamp: Timestamp::NONE,
            max_timestamp: Timestamp::NONE,
            producer: (ProducerId::NONE, ProducerEpoch(-1), Sequence(-1)),
            attributes: 0,
            codec: Codec::None,
            too_large: false,
        }
    }

    /// Adds a record; without a timestamp it has none ([`Timestamp::NONE`]).
    pub fn record(
        mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
        timestamp: impl Into<Option<Timestamp>>,
    ) -> Self {
        self.add(key, value, headers, timestamp.into().unwrap_or(Timestamp::NONE));
        self
    }

    /// Adds a record, in a loop.
    pub fn add(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
        timestamp: Timestamp,
    ) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let out = &mut self.record;
        out.clear();
        out.push(0);
        varint::put(out, timestamp.0.wrapping_sub(self.base_timestamp.0));
        varint::put(out, i64::from(self.count));
        let mut fits = put_bytes(out, key) && put_bytes(out, value) && put_len(out, headers.len());
        for (key, value) in headers {
            fits = fits && put_bytes(out, Some(key.as_bytes())) && put_bytes(out, *value);
        }
        fits = fits && put_len(&mut self.records, self.record.len());
        self.records.extend(&self.record);
        self.count = self.count.checked_add(1).unwrap_or_else(|| {
            fits = false;
            i32::MAX
        });
        self.too_large |= !fits;
    }

    /// Says who produces the batch, and the sequence of its first record.
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, first: Sequence) -> Self {
        self.producer = (id, epoch, first);
        self
    }

    /// Compresses the records.
    pub fn compress(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Makes the batch part of its producer's transaction.
    pub fn transactional(mut self) -> Self {
        self.attributes |= header::TRANSACTIONAL;
        self
    }

    /// Makes it a control batch: markers of the broker's, which consumers do not see.
    pub fn control(mut self) -> Self {
        self.attributes |= header::CONTROL;
        self
    }

    /// Bytes of its records so far, before compression.
    #[must_use]
    pub fn plain_bytes(&self) -> usize {
        self.records.len()
    }

    /// The batch, with base offset 0 and no leader epoch until it is stamped.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn done(self) -> Result<Batch, BuildError> {
        if self.count == 0 {
            return Err(BuildError::Empty);
        }
        if self.too_large {
            return Err(BuildError::TooLarge);
        }
        let body = match self.codec {
            Codec::None => self.records,
            codec => deflate(codec, &self.records)?,
        };
        let length = i32::try_from(HEADER_BYTES - LENGTH_EXCLUDES + body.len())
            .map_err(|_| BuildError::TooLarge)?;
        let (id, epoch, sequence) = self.producer;
        let mut header = Header {
            base_offset: 0.into(),
            length: length.into(),
            leader_epoch: (-1).into(),
            magic: MAGIC,
            crc: 0.into(),
            attributes: (self.attributes | i16::from(self.codec.id())).into(),
            last_offset_delta: (self.count - 1).into(),
            base_timestamp: self.base_timestamp.0.into(),
            max_timestamp: self.max_timestamp.0.into(),
            producer_id: id.0.into(),
            producer_epoch: epoch.0.into(),
            base_sequence: sequence.0.into(),
            count: self.count.into(),
        };
        header.sign(&body);
        let wire = [&header.to_bytes()[..], &body].concat();
        Ok(Batch::trusted(header, Bytes::from(wire)))
    }
}

/// Appends `bytes` behind their length; false if the length has no room in 32 bits.
fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) -> bool {
    let Some(bytes) = bytes else {
        varint::put(out, -1);
        return true;
    };
    let fits = put_len(out, bytes.len());
    out.extend(bytes);
    fits
}

fn put_len(out: &mut Vec<u8>, length: usize) -> bool {
    let Ok(length) = i32::try_from(length) else {
        return false;
    };
    varint::put(out, i64::from(length));
    true
}
