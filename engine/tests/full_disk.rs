//! A disk with little room is used to the end.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Faults, World};
use kariz_engine::{
    LeaderEpoch, LogConfig, Mark, Offset, ReachError, TopicId, TopicPartition, sim,
};
use std::path::Path;
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
                shard.create(&name, id, LeaderEpoch(0), LogConfig::default()).await.unwrap();
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
