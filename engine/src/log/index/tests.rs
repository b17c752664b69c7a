use super::*;
use crate::io::sim::{Faults, Sim, SimFile, World};
use proptest::prelude::*;
use std::path::PathBuf;

const BASE: Offset = Offset(1_000);

fn dir() -> PathBuf {
    PathBuf::from("/p")
}

/// A batch of a segment, and where it lies.
#[derive(Clone, Copy, Debug)]
struct Batch {
    base: Offset,
    last: Offset,
    timestamp: Timestamp,
    position: u32,
    bytes: u32,
}

/// Segments with gaps between batches and timestamps that rise, mostly.
fn segment() -> impl Strategy<Value = Vec<Batch>> {
    let batch = (0..3_i64, 0..20_i64, -5..40_i64, 61..9_000_u32);
    prop::collection::vec(batch, 0..80).prop_map(|batches| {
        let (mut offset, mut clock, mut position) = (BASE, 1_000, 0);
        let place = |(gap, records, elapsed, bytes): (i64, i64, i64, u32)| {
            let base = offset.plus(gap);
            let last = base.plus(records);
            clock += elapsed;
            let batch = Batch { base, last, timestamp: Timestamp(clock), position, bytes };
            (offset, position) = (last.plus(1), position + bytes);
            batch
        };
        batches.into_iter().map(place).collect()
    })
}

fn note(index: &mut Index, batches: &[Batch]) {
    for b in batches {
        index.note(b.last, b.timestamp, b.position, b.bytes);
    }
}

/// The segment's file: the heads of its batches, and nothing in between.
fn write_log(io: &Sim, batches: &[Batch]) -> SimFile {
    let file = io.open(&names::log(&dir(), BASE), OpenMode::Create).unwrap();
    for b in batches {
        let mut head = [0; 61];
        head[..8].copy_from_slice(&b.base.0.to_be_bytes());
        head[8..12].copy_from_slice(&(b.bytes - 12).to_be_bytes());
        head[16] = 2;
        let delta = u32::try_from(b.last.since(b.base)).unwrap();
        head[23..27].copy_from_slice(&delta.to_be_bytes());
        head[35..43].copy_from_slice(&b.timestamp.0.to_be_bytes());
        write_all(&file, &head, u64::from(b.position)).unwrap();
    }
    file.set_len(u64::from(end_of(batches).1)).unwrap();
    file
}

fn newest_in_files(io: &Sim, log: &SimFile) -> Option<Timestamp> {
    let found = newest_and_end_in_files(io, &dir(), BASE, log, log.len().unwrap());
    found.map(|(newest, _)| newest)
}

fn end_of(batches: &[Batch]) -> (Offset, u32) {
    batches.last().map_or((BASE, 0), |b| (b.last.plus(1), b.position + b.bytes))
}

fn newest(batches: &[Batch]) -> Timestamp {
    batches.iter().map(|b| b.timestamp).max().unwrap_or(Timestamp::NONE)
}

/// Whether `position` is right for `target`: a batch's first byte, not past the batch that holds
/// it, and near.
fn check(batches: &[Batch], interval: u32, target: Offset, position: u32) {
    let holder = batches.iter().find(|b| b.last >= target);
    let limit = holder.map_or_else(|| end_of(batches).1, |b| b.position);
    assert!(position <= limit, "{target} lies at {limit}, and {position} is past it");
    assert!(position == 0 || batches.iter().any(|b| b.position == position));
    let largest = batches.iter().map(|b| b.bytes).max().unwrap_or_default();
    assert!(limit - position <= interval + 2 * largest, "{target}: a scan of {limit} - {position}");
}

/// The byte at which `index` says to start scanning for `target`.
fn place(index: &Index, target: Offset) -> u32 {
    index.lookup(target).map_or(0, |place| u32::try_from(place.position).unwrap())
}

/// Whether `before` is right for `at`: a scan from there meets the first batch that new.
fn check_time(batches: &[Batch], at: Timestamp, before: Option<Newest>) {
    let from = before.map_or(BASE, |newest| newest.offset);
    if let Some(holder) = batches.iter().find(|b| b.timestamp >= at) {
        assert!(from <= holder.last, "{at:?} is first at {}, and {from} is past it", holder.last);
    }
}

/// Runs `body` on a simulated disk with an empty directory.
fn on_disk(body: impl FnOnce(&Sim) + 'static) {
    World::new(1, Faults::none())
        .boot(move |io: Sim| async move {
            io.create_dir(&dir()).unwrap();
            body(&io);
        })
        .done();
}

fn targets(batches: &[Batch]) -> Vec<Offset> {
    let ends = batches.iter().flat_map(|b| [b.base.plus(-1), b.base, b.last, b.last.plus(1)]);
    ends.chain([BASE, Offset(i64::MAX)]).collect()
}

fn times(batches: &[Batch]) -> Vec<Timestamp> {
    batches.iter().flat_map(|b| [b.timestamp.0 - 1, b.timestamp.0]).map(Timestamp).collect()
}

proptest! {
    #[test]
    fn lookup_never_starts_past_the_batch_that_holds_the_target(
        batches in segment(),
        interval in prop::sample::select(vec![0_u32, 1, 4096, 100_000]),
    ) {
        let mut index = Index::new(BASE, interval);
        note(&mut index, &batches);
        prop_assert_eq!(index.max_timestamp(), newest(&batches));
        for target in targets(&batches) {
            check(&batches, interval, target, place(&index, target));
        }
        index.seal();
        for at in times(&batches) {
            check_time(&batches, at, index.lookup_time(at));
        }
    }

    /// A scan that starts there finds the target, whatever the entries say.
    #[test]
    fn a_wrong_entry_costs_a_longer_scan(
        batches in segment(),
        wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 0..3),
    ) {
        on_disk(move |io| {
            let mut index = Index::new(BASE, 0);
            note(&mut index, &batches);
            let right = index.clone();
            let log = write_log(io, &batches);
            let end = log.len().unwrap();
            for (i, position) in &wrong {
                if index.entries.is_empty() {
                    return;
                }
                let i = i.index(index.entries.len());
                // Half of them name another batch.
                let other = batches[*position as usize % batches.len()].position;
                index.entries[i].position = if position % 2 == 0 { other } else { *position };
            }
            for target in targets(&batches) {
                let (said, true_place) = (place(&index, target), place(&right, target));
                let from = index.lookup_checked(target, &log, end);
                assert_eq!(from, if said == true_place { u64::from(said) } else { 0 });
            }
        });
    }

    #[test]
    fn the_files_of_a_sealed_segment_say_the_same(batches in segment(), saves in 1..4_usize) {
        on_disk(move |io| {
            let mut index = Index::new(BASE, 4096);
            for part in batches.chunks(batches.len().div_ceil(saves).max(1)) {
                note(&mut index, part);
                index.save(io, &dir()).unwrap();
            }
            index.seal();
            index.save(io, &dir()).unwrap();
            let open = |path: PathBuf| io.open(&path, OpenMode::Read).unwrap();
            let file = open(names::index(&dir(), BASE));
            for target in targets(&batches) {
                let found = lookup_in_file(&file, BASE, target).unwrap();
                assert_eq!(found, index.lookup(target));
            }
            let file = open(names::time_index(&dir(), BASE));
            for at in times(&batches) {
                assert_eq!(lookup_time_in_file(&file, BASE, at).unwrap(), index.lookup_time(at));
            }
            let log = write_log(io, &batches);
            let known = (!batches.is_empty()).then(|| newest(&batches));
            assert_eq!(newest_in_files(io, &log), known);
            // Any loss of its end is noticed, also one of whole entries.
            for len in (0..file.len().unwrap()).rev() {
                io.open(&names::time_index(&dir(), BASE), OpenMode::Write)
                    .unwrap()
                    .set_len(len)
                    .unwrap();
                assert_eq!(newest_in_files(io, &log), None, "{len} bytes of the time index");
            }
        });
    }

    /// Power is cut, the log ends at any batch, and the time index has lost any part of its end.
    #[test]
    fn a_loaded_index_and_a_scan_from_its_last_entry_are_the_index(
        batches in segment(),
        cut: prop::sample::Index,
        lost in 0..4_usize,
    ) {
        on_disk(move |io| {
            let mut index = Index::new(BASE, 4096);
            note(&mut index, &batches);
            index.save(io, &dir()).unwrap();
            let file = io.open(&names::time_index(&dir(), BASE), OpenMode::Write).unwrap();
            let bytes = file.len().unwrap().saturating_sub(lost as u64 * 12);
            file.set_len(bytes).unwrap();

            let kept = &batches[..cut.index(batches.len() + 1)];
            let (end, position) = end_of(kept);
            let mut index = Index::load(io, &dir(), BASE, 4096, end, u64::from(position)).unwrap();
            let from = place(&index, end);
            let rest: Vec<_> = kept.iter().copied().filter(|b| b.position >= from).collect();
            note(&mut index, &rest);
            for target in targets(kept) {
                check(kept, 4096, target, place(&index, target));
            }
            for at in times(kept) {
                check_time(kept, at, index.lookup_time(at));
            }
            assert_eq!(index.max_timestamp(), newest(kept));
        });
    }

    #[test]
    fn a_cut_index_and_a_scan_from_its_last_entry_are_the_index(
        batches in segment(),
        cut: prop::sample::Index,
    ) {
        let mut index = Index::new(BASE, 4096);
        note(&mut index, &batches);
        let kept = &batches[..cut.index(batches.len() + 1)];
        let (end, position) = end_of(kept);
        index.truncate(end, position);
        let from = place(&index, end);
        let rest: Vec<_> = kept.iter().copied().filter(|b| b.position >= from).collect();
        note(&mut index, &rest);
        assert_eq!(index.max_timestamp(), newest(kept));
        for target in targets(kept) {
            check(kept, 4096, target, place(&index, target));
        }
        for at in times(kept) {
            check_time(kept, at, index.lookup_time(at));
        }
    }

    /// Whatever a file holds, it is refused or read without harm: what an entry says is looked at
    /// in the log before it is believed.
    #[test]
    fn any_bytes_are_an_index_or_refused(offsets: Vec<u8>, stamps: Vec<u8>, at: i64) {
        on_disk(move |io| {
            for (path, bytes) in
                [(names::index(&dir(), BASE), &offsets), (names::time_index(&dir(), BASE), &stamps)]
            {
                let file = io.open(&path, OpenMode::Create).unwrap();
                write_all(&file, bytes, 0).unwrap();
            }
            if let Some(index) = Index::load(io, &dir(), BASE, 4096, Offset(i64::MAX), u64::MAX) {
                assert!(index.entries.windows(2).all(|w| w[0].last < w[1].last));
                assert!(index.times.windows(2).all(|w| w[0].rises_to(w[1])));
            }
            let file = io.open(&names::time_index(&dir(), BASE), OpenMode::Read).unwrap();
            let before = lookup_time_in_file(&file, BASE, Timestamp(at)).unwrap();
            assert!(before.is_none_or(|newest| newest.offset >= BASE));
            let (timestamp, last) = (Timestamp(7), BASE.plus(3));
            let log = write_log(io, &[Batch { base: BASE, last, timestamp, position: 0, bytes: 61 }]);
            assert!(newest_in_files(io, &log).is_none_or(|newest| newest == timestamp));
        });
    }
}

#[test]
fn an_entry_is_laid_out_as_kafkas() {
    on_disk(|io| {
        let mut index = Index::new(BASE, 100);
        index.note(BASE.plus(9), Timestamp(77), 0, 101);
        index.note(BASE.plus(20), Timestamp(55), 101, 200);
        index.save(io, &dir()).unwrap();
        let entries = read_file(io, &names::index(&dir(), BASE)).unwrap();
        assert_eq!(entries, [0, 0, 0, 20, 0, 0, 0, 101], "the last offset, and the first byte");
        let times = read_file(io, &names::time_index(&dir(), BASE)).unwrap();
        assert_eq!(times, [0, 0, 0, 0, 0, 0, 0, 77, 0, 0, 0, 9]);
    });
}

#[test]
fn zeros_are_no_entries() {
    on_disk(|io| {
        let mut index = Index::new(BASE, 0);
        let batches = [(0, 0), (1, 100), (2, 200)].map(|(i, position)| {
            let (base, timestamp) = (BASE.plus(i), Timestamp(1_000 + i));
            Batch { base, last: base, timestamp, position, bytes: 100 }
        });
        note(&mut index, &batches);
        let log = write_log(io, &batches);
        index.seal();
        index.save(io, &dir()).unwrap();
        let load = || Index::load(io, &dir(), BASE, 0, BASE.plus(9), 900).is_some();
        assert!(load());
        let (offsets, times) = (names::index(&dir(), BASE), names::time_index(&dir(), BASE));
        for path in [&offsets, &times] {
            let good = read_file(io, path).unwrap();
            for zeros in [[&good[..], &[0; 24]].concat(), vec![0; 24], vec![0; 1200]] {
                let file = io.open(path, OpenMode::Create).unwrap();
                write_all(&file, &zeros, 0).unwrap();
                assert!(!load());
                if *path == times {
                    assert_eq!(newest_in_files(io, &log), None);
                } else {
                    // The scan is longer, and right.
                    let found = lookup_in_file(&file, BASE, BASE.plus(2)).unwrap();
                    assert!(found.is_none_or(|place| place.position == 0));
                }
            }
            let file = io.open(path, OpenMode::Create).unwrap();
            write_all(&file, &good, 0).unwrap();
        }
        assert_eq!(newest_in_files(io, &log), Some(Timestamp(1_002)));
        io.remove_file(&offsets).unwrap();
        assert_eq!(newest_in_files(io, &log), None);
    });
}
