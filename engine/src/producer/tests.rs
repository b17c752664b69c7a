use super::snapshot::SnapshotError;
use super::*;
use crate::batch::Batch;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The head of a batch of `n` records.
fn head(id: i64, epoch: i16, first: i32, n: i32) -> Header {
    let mut batch = Batch::build().producer(ProducerId(id), ProducerEpoch(epoch), Sequence(first));
    for _ in 0..n {
        batch.add(None, None, &[], Timestamp(7));
    }
    *batch.done().unwrap().header()
}

/// The head of a transaction marker.
fn marker(id: i64, epoch: i16) -> Header {
    let marker = Batch::build()
        .record(Some(&[0, 0, 0, 1]), Some(&[0; 6]), &[], Timestamp(7))
        .producer(ProducerId(id), ProducerEpoch(epoch), Sequence(-1))
        .transactional()
        .control();
    *marker.done().unwrap().header()
}

/// A partition: what is appended gets the next offsets.
#[derive(Default)]
struct Partition {
    producers: Producers,
    end: i64,
}

impl Partition {
    fn send(&mut self, header: &Header) -> Result<Verdict, ProducerError> {
        let verdict = self.producers.check(header)?;
        if verdict == Verdict::New {
            self.producers.append(header, Offset(self.end), Timestamp(0));
            self.end += i64::from(header.count());
        }
        Ok(verdict)
    }

    /// As Kafka answers: 0, or the error's code.
    fn code(&mut self, id: i64, epoch: i16, first: i32, n: i32) -> i16 {
        match self.send(&head(id, epoch, first, n)) {
            Ok(Verdict::New) => 0,
            Ok(Verdict::Duplicate { .. }) => -1,
            Err(ProducerError::OutOfOrderSequence { .. }) => 45,
            Err(ProducerError::StaleEpoch { .. }) => 47,
        }
    }
}

#[test]
fn a_retry_of_any_of_the_last_five_gets_its_first_answer() {
    let mut p = Partition::default();
    for i in 0..7 {
        assert_eq!(p.code(1, 0, i * 10, 10), 0);
    }
    for i in 2..7 {
        let base = i64::from(i) * 10;
        let original = Verdict::Duplicate {
            base_offset: Offset(base),
            end_offset: Offset(base + 10),
            timestamp: Timestamp(7),
        };
        assert_eq!(p.send(&head(1, 0, i * 10, 10)), Ok(original));
    }
    // Older than that, or cut otherwise, it cannot be told from a wrong one.
    assert_eq!(p.code(1, 0, 10, 10), 45);
    assert_eq!(p.code(1, 0, 60, 9), 45);
    assert_eq!(p.code(1, 0, 70, 1), 0);
}

#[test]
fn five_in_flight_of_which_the_first_is_lost_are_all_sent_again() {
    let mut p = Partition::default();
    assert_eq!(p.code(1, 0, 0, 1), 0);
    for i in 2..6 {
        assert_eq!(p.code(1, 0, i, 1), 45, "the gap is noticed");
    }
    for i in 1..6 {
        assert_eq!(p.code(1, 0, i, 1), 0);
    }
    assert_eq!(p.end, 6);
}

#[test]
fn sequences_wrap_to_zero() {
    let mut p = Partition::default();
    assert_eq!(p.code(1, 0, i32::MAX - 1, 4), 0, "an unknown producer starts anywhere");
    assert_eq!(p.code(1, 0, 2, 1), 0);
    assert_eq!(p.code(1, 0, i32::MAX - 1, 4), -1);
    assert_eq!(p.code(2, 0, i32::MAX, 1), 0);
    assert_eq!(p.code(2, 0, 0, 1), 0);
}

#[test]
fn a_new_epoch_begins_at_zero_and_ends_the_old_one() {
    let mut p = Partition::default();
    assert_eq!(p.code(1, 3, 40, 2), 0);
    assert_eq!(p.code(1, 5, 42, 1), 45);
    assert_eq!(p.code(1, 5, 0, 1), 0);
    assert_eq!(p.code(1, 3, 42, 1), 47);
    assert_eq!(p.code(1, 4, 0, 1), 47);
    assert_eq!(p.code(1, 3, 40, 2), 47, "not a duplicate any more");
    assert_eq!(p.code(1, 5, 1, 1), 0);
}

#[test]
fn a_marker_keeps_the_sequence_in_its_epoch_and_ends_it_in_a_higher_one() {
    let mut p = Partition::default();
    assert_eq!(p.code(1, 0, 0, 3), 0);
    assert_eq!(p.send(&marker(1, 0)), Ok(Verdict::New));
    assert_eq!(p.code(1, 0, 3, 1), 0);
    assert_eq!(p.send(&marker(1, 1)), Ok(Verdict::New));
    assert_eq!(p.code(1, 0, 4, 1), 47);
    assert_eq!(p.code(1, 1, 4, 1), 45);
    p.producers.mark_written();
    let mut again =
        Partition { producers: Producers::decode(&p.producers.encode()).unwrap(), end: 9 };
    assert_eq!(again.code(1, 1, 4, 1), 45);
    assert_eq!(again.code(1, 1, 0, 1), 0);
}

#[test]
fn batches_without_a_producer_are_no_concern() {
    let mut p = Partition::default();
    for _ in 0..3 {
        assert_eq!(p.send(&head(-1, -1, -1, 2)), Ok(Verdict::New));
    }
    assert_eq!(p.producers.states.len(), 0);
}

#[test]
fn the_silent_are_forgotten_and_the_others_not() {
    let mut p = Producers::new();
    p.append(&head(1, 0, 0, 1), Offset(0), Timestamp(100));
    p.append(&head(2, 0, 0, 1), Offset(1), Timestamp(101));
    p.mark_written();
    p.expire(Timestamp(1_100), 1_000);
    assert_eq!(p.states.len(), 1);
    assert_eq!(p.check(&head(1, 0, 9, 1)), Ok(Verdict::New));
    assert!(p.check(&head(2, 0, 9, 1)).is_err());
}

#[test]
fn a_snapshot_is_laid_out_as_kafkas() {
    let mut p = Producers::new();
    let header = head(4001, 2, 7, 5);
    p.append(&header, Offset(496), Timestamp(1_700_000_000_000));
    p.mark_written();
    let bytes = p.encode();
    let mut expected = vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
    expected.extend(4001_i64.to_be_bytes());
    expected.extend(2_i16.to_be_bytes());
    expected.extend(11_i32.to_be_bytes());
    expected.extend(500_i64.to_be_bytes());
    expected.extend(4_i32.to_be_bytes());
    expected.extend(1_700_000_000_000_i64.to_be_bytes());
    expected.extend((-1_i32).to_be_bytes());
    expected.extend((-1_i64).to_be_bytes());
    let sign = |mut bytes: Vec<u8>| {
        let crc = ::crc32c::crc32c(&bytes[6..]);
        bytes[2..6].copy_from_slice(&crc.to_be_bytes());
        bytes
    };
    // A file of Kafka's is read, of which the last batches are known.
    let theirs = Producers::decode(&sign(expected.clone())).unwrap();
    let again = |first| theirs.check(&head(4001, 2, first, 5));
    assert!(matches!(again(7), Ok(Verdict::Duplicate { base_offset: Offset(496), .. })));
    assert_eq!((again(12), again(2).is_err()), (Ok(Verdict::New), true));
    // Behind what Kafka reads: the batches.
    expected.push(1);
    expected.extend(11_i32.to_be_bytes());
    expected.extend(500_i64.to_be_bytes());
    expected.extend(4_i32.to_be_bytes());
    expected.extend(header.max_timestamp().0.to_be_bytes());
    assert_eq!(bytes, sign(expected));
}

#[test]
fn every_snapshot_fault_is_told_apart() {
    let mut p = Producers::new();
    p.append(&head(1, 0, 0, 1), Offset(0), Timestamp(0));
    p.mark_written();
    let good = p.encode();
    let sign = |mut bytes: Vec<u8>| {
        let crc = ::crc32c::crc32c(&bytes[6..]);
        bytes[2..6].copy_from_slice(&crc.to_be_bytes());
        bytes
    };
    let with = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    let entry = |id, epoch, delta| SnapshotError::Entry { id, epoch, delta };
    let cases = [
        (vec![], SnapshotError::Length { bytes: 0 }),
        (good[..9].to_vec(), SnapshotError::Length { bytes: 9 }),
        (with(0, &[0, 2]), SnapshotError::Version(2)),
        (sign(good[..55].to_vec()), SnapshotError::Length { bytes: 55 }),
        (sign(good[..80].to_vec()), SnapshotError::Length { bytes: 80 }),
        (sign([&good[..], &[0]].concat()), SnapshotError::Length { bytes: 82 }),
        (sign(with(6, &[0, 0, 0, 2])), SnapshotError::Length { bytes: 81 }),
        (sign(with(6, &[0xff; 4])), SnapshotError::Length { bytes: 81 }),
        (sign(with(56, &[2])), SnapshotError::Length { bytes: 81 }),
        (sign([&with(56, &[0])[..57], &[]].concat()), SnapshotError::Batches { id: 1 }),
        (sign(with(57, &[0, 0, 0, 9])), SnapshotError::Batches { id: 1 }),
        (sign(with(61, &[0xff; 8])), SnapshotError::Batches { id: 1 }),
        (sign(with(69, &[0, 0, 0, 1])), SnapshotError::Batches { id: 1 }),
        (sign(with(69, &[0xff; 4])), SnapshotError::Batches { id: 1 }),
        (sign(with(10, &[0xff; 8])), entry(-1, 0, 0)),
        (sign(with(18, &[0xff, 0xfe])), entry(1, -2, 0)),
        (sign(with(32, &[0, 0, 0, 1])), entry(1, 0, 1)),
        (sign(with(32, &[0xff; 4])), entry(1, 0, -1)),
    ];
    for (bytes, error) in cases {
        assert_eq!(Producers::decode(&bytes).unwrap_err(), error);
    }
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Producers::decode(&bytes).is_err(), "bit {bit}");
    }
    assert_eq!(Producers::decode(&Producers::new().encode()).unwrap().states.len(), 0);
}

/// The contract, slowly: rows in the order of their appends, and when each producer last wrote.
#[derive(Clone, Default)]
struct Model(Vec<Row>, BTreeMap<i64, i64>);

#[derive(Clone, Copy)]
struct Row {
    id: i64,
    epoch: i16,
    sequences: (i32, i32),
    offsets: (i64, i64),
}

impl Model {
    fn check(&self, id: i64, epoch: i16, sequences: (i32, i32)) -> Result<Option<(i64, i64)>, i16> {
        let mut mine = self.0.iter().filter(|r| r.id == id);
        let Some(last) = mine.clone().next_back() else {
            return Ok(None);
        };
        if let Some(same) = mine.find(|r| (r.epoch, r.sequences) == (epoch, sequences)) {
            return Ok(Some(same.offsets));
        }
        let next = if last.sequences.1 == i32::MAX { 0 } else { last.sequences.1 + 1 };
        match epoch.cmp(&last.epoch) {
            std::cmp::Ordering::Less => Err(47),
            std::cmp::Ordering::Equal if sequences.0 == next => Ok(None),
            std::cmp::Ordering::Greater if sequences.0 == 0 => Ok(None),
            _ => Err(45),
        }
    }

    fn append(&mut self, row: Row, now: i64) {
        self.1.insert(row.id, now);
        self.0.retain(|r| r.id != row.id || r.epoch == row.epoch);
        self.0.push(row);
        let mine = self.0.iter().filter(|r| r.id == row.id).count();
        if mine > 5 {
            let oldest = self.0.iter().position(|r| r.id == row.id).unwrap();
            self.0.remove(oldest);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// A batch: next in sequence, or this many records off.
    Send {
        id: i64,
        bump: i16,
        off: i32,
        n: i32,
    },
    /// The batch this many rows ago, again.
    Retry(usize),
    Written,
    Failed,
    Restart,
    Truncate(i64),
    Expire(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let off = prop_oneof![8 => Just(0), 1 => -3..3, 1 => Just(i32::MIN)];
    let bump = prop_oneof![12 => Just(0_i16), 1 => Just(1), 1 => Just(-1)];
    prop_oneof![
        12 => (0..3_i64, bump, off, 1..4_i32)
            .prop_map(|(id, bump, off, n)| Op::Send { id, bump, off, n }),
        6 => (0..9_usize).prop_map(Op::Retry),
        3 => Just(Op::Written),
        1 => Just(Op::Failed),
        1 => Just(Op::Restart),
        1 => (0..10_i64).prop_map(Op::Truncate),
        1 => (0..30_i64).prop_map(Op::Expire),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn producers_are_as_the_model_says(ops in prop::collection::vec(op(), 1..120), high: bool) {
        let (mut real, mut model, mut written) = (Producers::new(), Model::default(), Model::default());
        let (mut end, mut written_end) = (0_i64, 0_i64);
        let first = if high { i32::MAX - 9 } else { 0 };
        for (now, op) in (0_i64..).zip(ops) {
            let batch = match op {
                Op::Send { id, bump, off, n } => {
                    let last = model.0.iter().rfind(|r| r.id == id);
                    let epoch = (last.map_or(0, |r| r.epoch) + bump).max(0);
                    let next = last.map_or(first, |r| r.sequences.1.wrapping_add(1) & i32::MAX);
                    let sequence = if off == i32::MIN { 0 } else { next.wrapping_add(off) & i32::MAX };
                    Some((id, epoch, sequence, n))
                }
                Op::Retry(ago) => model.0.iter().rev().nth(ago).map(|r| {
                    let n = i32::try_from(r.offsets.1 - r.offsets.0).unwrap();
                    (r.id, r.epoch, r.sequences.0, n)
                }),
                Op::Written => {
                    real.mark_written();
                    (written, written_end) = (model.clone(), end);
                    None
                }
                Op::Failed => {
                    real.roll_back();
                    (model, end) = (written.clone(), written_end);
                    None
                }
                Op::Restart => {
                    real.mark_written();
                    let restarted = Producers::decode(&real.encode()).unwrap();
                    prop_assert_eq!(restarted.encode(), real.encode());
                    real = restarted;
                    (written, written_end) = (model.clone(), end);
                    None
                }
                Op::Truncate(records) => {
                    end = (end - records).max(0);
                    real.truncate_to(Offset(end));
                    model.0.retain(|r| r.offsets.1 <= end);
                    (written, written_end) = (model.clone(), end);
                    None
                }
                Op::Expire(ms) => {
                    real.mark_written();
                    real.expire(Timestamp(now), ms);
                    model.0.retain(|r| now - model.1[&r.id] < ms);
                    (written, written_end) = (model.clone(), end);
                    None
                }
            };
            let Some((id, epoch, sequence, n)) = batch else { continue };
            let sequences = (sequence, sequence.wrapping_add(n - 1) & i32::MAX);
            let header = head(id, epoch, sequence, n);
            let answer = match real.check(&header) {
                Ok(Verdict::New) => Ok(None),
                Ok(Verdict::Duplicate { base_offset, end_offset, .. }) => {
                    Ok(Some((base_offset.0, end_offset.0)))
                }
                Err(ProducerError::OutOfOrderSequence { .. }) => Err(45),
                Err(ProducerError::StaleEpoch { .. }) => Err(47),
            };
            prop_assert_eq!(answer, model.check(id, epoch, sequences));
            if answer == Ok(None) {
                real.append(&header, Offset(end), Timestamp(now));
                let offsets = (end, end + i64::from(n));
                model.append(Row { id, epoch, sequences, offsets }, now);
                end = offsets.1;
            }
        }
        // What the log tells is what was known.
        real.mark_written();
        let mut rebuilt = Producers::new();
        for row in &model.0 {
            let n = i32::try_from(row.offsets.1 - row.offsets.0).unwrap();
            let mut header = head(row.id, row.epoch, row.sequences.0, n);
            header = *crate::batch::Header::read(&stamped(&header, row.offsets.0)).unwrap();
            rebuilt.rebuild(&header, Timestamp(model.1[&row.id]));
        }
        prop_assert_eq!(rebuilt.encode(), real.encode());
    }

    #[test]
    fn any_bytes_are_a_snapshot_or_refused(bytes: Vec<u8>) {
        if let Ok(producers) = Producers::decode(&bytes) {
            prop_assert!(producers.encode().len() >= bytes.len());
        }
    }
}

fn stamped(header: &Header, base: i64) -> Vec<u8> {
    let mut bytes = header.to_bytes().to_vec();
    bytes[..8].copy_from_slice(&base.to_be_bytes());
    bytes
}
