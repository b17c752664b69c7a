//! The engine, as a server on its core uses it: turns of appends, and in between its own tasks.

use crate::job::{Done, Durability, Job, turn};
use kariz_engine::batch::Check;
use kariz_engine::io::Io as _;
use kariz_engine::{
    Batch, Config, Engine, LogConfig, Mark, Shard, ShardId, Span, Timestamp, TopicPartition,
};
use std::io;
use std::time::Duration;

/// Has the wire bytes parsed as well: what a server does with what it receives.
pub(crate) const PARSE: &str = "kariz-parse";

/// The journal of the first core. Source: FORMAT.md; its broker id is `node.id << 8`.
const JOURNAL: &str = "broker-256/kariz.journal";

/// Does `job` in an engine with one core and one partition.
pub(crate) fn run(job: &Job) -> io::Result<Done> {
    let config = Config { cpus: vec![job.cpu], ..Config::default() };
    let engine = Engine::open(&job.dir, config).map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let its = job.clone();
    let handle = engine.handle();
    let done = handle.on(ShardId(0), move |shard| async move {
        measure(&shard, &its).await.map_err(|error| error.to_string())
    });
    let done = runtime.block_on(done).map_err(io::Error::other)?;
    engine.shutdown(Duration::from_secs(5)).map_err(io::Error::other)?;
    done.map_err(io::Error::other)
}

async fn measure(shard: &Shard, job: &Job) -> Result<Done, Box<dyn std::error::Error>> {
    let mut config = LogConfig::default();
    config.write_caching = job.durability == Durability::PageCache;
    config.segment_bytes = job.segment_bytes.into();
    let name = TopicPartition::new("append", 0);
    let partition = shard.create(&name, config).await?;
    let batches = batches(job.batch_bytes)?;
    let parses = job.subject == PARSE;
    // A new core's journal grows for half a second while it serves: not what is measured.
    while std::fs::metadata(job.dir.join(JOURNAL))?.len() < Config::default().journal_bytes {
        shard.io().sleep(Duration::from_millis(10)).await;
    }

    let counts = |shard: &Shard| {
        let m = shard.metrics();
        [
            ("writes", m.writes.get()),
            ("commits", m.commits.get()),
            ("syncs", m.syncs.get()),
            ("rolls", m.rolls.get()),
            ("held", m.held.get()),
        ]
    };
    let before = counts(shard);
    let mut last: Option<Span> = None;
    let mut meter = job.start();
    while let Some(group) = meter.next() {
        shard.room().await;
        for number in group {
            let batch = &batches[turn(number)];
            last = Some(if parses {
                partition.append(&Batch::parse(batch.wire().clone(), Check::Opaque)?)?
            } else {
                partition.append(batch)?
            });
        }
        match last.filter(|_| job.durability == Durability::Durable) {
            Some(span) => partition.reach(Mark::Durable, &span).await?,
            // The turn ends: the core's tasks run, and write what is staged.
            None => tokio::task::yield_now().await,
        }
    }
    if let Some(span) = last {
        partition.reach(Mark::Appended, &span).await?;
    }
    let done = meter.end();
    let since = |((name, now), (_, then)): ((_, u64), (_, u64))| (name, now - then);
    Ok(done.with(counts(shard).into_iter().zip(before).map(since).collect()))
}

/// Batches of one record without a key, `bytes` long on the wire, head and all.
pub(crate) fn batches(bytes: usize) -> io::Result<Vec<Batch>> {
    let build = |value: &[u8]| {
        let now = Timestamp(1_700_000_000_000);
        Batch::build().record(None, Some(value), &[], now).done().map_err(io::Error::other)
    };
    // What is not the value: its length is a varint, and so longer around some powers of two.
    let mut value_bytes = bytes.saturating_sub(build(&[])?.total_bytes());
    while value_bytes > 0 && build(&vec![0; value_bytes])?.total_bytes() > bytes {
        value_bytes -= 1;
    }
    let batches: Vec<_> =
        Job::payloads(value_bytes).iter().map(|v| build(v)).collect::<Result<_, _>>()?;
    match batches.iter().find(|b| b.total_bytes() != bytes) {
        None => Ok(batches),
        Some(b) => Err(io::Error::other(format!(
            "no batch of one record has {bytes} B on the wire; the next has {}",
            b.total_bytes()
        ))),
    }
}
