//! The next segment's file is made before it is needed: a roll waits for no file to be made.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Disk, Fault, Faults, OpKind, Rule, Sim, World};
use kariz_engine::{
    AppendError, LeaderEpoch, LogConfig, Mark, Offset, Partition, Shard, TopicId, TopicPartition,
    sim,
};
use std::path::Path;
use std::time::Duration;

const SPARE: &str = "/data/t-0/next-segment.tmp";
/// Batches are of some 200 bytes: twenty or so to a segment.
const SEGMENT_BYTES: u64 = 4000;

async fn open(io: &Sim) -> Shard<Sim> {
    let options = sim::Options::default();
    sim::open(io.clone(), Path::new("/data"), options).await.unwrap().0
}

async fn create(shard: &Shard<Sim>) -> Partition<Sim> {
    let mut config = LogConfig::default();
    config.segment_bytes = SEGMENT_BYTES;
    let (name, id) = (TopicPartition::new("t", 0), TopicId([1; 16]));
    shard.create_as(&name, id, LeaderEpoch(0), config).await.unwrap()
}

/// Appends a batch durably; whether there was room for it.
async fn append(io: &Sim, partition: &Partition<Sim>) -> bool {
    let batch = Batch::build().record(None, Some(&[7; 128]), &[], io.timestamp()).done().unwrap();
    match partition.append(&batch) {
        Ok(span) => partition.reach(Mark::Durable, &span).await.is_ok(),
        Err(AppendError::Full) => false,
        Err(error) => panic!("{error}"),
    }
}

fn names(disk: &Disk) -> Vec<String> {
    disk.list("/data/t-0").unwrap().into_iter().map(|entry| entry.name).collect()
}

fn has_spare(disk: &Disk) -> bool {
    disk.read(SPARE).is_ok()
}

/// Appends until the next segment's file is there.
async fn append_until_spare(io: &Sim, partition: &Partition<Sim>) {
    while !has_spare(&io.disk()) {
        assert!(append(io, partition).await);
        io.sleep(Duration::from_millis(5)).await;
    }
}

fn run<F: Future<Output = ()> + 'static>(seed: u64, main: impl FnOnce(Sim) -> F) {
    World::new(seed, Faults::none()).boot(main).done();
}

#[test]
fn a_roll_makes_no_file() {
    run(1, |io| async move {
        let shard = open(&io).await;
        let partition = create(&shard).await;
        let segments = Rule::on(OpKind::Open, Fault::Io).named(|path| path.ends_with(".log"));
        io.set_faults(Faults::none().with(segments));
        // To shortly behind a roll.
        for _ in 0..205 {
            assert!(append(&io, &partition).await);
            io.sleep(Duration::from_millis(5)).await;
        }
        let names = names(&io.disk());
        let segments: Vec<&str> = names.iter().filter_map(|n| n.strip_suffix(".log")).collect();
        assert!(segments.len() >= 10, "{names:?}");
        // No checkpoint has come yet, which would make the index files in its own turn.
        for segment in segments {
            for of_index in ["index", "timeindex"] {
                assert!(names.contains(&format!("{segment}.{of_index}")), "{names:?}");
            }
        }
        io.set_faults(Faults::none());
        for i in 0..205 {
            let first = partition.slice(Offset(i), 1).await.unwrap().batches().unwrap();
            assert_eq!(first[0].header().base_offset(), Offset(i));
        }
    });
}

#[test]
fn a_segment_that_grows_old_has_a_spare_too() {
    run(1, |io| async move {
        let shard = open(&io).await;
        let partition = create(&shard).await;
        let mut config = LogConfig::default();
        config.segment_ms = 80_000;
        partition.configure(config);
        for second in 0..79 {
            assert!(append(&io, &partition).await);
            assert_eq!(has_spare(&io.disk()), second > 70, "after {second} s");
            io.sleep(Duration::from_secs(1)).await;
        }
    });
}

#[test]
fn without_a_spare_a_roll_makes_the_file_itself() {
    run(1, |io| async move {
        let shard = open(&io).await;
        let partition = create(&shard).await;
        let spares = Rule::on(OpKind::Open, Fault::Io).named(|path| path == SPARE);
        io.set_faults(Faults::none().with(spares));
        for _ in 0..100 {
            assert!(append(&io, &partition).await);
        }
        assert!(names(&io.disk()).iter().filter(|name| name.ends_with(".log")).count() > 3);
        assert_eq!(partition.failure(), None);
    });
}

#[test]
fn a_full_disk_has_no_room_for_a_spare() {
    run(1, |io| async move {
        let shard = open(&io).await;
        let partition = create(&shard).await;
        let mut config = LogConfig::default();
        config.segment_ms = 80_000;
        partition.configure(config);
        assert!(append(&io, &partition).await);
        // Also until the journal has its full size: it takes room in steps of its own.
        io.sleep(Duration::from_secs(75)).await;
        append_until_spare(&io, &partition).await;
        let disk = io.disk();
        disk.set_capacity(disk.used_bytes());
        while append(&io, &partition).await {}
        assert!(!has_spare(&disk), "{:?}", names(&disk));
        // Room for a checkpoint, and for more.
        disk.set_capacity(disk.used_bytes() + (64 << 10));
        io.sleep(Duration::from_secs(1)).await;
        assert!(append(&io, &partition).await);
        assert_eq!(partition.failure(), None);
    });
}

#[test]
fn neither_an_orderly_stop_nor_a_start_leaves_a_spare() {
    for is_orderly in [true, false] {
        let mut world = World::new(1, Faults::none());
        world
            .boot(move |io| async move {
                let shard = open(&io).await;
                let partition = create(&shard).await;
                append_until_spare(&io, &partition).await;
                if is_orderly {
                    sim::close(&shard).await.unwrap();
                }
            })
            .done();
        world.kill();
        assert_eq!(has_spare(&world.disk()), !is_orderly);
        world.boot(|io| async move { drop(open(&io).await) }).done();
        assert!(!has_spare(&world.disk()));
    }
}

#[test]
fn a_spare_does_not_come_into_the_directory_of_the_next_partition_of_that_name() {
    for seed in 0..200 {
        run(seed, |io| async move {
            let shard = open(&io).await;
            let partition = create(&shard).await;
            while partition.size_bytes() < SEGMENT_BYTES - SEGMENT_BYTES / 8 {
                assert!(append(&io, &partition).await);
            }
            shard.delete(partition.name()).await.unwrap();
            create(&shard).await;
            io.sleep(Duration::from_secs(1)).await;
            assert!(!has_spare(&io.disk()), "seed {seed}");
        });
    }
}
