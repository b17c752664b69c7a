//! A partition whose disk fails while the journal goes on.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::sim::{Fault, Faults, OpKind, Rule, Sim, World};
use kariz_engine::io::{File, Io, OpenMode};
use kariz_engine::{LeaderEpoch, LogConfig, Mark, Offset, Shard, TopicId, TopicPartition, sim};
use std::path::Path;
use std::time::Duration;

fn name() -> TopicPartition {
    TopicPartition::new("t", 0)
}

async fn open(io: &Sim) -> Shard<Sim> {
    sim::open(io.clone(), Path::new("/data"), sim::Options::default()).await.unwrap().0
}

fn up_to(io: &Sim, most: Duration) -> Duration {
    Duration::from_micros(io.random() % u64::try_from(most.as_micros()).unwrap())
}

/// The epoch file is a cache. What covers no more than it costs the partition nothing; a failed sync
/// may have lost the names of its segments as well.
#[test]
fn leader_epochs_that_cannot_be_saved_stop_nobody_unless_a_sync_failed() {
    let aside = |path: &str| path.ends_with("leader-epoch-checkpoint.tmp");
    for (kind, is_fenced) in [
        (OpKind::Open, false),
        (OpKind::Write, false),
        (OpKind::Rename, false),
        (OpKind::Sync, true),
    ] {
        let mut world = World::new(1, Faults::none().with(Rule::on(kind, Fault::Io).named(aside)));
        let failure = world
            .boot(|io| async move {
                let shard = open(&io).await;
                let (id, epoch) = (TopicId([1; 16]), LeaderEpoch(0));
                let partition =
                    shard.create_as(&name(), id, epoch, LogConfig::default()).await.unwrap();
                for _ in 0..2 {
                    let batch = Batch::build().record(None, None, &[], io.timestamp());
                    let _unless_it_failed = partition.append(&batch.done().unwrap());
                    // Past a checkpoint by time.
                    io.sleep(Duration::from_secs(40)).await;
                }
                partition.failure()
            })
            .done();
        assert_eq!(failure.is_some(), is_fenced, "{kind:?}: {failure:?}");
    }
}

/// Who stops it must hear of it: what was staged is lost, and nothing says that the stop was clean.
#[test]
fn the_end_of_a_core_whose_disk_has_failed_is_an_error() {
    let cases = [("kariz.journal", false), (".log", true), ("nothing", false), ("nothing", true)];
    for (failing, write_caching) in cases {
        let rule = Rule::on(OpKind::Sync, Fault::Io).named(move |path| path.ends_with(failing));
        let mut world = World::new(1, Faults::none());
        let ended = world.boot(move |io| async move {
            let shard = open(&io).await;
            let mut config = LogConfig::default();
            config.write_caching = write_caching;
            let (id, epoch) = (TopicId([1; 16]), LeaderEpoch(0));
            let partition = shard.create_as(&name(), id, epoch, config).await.unwrap();
            io.set_faults(Faults::none().with(rule));
            let batch = Batch::build().record(None, None, &[], io.timestamp());
            partition.append(&batch.done().unwrap()).unwrap();
            // Past a checkpoint by time.
            io.sleep(Duration::from_secs(40)).await;
            sim::close(&shard).await
        });
        let is_good = failing == "nothing";
        assert_eq!(ended.done().is_ok(), is_good, "{failing}, write.caching: {write_caching}");
        let names = world.disk().list("/data").unwrap();
        let is_clean = names.iter().any(|entry| entry.name == ".kafka_cleanshutdown");
        assert_eq!(is_clean, is_good, "{failing}, write.caching: {write_caching}");
    }
}

/// Its entries on their way to the journal are as good as in it: one that was freed would leave a
/// hole before those that come after it.
#[test]
fn what_was_on_its_way_to_the_journal_when_a_partition_failed_leaves_no_hole() {
    for seed in 380..420 {
        let epochs =
            Rule::on(OpKind::Sync, Fault::Io).named(|p| p.contains("leader-epoch")).times(1);
        let mut world = World::new(seed, Faults::none().with(epochs));
        world
            .boot(|io| async move {
                let shard = open(&io).await;
                let mut config = LogConfig::default();
                config.segment_bytes = 300;
                config.retention_ms = -1;
                let (id, epoch) = (TopicId([1; 16]), LeaderEpoch(0));
                let partition = shard.create_as(&name(), id, epoch, config).await.unwrap();
                for i in 0..6 {
                    let batch = Batch::build().record(None, Some(&[7; 100]), &[], io.timestamp());
                    let _until_it_fails = partition.append(&batch.done().unwrap());
                    io.sleep(up_to(&io, Duration::from_millis(4))).await;
                    if i == 1 {
                        partition.trim(Offset(0)).unwrap();
                    }
                }
                io.sleep(up_to(&io, Duration::from_millis(80))).await;
            })
            .done();
        world.kill();
        world.boot(|io| async move { drop(open(&io).await) }).done();
        world.crash();
        world
            .boot(move |io| async move {
                let shard = open(&io).await;
                let partition = shard.partition(&name()).unwrap();
                let mut at = Offset(0);
                while at < partition.marks().high_watermark {
                    let slice = partition.slice(at, 1 << 20).await.unwrap();
                    for batch in slice.batches().unwrap() {
                        assert_eq!(batch.header().base_offset(), at, "seed {seed}");
                        at = batch.header().next_offset();
                    }
                }
            })
            .done();
    }
}

/// Damage that a reader meets takes nothing of what was promised: the journal lets go of it once the
/// partition's files hold it, as ever.
#[test]
fn what_a_partition_promised_before_it_was_fenced_outlives_the_journal() {
    const BEFORE: i64 = 6;
    for seed in 0..30 {
        // Or the files' sync fails, and the journal has to keep it.
        for failing in [false, true] {
            let mut world = World::new(seed, Faults::none());
            world
                .boot(move |io| async move {
                    let shard = open(&io).await;
                    let mut config = LogConfig::default();
                    (config.segment_bytes, config.retention_ms) = (400, -1);
                    let (id, epoch) = (TopicId([1; 16]), LeaderEpoch(0));
                    let log = shard.create_as(&name(), id, epoch, config).await.unwrap();
                    for i in 0..BEFORE + 2 {
                        let batch =
                            Batch::build().record(None, Some(&[7; 100]), &[], io.timestamp());
                        let span = log.append(&batch.done().unwrap()).unwrap();
                        log.reach(Mark::High, &span).await.unwrap();
                        if i == BEFORE {
                            // Past a checkpoint by time.
                            io.sleep(Duration::from_secs(40)).await;
                        }
                    }
                    let first = Path::new("/data/t-0/00000000000000000000.log");
                    let file = io.open(first, OpenMode::Write).unwrap();
                    file.write_at(&[std::io::IoSlice::new(&[0xff])], 16).unwrap();
                    assert!(log.slice(Offset(0), 1).await.is_err());
                    if failing {
                        let rule = Rule::on(OpKind::Sync, Fault::Io).named(|p| p.ends_with(".log"));
                        io.set_faults(Faults::none().with(rule));
                    }
                    io.sleep(Duration::from_secs(40)).await;
                })
                .done();
            world.set_faults(Faults::none());
            world.crash();
            let found = world
                .boot(|io| async move {
                    let opened = sim::open(io, Path::new("/data"), sim::Options::default()).await;
                    opened.unwrap().1.partitions.remove(0)
                })
                .done();
            let is_kept = found.log_end == Offset(BEFORE + 2);
            assert!(is_kept || found.fenced.is_some(), "{seed}, {failing}: {found:?}");
        }
    }
}
