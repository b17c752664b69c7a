//! Whoever waits until the disk keeps up with a core is let on when it never will, and told why.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Fault, Faults, OpKind, Rule, World};
use kariz_engine::{AppendError, LeaderEpoch, LogConfig, Mark, TopicId, TopicPartition, sim};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// Appends until there is no room, has `fault` strike what is to make some, waits for it, and
/// returns what the next append gets. Without an end to the waiting the simulated hour ends.
fn append_after_waiting(fault: Rule) -> Result<(), AppendError> {
    let (tell, told) = mpsc::channel();
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let options = sim::Options { dirty_bytes_max: 64 << 10, ..sim::Options::default() };
            let (shard, _) = sim::open(io.clone(), Path::new("/data"), options).await.unwrap();
            let (name, id) = (TopicPartition::new("t", 0), TopicId([1; 16]));
            let partition =
                shard.create_as(&name, id, LeaderEpoch(0), LogConfig::default()).await.unwrap();
            // Until the journal has its full size.
            io.sleep(Duration::from_secs(60)).await;
            io.set_faults(Faults::none().with(fault));
            let append = || {
                let payload = [7; 10_000];
                let batch = Batch::build().record(None, Some(&payload), &[], io.timestamp());
                partition.append(&batch.done().unwrap())
            };
            while shard.has_room() {
                partition.reach(Mark::Appended, &append().unwrap()).await.unwrap();
            }
            shard.room().await;
            tell.send(append().map(drop)).unwrap();
        })
        .done();
    told.recv().unwrap()
}

#[test]
fn a_checkpoint_makes_room() {
    let none = Rule::on(OpKind::Sync, Fault::Io).times(0);
    append_after_waiting(none).unwrap();
}

#[test]
fn a_checkpoint_for_which_the_disk_is_too_full_makes_none() {
    let full =
        Rule::on(OpKind::Write, Fault::NoSpace).named(|path| path.contains("recovery-point"));
    let error = append_after_waiting(full).unwrap_err();
    assert!(matches!(error, AppendError::Full), "{error:?}");
}

#[test]
fn a_core_that_has_failed_makes_none() {
    let failed = Rule::on(OpKind::Write, Fault::Io).named(|path| path.contains("recovery-point"));
    let error = append_after_waiting(failed).unwrap_err();
    assert!(matches!(error, AppendError::Failed(_)), "{error:?}");
}
