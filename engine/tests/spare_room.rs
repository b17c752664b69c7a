//! What is held for later goes when the disk is full, and holds nobody up who deletes.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Disk, Faults, Sim, World};
use kariz_engine::{
    AppendError, LeaderEpoch, LogConfig, Mark, Partition, Shard, TopicId, TopicPartition, sim,
};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Until then the journal has its size, for which it takes room in steps.
const GROWN: Duration = Duration::from_secs(75);
/// Longer than from one checkpoint to the next.
const CHECKPOINTED: Duration = Duration::from_secs(40);

async fn open(io: &Sim) -> Shard<Sim> {
    sim::open(io.clone(), Path::new("/data"), sim::Options::default()).await.unwrap().0
}

async fn create(shard: &Shard<Sim>, topic: &str, segment_bytes: u64) -> Partition<Sim> {
    let mut config = LogConfig::default();
    config.segment_bytes = segment_bytes;
    let id = TopicId(shard.io().random().to_be_bytes().repeat(2).try_into().unwrap());
    shard.create_as(&TopicPartition::new(topic, 0), id, LeaderEpoch(0), config).await.unwrap()
}

/// Appends a batch of some `bytes` durably; whether there was room for it.
async fn append(io: &Sim, partition: &Partition<Sim>, bytes: usize) -> bool {
    let batch = Batch::build().record(None, Some(&vec![7; bytes]), &[], io.timestamp()).done();
    match partition.append(&batch.unwrap()) {
        Ok(span) => partition.reach(Mark::Durable, &span).await.is_ok(),
        Err(AppendError::Full) => false,
        Err(error) => panic!("{error}"),
    }
}

fn spare(topic: &str) -> String {
    format!("/data/{topic}-0/next-segment.tmp")
}

fn has_spare(disk: &Disk, topic: &str) -> bool {
    disk.read(spare(topic)).is_ok()
}

/// Appends batches of `bytes` until the next segment's file is there.
async fn append_until_spare(io: &Sim, partition: &Partition<Sim>, topic: &str, bytes: usize) {
    while !has_spare(&io.disk(), topic) {
        assert!(append(io, partition, bytes).await);
        io.sleep(Duration::from_millis(5)).await;
    }
}

fn run<F: Future<Output = ()> + 'static>(main: impl FnOnce(Sim) -> F) {
    World::new(1, Faults::none()).boot(main).done();
}

/// Appends are refused then before any of them could find the disk full itself.
#[test]
fn a_checkpoint_without_room_takes_that_of_a_spare() {
    run(|io| async move {
        let shard = open(&io).await;
        let partition = create(&shard, "t", 1 << 20).await;
        io.sleep(GROWN).await;
        append_until_spare(&io, &partition, "t", 10_000).await;
        let disk = io.disk();
        disk.set_capacity(disk.used_bytes());
        // Goes where room is allocated already.
        assert!(append(&io, &partition, 100).await);
        io.sleep(CHECKPOINTED).await;
        assert!(!has_spare(&disk, "t"));
        assert!(append(&io, &partition, 100).await);
    });
}

#[test]
fn a_partition_without_room_takes_that_of_anothers_spare() {
    run(|io| async move {
        let shard = open(&io).await;
        let idle = create(&shard, "idle", 1 << 20).await;
        let busy = create(&shard, "busy", 1 << 20).await;
        assert!(append(&io, &busy, 100).await);
        io.sleep(GROWN).await;
        append_until_spare(&io, &idle, "idle", 10_000).await;
        io.sleep(CHECKPOINTED).await;
        let disk = io.disk();
        disk.set_capacity(disk.used_bytes() + (64 << 10));
        while append(&io, &busy, 10_000).await {}
        io.sleep(Duration::from_secs(1)).await;
        assert!(!has_spare(&disk, "idle"));
        assert!(append(&io, &busy, 10_000).await);
    });
}

#[test]
fn no_batch_is_refused_for_the_room_of_its_own_partitions_spare() {
    run(|io| async move {
        let shard = open(&io).await;
        let partition = create(&shard, "t", 64 << 20).await;
        io.sleep(GROWN).await;
        append_until_spare(&io, &partition, "t", 1_000_000).await;
        let disk = io.disk();
        disk.set_capacity(disk.used_bytes());
        while append(&io, &partition, 1_000_000).await {}
        assert!(!has_spare(&disk, "t"));
        assert!(!append(&io, &partition, 1_000_000).await, "there was room for the one before");
    });
}

#[test]
fn a_spare_that_comes_when_the_disk_is_full_is_not_kept() {
    for delay_us in (0..2000).step_by(50) {
        run(move |io| async move {
            let shard = open(&io).await;
            let partition = create(&shard, "t", 1 << 20).await;
            let other = create(&shard, "other", 1 << 20).await;
            while partition.size_bytes() < (1 << 20) - (1 << 17) {
                assert!(append(&io, &partition, 10_000).await);
            }
            io.sleep(Duration::from_micros(delay_us)).await;
            let disk = io.disk();
            disk.set_capacity(disk.used_bytes());
            while append(&io, &other, 10_000).await {}
            io.sleep(Duration::from_secs(1)).await;
            assert!(!has_spare(&disk, "t"), "full {delay_us} us after it was asked for");
        });
    }
}

#[test]
fn a_spare_that_somebody_removed_is_made_at_the_roll() {
    run(|io| async move {
        let shard = open(&io).await;
        let partition = create(&shard, "t", 1 << 20).await;
        append_until_spare(&io, &partition, "t", 10_000).await;
        io.disk().remove(spare("t")).unwrap();
        for _ in 0..200 {
            assert!(append(&io, &partition, 10_000).await);
        }
        assert_eq!(partition.failure(), None);
        assert!(partition.size_bytes() > 2 << 20, "it has rolled");
    });
}

/// Deletions begin one after the other, for the files that are being made, and end together.
#[test]
fn deletions_at_once_wait_for_the_disk_once() {
    const MANY: u32 = 64;
    run(|io| async move {
        let shard = open(&io).await;
        for i in 0..MANY {
            create(&shard, &format!("t{i}"), 1 << 20).await;
        }
        let left = Rc::new(Cell::new(MANY));
        let began = io.now();
        for i in 0..MANY {
            let (shard, left) = (shard.clone(), Rc::clone(&left));
            io.spawn(async move {
                shard.delete(&TopicPartition::new(format!("t{i}"), 0)).await.unwrap();
                left.set(left.get() - 1);
            });
        }
        while left.get() > 0 {
            io.sleep(Duration::from_micros(10)).await;
        }
        // One takes some 400 us.
        let took = io.now() - began;
        assert!(took < Duration::from_millis(2), "{MANY} took {took:?}");
    });
}
