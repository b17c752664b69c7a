//! What an append and a read cost in the engine, on a real file system: `target/tmp`. Beside the
//! page cache and other logs the program `append` measures it.

#![allow(clippy::expect_used, missing_docs)] // Inputs are our own; criterion writes the functions.

mod shapes;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kariz_engine::{
    Config, Engine, Handle, LeaderEpoch, LogConfig, Mark, Offset, ShardId, TopicId, TopicPartition,
};
use shapes::{SHAPES, Shape, batch};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Appends that are staged before their group is written: what 64 connections with 16 requests in
/// flight can bring in one turn.
const GROUP: u64 = 1024;

/// An engine on core 0 in a directory of its own, with one empty partition a shape.
struct Bed {
    engine: Engine,
    dir: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Bed {
    fn new(name: &str, write_caching: bool) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).expect("an earlier run's, and ours");
        }
        let engine = Engine::open(&dir, Config::default()).expect("a new directory");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("no driver");
        let bed = Self { engine, dir, runtime };
        for (id, shape) in (1..).zip(SHAPES) {
            bed.on(move |shard| async move {
                let mut config = LogConfig::default();
                (config.write_caching, config.retention_bytes) = (write_caching, 1 << 30);
                let id = TopicId([id; 16]);
                shard.create_as(&name_of(shape), id, LeaderEpoch(0), config).await.expect("new");
            });
        }
        bed
    }

    /// Runs `f` on the engine's core.
    fn on<F, Fut, T>(&self, f: F) -> T
    where
        F: FnOnce(kariz_engine::Shard) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let handle: Handle = self.engine.handle();
        self.runtime.block_on(handle.on(ShardId(0), f)).expect("not shut down")
    }

    /// How long `count` appends take, in groups of `group`, each awaited up to `mark`.
    fn append(&self, shape: Shape, count: u64, group: u64, mark: Mark) -> Duration {
        let batch = batch(shape);
        self.on(move |shard| async move {
            let partition = shard.partition(&name_of(shape)).expect("created");
            let began = now();
            let mut left = count;
            while left > 0 {
                let mut last = None;
                for _ in 0..left.min(group) {
                    last = Some(partition.append(&batch).expect("a good batch"));
                }
                left -= left.min(group);
                let last = last.expect("at least one");
                partition.reach(mark, &last).await.expect("written");
            }
            now() - began
        })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.engine.shutdown(Duration::from_secs(5)).expect("in order");
        std::fs::remove_dir_all(&self.dir).expect("ours");
    }
}

#[allow(clippy::disallowed_methods)] // A bench measures the machine's time.
fn now() -> Instant {
    Instant::now()
}

fn name_of(shape: Shape) -> TopicPartition {
    TopicPartition::new(format!("bench.{shape}"), 0)
}

fn append(c: &mut Criterion) {
    let bed = Bed::new("bench-append", true);
    let mut group = c.benchmark_group("log/append");
    for shape in SHAPES {
        group.throughput(Throughput::Bytes(batch(shape).total_bytes() as u64));
        group.bench_function(BenchmarkId::from_parameter(shape), |b| {
            b.iter_custom(|count| bed.append(shape, count, GROUP, Mark::Appended));
        });
    }
}

fn append_durable(c: &mut Criterion) {
    let bed = Bed::new("bench-durable", false);
    let mut group = c.benchmark_group("log/append-durable");
    group.sample_size(20);
    for (name, size) in [("alone", 1), ("group", GROUP)] {
        group.bench_function(BenchmarkId::new(name, SHAPES[0]), |b| {
            b.iter_custom(|count| bed.append(SHAPES[0], count, size, Mark::Durable));
        });
    }
}

fn slice(c: &mut Criterion) {
    const BATCHES: u64 = 200_000;
    let bed = Bed::new("bench-slice", true);
    let shape = SHAPES[0];
    bed.append(shape, BATCHES, GROUP, Mark::Appended);
    let mut group = c.benchmark_group("log/slice");
    for bytes in [1, 1 << 20] {
        group.bench_function(BenchmarkId::from_parameter(format!("{bytes}B")), |b| {
            b.iter_custom(|count| {
                bed.on(move |shard| async move {
                    let partition = shard.partition(&name_of(shape)).expect("created");
                    let began = now();
                    let mut at = 1_u64;
                    for _ in 0..count {
                        // A prime far from the index's spacing: every part of it is looked up.
                        at = (at + 69_997) % BATCHES;
                        let from = Offset(i64::try_from(at).expect("small"));
                        let slice = partition.slice(from, bytes).await.expect("below the end");
                        assert!(!slice.is_empty());
                    }
                    now() - began
                })
            });
        });
    }
}

criterion_group!(benches, append, append_durable, slice);
criterion_main!(benches);
