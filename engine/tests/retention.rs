//! Segments roll, are found by offset and by time, and go when their topic's settings let them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Faults, Sim, World};
use kariz_engine::{
    LeaderEpoch, LogConfig, Mark, Offset, Partition, ReadError, Shard, Timestamp, TopicId,
    TopicPartition, sim,
};
use std::path::Path;
use std::time::Duration;

fn batch(value: u64, at: Timestamp) -> Batch {
    let payload = value.to_be_bytes().repeat(16);
    Batch::build().record(None, Some(&payload), &[], at).done().unwrap()
}

/// A log of `records` batches of one record, a second apart and some 200 bytes each, in segments of
/// 1,000 bytes.
async fn fill(
    io: &Sim,
    records: u64,
    config: impl FnOnce(&mut LogConfig),
) -> (Shard<Sim>, Partition<Sim>) {
    let (shard, _) =
        sim::open(io.clone(), Path::new("/data"), sim::Options::default()).await.unwrap();
    let mut log = LogConfig::default();
    (log.segment_bytes, log.index_interval_bytes) = (1000, 100);
    (log.retention_ms, log.retention_bytes) = (-1, -1);
    config(&mut log);
    let name = TopicPartition::new("t", 0);
    let partition = shard.create_as(&name, TopicId([1; 16]), LeaderEpoch(3), log).await.unwrap();
    for i in 0..records {
        let span = partition.append(&batch(i, io.timestamp())).unwrap();
        partition.reach(Mark::High, &span).await.unwrap();
        io.sleep(Duration::from_secs(1)).await;
    }
    (shard, partition)
}

fn run<T: 'static, F: Future<Output = T> + 'static>(main: impl FnOnce(Sim) -> F) -> T {
    World::new(1, Faults::none()).boot(main).done()
}

#[test]
fn a_record_is_found_by_its_offset_and_by_its_time_in_whichever_segment() {
    run(|io| async move {
        let began = io.timestamp();
        let (_shard, log) = fill(&io, 50, |_| {}).await;
        for i in 0..50 {
            let slice = log.slice(Offset(i), 1).await.unwrap();
            let first = slice.batches().unwrap().remove(0);
            assert_eq!(first.header().base_offset(), Offset(i));
            assert_eq!(first.header().leader_epoch(), LeaderEpoch(3));
            let at = Timestamp(first.header().max_timestamp().0 - 1);
            let found = log.find(at).await.unwrap().unwrap();
            assert_eq!(found.offset, Offset(i), "the first record at or after {at:?}");
        }
        assert_eq!(log.find(began).await.unwrap().unwrap().offset, Offset(0));
        assert_eq!(log.find(io.timestamp()).await.unwrap(), None);
        assert_eq!(log.find_max_timestamp().await.unwrap().unwrap().offset, Offset(49));
        assert!(log.slice(Offset(50), 1).await.unwrap().is_empty());
        assert!(matches!(log.slice(Offset(51), 1).await, Err(ReadError::OutOfRange { .. })));
    });
}

#[test]
fn size_decides_what_is_kept() {
    run(|io| async move {
        let (_shard, log) = fill(&io, 50, |c| c.retention_bytes = 2500).await;
        io.sleep(Duration::from_secs(3)).await;
        let (start, size) = (log.marks().log_start, log.size_bytes());
        assert!(start > Offset(30) && start < Offset(49), "{start}");
        assert!((2500..3500).contains(&size), "{size} bytes are kept");
        assert!(matches!(log.slice(Offset(0), 1).await, Err(ReadError::OutOfRange { .. })));
    });
}

#[test]
fn time_decides_what_is_kept_and_empties_a_silent_log() {
    run(|io| async move {
        let (_shard, log) = fill(&io, 50, |c| c.retention_ms = 20_000).await;
        io.sleep(Duration::from_secs(3)).await;
        let start = log.marks().log_start;
        assert!(start > Offset(20) && start < Offset(40), "{start}");
        io.sleep(Duration::from_secs(60)).await;
        assert_eq!(log.marks().log_start, Offset(50));
        let span = log.append(&batch(50, io.timestamp())).unwrap();
        assert_eq!(span.base, Offset(50), "an empty log goes on where it was");
        // Also if its first segments are full before anything in them may be seen.
        for i in 51..65 {
            log.append(&batch(i, io.timestamp())).unwrap();
        }
        assert_eq!(log.find_max_timestamp().await.unwrap(), None);
        assert_eq!(log.find(Timestamp(0)).await.unwrap(), None);
        assert!(log.slice(Offset(50), 1).await.unwrap().is_empty());
    });
}

#[test]
fn a_record_from_the_future_is_not_old() {
    run(|io| async move {
        let (_shard, log) = fill(&io, 0, |c| c.retention_ms = 1000).await;
        let ahead = Timestamp(io.timestamp().0 + 3_000_000);
        for i in 0..10 {
            let span = log.append(&batch(i, ahead)).unwrap();
            log.reach(Mark::High, &span).await.unwrap();
        }
        io.sleep(Duration::from_secs(100)).await;
        assert_eq!(log.marks().log_start, Offset(0));
    });
}

#[test]
fn records_without_a_time_are_as_old_as_their_file() {
    let mut world = World::new(1, Faults::none());
    let config = |c: &mut LogConfig| c.retention_ms = 100_000;
    world
        .boot(move |io| async move {
            let (shard, log) = fill(&io, 0, config).await;
            for i in 0..20 {
                let span = log.append(&batch(i, Timestamp::NONE)).unwrap();
                log.reach(Mark::High, &span).await.unwrap();
                io.sleep(Duration::from_secs(4)).await;
            }
            assert_eq!(log.marks().log_start, Offset(0), "the oldest is 80 s old");
            io.sleep(Duration::from_secs(60)).await;
            let start = log.marks().log_start;
            assert!(start > Offset(0) && start < Offset(20), "{start}");
            sim::close(&shard).await.unwrap();
        })
        .done();
    world.kill();
    world
        .boot(move |io| async move {
            let (shard, _) =
                sim::open(io.clone(), Path::new("/data"), sim::Options::default()).await.unwrap();
            let log = shard.partition(&TopicPartition::new("t", 0)).unwrap();
            let mut settings = LogConfig::default();
            config(&mut settings);
            log.configure(settings);
            assert!(log.marks().log_start < Offset(20));
            io.sleep(Duration::from_secs(120)).await;
            assert_eq!(log.marks().log_start, Offset(20));
        })
        .done();
}

#[test]
fn a_reader_keeps_what_retention_takes_away() {
    run(|io| async move {
        let (_shard, log) = fill(&io, 20, |c| c.retention_bytes = 1).await;
        let log_start = log.marks().log_start;
        assert!(log_start > Offset(0));
        let slice = log.slice(log_start, 10_000).await.unwrap();
        for i in 20..60 {
            let span = log.append(&batch(i, io.timestamp())).unwrap();
            log.reach(Mark::High, &span).await.unwrap();
            io.sleep(Duration::from_secs(1)).await;
        }
        assert!(log.marks().log_start > Offset(40));
        let first = slice.batches().unwrap().remove(0);
        assert_eq!(first.header().base_offset(), log_start, "read from a file that has no name");
    });
}

#[test]
fn a_moved_log_start_survives_a_restart() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let (shard, log) = fill(&io, 30, |_| {}).await;
            assert_eq!(log.trim(Offset(17)).unwrap(), Offset(17));
            assert!(log.trim(Offset(31)).is_err());
            sim::close(&shard).await.unwrap();
        })
        .done();
    world.crash();
    world
        .boot(|io| async move {
            let (shard, _) =
                sim::open(io, Path::new("/data"), sim::Options::default()).await.unwrap();
            let log = shard.partition(&TopicPartition::new("t", 0)).unwrap();
            assert_eq!(log.marks().log_start, Offset(17));
            assert_eq!(log.marks().high_watermark, Offset(30));
        })
        .done();
}

#[test]
fn a_segment_is_rolled_when_it_is_old_also_over_restarts() {
    run(|io| async move {
        let (shard, log) = fill(&io, 25, |config| {
            config.segment_bytes = 1 << 20;
            config.segment_ms = 10_000;
        })
        .await;
        assert_eq!(shard.metrics().rolls.get(), 2, "25 records, a second apart");
        let (name, config) = (log.name().clone(), log.config().clone());
        drop(log);
        sim::close(&shard).await.unwrap();
        // Each time it is younger than that; together it is not.
        for (seconds, rolls) in [(4, 0), (4, 1), (4, 0)] {
            io.sleep(Duration::from_secs(seconds)).await;
            let (shard, _) =
                sim::open(io.clone(), Path::new("/data"), sim::Options::default()).await.unwrap();
            let log = shard.partition(&name).unwrap();
            log.configure(config.clone());
            let span = log.append(&batch(0, io.timestamp())).unwrap();
            log.reach(Mark::High, &span).await.unwrap();
            assert_eq!(shard.metrics().rolls.get(), rolls);
            sim::close(&shard).await.unwrap();
        }
    });
}

/// What retention takes away may hide a hole: the names of segments become durable in any order.
#[test]
fn a_log_begins_where_retention_has_left_it_after_a_power_cut_too() {
    for seed in 280..300 {
        let disk_latency = Duration::from_millis(1)..Duration::from_millis(20);
        let mut world = World::new(seed, Faults { disk_latency, ..Faults::none() });
        let kept = world
            .boot(move |io| async move {
                let options = sim::Options::default();
                let (shard, _) = sim::open(io.clone(), Path::new("/data"), options).await.unwrap();
                let mut config = LogConfig::default();
                (config.segment_bytes, config.retention_ms) = (300, -1);
                let mut logs = Vec::new();
                for i in 0..12 {
                    let (name, id) = (TopicPartition::new("t", i), TopicId([1; 16]));
                    let made = shard.create_as(&name, id, LeaderEpoch(0), config.clone()).await;
                    logs.push(made.unwrap());
                }
                for _ in 0..10 + io.random() % 10 {
                    for log in &logs {
                        // Several segments at once: no time to make files for them ahead.
                        for i in 0..io.random() % 6 {
                            log.append(&batch(i, io.timestamp())).unwrap();
                        }
                        if io.random() % 4 == 0 {
                            log.trim(log.marks().high_watermark).unwrap();
                        }
                    }
                    io.sleep(Duration::from_millis(io.random() % 20)).await;
                }
                let kept = logs.iter().map(|log| log.marks()).map(|m| m.log_start..m.durable);
                kept.collect::<Vec<_>>()
            })
            .done();
        world.crash();
        world
            .boot(move |io| async move {
                let options = sim::Options::default();
                let (_, report) = sim::open(io, Path::new("/data"), options).await.unwrap();
                for (found, kept) in report.partitions.iter().zip(kept) {
                    let is_whole = found.log_start <= kept.start && found.log_end >= kept.end;
                    assert!(is_whole && found.fenced.is_none(), "{seed}: {kept:?}, {found:?}");
                }
            })
            .done();
    }
}
