//! Each kind of damage is planted and must be found, as itself and as nothing else.

use super::*;
use crate::workload::batch::{self as writer, ProducerSession, Stamp, Template};
use proptest::prelude::*;

const RUN: u64 = 0x1234_5678_9abc_def0;
const PER_BATCH: u32 = 4;

/// A batch of four records from `producer` with the given first sequence, not yet at an offset.
fn batch(producer: u32, first_sequence: u64, codec: Codec) -> Vec<u8> {
    let pool = Pool::new(RUN, 50, 100);
    let template = Template::new(PER_BATCH, 100, &pool, first_sequence);
    let stamp = Stamp { partition: 2, producer, first_sequence, intended_unix_ns: 1 };
    let mut records = template.records;
    writer::stamp_records(&mut records, &template.value_at, stamp);
    let mut bytes = vec![0; writer::HEADER_BYTES];
    codec.compress(&records, &mut bytes).unwrap();
    writer::write_header(&mut bytes, PER_BATCH, codec.id(), ProducerSession::NONE);
    writer::seal(&mut bytes, stamp, ProducerSession::NONE);
    bytes
}

/// Gives the batches consecutive offsets, as a broker does.
fn log(batches: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let offsets = (0_i64..).step_by(4);
    offsets
        .zip(batches)
        .map(|(offset, batch)| {
            let mut batch = batch.clone();
            batch[..8].copy_from_slice(&offset.to_be_bytes());
            batch
        })
        .collect()
}

/// What producers 0 and 1 sent: five batches each, alternating.
fn sent() -> Vec<Vec<u8>> {
    (0..10).map(|i| batch(i % 2, u64::from(i / 2) * 4, Codec::None)).collect()
}

fn expected() -> Vec<Expected> {
    (0..2)
        .map(|producer| {
            let mut places = PlacesHash::default();
            for n in 0..5_u64 {
                let offset = i64::try_from(n * 8).unwrap() + i64::from(producer) * 4;
                places.add(n * 4, offset);
            }
            Expected { producer, sent: Some(20), acked: 20, offsets: Offsets::Hash(places) }
        })
        .collect()
}

fn sent_all(expected: &[Expected]) -> Knowledge {
    Knowledge::Sent(expected.to_vec())
}

fn check(log: &[Vec<u8>], expected: &[Expected]) -> Findings {
    let mut check = PartitionCheck::new(Verify::Full, 2, 0, Some(RUN), &sent_all(expected));
    for batch in log {
        check.take(batch);
    }
    check.finish()
}

/// The findings without words and totals.
fn counts(findings: Findings) -> Findings {
    Findings { words: Vec::new(), acked: 0, read: 0, ..findings }
}

#[test]
fn what_was_sent_passes() {
    let findings = check(&log(&sent()), &expected());
    assert!(findings.is_clean(), "{findings:?}");
    assert_eq!((findings.acked, findings.read), (40, 40));
    assert!(findings.words.is_empty());
}

#[test]
fn every_codec_passes() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let batches: Vec<_> = (0..5).map(|n| batch(0, n * 4, codec)).collect();
        let e = Expected { acked: 20, sent: Some(20), ..Expected::default() };
        let findings = check(&log(&batches), &[e]);
        assert!(findings.is_clean() && findings.read == 20, "{codec:?}: {findings:?}");
    }
}

#[test]
fn a_lost_batch_is_found() {
    for lost in 0..10 {
        let mut batches = sent();
        batches.remove(lost);
        let findings = check(&log(&batches), &expected());
        assert_eq!(findings.lost, 4, "{findings:?}");
        assert_eq!((findings.duplicate, findings.reordered, findings.corrupt), (0, 0, 0));
        assert!(!findings.words.is_empty());
    }
}

#[test]
fn a_duplicate_is_found() {
    for again in 0..10 {
        let mut batches = sent();
        batches.insert(again + 1, batches[again].clone());
        let findings = check(&log(&batches), &expected());
        assert_eq!(findings.duplicate, 4, "{findings:?}");
        assert_eq!((findings.lost, findings.reordered, findings.corrupt), (0, 0, 0));
    }
}

#[test]
fn a_loss_that_a_duplicate_hides_is_found() {
    let mut batches = sent();
    batches[4] = batches[2].clone();
    let findings = check(&log(&batches), &expected());
    assert_eq!((findings.lost, findings.duplicate, findings.read), (4, 4, 40));
}

#[test]
fn reordered_batches_are_found() {
    for first in 0..8 {
        let mut batches = sent();
        batches.swap(first, first + 2);
        let findings = check(&log(&batches), &expected());
        assert_eq!(findings.reordered, 4, "{findings:?}");
        assert_eq!((findings.lost, findings.duplicate, findings.corrupt), (0, 0, 0));
    }
}

#[test]
fn batches_of_different_connections_may_lie_otherwise_only_if_acknowledged_so() {
    let mut batches = sent();
    batches.swap(4, 5);
    let findings = check(&log(&batches), &expected());
    assert_eq!(counts(findings), Findings { misplaced: 2, ..Findings::default() });
}

#[test]
fn a_gap_in_offsets_is_found() {
    let mut log = log(&sent());
    log[9][..8].copy_from_slice(&37_i64.to_be_bytes());
    let findings = check(&log, &expected());
    assert_eq!((findings.gaps, findings.lost), (1, 0));
}

#[test]
fn records_of_others_are_found() {
    let mut batches = sent();
    batches.push(batch(0, 20, Codec::None)); // never sent
    batches.push(batch(7, 0, Codec::None)); // no such connection
    let findings = check(&log(&batches), &expected());
    assert_eq!(counts(findings), Findings { foreign: 8, ..Findings::default() });
    let mut elsewhere = PartitionCheck::new(Verify::Full, 3, 0, Some(RUN), &sent_all(&expected()));
    elsewhere.take(&log(&sent())[0]);
    assert_eq!(elsewhere.findings().foreign, 4);
}

#[test]
fn content_changed_under_a_good_crc_is_found() {
    let mut log = log(&sent());
    let last = log[3].len() - 10;
    log[3][last] ^= 1;
    let crc = crc32c::crc32c(&log[3][21..]);
    log[3][17..21].copy_from_slice(&crc.to_be_bytes());
    let findings = check(&log, &expected());
    assert_eq!(counts(findings), Findings { corrupt: 1, ..Findings::default() });
}

#[test]
fn unacknowledged_records_may_be_there_or_not() {
    let e = |acked| Expected { acked, sent: Some(20), ..Expected::default() };
    let batches: Vec<_> = (0..5).map(|n| batch(0, n * 4, Codec::None)).collect();
    assert!(check(&log(&batches), &[e(8)]).is_clean());
    assert!(check(&log(&batches[..2]), &[e(8)]).is_clean());
    // A hole among those that were not acknowledged is no loss, but order still holds.
    let holey = [0, 1, 3].map(|i: usize| batches[i].clone());
    assert!(check(&log(&holey), &[e(8)]).is_clean());
    let twisted = [0, 1, 3, 2].map(|i: usize| batches[i].clone());
    assert_eq!(check(&log(&twisted), &[e(8)]).reordered, 4);
}

#[test]
fn without_knowledge_order_and_content_are_still_checked() {
    let mut batches = sent();
    assert!(check_blind(&log(&batches)).is_clean());
    batches.remove(4);
    assert_eq!(check_blind(&log(&batches)).lost, 4);
}

fn check_blind(log: &[Vec<u8>]) -> Findings {
    let mut check = PartitionCheck::new(Verify::Full, 2, 0, None, &Knowledge::Nothing);
    log.iter().for_each(|batch| check.take(batch));
    check.finish()
}

#[test]
fn acknowledged_runs_say_where_records_must_be() {
    let runs = |offset| {
        let first = Run { first_sequence: 0, first_offset: 0, records: 8 };
        let second = Run { first_sequence: 8, first_offset: offset, records: 12 };
        let offsets = Offsets::Runs(vec![first, second]);
        Expected { producer: 0, sent: None, acked: 20, offsets }
    };
    let batches: Vec<_> = (0..5).map(|n| batch(0, n * 4, Codec::None)).collect();
    assert!(check(&log(&batches), &[runs(8)]).is_clean());
    let findings = check(&log(&batches), &[runs(9)]);
    assert_eq!(counts(findings), Findings { misplaced: 3, ..Findings::default() });
}

#[test]
fn connections_that_were_never_acknowledged_may_have_been_stored() {
    let acked = Expected { producer: 0, acked: 8, ..Expected::default() };
    let batches = [batch(0, 0, Codec::None), batch(1, 0, Codec::None), batch(0, 4, Codec::None)];
    let check = |knowledge: &Knowledge, batches: &[Vec<u8>]| {
        let mut check = PartitionCheck::new(Verify::Full, 2, 0, Some(RUN), knowledge);
        log(batches).iter().for_each(|batch| check.take(batch));
        check.finish()
    };
    assert!(check(&Knowledge::Acked(vec![acked.clone()]), &batches).is_clean());
    assert_eq!(check(&Knowledge::Sent(vec![acked.clone()]), &batches).foreign, 4);
    assert_eq!(check(&Knowledge::Acked(vec![acked]), &batches[..2]).lost, 4);
    assert!(check(&Knowledge::Acked(vec![]), &batches[2..]).is_clean());
}

#[test]
fn a_response_that_starts_inside_a_batch_is_no_duplicate() {
    let log = log(&sent());
    let mut check = PartitionCheck::new(Verify::Full, 2, 0, Some(RUN), &sent_all(&expected()));
    for pair in log.windows(2) {
        check.take(&pair.concat());
    }
    assert!(check.finish().is_clean());
}

#[test]
fn counting_alone_notices_a_missing_batch() {
    let log = log(&sent());
    for level in [Verify::Off, Verify::Batches] {
        let mut check = PartitionCheck::new(level, 2, 0, Some(RUN), &sent_all(&expected()));
        log[..9].iter().for_each(|batch| check.take(batch));
        assert_eq!(check.finish().lost, 4);
    }
}

proptest! {
    #[test]
    fn a_flipped_bit_never_passes(which in 0_usize..10, at in 0_usize..1000, bit in 0_u8..8) {
        let mut log = log(&sent());
        // The leader epoch (12..16) is the broker's own.
        let at = at % log[which].len();
        prop_assume!(!(12..16).contains(&at));
        log[which][at] ^= 1 << bit;
        let mut check = PartitionCheck::new(Verify::Full, 2, 0, Some(RUN), &sent_all(&expected()));
        check.take(&log.concat());
        prop_assert!(!check.finish().is_clean());
    }
}
