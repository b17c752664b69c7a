//! What a reader waits for, and what others wait for while it reads.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::{Batch, Check, Codec};
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Faults, World};
use kariz_engine::{
    Config, Engine, LeaderEpoch, LogConfig, Mark, Offset, Partition, ShardId, Timestamp, TopicId,
    TopicPartition, Want, sim,
};
use std::cell::Cell;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Where a batch's head has its CRC, ...
const CRC: Range<usize> = 17..21;
/// ... from where on that covers it, ...
const COVERED: usize = 21;
/// ... and where it has its largest timestamp.
const MAX_TIMESTAMP: Range<usize> = 35..43;

/// A compressed batch of a record of long ago, whose head says that it is of `claimed`.
fn lying_batch(claimed: Timestamp) -> Batch {
    let built = Batch::build().record(None, Some(&[7; 100]), &[], Timestamp(1));
    let mut wire = built.compress(Codec::Gzip).done().unwrap().wire().to_vec();
    wire[MAX_TIMESTAMP].copy_from_slice(&claimed.0.to_be_bytes());
    let crc = crc32c::crc32c(&wire[COVERED..]);
    wire[CRC].copy_from_slice(&crc.to_be_bytes());
    Batch::parse(wire.into(), Check::Opaque).unwrap()
}

/// Looks into a log of `batches`; what is found, and how many turns another task had meanwhile.
/// Nothing that is in the page cache suspends on a real disk.
fn look<T: Send + 'static>(
    case: &str,
    batches: Vec<Batch>,
    config: LogConfig,
    look: impl AsyncFnOnce(&Partition) -> T + Send + 'static,
) -> (T, usize) {
    let dir = std::env::temp_dir().join(format!("kariz-find-{case}-{}", std::process::id()));
    let engine = Engine::open(&dir, Config { journal_bytes: 8 << 20, ..Config::default() });
    let engine = engine.unwrap();
    let handle = engine.handle();
    let looked = handle.on(ShardId(0), move |shard| async move {
        let name = TopicPartition::new("t", 0);
        let (id, epoch) = (TopicId([7; 16]), LeaderEpoch(0));
        let partition = shard.create_as(&name, id, epoch, config).await.unwrap();
        for some in batches.chunks(100) {
            let spans = some.iter().map(|batch| partition.append(batch).unwrap());
            partition.reach(Mark::High, &spans.last().unwrap()).await.unwrap();
        }
        let (turns, is_over) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (counted, ends) = (Rc::clone(&turns), Rc::clone(&is_over));
        shard.spawn(async move {
            while !ends.get() {
                counted.set(counted.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        let found = look(&partition).await;
        is_over.set(true);
        (found, turns.get())
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let looked = runtime.block_on(looked).unwrap();
    engine.shutdown(Duration::from_secs(1)).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    looked
}

#[test]
fn a_lookup_that_inflates_much_in_vain_lets_others_have_their_turn() {
    const BATCHES: usize = 50;
    const WANTED: Timestamp = Timestamp(1_000_000);
    let batches = (0..BATCHES).map(|_| lying_batch(WANTED)).collect();
    let (found, turns) = look("inflate", batches, LogConfig::default(), async |partition| {
        partition.find(WANTED).await.unwrap()
    });
    assert_eq!(found, None);
    assert!(turns >= BATCHES, "{turns} turns of another task while {BATCHES} batches were read");
}

#[test]
fn a_lookup_that_walks_over_many_heads_lets_others_have_their_turn() {
    const BATCHES: i64 = 5000;
    let of = |time| Batch::build().record(None, None, &[], Timestamp(time)).done().unwrap();
    // Only the last is new enough, and no index says where it is.
    let batches = (1..=BATCHES).map(of).collect();
    let mut config = LogConfig::default();
    config.index_interval_bytes = u32::MAX;
    let (found, turns) = look("walk", batches, config, async |partition| {
        partition.find(Timestamp(BATCHES)).await.unwrap().unwrap().offset
    });
    assert_eq!(found, Offset(BATCHES - 1));
    assert!(turns >= 3, "{turns} turns of another task while {BATCHES} heads were read");
}

#[test]
fn a_read_that_no_index_helps_lets_others_have_their_turn() {
    let batch = Batch::build().record(None, Some(&[7; 1 << 20]), &[], Timestamp(1)).done();
    let batches = vec![batch.unwrap(); 10];
    let mut config = LogConfig::default();
    (config.index_interval_bytes, config.max_message_bytes) = (u32::MAX, 2 << 20);
    let (found, turns) = look("read", batches, config, async |partition| {
        let slice = partition.slice(Offset(9), 1).await.unwrap();
        slice.batches().unwrap()[0].header().base_offset()
    });
    assert_eq!(found, Offset(9));
    assert!(turns >= 8, "{turns} turns of another task while 10 MiB were walked");
}

#[test]
fn a_lookup_goes_on_when_retention_takes_away_what_lies_before_it() {
    const WANTED: Timestamp = Timestamp(1_000_000);
    let mut world = World::new(1, Faults::none());
    let main = |io: kariz_engine::io::sim::Sim| async move {
        let opened = sim::open(io, Path::new("/data"), sim::Options::default());
        let shard = opened.await.unwrap().0;
        let name = TopicPartition::new("t", 0);
        let mut config = LogConfig::default();
        (config.segment_bytes, config.retention_ms) = (400, -1);
        let (id, epoch) = (TopicId([7; 16]), LeaderEpoch(0));
        let partition = shard.create_as(&name, id, epoch, config).await.unwrap();
        for _ in 0..30 {
            let span = partition.append(&lying_batch(WANTED)).unwrap();
            partition.reach(Mark::High, &span).await.unwrap();
        }
        let trimmed = partition.clone();
        shard.spawn(async move {
            tokio::task::yield_now().await;
            trimmed.trim(Offset(20)).unwrap();
        });
        assert_eq!(partition.find(WANTED).await.unwrap(), None);
        assert_eq!(partition.marks().log_start, Offset(20));
    };
    world.boot(main).done();
}

#[test]
fn at_the_end_of_an_older_segment_a_reader_waits_for_no_more() {
    let mut world = World::new(1, Faults::none());
    let main = |io: kariz_engine::io::sim::Sim| async move {
        let opened = sim::open(io.clone(), Path::new("/data"), sim::Options::default());
        let shard = opened.await.unwrap().0;
        let name = TopicPartition::new("t", 0);
        let mut config = LogConfig::default();
        config.segment_bytes = 1000;
        config.retention_ms = -1;
        let (id, epoch) = (TopicId([7; 16]), LeaderEpoch(0));
        let partition = shard.create_as(&name, id, epoch, config).await.unwrap();
        for _ in 0..30 {
            let batch = Batch::build().record(None, Some(&[7; 100]), &[], Timestamp(1)).done();
            let span = partition.append(&batch.unwrap()).unwrap();
            partition.reach(Mark::High, &span).await.unwrap();
        }
        let began = io.now();
        let wait = Duration::from_secs(60);
        let want = Want { max_bytes: 1 << 20, min_bytes: 1 << 20, wait };
        let slice = partition.read(Offset(0), want).await.unwrap();
        assert!(slice.is_followed() && slice.len() < 1000);
        assert!(io.now() - began < Duration::from_secs(1));
        // Behind the last there is nothing yet.
        let slice = partition.read(Offset(29), want).await.unwrap();
        assert!(!slice.is_followed() && !slice.is_empty());
        assert!(io.now() >= began.plus(wait));
    };
    world.boot(main).done();
}
