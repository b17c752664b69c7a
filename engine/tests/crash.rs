//! The power is cut, and the process killed, at every operation of one scripted life of a core: all
//! of them, where the simulation tries some. What was promised must be there at the next start, the
//! start must succeed, and the core must be of use.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{End, Event, Faults, OpKind, Outcome, Sim, World};
use kariz_engine::{
    LeaderEpoch, LogConfig, Mark, Offset, Partition, Shard, Timestamp, TopicId, TopicPartition, sim,
};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// What a power cut leaves differs by seed.
const SEEDS: u64 = 8;
/// A batch takes about this, so that three of them fill a segment.
const VALUE_BYTES: usize = 300;
/// So that the third of them asks for the next segment's file before the fourth needs it.
const SEGMENT_BYTES: u64 = 1200;

/// Whether a partition is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum There {
    #[default]
    No,
    /// Its creation, or its deletion, has begun and not ended.
    Perhaps,
    Yes,
}

/// What must be on the disk, as far as anybody was told.
#[derive(Debug, Default)]
struct Told {
    kept: There,
    deleted: There,
    /// One record a batch; each is its own offset times ten, plus how often that was written.
    records: Vec<u8>,
    promised: usize,
    /// A cut has begun and not ended.
    cutting: Option<usize>,
}

type Shared = Rc<RefCell<Told>>;

fn name(topic: &str) -> TopicPartition {
    TopicPartition::new(topic, 0)
}

async fn open(io: &Sim) -> Shard<Sim> {
    let options = sim::Options { journal_bytes: 4 << 10, ..sim::Options::default() };
    let opened = sim::open(io.clone(), Path::new("/data"), options).await;
    let (shard, report) = opened.expect("a start must succeed");
    for partition in &report.partitions {
        assert_eq!(partition.fenced, None, "{}", partition.partition);
    }
    shard
}

async fn create(shard: &Shard<Sim>, topic: &str, id: u8) -> Partition<Sim> {
    let mut config = LogConfig::default();
    config.segment_bytes = SEGMENT_BYTES;
    config.index_interval_bytes = 0;
    shard.create_as(&name(topic), TopicId([id; 16]), LeaderEpoch(0), config).await.unwrap()
}

/// Appends one record, and waits until it is durable if `promise`.
async fn append(told: &Shared, log: &Partition<Sim>, value: u8, promise: bool) {
    let bytes = [value; VALUE_BYTES];
    let batch = Batch::build().record(None, Some(&bytes), &[], Timestamp(1)).done().unwrap();
    told.borrow_mut().records.push(value);
    let span = log.append(&batch).unwrap();
    assert_eq!(span.end, end(&told.borrow().records));
    if promise {
        log.reach(Mark::Durable, &span).await.unwrap();
        let all = told.borrow().records.len();
        told.borrow_mut().promised = all;
    }
}

fn end(records: &[u8]) -> Offset {
    Offset(i64::try_from(records.len()).unwrap())
}

/// The whole script: create, append, commit, roll, truncate, delete, close, open, checkpoint.
async fn live(io: Sim, told: Shared) {
    let shard = open(&io).await;
    told.borrow_mut().kept = There::Perhaps;
    let kept = create(&shard, "kept", 1).await;
    told.borrow_mut().kept = There::Yes;
    for value in [0, 10, 20] {
        append(&told, &kept, value, true).await;
    }
    append(&told, &kept, 30, false).await;
    append(&told, &kept, 40, true).await;

    told.borrow_mut().cutting = Some(2);
    shard.truncate(&kept, Offset(2)).await.unwrap();
    {
        let mut told = told.borrow_mut();
        told.records.truncate(2);
        (told.promised, told.cutting) = (2, None);
    }
    append(&told, &kept, 21, true).await;
    append(&told, &kept, 31, false).await;

    told.borrow_mut().deleted = There::Perhaps;
    let deleted = create(&shard, "deleted", 2).await;
    told.borrow_mut().deleted = There::Yes;
    let batch = Batch::build().record(None, Some(b"x"), &[], Timestamp(1)).done().unwrap();
    let span = deleted.append(&batch).unwrap();
    deleted.reach(Mark::Durable, &span).await.unwrap();
    told.borrow_mut().deleted = There::Perhaps;
    shard.delete(&name("deleted")).await.unwrap();
    told.borrow_mut().deleted = There::No;

    sim::close(&shard).await.unwrap();
    let all = told.borrow().records.len();
    told.borrow_mut().promised = all;

    let shard = open(&io).await;
    let kept = shard.partition(&name("kept")).unwrap();
    append(&told, &kept, 41, true).await;
    append(&told, &kept, 51, false).await;
    // Long enough for a checkpoint.
    io.sleep(Duration::from_secs(35)).await;
    append(&told, &kept, 61, true).await;
}

/// The next start: all that was promised is there, nothing else is, and there is room for more.
async fn check(io: Sim, told: Shared) {
    let shard = open(&io).await;
    let deleted = shard.partition(&name("deleted")).is_ok();
    match told.borrow().deleted {
        There::No => assert!(!deleted, "a deleted partition is back"),
        There::Yes => assert!(deleted, "a created partition is gone"),
        There::Perhaps => {}
    }
    let Ok(kept) = shard.partition(&name("kept")) else {
        assert_ne!(told.borrow().kept, There::Yes, "a created partition is gone");
        return;
    };
    let found = read(&kept).await;
    {
        let mut told = told.borrow_mut();
        let floor = told.promised.min(told.cutting.unwrap_or(usize::MAX));
        assert!(found.len() >= floor, "{found:?} of {told:?}");
        assert_eq!(told.records.get(..found.len()), Some(&found[..]), "{told:?}");
        (told.promised, told.cutting) = (found.len(), None);
        told.records = found;
    }
    append(&told, &kept, 255, true).await;
}

async fn read(log: &Partition<Sim>) -> Vec<u8> {
    let mut values = Vec::new();
    let marks = log.marks();
    assert_eq!(marks.high_watermark, marks.written, "what recovery kept is durable");
    loop {
        let slice = log.slice(end(&values), 1 << 20).await.unwrap();
        if slice.is_empty() {
            assert_eq!(end(&values), marks.written);
            return values;
        }
        for batch in slice.batches().unwrap() {
            for record in batch.records(1 << 20).unwrap().iter().map(Result::unwrap) {
                assert_eq!(record.offset, end(&values));
                let value = record.value.unwrap();
                assert!(value.len() == VALUE_BYTES && value.iter().all(|byte| *byte == value[0]));
                values.push(value[0]);
            }
        }
    }
}

fn cut_at(point: u64, stop: End, seed: u64) {
    let told = Shared::default();
    let mut world = World::new(seed, Faults::none());
    world.stop_after(point, stop);
    let mine = Rc::clone(&told);
    let lived = world.boot(move |io| live(io, mine));
    assert!(matches!(lived, Outcome::Stopped(_)), "{lived:?}");
    // Once after the cut; then after a kill, for what the first start promised; then after a cut,
    // for what the second one kept.
    for next in [End::Killed, End::PowerCut, End::PowerCut] {
        let mine = Rc::clone(&told);
        world.boot(move |io| check(io, mine)).done();
        match next {
            End::Killed => world.kill(),
            End::PowerCut => world.crash(),
        }
    }
}

#[test]
fn every_operation_may_be_the_last() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, Faults::none());
        world.keep_history(1 << 20);
        world.boot(|io| live(io, Shared::default())).done();
        let is_roll = |event: &Event| {
            event.kind == OpKind::Rename && event.path.ends_with("next-segment.tmp")
        };
        assert!(world.history().iter().any(is_roll), "the script takes no spare");
        let points = world.cut_points();
        assert!(points > 100, "the script has shrunk to {points} operations");
        for point in 1..=points {
            for stop in [End::PowerCut, End::Killed] {
                let ran = std::panic::catch_unwind(|| cut_at(point, stop, seed));
                if let Err(panic) = ran {
                    eprintln!("seed {seed}, {stop:?} at operation {point} of {points}");
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
}
