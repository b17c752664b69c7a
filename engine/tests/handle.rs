//! The engine from threads that are no cores, and the partitions of several cores.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::types::NameError;
use kariz_engine::{
    AppendError, Config, CreateError, Engine, Handle, HandleError, LogConfig, Mark, NotHere,
    Offset, ShardId, Timestamp, TopicPartition, Want, Written,
};
use std::path::PathBuf;
use std::time::Duration;

const CORES: u16 = 2;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kariz-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Both cores on one CPU.
    fn open(&self) -> Engine {
        let cpus = vec![0; usize::from(CORES)];
        Engine::open(&self.0, Config { cpus, journal_bytes: 8 << 20, ..Config::default() }).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn batch(value: &[u8]) -> Batch {
    Batch::build().record(None, Some(value), &[], Timestamp(1)).done().unwrap()
}

fn name(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

async fn create(handle: &Handle, core: u16, partition: i32) -> Result<(), CreateError> {
    let made = handle.on(ShardId(core), move |shard| async move {
        shard.create(&name(partition), LogConfig::default()).await.map(drop)
    });
    made.await.unwrap()
}

async fn values(handle: &Handle, partition: i32) -> Vec<Vec<u8>> {
    let (mut at, mut values) = (Offset::ZERO, Vec::new());
    loop {
        let want = Want { max_bytes: 1 << 10, min_bytes: 1, wait: Duration::ZERO };
        let batches = handle.read(&name(partition), at, want).await.unwrap().batches().unwrap();
        for batch in &batches {
            for record in batch.records(1 << 20).unwrap().iter() {
                values.push(record.unwrap().value.unwrap().to_vec());
            }
        }
        match batches.last() {
            Some(last) => at = last.header().next_offset(),
            None => return values,
        }
    }
}

#[test]
fn what_a_thread_appends_is_in_its_order_and_there_after_a_restart() {
    let dir = Dir::new("handle");
    let engine = dir.open();
    let handle = engine.handle();
    block_on(async {
        for partition in 0..4 {
            create(&handle, u16::try_from(partition).unwrap() % CORES, partition).await.unwrap();
        }
        let appends = (0..4000_i32).map(|i| {
            let (handle, mark) = (handle.clone(), [Mark::Appended, Mark::Durable, Mark::High]);
            async move {
                let mark = mark[usize::try_from(i % 3).unwrap()];
                let span = handle.append(&name(i % 4), batch(&i.to_be_bytes()), mark).await;
                assert_eq!(span.unwrap().base, Offset(i64::from(i / 4)));
            }
        });
        futures_ordered(appends).await;
    });
    engine.shutdown(Duration::from_secs(1)).unwrap();

    let engine = dir.open();
    let handle = engine.handle();
    for partition in 0..4 {
        let expected = (0..1000_i32).map(|i| (i * 4 + partition).to_be_bytes().to_vec());
        assert_eq!(block_on(values(&handle, partition)), expected.collect::<Vec<_>>());
        let core = u16::try_from(partition).unwrap() % CORES;
        assert_eq!(handle.owner(&name(partition)), Some(ShardId(core)));
    }
    engine.shutdown(Duration::from_secs(1)).unwrap();
}

/// Polls all of them in order until all have ended.
async fn futures_ordered<F: Future<Output = ()>>(futures: impl Iterator<Item = F>) {
    let mut running: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        running.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if running.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[test]
fn a_partition_is_made_once_and_every_core_knows_where() {
    let dir = Dir::new("owners");
    let engine = dir.open();
    let handle = engine.handle();
    block_on(async {
        create(&handle, 1, 0).await.unwrap();
        assert!(matches!(create(&handle, 1, 0).await, Err(CreateError::Exists(_))));
        let elsewhere = create(&handle, 0, 0).await;
        assert!(matches!(elsewhere, Err(CreateError::Elsewhere(_, ShardId(1)))));
        assert!(matches!(create(&handle, 0, -1).await, Err(CreateError::Name(_))));
        let (at_0, owner) = handle
            .on(ShardId(0), |shard| async move {
                let bad =
                    shard.create(&TopicPartition::new("../up", 0), LogConfig::default()).await;
                assert!(matches!(bad.map(drop), Err(CreateError::Name(NameError::Character))));
                assert!(matches!(shard.partition(&name(1)), Err(NotHere::Unknown)));
                (shard.partition(&name(0)).map(drop), shard.owner(&name(0)))
            })
            .await
            .unwrap();
        assert_eq!((at_0, owner), (Err(NotHere::Elsewhere(ShardId(1))), Some(ShardId(1))));
        // Once it is deleted it may be made anywhere.
        let deleted = handle.on(ShardId(1), |shard| async move { shard.delete(&name(0)).await });
        deleted.await.unwrap().unwrap();
        assert_eq!(handle.owner(&name(0)), None);
        let unknown = handle.append(&name(0), batch(b""), Mark::High).await.unwrap_err();
        assert!(matches!(unknown, HandleError::Unknown(_)), "{unknown}");
        create(&handle, 0, 0).await.unwrap();
        assert_eq!(handle.owner(&name(0)), Some(ShardId(0)));
    });
    engine.shutdown(Duration::from_secs(1)).unwrap();
}

#[test]
fn many_may_want_the_same_partition_at_once() {
    let dir = Dir::new("ensure");
    let engine = dir.open();
    let handle = engine.handle();
    let ensured = handle.on(ShardId(0), |shard| async move {
        let mut config = LogConfig::default();
        config.segment_bytes = 1 << 20;
        for round in 0..10 {
            let (done, mut all) = tokio::sync::mpsc::channel(8);
            for _ in 0..8 {
                let (shard, config, done) = (shard.clone(), config.clone(), done.clone());
                shard.clone().spawn(async move {
                    let partition = shard.ensure(&name(round), config).await.unwrap();
                    assert_eq!(partition.config().segment_bytes, 1 << 20);
                    done.send(partition.topic_id()).await.unwrap();
                });
            }
            drop(done);
            let first = all.recv().await.unwrap();
            for _ in 1..8 {
                assert_eq!(all.recv().await, Some(first));
            }
        }
    });
    block_on(ensured).unwrap();
    let elsewhere = handle.on(ShardId(1), |shard| async move {
        shard.ensure(&name(0), LogConfig::default()).await.map(drop)
    });
    assert!(matches!(block_on(elsewhere).unwrap(), Err(CreateError::Elsewhere(_, ShardId(0)))));
    engine.shutdown(Duration::from_secs(1)).unwrap();
}

/// Answers that are ready at once go out together; nobody waits for one who does not look at its own.
#[test]
fn an_append_that_is_begun_and_left_alone_holds_nobody_up() {
    let dir = Dir::new("left-alone");
    let engine = dir.open();
    let handle = engine.handle();
    block_on(create(&handle, 0, 0)).unwrap();
    block_on(async {
        let log = name(0);
        for round in 0..20 {
            let mut begun: Vec<_> = (0..4)
                .map(|_| Box::pin(handle.append(&log, batch(b"begun"), Mark::Appended)))
                .collect();
            for append in &mut begun {
                let polled = std::future::poll_fn(|cx| {
                    std::task::Poll::Ready(append.as_mut().poll(cx).is_pending())
                });
                polled.await;
            }
            // The last of them first, and on every second round without the first.
            if round % 2 == 0 {
                drop(begun.remove(0));
            }
            while let Some(append) = begun.pop() {
                append.await.unwrap();
            }
        }
    });
    // What comes last is seen once all before it is.
    block_on(handle.append(&name(0), batch(b"last"), Mark::High)).unwrap();
    assert_eq!(block_on(values(&handle, 0)).len(), 81);
    engine.shutdown(Duration::from_secs(1)).unwrap();
}

#[test]
fn errors_say_whether_the_records_may_be_there() {
    let dir = Dir::new("written");
    let engine = dir.open();
    let handle = engine.handle();
    block_on(create(&handle, 0, 0)).unwrap();
    let large = batch(&vec![0; 2 << 20]);
    let error = block_on(handle.append(&name(0), large, Mark::High)).unwrap_err();
    assert!(matches!(error, HandleError::Append(AppendError::TooLarge { .. })), "{error}");
    assert_eq!(error.written(), Written::No);
    let error = block_on(handle.append(&name(7), batch(b"x"), Mark::High)).unwrap_err();
    assert_eq!(error.written(), Written::No);
    engine.shutdown(Duration::from_secs(1)).unwrap();
    let error = block_on(handle.append(&name(0), batch(b"x"), Mark::High)).unwrap_err();
    assert!(matches!(error, HandleError::Closed), "{error}");
    assert_eq!(error.written(), Written::Maybe);
    let want = Want { max_bytes: 1, min_bytes: 1, wait: Duration::from_secs(60) };
    let error = block_on(handle.read(&name(0), Offset::ZERO, want)).unwrap_err();
    assert!(matches!(error, HandleError::Closed), "{error}");
}

/// Nobody hangs, and nobody is told that something was kept which is not.
#[test]
fn appends_into_a_shutdown_are_kept_or_refused() {
    let dir = Dir::new("into-shutdown");
    for round in 0..5 {
        let engine = dir.open();
        let handle = engine.handle();
        if round == 0 {
            block_on(create(&handle, 0, 0)).unwrap();
        }
        let before = block_on(values(&handle, 0)).len();
        let (told, started) = std::sync::mpsc::channel();
        let appending = std::thread::spawn(move || {
            block_on(async move {
                let mut kept = 0;
                while handle.append(&name(0), batch(b"x"), Mark::Appended).await.is_ok() {
                    kept += 1;
                    let _waits_for_the_first = told.send(());
                }
                kept
            })
        });
        started.recv().unwrap();
        engine.shutdown(Duration::ZERO).unwrap();
        let kept = appending.join().unwrap();
        let engine = dir.open();
        assert!(engine.recovery().was_clean());
        let after = block_on(values(&engine.handle(), 0)).len();
        assert!(after >= before + kept, "{after} records, {before} and {kept} were acknowledged");
        engine.shutdown(Duration::from_secs(1)).unwrap();
    }
}

#[test]
fn a_read_waits_for_what_is_appended_later() {
    let dir = Dir::new("long-poll");
    let engine = dir.open();
    let handle = engine.handle();
    block_on(create(&handle, 0, 0)).unwrap();
    let reader = handle.clone();
    let read = std::thread::spawn(move || {
        let want = Want { max_bytes: 1 << 20, min_bytes: 1, wait: Duration::from_secs(600) };
        let slice = block_on(reader.read(&name(0), Offset::ZERO, want)).unwrap();
        // The slice has come to this thread, and pins its file here.
        let (whole, next) = slice.whole().unwrap().unwrap();
        (whole.batches().unwrap().len(), next)
    });
    block_on(handle.append(&name(0), batch(b"late"), Mark::Appended)).unwrap();
    assert_eq!(read.join().unwrap(), (1, Offset(1)));
    engine.shutdown(Duration::from_secs(1)).unwrap();
}
