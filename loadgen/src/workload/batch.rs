//! Writes record batches (Kafka's format, version 2): built before the clock starts, stamped in
//! place while it runs.
//!
//! ```text
//! batch:   | base offset i64 | length i32 | leader epoch i32 | magic i8 | crc u32 |
//!          | attributes i16 | last offset delta i32 | first time i64 | last time i64 |
//!          | producer id i64 | epoch i16 | sequence i32 | count i32 | records |
//! record:  | length | attributes i8 | time delta | offset delta | key length -1 |
//!          | value length | value | headers 0 |        lengths and deltas are zigzag varints
//! ```
//!
//! All records of a template have one size, so that a stamp is some stores at known places and
//! one CRC-32C over the batch. This is the checker's own writer: it shares no code with the
//! server that it checks.

use super::value::{Identity, Pool, STAMP_AT};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;

/// Bytes of a batch that its length field does not count.
pub const LENGTH_FROM: usize = 12;

/// Where the CRC stands, and where the bytes begin that it covers.
pub const CRC_AT: usize = 17;
/// See [`CRC_AT`].
pub const CRC_FROM: usize = 21;

/// The records of one batch, ready but for the fields that differ from batch to batch.
#[derive(Clone, Debug)]
pub struct Template {
    /// The records as they are stored uncompressed.
    pub records: Vec<u8>,
    /// Where in `records` each value begins.
    pub value_at: Vec<usize>,
}

/// What differs from batch to batch.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// The partition.
    pub partition: u32,
    /// The connection.
    pub producer: u32,
    /// Of the batch's first record; the others count on.
    pub first_sequence: u64,
    /// Unix time in nanoseconds at which the batch was due.
    pub intended_unix_ns: u64,
}

/// A producer's session with the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerSession {
    /// The id that the broker handed out, or -1.
    pub id: i64,
    /// Its epoch, or -1.
    pub epoch: i16,
}

impl ProducerSession {
    /// A producer that is not idempotent.
    pub const NONE: Self = Self { id: -1, epoch: -1 };
}

impl Template {
    /// `count` records with values of `value_bytes` (at least [`super::value::IDENTITY_BYTES`])
    /// whose fillers are those numbered from `first_filler` of `pool`.
    #[must_use]
    pub fn new(count: u32, value_bytes: usize, pool: &Pool, first_filler: u64) -> Self {
        let mut this = Self { records: Vec::new(), value_at: Vec::new() };
        for delta in 0..count {
            let filler = pool.filler(first_filler.wrapping_add(u64::from(delta)));
            let identity = Identity {
                run: pool.run(),
                partition: 0,
                producer: 0,
                sequence: 0,
                intended_unix_ns: 0,
                filler,
            };
            let mut body = vec![0, 0]; // attributes, time delta
            write_varint(i64::from(delta), &mut body);
            write_varint(-1, &mut body); // no key
            write_varint(i64::try_from(value_bytes).unwrap_or(i64::MAX), &mut body);
            let value_from = body.len();
            body.extend_from_slice(&identity.to_bytes());
            let filler_bytes = value_bytes.saturating_sub(super::value::IDENTITY_BYTES);
            body.extend_from_slice(pool.window(filler, filler_bytes).unwrap_or_default());
            body.push(0); // no headers
            write_varint(i64::try_from(body.len()).unwrap_or(i64::MAX), &mut this.records);
            this.value_at.push(this.records.len() + value_from);
            this.records.extend_from_slice(&body);
        }
        this
    }
}

/// Stamps the records of a batch, which lie in `records` as in the template with these
/// `value_at`.
pub fn stamp_records(records: &mut [u8], value_at: &[usize], stamp: Stamp) {
    let mut fields = [0; 24];
    fields[..4].copy_from_slice(&stamp.partition.to_be_bytes());
    fields[4..8].copy_from_slice(&stamp.producer.to_be_bytes());
    fields[16..].copy_from_slice(&stamp.intended_unix_ns.to_be_bytes());
    for (sequence, at) in (stamp.first_sequence..).zip(value_at) {
        fields[8..16].copy_from_slice(&sequence.to_be_bytes());
        let from = at + STAMP_AT;
        records[from..from + fields.len()].copy_from_slice(&fields);
    }
}

/// Writes the header of a batch that is whole but for it; `batch` is the batch and nothing else.
/// [`seal`] completes it.
pub fn write_header(batch: &mut [u8], count: u32, attributes: i16, producer: ProducerSession) {
    let length = i32::try_from(batch.len() - LENGTH_FROM).unwrap_or(i32::MAX);
    let count = crate::num::as_i32(count);
    batch[..8].fill(0);
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[12..16].copy_from_slice(&(-1_i32).to_be_bytes());
    batch[16] = 2;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[53..57].copy_from_slice(&(-1_i32).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    set_producer(batch, producer);
}

/// Sets who sends the batch.
pub fn set_producer(batch: &mut [u8], producer: ProducerSession) {
    batch[43..51].copy_from_slice(&producer.id.to_be_bytes());
    batch[51..53].copy_from_slice(&producer.epoch.to_be_bytes());
}

/// Sets the time and, of an idempotent producer, the sequence; then the CRC over everything.
pub fn seal(batch: &mut [u8], stamp: Stamp, producer: ProducerSession) {
    let unix_ms = (stamp.intended_unix_ns / 1_000_000).to_be_bytes();
    batch[27..35].copy_from_slice(&unix_ms);
    batch[35..43].copy_from_slice(&unix_ms);
    if producer != ProducerSession::NONE {
        // Kafka's sequences wrap from 2^31 - 1 to 0.
        let wrapped = stamp.first_sequence & 0x7fff_ffff;
        batch[53..57].copy_from_slice(&u32::try_from(wrapped).unwrap_or(0).to_be_bytes());
    }
    let crc = crc32c::crc32c(&batch[CRC_FROM..]);
    batch[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
}

/// Appends a zigzag varint.
fn write_varint(value: i64, out: &mut Vec<u8>) {
    let mut zigzag = (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned();
    while zigzag >= 0x80 {
        let [.., low] = zigzag.to_be_bytes();
        out.push(low | 0x80);
        zigzag >>= 7;
    }
    let [.., low] = zigzag.to_be_bytes();
    out.push(low);
}

#[cfg(test)]
mod tests {
    use super::super::codec::Codec;
    use super::*;
    use bytes::Bytes;
    use kafka_protocol::records::{Compression, RecordBatchDecoder};
    use proptest::prelude::*;

    /// A whole batch, as the load generator would send it.
    fn batch(template: &Template, count: u32, codec: Codec, stamp: Stamp) -> Vec<u8> {
        let mut records = template.records.clone();
        stamp_records(&mut records, &template.value_at, stamp);
        let mut batch = vec![0xaa; HEADER_BYTES];
        codec.compress(&records, &mut batch).unwrap();
        let producer = ProducerSession { id: 77, epoch: 3 };
        write_header(&mut batch, count, codec.id(), producer);
        seal(&mut batch, stamp, producer);
        batch
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn another_codec_reads_what_is_written(
            count in 1_u32..150, value_bytes in 36_usize..400, run: u64,
            partition in 0_u32..9, producer in 0_u32..9, first_sequence in 0_u64..1 << 40,
            intended_unix_ns in 0_u64..1 << 60, first_filler: u64,
        ) {
            let pool = Pool::new(run, 50, value_bytes);
            let template = Template::new(count, value_bytes, &pool, first_filler);
            let stamp = Stamp { partition, producer, first_sequence, intended_unix_ns };
            let bytes = batch(&template, count, Codec::None, stamp);
            let set = RecordBatchDecoder::decode(&mut Bytes::from(bytes)).unwrap();
            prop_assert_eq!(set.compression, Compression::None);
            prop_assert_eq!(set.records.len(), usize::try_from(count).unwrap());
            for (i, record) in (0_u64..).zip(&set.records) {
                prop_assert_eq!(record.offset, i64::try_from(i).unwrap());
                prop_assert_eq!(record.timestamp, i64::try_from(intended_unix_ns / 1_000_000).unwrap());
                prop_assert_eq!((record.producer_id, record.producer_epoch), (77, 3));
                let sequence = i32::try_from((first_sequence & 0x7fff_ffff) + i);
                if let Ok(sequence) = sequence {
                    prop_assert_eq!(record.sequence, sequence);
                }
                prop_assert!(record.key.is_none() && record.headers.is_empty());
                let value = record.value.as_deref().unwrap();
                prop_assert_eq!(value.len(), value_bytes);
                let (identity, filler) = Identity::split(value).unwrap();
                prop_assert_eq!(identity, Identity {
                    run, partition, producer, sequence: first_sequence + i, intended_unix_ns,
                    filler: pool.filler(first_filler.wrapping_add(i)),
                });
                prop_assert_eq!(filler, pool.window(identity.filler, value_bytes - 36).unwrap());
            }
        }
    }

    #[test]
    fn a_second_stamp_leaves_nothing_of_the_first() {
        let pool = Pool::new(1, 0, 64);
        let template = Template::new(3, 100, &pool, 0);
        let a = Stamp { partition: 9, producer: 8, first_sequence: 1 << 40, intended_unix_ns: 7 };
        let b = Stamp { partition: 1, producer: 2, first_sequence: 3, intended_unix_ns: 4 };
        let fresh = batch(&template, 3, Codec::None, b);
        let mut used = batch(&template, 3, Codec::None, a);
        stamp_records(&mut used[HEADER_BYTES..], &template.value_at, b);
        seal(&mut used, b, ProducerSession { id: 77, epoch: 3 });
        assert_eq!(used, fresh);
    }
}
