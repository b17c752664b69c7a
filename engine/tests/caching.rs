//! A topic with `write.caching`: the page cache counts as durable, until somebody asks for more.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Faults, World};
use kariz_engine::{LeaderEpoch, LogConfig, Mark, Offset, TopicId, TopicPartition, sim};
use std::path::Path;
use std::time::Duration;

/// A wait asks for what it waits for: no timer is sat out, and a power cut takes nothing then.
#[test]
fn whoever_waits_for_the_disk_waits_for_one_sync() {
    const RECORDS: i64 = 20;
    for seed in 0..20 {
        let mut world = World::new(seed, Faults::none());
        world
            .boot(|io| async move {
                let opened = sim::open(io.clone(), Path::new("/data"), sim::Options::default());
                let shard = opened.await.unwrap().0;
                let mut config = LogConfig::default();
                (config.write_caching, config.segment_bytes) = (true, 100_000);
                let (name, id) = (TopicPartition::new("t", 0), TopicId([1; 16]));
                let log = shard.create_as(&name, id, LeaderEpoch(0), config).await.unwrap();
                for i in 1..=RECORDS {
                    // Some go to the journal, some are too large for it.
                    let payload = vec![7; if i % 3 == 0 { 90_000 } else { 100 }];
                    let batch = Batch::build().record(None, Some(&payload), &[], io.timestamp());
                    let span = log.append(&batch.done().unwrap()).unwrap();
                    log.reach(Mark::High, &span).await.unwrap();
                    if i % 4 == 0 {
                        let began = io.now();
                        log.reach(Mark::Durable, &span).await.unwrap();
                        assert!(io.now() - began < Duration::from_millis(100));
                    }
                }
                assert_eq!(log.marks().durable, Offset(RECORDS));
            })
            .done();
        world.crash();
        world
            .boot(|io| async move {
                let options = sim::Options::default();
                let (_, report) = sim::open(io, Path::new("/data"), options).await.unwrap();
                let found = &report.partitions[0];
                assert_eq!((found.log_end, &found.fenced), (Offset(RECORDS), &None), "{seed}");
            })
            .done();
    }
}

/// Nor is one sat out for what came before it was turned off.
#[test]
fn what_came_before_it_was_turned_off_is_synced_for_who_waits() {
    let main = |io: kariz_engine::io::sim::Sim| async move {
        let opened = sim::open(io.clone(), Path::new("/data"), sim::Options::default());
        let shard = opened.await.unwrap().0;
        let mut config = LogConfig::default();
        config.write_caching = true;
        let (name, id) = (TopicPartition::new("t", 0), TopicId([1; 16]));
        let log = shard.create_as(&name, id, LeaderEpoch(0), config).await.unwrap();
        let batch = Batch::build().record(None, None, &[], io.timestamp()).done().unwrap();
        let span = log.append(&batch).unwrap();
        log.reach(Mark::High, &span).await.unwrap();
        log.configure(LogConfig::default());
        let began = io.now();
        log.reach(Mark::Durable, &span).await.unwrap();
        assert!(io.now() - began < Duration::from_millis(100));
    };
    World::new(1, Faults::none()).boot(main).done();
}
