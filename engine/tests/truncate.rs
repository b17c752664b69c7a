//! A log that is cut back while it is read, or the machine stops.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{End, Faults, Sim, World};
use kariz_engine::{
    LeaderEpoch, LogConfig, Mark, Offset, Partition, Shard, TopicId, TopicPartition, sim,
};
use std::path::Path;

const BEFORE: u8 = 7;
const AFTER: u8 = 9;
/// Some five to a segment.
const SEGMENT_BYTES: u64 = 1000;

async fn open(io: &Sim) -> Shard<Sim> {
    sim::open(io.clone(), Path::new("/data"), sim::Options::default()).await.unwrap().0
}

/// A partition with so many records, in a few segments.
async fn create(io: &Sim, shard: &Shard<Sim>, records: i64) -> Partition<Sim> {
    let mut config = LogConfig::default();
    config.segment_bytes = SEGMENT_BYTES;
    let (name, id) = (TopicPartition::new("t", 0), TopicId([1; 16]));
    let partition = shard.create_as(&name, id, LeaderEpoch(0), config).await.unwrap();
    for _ in 0..records {
        append(io, &partition, BEFORE).await;
    }
    partition
}

async fn append(io: &Sim, partition: &Partition<Sim>, fill: u8) {
    let batch = Batch::build().record(None, Some(&[fill; 100]), &[], io.timestamp()).done();
    let span = partition.append(&batch.unwrap()).unwrap();
    partition.reach(Mark::Durable, &span).await.unwrap();
}

#[test]
fn whoever_reads_what_is_cut_sees_that_or_an_error_and_never_what_came_after() {
    const RECORDS: i64 = 12;
    for to in 0..=RECORDS {
        World::new(1, Faults::none())
            .boot(move |io| async move {
                let shard = open(&io).await;
                let partition = create(&io, &shard, RECORDS).await;
                let mut held = Vec::new();
                for from in 0..RECORDS {
                    held.push(partition.slice(Offset(from), 1 << 20).await.unwrap());
                }
                shard.truncate(&partition, Offset(to)).await.unwrap();
                for _ in 0..RECORDS {
                    append(&io, &partition, AFTER).await;
                }
                for slice in held {
                    for batch in slice.batches().unwrap_or_default() {
                        let records = batch.records(1 << 20).unwrap();
                        for value in records.iter().map(|record| record.unwrap().value.unwrap()) {
                            assert_eq!(*value, [BEFORE; 100], "cut at {to}");
                        }
                    }
                }
                let end = partition.marks().high_watermark;
                assert_eq!(end, Offset(to + RECORDS));
                let last = partition.slice(end.plus(-1), 1).await.unwrap();
                let last = last.batches().unwrap().remove(0);
                let records = last.records(1 << 20).unwrap();
                assert_eq!(*records.iter().next().unwrap().unwrap().value.unwrap(), [AFTER; 100]);
            })
            .done();
    }
}

/// A directory's changes that were not synced come to the disk or do not, each for itself.
#[test]
fn a_cut_to_nothing_that_the_power_ended_leaves_a_log_from_the_start() {
    const RECORDS: i64 = 7;
    for seed in 30..60 {
        let run = |stop: Option<u64>| {
            let mut world = World::new(seed, Faults::none());
            if let Some(point) = stop {
                world.stop_after(point, End::PowerCut);
            }
            let _stopped = world.boot(|io| async move {
                let shard = open(&io).await;
                let partition = create(&io, &shard, RECORDS).await;
                shard.truncate(&partition, Offset(0)).await.unwrap();
            });
            world
        };
        // Before the checkpoint that follows.
        let points = run(None).cut_points();
        for point in points - 30..points - 20 {
            let mut world = run(Some(point));
            world.crash();
            world
                .boot(move |io| async move {
                    let at = format!("seed {seed}, stopped at {point} of {points}");
                    let shard = open(&io).await;
                    let partition = shard.partition(&TopicPartition::new("t", 0)).unwrap();
                    let marks = partition.marks();
                    assert_eq!(marks.log_start, Offset(0), "{at}");
                    let kept = marks.high_watermark.0;
                    assert!((0..=RECORDS).contains(&kept), "{at}: {kept} records");
                    append(&io, &partition, AFTER).await;
                    assert_eq!(partition.marks().high_watermark, Offset(kept + 1), "{at}");
                })
                .done();
        }
    }
}
