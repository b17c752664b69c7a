//! Reads record batches back: the checker's own reader, which trusts no byte.

use crate::num;
use crate::workload::batch::{CRC_AT, CRC_FROM, HEADER_BYTES, LENGTH_FROM};

/// A batch, where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The offset of its first record.
    pub base_offset: i64,
    /// How many offsets it takes, less one.
    pub last_offset_delta: i32,
    /// Codec, timestamp type and flags.
    pub attributes: i16,
    /// How many records it says it has.
    pub count: i32,
    /// The records as they are stored.
    pub records: &'a [u8],
    /// The whole batch.
    pub bytes: &'a [u8],
}

/// What is wrong with bytes that should be a batch or a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The length is shorter than a header.
    #[error("a batch of {0} B is none")]
    Length(i32),
    /// Another format.
    #[error("magic {0} is not 2")]
    Magic(u8),
    /// The CRC does not fit.
    #[error("CRC-32C is {found:#010x}, the batch says {said:#010x}")]
    Crc {
        /// Over the bytes that are there.
        found: u32,
        /// In the header.
        said: u32,
    },
    /// The records cannot be decompressed.
    #[error("the records cannot be decompressed")]
    Codec,
    /// A record ends outside the batch, or a number is too long.
    #[error("record {0} is malformed")]
    Record(i32),
    /// The records are not as many as the header says.
    #[error("the header counts {said} records and {bytes_left} B are left behind them")]
    Count {
        /// In the header.
        said: i32,
        /// Behind that many records.
        bytes_left: usize,
    },
}

impl<'a> Batch<'a> {
    /// The batch at the start of `bytes`; `None` if it is cut off, as the last one of a fetch
    /// response may be.
    ///
    /// # Errors
    /// [`Fault::Length`] or [`Fault::Magic`]: where the next batch begins is unknown.
    pub fn cut(bytes: &'a [u8]) -> Result<Option<Self>, Fault> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = i32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        let total = usize::try_from(length).map_err(|_| Fault::Length(length))?;
        let total = total.saturating_add(LENGTH_FROM);
        if total < HEADER_BYTES {
            return Err(Fault::Length(length));
        }
        if header[16] != 2 {
            return Err(Fault::Magic(header[16]));
        }
        let Some(bytes) = bytes.get(..total) else { return Ok(None) };
        let [a, b, c, d, e, f, g, h, ..] = *header;
        Ok(Some(Self {
            base_offset: i64::from_be_bytes([a, b, c, d, e, f, g, h]),
            last_offset_delta: i32::from_be_bytes([header[23], header[24], header[25], header[26]]),
            attributes: i16::from_be_bytes([header[21], header[22]]),
            count: i32::from_be_bytes([header[57], header[58], header[59], header[60]]),
            records: &bytes[HEADER_BYTES..],
            bytes,
        }))
    }

    /// Checks the CRC over everything behind it.
    ///
    /// # Errors
    /// [`Fault::Crc`].
    pub fn check_crc(&self) -> Result<(), Fault> {
        let b = self.bytes;
        let said = u32::from_be_bytes([b[CRC_AT], b[CRC_AT + 1], b[CRC_AT + 2], b[CRC_AT + 3]]);
        let found = crc32c::crc32c(&b[CRC_FROM..]);
        if found == said { Ok(()) } else { Err(Fault::Crc { found, said }) }
    }

    /// Whether a transaction coordinator wrote it: it holds no records of anybody.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }
}

/// The records of a batch, uncompressed, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    next: i32,
    count: i32,
}

/// A record: its place in the batch and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset less the batch's.
    pub offset_delta: i64,
    /// Its value, if it has one.
    pub value: Option<&'a [u8]>,
}

impl<'a> Records<'a> {
    /// `count` records in `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8], count: i32) -> Self {
        Self { rest: bytes, next: 0, count }
    }

    /// The next record, or `None` behind the last.
    ///
    /// # Errors
    /// [`Fault::Record`], or [`Fault::Count`] behind the last.
    pub fn read_next(&mut self) -> Result<Option<Record<'a>>, Fault> {
        if self.next >= self.count {
            let bytes_left = self.rest.len();
            let whole = bytes_left == 0 && self.count > 0;
            let fault = Fault::Count { said: self.count, bytes_left };
            return if whole { Ok(None) } else { Err(fault) };
        }
        let record = self.read().ok_or(Fault::Record(self.next))?;
        self.next += 1;
        Ok(Some(record))
    }

    fn read(&mut self) -> Option<Record<'a>> {
        let length = usize::try_from(varint(&mut self.rest)?).ok()?;
        let (mut body, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        body = body.get(1..)?; // attributes
        varint(&mut body)?; // time delta
        let offset_delta = varint(&mut body)?;
        field(&mut body)?; // key
        let value = field(&mut body)?;
        for _ in 0..varint(&mut body)? {
            field(&mut body)?; // header's key
            field(&mut body)?; // header's value
        }
        body.is_empty().then_some(Record { offset_delta, value })
    }
}

/// Takes a zigzag varint off the front.
fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let (first, rest) = bytes.split_first()?;
    if *first < 0x80 {
        *bytes = rest;
        return Some(unzigzag(u64::from(*first)));
    }
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(unzigzag(value));
        }
    }
    None
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// Takes a field of announced length off the front; a length of -1 is "none".
#[expect(clippy::option_option, reason = "outer: malformed; inner: null")]
fn field<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint(bytes)?;
    if length == -1 {
        return Some(None);
    }
    let (field, rest) = bytes.split_at_checked(num::index(u64::try_from(length).ok()?))?;
    *bytes = rest;
    Some(Some(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::records::{
        Compression, Record as Theirs, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
    };
    use proptest::prelude::*;

    fn theirs(offset: i64, key: Option<Vec<u8>>, value: Option<Vec<u8>>, headers: usize) -> Theirs {
        Theirs {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 0,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset,
            sequence: i32::try_from(offset).unwrap() - 1,
            timestamp: 1_000 + offset,
            key: key.map(Into::into),
            value: value.map(Into::into),
            headers: (0..headers)
                .map(|i| (format!("h{i}").as_str().to_owned().into(), None))
                .collect(),
        }
    }

    proptest! {
        #[test]
        fn batches_of_another_codec_are_read(
            records in proptest::collection::vec(
                (any::<Option<Vec<u8>>>(), any::<Option<Vec<u8>>>(), 0_usize..3), 1..100),
            cut in any::<proptest::sample::Index>(),
            flip in any::<proptest::sample::Index>(), bit in 0_u8..8,
        ) {
            let records: Vec<_> = (0_i64..).zip(records)
                .map(|(i, (key, value, headers))| theirs(i, key, value, headers)).collect();
            let mut bytes = BytesMut::new();
            let options = RecordEncodeOptions { version: 2, compression: Compression::None };
            RecordBatchEncoder::encode(&mut bytes, &records, &options).unwrap();
            let batch = Batch::cut(&bytes).unwrap().unwrap();
            batch.check_crc().unwrap();
            prop_assert_eq!(usize::try_from(batch.count).unwrap(), records.len());
            let mut read = Records::new(batch.records, batch.count);
            for record in &records {
                let got = read.read_next().unwrap().unwrap();
                prop_assert_eq!(got.offset_delta, record.offset);
                prop_assert_eq!(got.value, record.value.as_deref());
            }
            prop_assert_eq!(read.read_next(), Ok(None));
            // A batch that is cut off is none yet; a bit flipped behind the CRC is noticed.
            let cut = cut.index(bytes.len());
            prop_assert!(Batch::cut(&bytes[..cut]).unwrap().is_none());
            let at = CRC_AT + flip.index(bytes.len() - CRC_AT);
            bytes[at] ^= 1 << bit;
            prop_assert!(Batch::cut(&bytes).unwrap().unwrap().check_crc().is_err());
        }

        #[test]
        fn noise_is_refused_without_panic(bytes: Vec<u8>, count in -3_i32..50) {
            let _no_panic = Batch::cut(&bytes).is_ok();
            let mut records = Records::new(&bytes, count);
            while let Ok(Some(_)) = records.read_next() {}
        }
    }
}
