//! Appends from a plain tokio runtime on another core than the partition's, beside what waking that
//! core and being woken by it takes.

use crate::eventfd;
use crate::kariz::batches;
use kariz_engine::{Config, Engine, Handle, LogConfig, Mark, ShardId, TopicPartition};
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// On the wire.
const BATCH_BYTES: usize = 100;
/// One behind another, to tell how long one takes.
const ALONE: usize = 50_000;
/// Tasks that append at once, each one behind another.
const TASKS: usize = 1024;
/// How long they do.
const SECONDS: f64 = 2.0;

/// Measures both `rounds` times, in turns: the partition's core is CPU 0, the runtime's CPU 1.
pub(crate) fn run(data: &Path, rounds: usize) -> io::Result<Value> {
    let mut told = Vec::new();
    // The first is not counted: it makes the files and the memory.
    for round in 0..=rounds {
        let eventfd = eventfd::measure(1, 0)?;
        let dir = data.join("handle");
        let done = std::thread::scope(|scope| {
            let appending = scope.spawn(|| append(&dir));
            appending.join().map_err(|_| io::Error::other("a thread panicked"))?
        });
        std::fs::remove_dir_all(&dir)?;
        let done = done?;
        let us = |d: Duration| d.as_secs_f64() * 1e6;
        let ratio = us(done.p50) / us(eventfd.p50);
        if round > 0 {
            println!(
                "round {round}: eventfd p50 {:?}, append alone p50 {:?} ({ratio:.2} times), p99 \
                 {:?}; {:.0} appends/s of {TASKS} tasks",
                eventfd.p50, done.p50, done.p99, done.rate
            );
            told.push(json!({
                "eventfd_p50_us": us(eventfd.p50), "append_p50_us": us(done.p50),
                "append_p99_us": us(done.p99), "ratio": ratio, "appends_per_second": done.rate,
            }));
        }
    }
    Ok(json!({ "batch_bytes": BATCH_BYTES, "tasks": TASKS, "rounds": told }))
}

struct Done {
    p50: Duration,
    p99: Duration,
    /// Appends a second, when many tasks append at once.
    rate: f64,
}

fn append(dir: &Path) -> io::Result<Done> {
    let config = Config { cpus: vec![0], ..Config::default() };
    let engine = Engine::open(dir, config).map_err(io::Error::other)?;
    eventfd::pin(1)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(measure(engine.handle()));
    engine.shutdown(Duration::from_secs(5)).map_err(io::Error::other)?;
    done.map_err(|error| io::Error::other(error.to_string()))
}

async fn measure(handle: Handle) -> Result<Done, Box<dyn std::error::Error>> {
    let name = TopicPartition::new("append", 0);
    let its = name.clone();
    let create = handle.on(ShardId(0), move |shard| async move {
        let mut config = LogConfig::default();
        config.write_caching = true;
        shard.create(&its, config).await.map(drop)
    });
    create.await??;
    let batch = batches(BATCH_BYTES)?.remove(0);
    let mut took = Vec::with_capacity(ALONE);
    for _ in 0..ALONE + ALONE / 10 {
        let began = now();
        handle.append(&name, batch.clone(), Mark::Appended).await?;
        took.push(began.elapsed());
    }
    let mut took = took.split_off(ALONE / 10);
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];

    let began = now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (handle, name, batch) = (handle.clone(), name.clone(), batch.clone());
        tasks.spawn(async move {
            let mut appended = 0_u32;
            while began.elapsed().as_secs_f64() < SECONDS {
                handle.append(&name, batch.clone(), Mark::Appended).await?;
                appended += 1;
            }
            Ok::<_, kariz_engine::HandleError>(appended)
        });
    }
    let mut appended = 0.0;
    while let Some(done) = tasks.join_next().await {
        appended += f64::from(done??);
    }
    let rate = appended / began.elapsed().as_secs_f64();
    Ok(Done { p50: at(50), p99: at(99), rate })
}

#[allow(clippy::disallowed_methods)] // A bench measures the machine's time.
fn now() -> Instant {
    Instant::now()
}
