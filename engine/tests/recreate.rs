//! A partition that is deleted, and another one of its name: what was said of the first is not
//! true of the second; and records without an owner are not written over.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::sim::{End, Faults, Outcome, Sim, World};
use kariz_engine::io::{File, Io, OpenMode};
use kariz_engine::{
    Config, CreateError, Engine, LeaderEpoch, LogConfig, Mark, Offset, Partition, Shard, ShardId,
    Timestamp, TopicId, TopicPartition, sim,
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

async fn try_create(shard: &Shard<Sim>, id: u8) -> Result<Partition<Sim>, CreateError> {
    let mut config = LogConfig::default();
    config.segment_bytes = 1000;
    config.retention_ms = -1;
    shard.create_as(&name(), TopicId([id; 16]), LeaderEpoch(0), config).await
}

async fn create(shard: &Shard<Sim>, id: u8) -> Partition<Sim> {
    try_create(shard, id).await.unwrap()
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
            world
                .boot(move |io| async move {
                    let (shard, report) = open(&io).await;
                    let at = format!("seed {seed}, {end:?} at {point}");
                    let Some(promised) = promised else {
                        // Deleted, and not lost: whoever wants another gets one.
                        if report.is_empty() {
                            create(&shard, 3).await;
                        }
                        return;
                    };
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
            assert!(shard.partition(&name()).is_err());
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
            let made = shard.create_as(&name(), TopicId([1; 16]), LeaderEpoch(1), config).await;
            let error = made.err().unwrap().to_string();
            assert!(error.contains("restore that, or move them away"), "{error}");
        })
        .done();
    assert_eq!(world.disk().read(LOG).unwrap(), before);
}

#[test]
fn the_journal_outlives_a_start_that_cannot_tell_whose_its_records_are() {
    const LOG: &str = "/data/t-0/00000000000000000000.log";
    const METADATA: &str = "/data/t-0/partition.metadata";
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let (shard, _) = open(&io).await;
            let partition = create(&shard, 1).await;
            append(&io, &partition).await;
            append(&io, &partition).await;
        })
        .done();
    world.kill();
    // The second record is in the journal only, and the partition has lost its name.
    let (log, metadata) = (world.disk().read(LOG).unwrap(), world.disk().read(METADATA).unwrap());
    world.disk().truncate(LOG, log.len() as u64 / 2).unwrap();
    world.disk().truncate(METADATA, 20).unwrap();
    world
        .boot(|io| async move {
            let opened = sim::open(io, Path::new("/data"), sim::Options::default()).await;
            let error = opened.err().unwrap().to_string();
            let id = TopicId([1; 16]).to_string();
            assert!(error.contains("restore that file") && error.contains(&id), "{error}");
        })
        .done();
    world.kill();
    world
        .boot(move |io| async move {
            let file = io.open(Path::new(METADATA), OpenMode::Create).unwrap();
            file.write_at(&[std::io::IoSlice::new(&metadata)], 0).unwrap();
            let (shard, report) = open(&io).await;
            assert_eq!((report[0].log_end, report[0].fenced.as_ref()), (Offset(2), None));
            sim::close(&shard).await.unwrap();
        })
        .done();
    assert_eq!(world.disk().read(LOG).unwrap(), log);
}

/// Thirty records, of which ten are trimmed, and perhaps noted in the checkpoints; then the
/// directory goes, for which nobody has asked.
fn lose(is_noted: bool) -> World {
    let mut world = World::new(1, Faults::none());
    world
        .boot(move |io| async move {
            let (shard, _) = open(&io).await;
            let partition = create(&shard, 1).await;
            for _ in 0..30 {
                append(&io, &partition).await;
            }
            if is_noted {
                partition.trim(Offset(10)).unwrap();
                io.sleep(CHECKPOINTED).await;
            }
        })
        .done();
    world.crash();
    let away = |io: Sim| async move {
        io.rename(Path::new("/data/t-0"), Path::new("/data/away")).unwrap();
        io.sync_dir(Path::new("/data")).await.unwrap();
    };
    world.boot(away).done();
    world
}

/// Asks for the partition, with records up to offset 30, as the cluster does at each start.
async fn is_refused(shard: &Shard<Sim>) {
    match try_create(shard, 1).await.map(drop).unwrap_err() {
        CreateError::Lost { partition, end } => {
            assert_eq!((partition, end), (name(), Offset(30)));
        }
        error => panic!("{error}"),
    }
}

#[test]
fn a_partition_whose_directory_is_gone_is_not_made_anew() {
    for is_noted in [true, false] {
        let mut world = lose(is_noted);
        for is_clean in [false, true, true] {
            world
                .boot(move |io| async move {
                    let (shard, report) = open(&io).await;
                    assert!(report.is_empty());
                    is_refused(&shard).await;
                    // Past the next checkpoint.
                    let other = TopicPartition::new("other", 0);
                    let (id, epoch) = (
                        TopicId(io.random().to_be_bytes().repeat(2).try_into().unwrap()),
                        LeaderEpoch(0),
                    );
                    let other =
                        shard.create_as(&other, id, epoch, LogConfig::default()).await.unwrap();
                    append(&io, &other).await;
                    io.sleep(CHECKPOINTED).await;
                    is_refused(&shard).await;
                    shard.delete(other.name()).await.unwrap();
                    if is_clean {
                        sim::close(&shard).await.unwrap();
                    }
                })
                .done();
            if !is_clean {
                world.crash();
            }
        }
    }
}

#[test]
fn a_directory_that_comes_back_is_what_it_was() {
    let mut world = lose(true);
    world
        .boot(|io| async move {
            let (shard, _) = open(&io).await;
            is_refused(&shard).await;
            io.rename(Path::new("/data/away"), Path::new("/data/t-0")).unwrap();
            io.sync_dir(Path::new("/data")).await.unwrap();
        })
        .done();
    world.crash();
    world
        .boot(|io| async move {
            let (shard, report) = open(&io).await;
            assert_eq!((report[0].log_start, report[0].log_end), (Offset(10), Offset(30)));
            append(&io, &shard.partition(&name()).unwrap()).await;
        })
        .done();
}

#[test]
fn a_lost_partition_that_is_deleted_can_be_made_again() {
    for is_noted in [true, false] {
        let mut world = lose(is_noted);
        world
            .boot(|io| async move {
                let (shard, _) = open(&io).await;
                is_refused(&shard).await;
                shard.delete(&name()).await.unwrap();
                append(&io, &create(&shard, 2).await).await;
            })
            .done();
        world.crash();
        world
            .boot(|io| async move {
                let (shard, report) = open(&io).await;
                assert_eq!((report[0].log_end, report[0].fenced.as_ref()), (Offset(1), None));
                drop(shard);
            })
            .done();
    }
}

/// What is known of deletions does not grow without end, and does not stay on the disk.
#[test]
fn deletions_are_forgotten_with_the_next_checkpoint() {
    const POINTS: &str = "/data/recovery-point-offset-checkpoint";
    let traces = |io: &Sim| {
        let entries = io.disk().list("/data").unwrap();
        entries.iter().filter(|entry| entry.name.ends_with("-delete")).count()
    };
    World::new(1, Faults::none())
        .boot(move |io| async move {
            let (shard, _) = open(&io).await;
            append(&io, &create(&shard, 1).await).await;
            io.sleep(CHECKPOINTED).await;
            let noted = || String::from_utf8(io.disk().read(POINTS).unwrap()).unwrap();
            assert!(noted().contains("t 0 1"));
            shard.delete(&name()).await.unwrap();
            assert_eq!(traces(&io), 1);
            io.sleep(CHECKPOINTED).await;
            assert!(!noted().contains("t 0"), "{}", noted());
            assert_eq!(traces(&io), 0);
            // Many of them make it due at once.
            let began = io.now();
            let mut most = 0;
            for i in 0..1100 {
                let name = TopicPartition::new(format!("n{i}"), 0);
                let (id, epoch) = (TopicId([9; 16]), LeaderEpoch(0));
                shard.create_as(&name, id, epoch, LogConfig::default()).await.unwrap();
                shard.delete(&name).await.unwrap();
                most = most.max(traces(&io));
            }
            io.sleep(Duration::from_secs(1)).await;
            assert!(io.now() - began < CHECKPOINTED / 2, "too slow to tell");
            assert!((1000..1100).contains(&most) && traces(&io) < 500, "{most} {}", traces(&io));
        })
        .done();
}

#[test]
fn of_two_that_make_it_at_a_time_one_does() {
    World::new(1, Faults::none())
        .boot(|io| async move {
            let (shard, _) = open(&io).await;
            let made = Rc::new(Cell::new(0));
            for id in [1, 2] {
                let (shard, made) = (shard.clone(), Rc::clone(&made));
                io.spawn(async move {
                    match try_create(&shard, id).await {
                        Ok(_) => made.set(made.get() + 1),
                        Err(CreateError::Exists(_)) => made.set(made.get() + 10),
                        Err(error) => panic!("{error}"),
                    }
                });
            }
            io.sleep(Duration::from_secs(1)).await;
            assert_eq!(made.get(), 11);
            append(&io, &shard.partition(&name()).unwrap()).await;
        })
        .done();
}

/// Its directory's name has no room for what a deletion puts behind it.
#[test]
fn the_longest_name_can_be_deleted() {
    let topic = "x".repeat(249);
    let dir = std::env::temp_dir().join(format!("kariz-long-{}", std::process::id()));
    let engine = Engine::open(&dir, Config { journal_bytes: 8 << 20, ..Config::default() });
    let engine = engine.unwrap();
    let handle = engine.handle();
    let made = handle.on(ShardId(0), move |shard| async move {
        let names = [TopicPartition::new(topic.as_str(), 0), TopicPartition::new(topic, 12)];
        for name in &names {
            let (id, epoch) = (TopicId([9; 16]), LeaderEpoch(0));
            let config = LogConfig::default();
            let partition = shard.create_as(name, id, epoch, config).await.unwrap();
            let batch = Batch::build().record(None, Some(&[7; 100]), &[], Timestamp(1)).done();
            let span = partition.append(&batch.unwrap()).unwrap();
            partition.reach(Mark::Durable, &span).await.unwrap();
        }
        for name in &names {
            shard.delete(name).await.unwrap();
        }
        for name in &names {
            let (id, epoch) = (TopicId([10; 16]), LeaderEpoch(0));
            shard.create_as(name, id, epoch, LogConfig::default()).await.unwrap();
        }
    });
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(made).unwrap();
    engine.shutdown(Duration::from_secs(1)).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Who embeds the engine may have its own mind about ids.
#[test]
fn a_deleted_partition_can_be_made_again_with_the_same_id_after_a_crash() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let (shard, _) = open(&io).await;
            append(&io, &create(&shard, 1).await).await;
            shard.delete(&name()).await.unwrap();
        })
        .done();
    world.crash();
    world
        .boot(|io| async move {
            let (shard, report) = open(&io).await;
            assert!(report.is_empty());
            append(&io, &create(&shard, 1).await).await;
        })
        .done();
}
