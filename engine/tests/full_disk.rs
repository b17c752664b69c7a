//! A disk with little room is used to the end.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Fault, Faults, OpKind, Rule, Sim, World};
use kariz_engine::{
    LeaderEpoch, LogConfig, Mark, Offset, Partition, ReachError, Shard, TopicId, TopicPartition,
    sim,
};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Far below the least step of preallocation, which is 64 KiB.
const ROOM_BYTES: u64 = 32 << 10;

#[test]
fn what_fits_is_written_although_the_step_ahead_of_it_does_not_fit() {
    let mut world = World::new(1, Faults::none());
    let disk = world.disk();
    world
        .boot(|io| async move {
            let options = sim::Options::default();
            let (shard, _) = sim::open(io.clone(), Path::new("/data"), options).await.unwrap();
            let name = TopicPartition::new("t", 0);
            let id = TopicId([1; 16]);
            let partition =
                shard.create_as(&name, id, LeaderEpoch(0), LogConfig::default()).await.unwrap();
            // Until the journal has its full size: it takes room in steps of its own.
            io.sleep(Duration::from_secs(60)).await;
            disk.set_capacity(disk.used_bytes() + ROOM_BYTES);
            let batch = || {
                let payload = [7; 1000];
                Batch::build().record(None, Some(&payload), &[], io.timestamp()).done().unwrap()
            };
            let mut written = 0;
            let full = loop {
                let span = partition.append(&batch()).unwrap();
                match partition.reach(Mark::Appended, &span).await {
                    Ok(_) => written += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(full, ReachError::Full), "{full:?}");
            assert!(
                written * batch().total_bytes() as u64 > ROOM_BYTES - 4096,
                "{written} batches"
            );
            assert_eq!(partition.marks().written, Offset(i64::try_from(written).unwrap()));
            // With room it goes on by itself.
            disk.set_capacity(disk.used_bytes() + ROOM_BYTES);
            let span = partition.append(&batch()).unwrap();
            partition.reach(Mark::Durable, &span).await.unwrap();
        })
        .done();
}

async fn create(shard: &Shard<Sim>, partitions: i32) -> Vec<Partition<Sim>> {
    let mut logs = Vec::new();
    for i in 0..partitions {
        let (name, id) = (TopicPartition::new("t", i), TopicId([1; 16]));
        let config = LogConfig::default();
        logs.push(shard.create_as(&name, id, LeaderEpoch(0), config).await.unwrap());
    }
    logs
}

/// Groups of all that gathered would be larger than what the journal is then.
#[test]
fn a_journal_that_found_no_room_to_grow_serves_and_grows_later() {
    const PARTITIONS: i32 = 24;
    // The first step of its growth.
    let full = Rule::on(OpKind::Write, Fault::NoSpace).named(|p| p.ends_with("kariz.journal"));
    let mut world = World::new(1, Faults::none().with(full.after(66).times(1)));
    let disk = world.disk();
    world
        .boot(|io| async move {
            let options = sim::Options { journal_bytes: 64 << 20, ..sim::Options::default() };
            let (shard, _) = sim::open(io.clone(), Path::new("/data"), options).await.unwrap();
            let logs = create(&shard, PARTITIONS).await;
            let journal_bytes = || disk.read("/data/kariz.journal").unwrap().len();
            assert!(journal_bytes() < 8 << 20, "{}", journal_bytes());
            for _ in 0..10 {
                let batch = Batch::build().record(None, Some(&[7; 240_000]), &[], io.timestamp());
                let batch = batch.done().unwrap();
                let spans: Vec<_> = logs.iter().map(|log| log.append(&batch).unwrap()).collect();
                for (log, span) in logs.iter().zip(&spans) {
                    log.reach(Mark::Durable, span).await.unwrap();
                }
            }
            let before = shard.metrics().syncs.get();
            io.sleep(Duration::from_secs(10)).await;
            let syncs = shard.metrics().syncs.get() - before;
            assert!(syncs < 100, "{syncs} syncs with nothing to do");
            assert_eq!(journal_bytes(), 64 << 20);
            sim::close(&shard).await.unwrap();
        })
        .done();
}

async fn append(io: &Sim, log: &Partition<Sim>, bytes: usize) {
    let batch = Batch::build().record(None, Some(&vec![7; bytes]), &[], io.timestamp());
    let span = log.append(&batch.done().unwrap()).unwrap();
    log.reach(Mark::Durable, &span).await.unwrap();
}

/// Old segments go although there is no room to note the log start. The journal may know the first
/// bytes of one of them, and not those behind, which were synced in the file.
#[test]
fn a_segment_that_went_to_make_room_does_not_come_back_from_the_journal() {
    for cuts_power in [false, true] {
        let mut world = World::new(1, Faults::none());
        world
            .boot(|io| async move {
                let options = sim::Options { journal_bytes: 8 << 20, ..sim::Options::default() };
                let (shard, _) = sim::open(io.clone(), Path::new("/data"), options).await.unwrap();
                let mut config = LogConfig::default();
                (config.segment_bytes, config.retention_bytes) = (1 << 20, 1 << 20);
                let (name, id) = (TopicPartition::new("t", 0), TopicId([1; 16]));
                let log = shard.create_as(&name, id, LeaderEpoch(0), config).await.unwrap();
                append(&io, &log, 100).await;
                for _ in 0..6 {
                    append(&io, &log, 400_000).await;
                    append(&io, &log, 100).await;
                }
                let full = Rule::on(OpKind::Write, Fault::NoSpace);
                let full = full.named(|p| p.contains("log-start-offset"));
                io.set_faults(Faults::none().with(full));
                io.sleep(Duration::from_millis(1800)).await;
                assert_eq!(log.marks().log_start, Offset(5));
            })
            .done();
        if cuts_power {
            world.crash();
        } else {
            world.kill();
        }
        world
            .boot(|io| async move {
                io.set_faults(Faults::none());
                let options = sim::Options::default();
                let (_, report) = sim::open(io, Path::new("/data"), options).await.unwrap();
                let found = &report.partitions[0];
                assert_eq!(found.fenced, None);
                assert_eq!((found.log_start, found.log_end), (Offset(5), Offset(13)));
            })
            .done();
    }
}

/// Its last commit finds no room in the journal, which no checkpoint can free.
#[test]
fn a_core_whose_disk_and_journal_are_full_comes_to_its_end() {
    // Their syncs in a checkpoint take longer than it takes to fill the journal.
    const PARTITIONS: i32 = 200;
    let mut world = World::new(1, Faults::none());
    let ended = world
        .boot(|io| async move {
            let options = sim::Options::default();
            let (shard, _) = sim::open(io.clone(), Path::new("/data"), options).await.unwrap();
            let logs = create(&shard, PARTITIONS).await;
            let batch = |bytes| {
                let payload = vec![7; bytes];
                Batch::build().record(None, Some(&payload), &[], io.timestamp()).done().unwrap()
            };
            for log in &logs {
                log.append(&batch(1)).unwrap();
            }
            let full = Rule::on(OpKind::Write, Fault::NoSpace);
            let tried = Arc::new(AtomicUsize::new(0));
            let tries = Arc::clone(&tried);
            let full = full.named(move |path| {
                tries.fetch_add(usize::from(path.contains("recovery-point")), Ordering::Relaxed);
                path.contains("-checkpoint.tmp")
            });
            io.set_faults(Faults::none().with(full));
            let batch = batch(50_000);
            while logs[0].append(&batch).is_ok() {
                io.sleep(Duration::from_millis(1)).await;
            }
            assert!(logs[0].marks().durable < logs[0].marks().written, "the journal is full");
            io.sleep(Duration::from_secs(5)).await;
            let tried = tried.load(Ordering::Relaxed);
            assert!(tried < 30, "{tried} tries to write a checkpoint for which there is no room");
            let ended = Rc::new(Cell::new(None));
            let end = Rc::clone(&ended);
            io.spawn(async move { end.set(Some(sim::close(&shard).await)) });
            io.sleep(Duration::from_secs(10)).await;
            ended.take().unwrap()
        })
        .done();
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
}
