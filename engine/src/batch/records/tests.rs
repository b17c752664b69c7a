use super::*;
use crate::batch::{Batch, BatchBuilder, Check, Codec, Fault};
use crate::types::{LeaderEpoch, ProducerEpoch, ProducerId, Sequence};
use bytes::{Buf, Bytes};
use kafka_protocol::records::{Compression, RecordBatchDecoder};
use proptest::prelude::*;

const MIB: usize = 1024 * 1024;

type Field = Option<Vec<u8>>;

/// A record as a test thinks of it.
#[derive(Clone, Debug, PartialEq)]
struct Plain {
    key: Field,
    value: Field,
    headers: Vec<(String, Field)>,
    timestamp: i64,
}

fn field() -> impl Strategy<Value = Field> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..200))
}

fn plain() -> impl Strategy<Value = Plain> {
    let headers = prop::collection::vec(("[a-zé]{0,12}", field()), 0..4);
    (field(), field(), headers, -1..i64::from(u32::MAX) * 1000)
        .prop_map(|(key, value, headers, timestamp)| Plain { key, value, headers, timestamp })
}

fn build(records: &[Plain]) -> BatchBuilder {
    let mut batch = Batch::build();
    for r in records {
        let headers: Vec<_> =
            r.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        batch.add(r.key.as_deref(), r.value.as_deref(), &headers, Timestamp(r.timestamp));
    }
    batch
}

fn read(batch: &Batch) -> Vec<(i64, Plain)> {
    let records = batch.records(MIB).unwrap();
    let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    records
        .iter()
        .map(|record| {
            let r = record.unwrap();
            let headers = r.headers.map(|(key, value)| (key.to_owned(), own(value))).collect();
            let (key, value, timestamp) = (own(r.key), own(r.value), r.timestamp.0);
            (r.offset.0, Plain { key, value, headers, timestamp })
        })
        .collect()
}

/// Inflates for `kafka-protocol`, whose own codecs need C libraries.
fn inflate_for_it(bytes: &mut Bytes, compression: Compression) -> Bytes {
    let codec = match compression {
        Compression::None => Codec::None,
        Compression::Gzip => Codec::Gzip,
        Compression::Snappy => Codec::Snappy,
        Compression::Lz4 => Codec::Lz4,
        Compression::Zstd => Codec::Zstd,
    };
    let plain = inflate(codec, bytes, MIB).unwrap().into_owned();
    bytes.advance(bytes.len());
    Bytes::from(plain)
}

proptest! {
    #[test]
    fn records_are_read_as_they_were_built(
        records in prop::collection::vec(plain(), 1..20),
        codec in prop::sample::select(&Codec::ALL[..]),
        base in 0..i64::MAX / 2,
    ) {
        let batch = build(&records).compress(codec).done().unwrap();
        prop_assert_eq!(batch.header().codec(), Some(codec));
        let stored = Batch::from_stored(batch.to_stored(Offset(base), LeaderEpoch(4))).unwrap();
        let expected: Vec<_> = (base..).zip(records.iter().cloned()).collect();
        prop_assert_eq!(read(&stored), expected);
        let max = records.iter().map(|r| r.timestamp).max().unwrap();
        prop_assert_eq!(stored.header().max_timestamp(), Timestamp(max));
        // The strict check passes what the builder makes.
        let full = Check::Full { inflated_bytes_max: MIB };
        let parsed = Batch::parse(batch.wire().clone(), full).unwrap();
        prop_assert_eq!(parsed.header(), batch.header());
        prop_assert_eq!(parsed.has_null_key(), Some(records.iter().any(|r| r.key.is_none())));
    }

    #[test]
    fn kafka_protocol_reads_the_same_records(
        mut records in prop::collection::vec(plain(), 1..20),
        codec in prop::sample::select(&Codec::ALL[..]),
        transactional: bool,
    ) {
        for r in &mut records {
            // It keeps headers in a map: one value a key.
            r.headers.sort_by(|a, b| a.0.cmp(&b.0));
            r.headers.dedup_by(|a, b| a.0 == b.0);
        }
        let mut batch = build(&records)
            .compress(codec)
            .producer(ProducerId(77), ProducerEpoch(3), Sequence(i32::MAX - 3));
        if transactional {
            batch = batch.transactional();
        }
        let batch = batch.done().unwrap();
        let mut wire = batch.to_stored(Offset(1_000), LeaderEpoch(9));
        let theirs =
            RecordBatchDecoder::decode_with_custom_compression(&mut wire, Some(|b: &mut Bytes, c: Compression| Ok(inflate_for_it(b, c))))
                .unwrap();
        prop_assert_eq!(theirs.records.len(), records.len());
        let first = Sequence(i32::MAX - 3);
        for ((theirs, ours), i) in theirs.records.iter().zip(&records).zip(0..) {
            prop_assert_eq!(theirs.offset, 1_000 + i64::from(i));
            prop_assert_eq!(theirs.timestamp, ours.timestamp);
            prop_assert_eq!(theirs.partition_leader_epoch, 9);
            prop_assert_eq!((theirs.producer_id, theirs.producer_epoch), (77, 3));
            prop_assert_eq!(theirs.transactional, transactional);
            // It does not wrap; Kafka does.
            if i < 4 {
                prop_assert_eq!(Sequence(theirs.sequence), first.plus(i));
            }
            prop_assert_eq!(theirs.key.as_deref(), ours.key.as_deref());
            prop_assert_eq!(theirs.value.as_deref(), ours.value.as_deref());
            let headers: Vec<_> = theirs.headers.iter()
                .map(|(key, value)| (key.to_string(), value.as_ref().map(|v| v.to_vec())))
                .collect();
            prop_assert_eq!(&headers, &ours.headers);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        plain: Vec<u8>,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        records in prop::collection::vec(plain(), 1..6),
    ) {
        let batch = build(&records).done().unwrap();
        let mut body = batch.body().to_vec();
        for (at, value) in damage {
            let at = at.index(body.len());
            body[at] = value;
        }
        for bytes in [&plain, &body] {
            let records = Records::new(batch.header(), bytes, MIB).unwrap();
            let all: Vec<_> = records.iter().collect();
            prop_assert!(all.iter().rev().skip(1).all(Result::is_ok), "a fault ends the records");
            let read = all.iter().flatten().count();
            prop_assert!(i32::try_from(read).unwrap() <= batch.header().count());
            for record in all.iter().flatten() {
                prop_assert_eq!(record.headers.count(), record.headers.len());
            }
        }
    }
}

/// A batch around `body`, which says that it holds `count` records.
fn around(count: i32, body: &[u8]) -> Batch {
    let mut header = *Batch::build().record(None, None, &[], Timestamp(5)).done().unwrap().header();
    header.count.set(count);
    header.last_offset_delta.set(count - 1);
    header.length.set(i32::try_from(49 + body.len()).unwrap());
    header.sign(body);
    let wire = [&header.to_bytes()[..], body].concat();
    Batch::trusted(header, Bytes::from(wire))
}

#[test]
fn every_record_fault_is_told_apart() {
    let malformed = |index, field| RecordFault::Malformed { index, field };
    let cases: [(i32, &[u8], RecordFault); 16] = [
        (1, &[], RecordFault::Cut { index: 0, count: 1 }),
        (1, &[12, 0, 0, 0, 1, 1], RecordFault::Cut { index: 0, count: 1 }),
        (1, &[0xff; 6], RecordFault::Cut { index: 0, count: 1 }),
        (1, &[1, 0], malformed(0, "length")),
        (1, &[0], malformed(0, "attributes")),
        (1, &[2, 0], malformed(0, "timestamp delta")),
        (1, &[4, 0, 0], malformed(0, "offset delta")),
        (1, &[6, 0, 0, 0], malformed(0, "key")),
        (1, &[12, 0, 0, 0, 4, 1, 0], malformed(0, "value")),
        (1, &[10, 0, 0, 0, 1, 1], malformed(0, "headers")),
        (1, &[12, 0, 0, 0, 1, 1, 1], malformed(0, "headers")),
        // A header whose key is null.
        (1, &[16, 0, 0, 0, 1, 1, 2, 1, 1], malformed(0, "headers")),
        (1, &[14, 0, 0, 0, 1, 1, 0, 0], malformed(0, "length")),
        (1, &[12, 0, 0, 2, 1, 1, 0], RecordFault::OffsetDelta { index: 0, delta: 1, last: 0 }),
        (
            2,
            &[12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 0, 1, 1, 0],
            RecordFault::OffsetDelta { index: 1, delta: 0, last: 1 },
        ),
        (1, &[12, 0, 0, 0, 1, 1, 0, 9, 9], RecordFault::More { extra: 2 }),
    ];
    for (count, body, fault) in cases {
        let batch = around(count, body);
        let found = batch.records(MIB).unwrap().iter().find_map(Result::err);
        assert_eq!(found.as_ref(), Some(&fault), "{body:?}");
        let full = Check::Full { inflated_bytes_max: MIB };
        assert_eq!(Batch::parse(batch.wire().clone(), full).unwrap_err(), Fault::Records(fault));
    }
}

#[test]
fn gaps_are_read_in_a_stored_batch_and_refused_in_a_clients() {
    // Records 0 and 2 of three, as compaction leaves them; a client would have to count 3.
    let batch = around(3, &[12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 4, 1, 1, 0]);
    let mut header = *batch.header();
    header.count.set(2);
    let records = Records::new(&header, batch.body(), MIB).unwrap();
    let offsets: Vec<_> = records.iter().map(|r| r.unwrap().offset.0).collect();
    assert_eq!(offsets, [0, 2]);
    let full = Check::Full { inflated_bytes_max: MIB };
    let fault = Batch::parse(batch.wire().clone(), full).unwrap_err();
    let gap = RecordFault::OffsetDelta { index: 1, delta: 2, last: 2 };
    assert_eq!(fault, Fault::Records(gap));
}

#[test]
fn the_append_time_is_every_records_time() {
    let batch = build(&[
        Plain { key: None, value: None, headers: vec![], timestamp: 10 },
        Plain { key: None, value: None, headers: vec![], timestamp: 20 },
    ])
    .done()
    .unwrap();
    let head = batch.stamp(Offset(0), LeaderEpoch(0), Some(Timestamp(99)));
    let records = Records::new(&head, batch.body(), MIB).unwrap();
    assert!(records.iter().all(|r| r.unwrap().timestamp == Timestamp(99)));
}

#[test]
fn a_batch_that_inflates_past_the_bound_is_refused() {
    let value = vec![0; 4 * MIB];
    let batch = Batch::build()
        .record(None, Some(&value), &[], Timestamp(1))
        .compress(Codec::Gzip)
        .done()
        .unwrap();
    let refused = InflateError::TooLarge { codec: Codec::Gzip, max_bytes: MIB };
    assert_eq!(batch.records(MIB).unwrap_err(), RecordFault::Inflate(refused.clone()));
    let fault = Batch::parse(batch.wire().clone(), Check::Full { inflated_bytes_max: MIB });
    assert_eq!(fault.unwrap_err(), Fault::Records(RecordFault::Inflate(refused)));
}
