//! The engine as a stranger uses it: real threads, a real disk.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::{
    Closed, Config, Engine, Handle, LeaderEpoch, LogConfig, Mark, Offset, OpenError, ShardId,
    TopicId, TopicPartition, Want,
};
use std::path::PathBuf;
use std::time::Duration;

/// A directory that is removed when the test ends.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kariz-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn config() -> Config {
    Config { journal_bytes: 8 << 20, ..Config::default() }
}

fn batch(value: &str) -> Batch {
    Batch::build()
        .record(None, Some(value.as_bytes()), &[], kariz_engine::Timestamp(1))
        .done()
        .unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

async fn write(handle: &Handle, name: &TopicPartition, values: &[String], mark: Mark) -> Offset {
    let (name, values) = (name.clone(), values.to_vec());
    handle
        .on(ShardId(0), move |shard| async move {
            let partition = match shard.partition(&name) {
                Ok(partition) => partition,
                Err(_) => {
                    let id = TopicId([7; 16]);
                    let config = LogConfig::default();
                    shard.create_as(&name, id, LeaderEpoch(0), config).await.unwrap()
                }
            };
            let mut end = Offset::ZERO;
            for value in values {
                let span = partition.append(&batch(&value)).unwrap();
                partition.reach(mark, &span).await.unwrap();
                end = span.end;
            }
            end
        })
        .await
        .unwrap()
}

async fn read(handle: &Handle, name: &TopicPartition) -> Vec<String> {
    let name = name.clone();
    handle
        .on(ShardId(0), move |shard| async move {
            let partition = shard.partition(&name).unwrap();
            let mut at = partition.marks().log_start;
            let mut values = Vec::new();
            while at < partition.marks().high_watermark {
                let wait = Duration::ZERO;
                let slice =
                    partition.read(at, Want { max_bytes: 100, min_bytes: 1, wait }).await.unwrap();
                for batch in slice.batches().unwrap() {
                    for record in batch.records(1 << 20).unwrap().iter() {
                        let record = record.unwrap();
                        values.push(String::from_utf8_lossy(record.value.unwrap()).into_owned());
                    }
                    at = batch.header().next_offset();
                }
            }
            values
        })
        .await
        .unwrap()
}

#[test]
fn what_was_written_is_there_after_a_restart_and_after_a_crash() {
    let dir = Dir::new("restart");
    let name = TopicPartition::new("t", 0);
    let values: Vec<String> = (0..100).map(|i| format!("value {i}")).collect();

    let engine = Engine::open(&dir.0, config()).unwrap();
    assert!(engine.recovery().was_clean());
    let end = block_on(write(&engine.handle(), &name, &values, Mark::High));
    assert_eq!(end, Offset(100));
    assert_eq!(block_on(read(&engine.handle(), &name)), values);
    assert!(matches!(Engine::open(&dir.0, config()), Err(OpenError::Locked(_))));
    // The lock ends with the shutdown, not with the last clone.
    let _clone = engine.clone();
    engine.shutdown(Duration::from_secs(1)).unwrap();

    let engine = Engine::open(&dir.0, config()).unwrap();
    assert!(engine.recovery().was_clean());
    assert_eq!(block_on(read(&engine.handle(), &name)), values);
    let more = vec!["one more".to_owned()];
    assert_eq!(block_on(write(&engine.handle(), &name, &more, Mark::Durable)), Offset(101));
    // No shutdown: the threads end when nobody can reach them.
    drop(engine);

    let engine = loop {
        match Engine::open(&dir.0, config()) {
            Err(OpenError::Locked(_)) => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    assert!(!engine.recovery().was_clean());
    assert_eq!(block_on(read(&engine.handle(), &name)).last(), more.last());
    engine.shutdown(Duration::from_secs(1)).unwrap();
}

/// Dropping the engine is a crash, and the process that embeds it lives on.
#[test]
fn an_engine_that_is_dropped_in_the_middle_of_its_work_leaves_no_file_open() {
    let dir = Dir::new("dropped");
    let open_files = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = files.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
        links.filter(|link| link.starts_with(&dir.0)).count()
    };
    for round in 0..5 {
        let engine = Engine::open(&dir.0, config()).unwrap();
        let handle = engine.handle();
        let append = handle.on(ShardId(0), move |shard| async move {
            let name = TopicPartition::new("t", round);
            let (id, epoch) = (TopicId([7; 16]), LeaderEpoch(0));
            let partition = shard.create_as(&name, id, epoch, LogConfig::default()).await.unwrap();
            // Written at the end of the turn, and not yet durable.
            partition.append(&batch("provisional")).unwrap();
        });
        block_on(append).unwrap();
        assert!(open_files() > 0);
        drop((engine, handle));
        let closed = (0..100_000).any(|_| {
            std::thread::yield_now();
            open_files() == 0
        });
        assert!(closed, "round {round}: files are open that nobody can reach");
    }
}

#[test]
fn an_engine_that_did_not_open_leaves_the_directory_free() {
    let dir = Dir::new("half-open");
    let two = Config { cpus: vec![0, 0], ..config() };
    // Where the second core's directory should be.
    let in_the_way = dir.0.join("broker-257");
    std::fs::write(&in_the_way, "no directory").unwrap();
    let refused = Engine::open(&dir.0, two.clone()).map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::Shard { shard: ShardId(1), .. }), "{refused}");
    std::fs::remove_file(&in_the_way).unwrap();
    Engine::open(&dir.0, two).unwrap().shutdown(Duration::from_secs(1)).unwrap();
}

#[test]
fn what_each_core_counted_is_told_until_the_end() {
    let dir = Dir::new("metrics");
    let two = Config { cpus: vec![0, 0], ..config() };
    let engine = Engine::open(&dir.0, two).unwrap();
    let (handle, name) = (engine.handle(), TopicPartition::new("t", 0));
    let values: Vec<String> = (0..10).map(|i| format!("value {i}")).collect();
    block_on(write(&handle, &name, &values, Mark::High));
    let told = block_on(handle.metrics()).unwrap();
    let of = |i: u16| &told[usize::from(i)];
    assert_eq!(told.len(), 2);
    assert_eq!((of(0).shard, of(0).appends, of(1).appends), (Some(ShardId(0)), 10, 0));
    assert_eq!((of(1).shard, of(1).logs.len()), (Some(ShardId(1)), 0));
    assert_eq!((&of(0).logs[0].partition, of(0).logs[0].bytes), (&name, of(0).append_bytes));
    engine.shutdown(Duration::from_secs(1)).unwrap();
    assert_eq!(block_on(handle.metrics()), Err(Closed));
}
