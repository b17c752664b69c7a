//! A partition that is deleted, and another one of its name: what was said of the first is not
//! true of the second; and records without an owner are not written over.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{End, Faults, Outcome, Sim, World};
use kariz_engine::{
    LeaderEpoch, LogConfig, Mark, Offset, Partition, Shard, TopicId, TopicPartition, sim,
};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Longer than from one checkpoint to the next.
const CHECKPOINTED: Duration = Duration::from_secs(40);

fn name() -> TopicPartition {
    TopicPartition::new("t", 0)
}

async fn open(io: &Sim) -> (Shard<Sim>, Vec<kariz_engine::PartitionRecovery>) {
    let opened = sim::open(io.clone(), Path::new("/data"), sim::Options::default());
    let (shard, report) = opened.await.unwrap();
    (shard, report.partitions)
}

async fn create(shard: &Shard<Sim>, id: u8) -> Partition<Sim> {
    let mut config = LogConfig::default();
    config.segment_bytes = 1000;
    config.retention_ms = -1;
    shard.create(&name(), TopicId([id; 16]), LeaderEpoch(0), config).await.unwrap()
}

async fn append(io: &Sim, partition: &Partition<Sim>) {
    let batch = Batch::build().record(None, Some(&[7; 100]), &[], io.timestamp()).done();
    let span = partition.append(&batch.unwrap()).unwrap();
    partition.reach(Mark::High, &span).await.unwrap();
}

/// Thirty records, checkpointed and perhaps let go; then deleted and made again. `second` is
/// told how many records of the new one were promised, or `None` before it was.
async fn live(io: Sim, trims: bool, second: Rc<Cell<Option<i64>>>) {
    let (shard, _) = open(&io).await;
    let first = create(&shard, 1).await;
    for _ in 0..30 {
        append(&io, &first).await;
    }
    if trims {
        first.trim(Offset(30)).unwrap();
    }
    io.sleep(CHECKPOINTED).await;
    append(&io, &first).await;
    drop(first);
    // A checkpoint may be under way meanwhile.
    let checkpoint = shard.partition(&name()).unwrap();
    checkpoint.trim(Offset(0)).unwrap();
    drop(checkpoint);
    io.sleep(Duration::from_micros(io.random() % 1000)).await;
    shard.delete(&name()).await.unwrap();
    let new = create(&shard, 2).await;
    second.set(Some(0));
    for records in 1..=10 {
        append(&io, &new).await;
        second.set(Some(records));
    }
}

#[test]
fn what_was_noted_of_a_deleted_partition_is_not_believed_of_the_next_of_its_name() {
    for (seed, trims) in [(0, false), (1, true)] {
        let run = |stop: Option<(u64, End)>| {
            let mut world = World::new(seed, Faults::none());
            if let Some((point, end)) = stop {
                world.stop_after(point, end);
            }
            let second = Rc::new(Cell::new(None));
            let told = Rc::clone(&second);
            let outcome = world.boot(move |io| live(io, trims, told));
            (world, outcome, second.get())
        };
        let (world, outcome, _) = run(None);
        assert!(matches!(outcome, Outcome::Done(())));
        let points = world.cut_points();
        // From shortly before the deletion to the end.
        for (point, end) in (points.saturating_sub(120)..=points)
            .flat_map(|point| [(point, End::PowerCut), (point, End::Killed)])
        {
            let (mut world, _, promised) = run(Some((point, end)));
            if end == End::PowerCut {
                world.crash()
            } else {
                world.kill()
            }
            let Some(promised) = promised else { continue };
            world
                .boot(move |io| async move {
                    let (shard, report) = open(&io).await;
                    let at = format!("seed {seed}, {end:?} at {point}");
                    assert_eq!(report[0].fenced, None, "{at}");
                    assert_eq!(report[0].topic_id, TopicId([2; 16]), "{at}");
                    let marks = shard.partition(&name()).unwrap().marks();
                    assert_eq!(marks.log_start, Offset(0), "{at}");
                    let kept = marks.high_watermark.0;
                    assert!((promised..=10).contains(&kept), "{at}: {kept} of {promised}");
                })
                .done();
        }
    }
}

#[test]
fn records_whose_metadata_is_damaged_are_not_written_over() {
    const LOG: &str = "/data/t-0/00000000000000000000.log";
    const METADATA: &str = "/data/t-0/partition.metadata";
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let (shard, _) = open(&io).await;
            let partition = create(&shard, 1).await;
            append(&io, &partition).await;
            drop(partition);
            sim::close(&shard).await.unwrap();
        })
        .done();
    let (before, metadata) =
        (world.disk().read(LOG).unwrap(), world.disk().read(METADATA).unwrap());
    assert!(!before.is_empty() && metadata.len() > 20);
    world
        .boot(|io| async move {
            let (shard, _) = open(&io).await;
            let aside = shard.set_aside(&name()).await.unwrap().unwrap();
            assert!(shard.partition(&name()).is_none());
            io.rename(&aside, Path::new("/data/t-0")).unwrap();
            io.sync_dir(Path::new("/data")).await.unwrap();
        })
        .done();
    assert_eq!(world.disk().read(LOG).unwrap(), before);
    world.disk().truncate(METADATA, 20).unwrap();
    world
        .boot(|io| async move {
            let (shard, report) = open(&io).await;
            assert!(report.is_empty());
            let config = LogConfig::default();
            let made = shard.create(&name(), TopicId([1; 16]), LeaderEpoch(1), config).await;
            let error = made.err().unwrap().to_string();
            assert!(error.contains("restore that, or move them away"), "{error}");
        })
        .done();
    assert_eq!(world.disk().read(LOG).unwrap(), before);
}
