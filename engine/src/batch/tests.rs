use super::*;
use crate::types::{ProducerEpoch, ProducerId, Sequence};
use proptest::prelude::*;

const FULL: Check = Check::Full { inflated_bytes_max: 1 << 20 };

/// Puts the CRC right, by an independent implementation.
fn sign(mut wire: Vec<u8>) -> Bytes {
    let crc = ::crc32c::crc32c(&wire[CRC_FROM..]);
    wire[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(wire)
}

/// One record without a producer, byte by byte: the smallest batch that a client sends.
fn small() -> Vec<u8> {
    let record = [0x10_u8, 0, 0, 0, 1, 4, b'h', b'i', 0];
    let mut wire = vec![0; HEADER_BYTES];
    wire[8..12].copy_from_slice(&(49 + 9_i32).to_be_bytes());
    wire[12..16].copy_from_slice(&(-1_i32).to_be_bytes());
    wire[16] = 2;
    wire[27..35].copy_from_slice(&1_000_i64.to_be_bytes());
    wire[35..43].copy_from_slice(&1_000_i64.to_be_bytes());
    wire[43..57].fill(0xff);
    wire[57..61].copy_from_slice(&1_i32.to_be_bytes());
    wire.extend(record);
    wire
}

/// A batch of `n` records of some 100 bytes, from a producer.
fn batch(n: usize) -> Batch {
    let mut batch = Batch::build().producer(ProducerId(1), ProducerEpoch(0), Sequence(0));
    for i in 0..n {
        let value = [u8::try_from(i % 251).unwrap(); 100];
        batch.add(Some(b"key"), Some(&value), &[], Timestamp(1_000));
    }
    batch.done().unwrap()
}

#[test]
fn the_fields_are_where_kafka_has_them() {
    let mut wire: Vec<u8> = (0..61).collect();
    wire[16] = 2;
    let h = Header::read(&wire).unwrap();
    assert_eq!(h.base_offset(), Offset(0x0001_0203_0405_0607));
    assert_eq!(h.length(), 0x0809_0a0b);
    assert_eq!(h.total_bytes(), Some(0x0809_0a0b + 12));
    assert_eq!(announced_bytes(&wire), h.total_bytes());
    assert_eq!(h.leader_epoch(), LeaderEpoch(0x0c0d_0e0f));
    assert_eq!(h.magic(), 2);
    assert_eq!(h.crc(), 0x1112_1314);
    assert_eq!(h.attributes(), 0x1516);
    assert_eq!(h.last_offset_delta(), 0x1718_191a);
    assert_eq!(h.base_timestamp(), Timestamp(0x1b1c_1d1e_1f20_2122));
    assert_eq!(h.max_timestamp(), Timestamp(0x2324_2526_2728_292a));
    assert_eq!(h.producer_id(), ProducerId(0x2b2c_2d2e_2f30_3132));
    assert_eq!(h.producer_epoch(), ProducerEpoch(0x3334));
    assert_eq!(h.base_sequence(), Sequence(0x3536_3738));
    assert_eq!(h.count(), 0x393a_3b3c);
    assert_eq!(&h.to_bytes()[..], &wire[..]);
    assert!(Header::read(&wire[..60]).is_none());
}

#[test]
fn the_attribute_bits_are_kafkas() {
    let with = |bits: i16| {
        let mut wire = small();
        wire[21..23].copy_from_slice(&bits.to_be_bytes());
        *Header::read(&wire).unwrap()
    };
    for (id, codec) in (0..).zip(Codec::ALL) {
        assert_eq!(with(id).codec(), Some(codec));
        assert_eq!(i16::from(codec.id()), id);
    }
    assert_eq!(with(5).codec(), None);
    assert_eq!(with(7).codec(), None);
    assert_eq!(with(8).timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(with(!8).timestamp_type(), TimestampType::CreateTime);
    assert!(with(16).is_transactional() && !with(!16).is_transactional());
    assert!(with(32).is_control() && !with(!32).is_control());
    assert_eq!(with(64).delete_horizon(), Some(Timestamp(1_000)));
    assert_eq!(with(!64).delete_horizon(), None);
}

#[test]
fn a_batch_is_kept_byte_for_byte_and_stamped_in_a_copy() {
    for check in [Check::Opaque, FULL] {
        let wire = sign(small());
        let batch = Batch::parse(wire.clone(), check).unwrap();
        assert_eq!(batch.wire(), &wire);
        let head = batch.stamp(Offset(7), LeaderEpoch(3), None);
        assert_eq!((head.base_offset(), head.next_offset()), (Offset(7), Offset(8)));
        let stored = batch.to_stored(Offset(7), LeaderEpoch(3));
        assert_eq!(validate_stored(&stored).unwrap(), head);
        assert_eq!(stored[16..], wire[16..]);
        assert_eq!(batch.wire(), &wire);
    }
}

#[test]
fn the_append_time_is_stamped_under_a_new_crc() {
    let batch = batch(3);
    let head = batch.stamp(Offset(9), LeaderEpoch(1), Some(Timestamp(5_555)));
    assert_eq!(head.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(head.max_timestamp(), Timestamp(5_555));
    assert_eq!(head.base_timestamp(), batch.header().base_timestamp());
    let stored = [&head.to_bytes()[..], batch.body()].concat();
    assert_eq!(head.crc(), ::crc32c::crc32c(&stored[CRC_FROM..]));
    assert_eq!(validate_stored(&stored), Ok(head));
}

#[test]
fn every_fault_is_told_apart() {
    let at = |range: std::ops::Range<usize>, bytes: &[u8]| {
        let mut wire = small();
        wire[range].copy_from_slice(bytes);
        sign(wire)
    };
    let producer = |id: i64, epoch: i16, sequence: i32| {
        let bytes = [&id.to_be_bytes()[..], &epoch.to_be_bytes(), &sequence.to_be_bytes()].concat();
        (at(43..57, &bytes), Fault::Producer { id, epoch, sequence })
    };
    let whole = sign(small());
    let stored = Header::read(&whole).unwrap().crc();
    let mut flipped = whole.to_vec();
    flipped[65] ^= 1;
    let computed = ::crc32c::crc32c(&flipped[CRC_FROM..]);
    let two = Bytes::from([&whole[..], &whole].concat());
    let cases = [
        (Bytes::new(), Fault::Empty),
        (at(16..17, &[1]), Fault::Magic(1)),
        (Bytes::from(vec![0; 34]), Fault::Magic(0)),
        (whole.slice(..60), Fault::Incomplete { need: 61, have: 60 }),
        (whole.slice(..69), Fault::Incomplete { need: 70, have: 69 }),
        (at(8..12, &i32::MAX.to_be_bytes()), Fault::Incomplete { need: 0x8000_000b, have: 70 }),
        (two, Fault::More { extra: 70 }),
        (at(8..12, &48_i32.to_be_bytes()), Fault::Length { length: 48 }),
        (at(8..12, &(-1_i32).to_be_bytes()), Fault::Length { length: -1 }),
        (Bytes::from(flipped), Fault::Crc { stored, computed }),
        (at(57..61, &[0; 4]), Fault::Count { count: 0, last_offset_delta: 0 }),
        (at(57..61, &2_i32.to_be_bytes()), Fault::Count { count: 2, last_offset_delta: 0 }),
        (at(23..27, &[0xff; 4]), Fault::Count { count: 1, last_offset_delta: -1 }),
        (at(21..23, &[0, 5]), Fault::Codec(5)),
        (at(21..23, &[0, 7]), Fault::Codec(7)),
        (at(21..23, &[0, 0x20]), Fault::Control),
        producer(5, 0, -1),
        producer(5, -1, 0),
        (at(21..23, &[0, 0x10]), Fault::Transactional),
    ];
    for (wire, fault) in cases {
        assert_eq!(Batch::parse(wire.clone(), Check::Opaque).unwrap_err(), fault);
        assert_eq!(Batch::parse(wire, FULL).unwrap_err(), fault);
    }
}

#[test]
fn more_records_than_the_bytes_can_hold_are_refused_unread() {
    let crowded = |codec: u8, count: i32| {
        let mut wire = small();
        wire[22] = codec;
        wire[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        wire[57..61].copy_from_slice(&count.to_be_bytes());
        Batch::parse(sign(wire), Check::Opaque).map(|batch| batch.offsets())
    };
    // Nine bytes behind the head, seven the least record.
    for (codec, most) in [(0, 1), (1, 1_326), (2, 28), (3, 327), (4, 42_130)] {
        assert_eq!(crowded(codec, most), Ok(i64::from(most)));
        for count in [most + 1, i32::MAX] {
            assert_eq!(crowded(codec, count), Err(Fault::Crowded { count, bytes: 9 }));
        }
    }
    let mut empty = small();
    empty.truncate(HEADER_BYTES);
    empty[11] = 49;
    let refused = Batch::parse(sign(empty), Check::Opaque).unwrap_err();
    assert_eq!(refused, Fault::Crowded { count: 1, bytes: 0 });
}

#[test]
fn as_many_records_as_a_codec_can_press_into_a_batch_are_taken() {
    let mut million = Batch::build();
    for _ in 0..1_000_000 {
        million.add(None, None, &[], Timestamp::NONE);
    }
    let mut one = Batch::build();
    one.add(None, None, &[], Timestamp::NONE);
    for codec in Codec::ALL {
        for (batch, count) in [(&one, 1), (&million, 1_000_000)] {
            let wire = batch.clone().compress(codec).done().unwrap().wire().clone();
            let batch = Batch::parse(wire, Check::Opaque).unwrap();
            assert_eq!(batch.header().count(), count, "{codec:?}");
        }
    }
}

#[test]
fn only_the_broker_writes_control_batches() {
    let marker = Batch::build()
        .record(Some(&[0, 0, 0, 1]), Some(&[0; 6]), &[], Timestamp(1))
        .producer(ProducerId(5), ProducerEpoch(0), Sequence(-1))
        .transactional()
        .control()
        .done()
        .unwrap();
    for check in [Check::Opaque, FULL] {
        let wire = marker.wire().clone();
        assert_eq!(Batch::parse(wire.clone(), check).unwrap_err(), Fault::Control);
        assert!(Batch::parse_internal(wire, check).unwrap().header().is_control());
    }
}

#[test]
fn a_batch_without_records_is_not_built() {
    assert!(matches!(Batch::build().done(), Err(BuildError::Empty)));
}

#[test]
fn timestamps_out_of_bounds_are_refused() {
    let bounds = TimestampBounds { before_max_ms: 100, after_max_ms: 50 };
    let now = Timestamp(1_000);
    let timed = |times: &[i64]| {
        let mut batch = Batch::build();
        for &t in times {
            batch.add(None, None, &[], Timestamp(t));
        }
        batch.done().unwrap()
    };
    let checked = |times: &[i64], check| {
        let batch = Batch::parse(timed(times).wire().clone(), check).unwrap();
        bounds.check(&batch, TimestampType::CreateTime, now)
    };
    for check in [Check::Opaque, FULL] {
        for good in [&[900][..], &[1_050], &[900, 1_050], &[-1], &[-1, 1_000]] {
            assert_eq!(checked(good, check), Ok(()), "{good:?}");
        }
        for (bad, which) in [(&[899][..], 899), (&[1_051], 1_051), (&[1_000, i64::MAX], i64::MAX)] {
            let timestamp = Timestamp(which);
            let (before_max_ms, after_max_ms) = (100, 50);
            let fault = Fault::Timestamp { timestamp, now, before_max_ms, after_max_ms };
            let words = fault.to_string();
            assert!(
                words.starts_with(&format!("timestamp {which} is out of range at 1000: up to"))
            );
            assert_eq!(checked(bad, check), Err(fault));
        }
    }
    // Only reading the records finds one that is neither the first nor the newest.
    assert_eq!(checked(&[1_000, 899], Check::Opaque), Ok(()));
    assert!(checked(&[1_000, 899], FULL).is_err());
    // The broker's own time is never out of bounds, and never the producer's to set.
    let old = timed(&[1]);
    assert_eq!(bounds.check(&old, TimestampType::LogAppendTime, now), Ok(()));
    let head = old.stamp(Offset(0), LeaderEpoch(0), Some(now));
    let claimed = Bytes::from([&head.to_bytes()[..], old.body()].concat());
    let claimed = Batch::parse(claimed, Check::Opaque).unwrap();
    for kind in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        assert_eq!(bounds.check(&claimed, kind, now), Err(Fault::TimestampType));
    }
}

#[test]
fn a_wrong_maximum_timestamp_is_put_right_by_the_full_check() {
    let mut wire = small();
    wire[35..43].copy_from_slice(&i64::MAX.to_be_bytes());
    let wire = sign(wire);
    let opaque = Batch::parse(wire.clone(), Check::Opaque).unwrap();
    assert_eq!(opaque.header().max_timestamp(), Timestamp(i64::MAX));
    let full = Batch::parse(wire, FULL).unwrap();
    assert_eq!(full.header().max_timestamp(), Timestamp(1_000));
    assert_eq!(validate_stored(&full.to_stored(Offset(0), LeaderEpoch(0))), {
        Ok(full.stamp(Offset(0), LeaderEpoch(0), None))
    });
}

#[test]
fn zeros_are_no_batch() {
    assert_eq!(frame(&[0; 4096]).unwrap_err(), StoredFault::Length { length: 0 });
}

#[test]
fn every_stored_fault_is_told_apart() {
    let good = batch(1).to_stored(Offset(3), LeaderEpoch(0));
    let with = |range: std::ops::Range<usize>, bytes: &[u8]| {
        let mut wire = good.to_vec();
        wire[range].copy_from_slice(bytes);
        wire
    };
    let (have, delta) = (good.len(), 0);
    let base = Offset(i64::MAX);
    let cases = [
        (good[..60].to_vec(), StoredFault::Incomplete { need: 61, have: 60 }),
        (good[..have - 1].to_vec(), StoredFault::Incomplete { need: have, have: have - 1 }),
        (with(8..12, &[0xff; 4]), StoredFault::Length { length: -1 }),
        (with(16..17, &[1]), StoredFault::Magic(1)),
        (with(0..8, &[0xff; 8]), StoredFault::Offsets { base: Offset(-1), delta }),
        (with(0..8, &base.0.to_be_bytes()), StoredFault::Offsets { base, delta }),
        (with(23..27, &[0xff; 4]), StoredFault::Offsets { base: Offset(3), delta: -1 }),
    ];
    for (wire, fault) in cases {
        assert_eq!(validate_stored(&wire), Err(fault));
        assert_eq!(frame(&wire).unwrap_err(), fault);
    }
    let damaged = with(have - 1..have, &[0x55]);
    assert!(frame(&damaged).is_ok());
    assert!(matches!(validate_stored(&damaged), Err(StoredFault::Crc { .. })));
    assert!(matches!(Batch::from_stored(damaged.into()), Err(StoredFault::Crc { .. })));
    let twice = Bytes::from([&good[..], &good].concat());
    assert!(matches!(Batch::from_stored(twice), Err(StoredFault::Length { .. })));
}

#[test]
fn any_bit_flipped_under_the_crc_is_found() {
    for n in [1, 40] {
        let good = batch(n).to_stored(Offset(0), LeaderEpoch(0));
        let mut wire = good.to_vec();
        for at in 17..wire.len() {
            for bit in 0..8 {
                wire[at] ^= 1 << bit;
                assert!(validate_stored(&wire).is_err(), "byte {at}, bit {bit}");
                wire[at] ^= 1 << bit;
            }
        }
        assert!(validate_stored(&wire).is_ok());
    }
}

proptest! {
    #[test]
    fn the_crc_agrees_with_an_independent_one(bytes: Vec<u8>, more in 0..5_000_usize, cut: prop::sample::Index) {
        let bytes = [bytes, vec![0xa5; more]].concat();
        let expected = ::crc32c::crc32c(&bytes);
        prop_assert_eq!(crc32c(&bytes), expected);
        let (first, rest) = bytes.split_at(cut.index(bytes.len() + 1));
        prop_assert_eq!(crc32c_of_two(first, rest), expected);
    }

    #[test]
    fn batches_are_walked_to_the_cut(
        sizes in prop::collection::vec(1..6_usize, 0..6),
        cut: prop::sample::Index,
    ) {
        let (mut log, mut ends, mut base) = (Vec::new(), vec![0], 0_i64);
        for n in sizes {
            let batch = batch(n);
            log.extend(batch.to_stored(Offset(base), LeaderEpoch(0)));
            base += batch.offsets();
            ends.push(log.len());
        }
        let cut = cut.index(log.len() + 1);
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        let mut walk = Batches::new(&log[..cut]);
        for i in 0..whole {
            let view = walk.next().unwrap().unwrap();
            prop_assert_eq!((view.position, walk.position()), (ends[i], ends[i + 1]));
            prop_assert!(view.check_crc().is_ok());
            prop_assert_eq!(view.bytes, &log[ends[i]..ends[i + 1]]);
        }
        let incomplete = cut > ends[whole];
        let last = walk.next();
        prop_assert_eq!(last.is_some(), incomplete);
        if let Some(last) = last {
            let incomplete = matches!(last, Err(StoredFault::Incomplete { .. }));
            prop_assert!(incomplete);
        }
        prop_assert!(walk.next().is_none());
        prop_assert_eq!(walk.position(), ends[whole]);
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>, damage in prop::collection::vec((0..200_usize, any::<u8>()), 0..4)) {
        drop(Batch::parse(bytes.clone().into(), FULL));
        prop_assert!(validate_stored(&bytes).is_err(), "no CRC fits by chance");
        let mut wire = batch(2).wire().to_vec();
        for (at, value) in damage {
            let at = at % wire.len();
            wire[at] = value;
        }
        let signed = sign(wire.clone());
        for wire in [Bytes::from(wire), signed] {
            if let Ok(batch) = Batch::parse(wire, FULL) {
                prop_assert_eq!(batch.offsets(), i64::from(batch.header().count()));
                let records = batch.records(1 << 20).unwrap();
                prop_assert!(records.iter().all(|r| r.is_ok()));
            }
        }
    }
}
