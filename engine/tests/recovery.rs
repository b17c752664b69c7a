//! What a start makes of damage: files flipped, cut, or gone while the machine was off.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Disk, Faults, Sim, World};
use kariz_engine::{
    LeaderEpoch, LogConfig, Mark, Offset, Partition, PartitionRecovery, ProducerEpoch, ProducerId,
    ReadError, Sequence, Shard, Timestamp, TopicId, TopicPartition, sim,
};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const RECORDS: i64 = 40;
const LOG: &str = "/data/t-0/00000000000000000000.log";

fn name() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn config() -> LogConfig {
    let mut config = LogConfig::default();
    (config.segment_bytes, config.index_interval_bytes) = (1500, 250);
    config.retention_ms = -1;
    config
}

async fn open(io: &Sim) -> (Shard<Sim>, PartitionRecovery) {
    let (shard, report) =
        sim::open(io.clone(), Path::new("/data"), sim::Options::default()).await.unwrap();
    if let Ok(partition) = shard.partition(&name()) {
        partition.configure(config());
    }
    let found = report.partitions.into_iter().next();
    (shard, found.unwrap_or_else(|| panic!("no partition was found")))
}

async fn append(log: &Partition<Sim>, sequence: i64, at: Timestamp, promise: bool) {
    let value = [u8::try_from(sequence).unwrap(); 60];
    let batch = Batch::build()
        .record(None, Some(&value), &[], at)
        .producer(ProducerId(7), ProducerEpoch(0), Sequence(i32::try_from(sequence).unwrap()))
        .done()
        .unwrap();
    let span = log.append(&batch).unwrap();
    assert_eq!(span.base, Offset(sequence));
    let mark = if promise { Mark::Durable } else { Mark::Appended };
    log.reach(mark, &span).await.unwrap();
}

/// A log of several segments, stopped in order if `clean`; the disk of its machine, switched off.
fn written(clean: bool) -> World {
    let mut world = World::new(3, Faults::none());
    world
        .boot(move |io| async move {
            let (shard, _) =
                sim::open(io.clone(), Path::new("/data"), sim::Options::default()).await.unwrap();
            let log = shard.create_as(&name(), TopicId([1; 16]), LeaderEpoch(0), config()).await;
            let log = log.unwrap();
            for i in 0..RECORDS {
                append(&log, i, Timestamp(io.timestamp().0 + i), true).await;
            }
            if clean {
                sim::close(&shard).await.unwrap();
            }
        })
        .done();
    world.kill();
    world
}

fn names(disk: &Disk, ending: &str) -> Vec<String> {
    let all = disk.list("/data/t-0").unwrap().into_iter().map(|entry| entry.name);
    all.filter(|name| name.ends_with(ending)).map(|name| format!("/data/t-0/{name}")).collect()
}

async fn check_reads(log: &Partition<Sim>, end: i64) {
    for i in 0..end {
        let slice = log.slice(Offset(i), 1).await.unwrap();
        let first = slice.batches().unwrap().remove(0);
        assert_eq!(first.header().base_offset(), Offset(i));
        let at = first.header().max_timestamp();
        assert_eq!(log.find(at).await.unwrap().unwrap().offset, Offset(i), "by its time");
    }
    assert_eq!(log.marks().written, Offset(end));
}

#[test]
fn rot_below_the_floor_fences_the_partition_and_cuts_nothing() {
    // In the segment that is looked at, as the journal has the rest.
    let mut world = written(false);
    let last = names(&world.disk(), ".log").pop().unwrap();
    let before = world.disk().read(&last).unwrap();
    // The checkpoint says that all is durable in its file, and so the journal is not believed.
    world.disk().flip(&last, 5, 0xff).unwrap();
    world.disk().truncate("/data/kariz.journal", 0).unwrap();
    let points = format!("0\n1\nt 0 {RECORDS}\n");
    write(&mut world, "/data/recovery-point-offset-checkpoint", points.into_bytes());
    for _ in 0..2 {
        world
            .boot(|io| async move {
                let (shard, found) = open(&io).await;
                let why = found.fenced.expect("it is fenced");
                assert!(why.contains("segment"), "{why}");
                assert_eq!(found.cut_bytes, 0);
                let log = shard.partition(&name()).unwrap();
                assert!(log.slice(Offset(0), 1).await.is_err(), "nothing of it is served");
                // The other partitions serve.
                let other = TopicPartition::new("other", 0);
                let id = TopicId([2; 16]);
                if shard.partition(&other).is_err() {
                    shard.create_as(&other, id, LeaderEpoch(0), config()).await.unwrap();
                }
            })
            .done();
        world.kill();
    }
    assert_eq!(world.disk().read(&last).unwrap().len(), before.len(), "nothing was cut");
}

/// No CRC covers a base offset.
#[test]
fn a_batch_at_a_wrong_offset_is_not_served_and_hides_no_other() {
    let len_of = |head: &[u8]| 12 + u32::from_be_bytes(head[8..12].try_into().unwrap()) as usize;
    for harmed in 0..RECORDS {
        // Its highest bit, and lower ones: too small or too large by one, by some, by many.
        for (byte, bits) in [(0, 0x80), (3, 0x01), (7, 0x01), (7, 0x0c), (7, 0x3f)] {
            let mut world = written(true);
            let disk = world.disk();
            let mut offset = 0;
            for path in names(&disk, ".log") {
                let (log, mut at) = (disk.read(&path).unwrap(), 0);
                while at < log.len() {
                    if offset == harmed {
                        disk.flip(&path, (at + byte) as u64, bits).unwrap();
                    }
                    offset += 1;
                    at += len_of(&log[at..]);
                }
            }
            assert_eq!(offset, RECORDS);
            for first in [harmed, 0] {
                world
                    .boot(move |io| async move {
                        let log = open(&io).await.0.partition(&name()).unwrap();
                        for wanted in first..RECORDS {
                            let slice = log.slice(Offset(wanted), 1).await;
                            if matches!(slice, Err(ReadError::Fenced(_))) {
                                return;
                            }
                            let found = slice.unwrap().batches().unwrap().remove(0);
                            let found = found.header().base_offset();
                            assert_eq!(found, Offset(wanted), "{harmed} is harmed");
                            assert_ne!(wanted, harmed, "it was served");
                        }
                    })
                    .done();
                world.kill();
            }
        }
    }
}

/// What is below the recovery point is not scanned at a start: whoever reads there finds it.
#[test]
fn rot_in_a_sealed_segment_is_found_by_who_reads_it_and_fences_that_partition() {
    for clean in [true, false] {
        let other = TopicPartition::new("u", 0);
        let mut world = World::new(3, Faults::none());
        let made = other.clone();
        world
            .boot(move |io| async move {
                let options = sim::Options::default();
                let opened = sim::open(io.clone(), Path::new("/data"), options).await;
                let (shard, _) = opened.unwrap();
                for (name, id) in [(name(), 1), (made, 2)] {
                    let id = TopicId([id; 16]);
                    let log = shard.create_as(&name, id, LeaderEpoch(0), config()).await.unwrap();
                    for i in 0..RECORDS {
                        append(&log, i, Timestamp(io.timestamp().0 + i), true).await;
                    }
                }
                // The recovery points pass the sealed segments.
                io.sleep(Duration::from_secs(120)).await;
                if clean {
                    sim::close(&shard).await.unwrap();
                }
            })
            .done();
        world.crash();
        let disk = world.disk();
        let logs = names(&disk, ".log");
        assert!(logs.len() > 3, "{logs:?}");
        let harmed = &logs[logs.len() / 2];
        // The magic of the segment's first batch.
        disk.flip(harmed, 16, 0xff).unwrap();
        let before = disk.read(harmed).unwrap();
        let base = Path::new(harmed).file_stem().unwrap().to_str().unwrap().parse().unwrap();
        world
            .boot(move |io| async move {
                let (shard, found) = open(&io).await;
                assert_eq!((found.fenced, found.cut_bytes), (None, 0), "clean: {clean}");
                let log = shard.partition(&name()).unwrap();
                log.slice(Offset(0), 1).await.expect("nobody has met it yet");
                for from in [base, 0, RECORDS - 1] {
                    let met = log.slice(Offset(from), 1).await.err();
                    assert!(matches!(met, Some(ReadError::Fenced(_))), "{from}: {met:?}");
                }
                assert_eq!(shard.metrics().fenced.get(), 1);
                let batch = Batch::build().record(None, None, &[], Timestamp(1)).done().unwrap();
                assert!(log.append(&batch).is_err());
                let log = shard.partition(&other).unwrap();
                check_reads(&log, RECORDS).await;
                append(&log, RECORDS, Timestamp(io.timestamp().0 + 1000), true).await;
                check_reads(&log, RECORDS + 1).await;
            })
            .done();
        assert_eq!(disk.read(harmed).unwrap(), before, "nothing was cut");
    }
}

fn write(world: &mut World, path: &'static str, bytes: Vec<u8>) {
    world
        .boot(move |io| async move {
            use kariz_engine::io::{File, OpenMode};
            let file = io.open(Path::new(path), OpenMode::Create).unwrap();
            file.write_at(&[std::io::IoSlice::new(&bytes)], 0).unwrap();
            file.sync().await.unwrap();
        })
        .done();
    world.kill();
}

#[test]
fn a_bad_end_above_the_floor_is_moved_aside() {
    let mut world = World::new(3, Faults::none());
    world
        .boot(move |io| async move {
            let (shard, _) =
                sim::open(io.clone(), Path::new("/data"), sim::Options::default()).await.unwrap();
            let log = shard.create_as(&name(), TopicId([1; 16]), LeaderEpoch(0), config()).await;
            let log = log.unwrap();
            append(&log, 0, Timestamp(1), true).await;
            append(&log, 1, Timestamp(2), false).await;
        })
        .done();
    world.kill();
    let len = world.disk().read(LOG).unwrap().len();
    world.disk().flip(LOG, len as u64 - 1, 1).unwrap();
    world
        .boot(move |io| async move {
            let (shard, found) = open(&io).await;
            assert_eq!(found.fenced, None);
            assert_eq!(found.log_end, Offset(1));
            assert_eq!(found.cut_bytes, len as u64 / 2);
            let disk = io.disk();
            let aside = disk.read("/data/t-0/00000000000000000000.cut").unwrap();
            assert_eq!(aside.len() as u64, found.cut_bytes, "for whoever wants to look");
            let log = shard.partition(&name()).unwrap();
            append(&log, 1, Timestamp(3), true).await;
            check_reads(&log, 2).await;
        })
        .done();
}

#[test]
fn an_index_that_is_missing_short_or_wrong_is_rebuilt() {
    type Harm = fn(&Disk, &str);
    let harms: [(&str, Harm); 7] = [
        ("missing", |disk, path| disk.remove(path).unwrap()),
        ("empty", |disk, path| disk.truncate(path, 0).unwrap()),
        ("short by an entry", |disk, path| {
            let len = disk.read(path).unwrap().len() as u64;
            let entry = if path.ends_with(".timeindex") { 12 } else { 8 };
            disk.truncate(path, len.saturating_sub(entry)).unwrap();
        }),
        ("short by a byte", |disk, path| {
            let len = disk.read(path).unwrap().len() as u64;
            disk.truncate(path, len.saturating_sub(1)).unwrap();
        }),
        ("zeros", |disk, path| disk.zero(path, 0, disk.read(path).unwrap().len()).unwrap()),
        ("flipped", |disk, path| {
            let len = disk.read(path).unwrap().len();
            if len > 3 {
                disk.flip(path, 3, 0x55).unwrap();
            }
        }),
        // The second entry of a time index names a later batch, and still less than the third.
        ("misplaced", |disk, path| {
            let last_byte = if path.ends_with(".timeindex") { 23 } else { 15 };
            if let Some(last) = disk.read(path).unwrap().get(last_byte) {
                disk.flip(path, last_byte as u64, last ^ (last + 2)).unwrap();
            }
        }),
    ];
    for clean in [true, false] {
        for (what, harm) in harms {
            for ending in [".index", ".timeindex"] {
                let mut world = written(clean);
                let files = names(&world.disk(), ending);
                let is_saved = |path: &&String| !world.disk().read(path).unwrap().is_empty();
                let saved = files.iter().filter(is_saved).count();
                assert!(clean == (saved > 2), "{files:?}");
                files.iter().for_each(|path| harm(&world.disk(), path));
                world
                    .boot(move |io| async move {
                        let (shard, found) = open(&io).await;
                        assert_eq!(found.fenced, None);
                        let log = shard.partition(&name()).unwrap();
                        check_reads(&log, RECORDS).await;
                        // What was mended in the background serves as well, now and once saved.
                        io.sleep(Duration::from_secs(3)).await;
                        check_reads(&log, RECORDS).await;
                        append(&log, RECORDS, Timestamp(io.timestamp().0 + 1000), true).await;
                        sim::close(&shard).await.unwrap();
                    })
                    .done();
                world.crash();
                let what = format!("{ending} {what}");
                world
                    .boot(move |io| async move {
                        let (shard, _) = open(&io).await;
                        let log = shard.partition(&name()).unwrap();
                        check_reads(&log, RECORDS + 1).await;
                        // Nothing is young only because its index was harmed.
                        let mut config = config();
                        config.retention_ms = 1000;
                        log.configure(config);
                        io.sleep(Duration::from_secs(60)).await;
                        assert_eq!(log.marks().log_start, Offset(RECORDS + 1), "{what}");
                    })
                    .done();
            }
        }
    }
}

/// In the highest of the four bytes of its milliseconds that ever change.
fn flip_last_time(disk: &Disk, path: &str, mask: u8) {
    if let Some(last) = (disk.read(path).unwrap().len() as u64).checked_sub(12) {
        disk.flip(path, last + 4, mask).unwrap();
    }
}

#[test]
fn a_time_index_with_a_wrong_end_ages_nothing() {
    type Harm = fn(&Disk, &str);
    // A bit more makes its last entry newer by hours, one less older: either is among these.
    let harms: [Harm; 4] = [
        |disk, path| disk.truncate(path, 12).unwrap(),
        |disk, path| flip_last_time(disk, path, 1),
        |disk, path| flip_last_time(disk, path, 2),
        |disk, path| flip_last_time(disk, path, 4),
    ];
    for harm in harms {
        let mut world = written(true);
        let disk = world.disk();
        for path in names(&disk, ".timeindex") {
            harm(&disk, &path);
        }
        world
            .boot(|io| async move {
                let (shard, _) = open(&io).await;
                let log = shard.partition(&name()).unwrap();
                let newest = log.find_max_timestamp().await.unwrap().unwrap();
                assert_eq!(newest.offset, Offset(RECORDS - 1));
                io.sleep(Duration::from_secs(3)).await;
                let mut config = config();
                config.retention_ms = 3_600_000;
                log.configure(config);
                io.sleep(Duration::from_secs(60)).await;
                assert_eq!(log.marks().log_start, Offset(0));
            })
            .done();
    }
}

#[test]
fn a_producer_snapshot_from_after_the_log_end_is_not_believed() {
    let mut world = written(true);
    let disk = world.disk();
    let snapshot = names(&disk, ".snapshot").pop().unwrap();
    let later = "/data/t-0/00000000000000000999.snapshot";
    write(&mut world, later, disk.read(&snapshot).unwrap());
    disk.remove(&snapshot).unwrap();
    world
        .boot(move |io| async move {
            let (shard, _) = open(&io).await;
            assert!(io.disk().read(later).is_err(), "it would be believed once the log is longer");
            let log = shard.partition(&name()).unwrap();
            // The producer is known from the batches.
            append(&log, RECORDS, Timestamp(1), true).await;
        })
        .done();
}

#[test]
fn a_snapshot_that_is_damaged_is_read_from_the_batches() {
    let mut world = written(true);
    let disk = world.disk();
    let snapshot = names(&disk, ".snapshot").pop().unwrap();
    disk.flip(&snapshot, 12, 1).unwrap();
    world
        .boot(move |io| async move {
            let (shard, _) = open(&io).await;
            let log = shard.partition(&name()).unwrap();
            append(&log, RECORDS, Timestamp(1), true).await;
        })
        .done();
}

/// Trim, `write.caching` and a full disk, one after the other.
#[test]
fn a_full_disk_stops_writes_and_not_the_core() {
    let mut world = World::new(9, Faults::none());
    let disk = world.disk();
    let told = Rc::new(std::cell::RefCell::new(Vec::new()));
    world
        .boot(move |io| async move {
            let mine = Rc::clone(&told);
            let on_event = Rc::new(move |event: &_| mine.borrow_mut().push(format!("{event:?}")));
            let options = sim::Options { on_event, ..sim::Options::default() };
            let (shard, _) = sim::open(io.clone(), Path::new("/data"), options).await.unwrap();
            let id = TopicId([1; 16]);
            let log = shard.create_as(&name(), id, LeaderEpoch(0), config()).await.unwrap();
            let mut cached = config();
            cached.write_caching = true;
            let other = TopicPartition::new("cached", 0);
            let id = TopicId([2; 16]);
            let cached = shard.create_as(&other, id, LeaderEpoch(0), cached).await.unwrap();
            for i in 0..RECORDS {
                append(&log, i, Timestamp(i), true).await;
                append(&cached, i, Timestamp(i), false).await;
            }
            io.sleep(Duration::from_secs(60)).await;
            append(&log, RECORDS, Timestamp(1), true).await;
            log.trim(Offset(RECORDS - 5)).unwrap();
            disk.set_capacity(disk.used_bytes());
            // Checkpoints fail for want of room, and the old segments go all the same.
            io.sleep(Duration::from_secs(5)).await;
            assert_eq!(log.marks().log_start, Offset(RECORDS - 5));
            assert_eq!(log.failure(), None);
            disk.set_capacity(1 << 40);
            io.sleep(Duration::from_secs(5)).await;
            append(&log, RECORDS + 1, Timestamp(1), true).await;
            append(&cached, RECORDS, Timestamp(1), true).await;
            let told = told.take();
            assert!(!told.iter().any(|event| event.contains("CoreFailed")), "{told:?}");
            sim::close(&shard).await.unwrap();
        })
        .done();
    world.crash();
    world
        .boot(|io| async move {
            let (shard, _) = open(&io).await;
            let log = shard.partition(&name()).unwrap();
            assert_eq!(log.marks().log_start, Offset(RECORDS - 5));
            assert_eq!(log.marks().written, Offset(RECORDS + 2));
        })
        .done();
}

/// Batches that are too large for the journal are synced in their file by the commit itself, so that
/// a checkpoint finds nothing of the log to sync.
#[test]
fn a_clean_stop_saves_the_index_of_what_commits_have_synced() {
    let mut world = World::new(3, Faults::none());
    world
        .boot(|io| async move {
            let (shard, _) =
                sim::open(io.clone(), Path::new("/data"), sim::Options::default()).await.unwrap();
            let (name, config) = (name(), LogConfig::default());
            let log = shard.create(&name, config).await.unwrap();
            for bytes in [1, 300_000, 300_000, 300_000] {
                // After the first there is a checkpoint, which has its epoch to save.
                io.sleep(Duration::from_secs(60)).await;
                let value = vec![7; bytes];
                let batch = Batch::build().record(None, Some(&value), &[], io.timestamp()).done();
                let span = log.append(&batch.unwrap()).unwrap();
                log.reach(Mark::Durable, &span).await.unwrap();
            }
            sim::close(&shard).await.unwrap();
        })
        .done();
    let index = names(&world.disk(), ".index").remove(0);
    assert!(!world.disk().read(&index).unwrap().is_empty());
}

/// The segments before the log start are let go, and it may be that for want of room nobody could
/// note it: so it is served, and told.
#[test]
fn a_first_segment_that_is_missing_is_told_once() {
    let mut world = written(true);
    let second = names(&world.disk(), ".log").remove(1);
    world.disk().remove(LOG).unwrap();
    let start: i64 =
        second.trim_start_matches("/data/t-0/").trim_end_matches(".log").parse().unwrap();
    for is_told in [true, false] {
        world
            .boot(move |io| async move {
                let told = Rc::new(std::cell::RefCell::new(Vec::new()));
                let mine = Rc::clone(&told);
                let on_event =
                    Rc::new(move |event: &_| mine.borrow_mut().push(format!("{event:?}")));
                let options = sim::Options { on_event, ..sim::Options::default() };
                let (shard, _) = sim::open(io, Path::new("/data"), options).await.unwrap();
                let gap =
                    format!("t-0: no records from 0, the log start that was noted, to {start},");
                assert_eq!(told.borrow().iter().any(|event| event.contains(&gap)), is_told);
                let log = shard.partition(&name()).unwrap();
                assert_eq!((log.marks().log_start, log.failure()), (Offset(start), None));
                sim::close(&shard).await.unwrap();
            })
            .done();
        world.kill();
    }
}

#[test]
fn a_segment_that_is_missing_between_two_fences_the_partition() {
    let segments = names(&written(true).disk(), ".log");
    assert!(segments.len() > 3, "{segments:?}");
    for (gone, after) in segments.iter().zip(&segments[1..]).skip(1) {
        for is_alone in [true, false] {
            let mut world = written(true);
            world.disk().remove(gone).unwrap();
            // What would be cut elsewhere stays as well.
            let (disk, last) = (world.disk(), segments.last().unwrap());
            disk.truncate(last, disk.read(last).unwrap().len() as u64 + 100).unwrap();
            if !is_alone {
                for index in [".index", ".timeindex"] {
                    world.disk().remove(gone.replace(".log", index)).unwrap();
                }
            }
            let number = |path: &str| -> i64 {
                Path::new(path).file_stem().unwrap().to_str().unwrap().parse().unwrap()
            };
            let why = format!("no records from {} to {}", number(gone), number(after));
            world
                .boot(move |io| async move {
                    let (_, found) = open(&io).await;
                    assert_eq!((found.fenced, found.cut_bytes), (Some(why), 0));
                })
                .done();
        }
    }
}

/// Kafka's cleaner leaves them, and says how far it has come.
#[test]
fn a_gap_that_a_compaction_has_left_is_none() {
    let mut world = written(true);
    world.disk().remove(&names(&world.disk(), ".log")[1]).unwrap();
    let after = &names(&world.disk(), ".log")[1];
    let after: i64 = after[10..].trim_end_matches(".log").parse().unwrap();
    for (cleaned, is_fenced) in [(after - 1, true), (after, false)] {
        let line = format!("0\n1\nt 0 {cleaned}\n").into_bytes();
        write(&mut world, "/data/cleaner-offset-checkpoint", line);
        let found = world.boot(|io| async move { open(&io).await.1 }).done();
        assert_eq!(found.fenced.is_some(), is_fenced, "{cleaned}: {found:?}");
        world.kill();
        if !is_fenced {
            // Also if every log has to be scanned.
            world.disk().remove("/data/recovery-point-offset-checkpoint").unwrap();
            let found = world.boot(|io| async move { open(&io).await.1 }).done();
            assert_eq!((found.fenced, found.log_end), (None, Offset(RECORDS)));
        }
    }
}

/// A batch for which there was no room is cut off, and goes to the next segment when there is some.
/// A power cut can lose the cut.
#[test]
fn a_batch_that_the_next_segment_holds_is_cut_off() {
    let mut world = written(false);
    let logs = names(&world.disk(), ".log");
    let mut first = world.disk().read(&logs[0]).unwrap();
    let second = world.disk().read(&logs[1]).unwrap();
    let batch = 12 + u32::from_be_bytes(second[8..12].try_into().unwrap()) as usize;
    first.extend_from_slice(&second[..batch]);
    write(&mut world, LOG, first);
    world
        .boot(move |io| async move {
            let (shard, found) = open(&io).await;
            assert_eq!((found.fenced, found.cut_bytes), (None, batch as u64));
            check_reads(&shard.partition(&name()).unwrap(), RECORDS).await;
        })
        .done();
    // Not so where a wrong base offset makes it look as if all before the next one were there.
    let mut world = written(false);
    let disk = world.disk();
    let next: u8 = logs[1][10..].trim_end_matches(".log").parse().unwrap();
    disk.flip(LOG, batch as u64 + 7, 1 ^ (next - 1)).unwrap();
    disk.truncate("/data/kariz.journal", 0).unwrap();
    write(&mut world, "/data/t-0/kariz.floor", format!("{RECORDS}\n").into_bytes());
    let found = world.boot(|io| async move { open(&io).await.1 }).done();
    assert!(found.fenced.is_some() && found.cut_bytes == 0, "{found:?}");
}
