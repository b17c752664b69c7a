//! A process that has no file descriptor left for a while, and then goes on: the disk is sound.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Fault, Faults, OpKind, Rule, Sim, World};
use kariz_engine::{
    AppendError, Event, LeaderEpoch, LogConfig, Mark, Offset, Partition, Shard, TopicId,
    TopicPartition, sim,
};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Past a checkpoint by time.
const LONG: Duration = Duration::from_secs(40);

async fn open(io: &Sim) -> (Shard<Sim>, Partition<Sim>) {
    let on_event = |event: &Event| {
        assert!(!matches!(event, Event::Fenced { .. } | Event::CoreFailed { .. }), "{event:?}");
    };
    let options = sim::Options { on_event: Rc::new(on_event), ..sim::Options::default() };
    let (shard, _) = sim::open(io.clone(), Path::new("/data"), options).await.unwrap();
    let mut config = LogConfig::default();
    config.segment_bytes = 2500;
    let (name, id) = (TopicPartition::new("t", 0), TopicId([1; 16]));
    let partition = match shard.partition(&name) {
        Ok(partition) => partition,
        Err(_) => shard.create_as(&name, id, LeaderEpoch(0), config).await.unwrap(),
    };
    (shard, partition)
}

fn batch(io: &Sim) -> Batch {
    Batch::build().record(None, Some(&[7; 1000]), &[], io.timestamp()).done().unwrap()
}

/// Appends until `count` more batches are durable; how often that was refused.
async fn append(io: &Sim, partition: &Partition<Sim>, count: usize) -> usize {
    let (mut done, mut refused) = (0, 0);
    while done < count {
        match partition.append(&batch(io)) {
            Ok(span) => match partition.reach(Mark::Durable, &span).await {
                Ok(_) => done += 1,
                Err(_) => refused += 1,
            },
            Err(AppendError::Full) => {
                refused += 1;
                io.sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    refused
}

/// A producer through many rolls and some checkpoints, while `rules` strike; all of it is there
/// after a power cut. How often it was refused.
fn goes_on(rules: impl IntoIterator<Item = Rule>) -> usize {
    let faults = rules.into_iter().fold(Faults::none(), Faults::with);
    let mut world = World::new(1, faults);
    let refused = world
        .boot(|io| async move {
            let (_shard, partition) = open(&io).await;
            let mut refused = append(&io, &partition, 10).await;
            io.sleep(LONG).await;
            refused += append(&io, &partition, 10).await;
            io.sleep(LONG).await;
            refused + append(&io, &partition, 1).await
        })
        .done();
    world.crash();
    world.set_faults(Faults::none());
    world
        .boot(|io| async move {
            let (_shard, partition) = open(&io).await;
            assert_eq!(partition.marks().high_watermark, Offset(21));
        })
        .done();
    refused
}

fn on(kind: OpKind, end: &'static str) -> Rule {
    Rule::on(kind, Fault::Descriptors).named(move |path| path.ends_with(end)).times(3)
}

#[test]
fn a_roll_without_a_descriptor_is_refused_and_made_later() {
    let spare = on(OpKind::Open, "next-segment.tmp").times(u64::MAX);
    assert_eq!(goes_on([spare, on(OpKind::Open, ".log").after(1)]), 3);
}

#[test]
fn a_checkpoint_without_a_descriptor_is_made_later() {
    for file in ["recovery-point-offset-checkpoint.tmp", "leader-epoch-checkpoint.tmp", ".index"] {
        goes_on([on(OpKind::Open, file)]);
    }
}

#[test]
fn a_directory_that_was_not_opened_is_synced_later() {
    // Its creation syncs it first.
    goes_on([on(OpKind::SyncDir, "/t-0").after(2)]);
    goes_on([on(OpKind::SyncDir, "/data").after(4)]);
}
