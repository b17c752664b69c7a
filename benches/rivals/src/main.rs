//! `rivals`: one measurement of another durable log; `append` runs it.

#[path = "../../src/bin/append/job.rs"]
mod job;

use clap::Parser;
use commitlog::message::MessageBuf;
use commitlog::{CommitLog, LogOptions};
use job::{Done, Durability, Job, turn};
use mrecordlog::{MultiRecordLog, SyncPolicy};
use okaywal::{Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};
use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Duration;
use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What a log may gather before it writes, where it lets one say. Source: the engine's own bound.
const BUFFER_BYTES: usize = 256 << 10;

/// One measurement of another durable log
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    job: Job,
}

fn main() -> ExitCode {
    match run(&Cli::parse().job) {
        Ok(done) => {
            println!("{}", done.to_json());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("rivals: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(job: &Job) -> Result<Done> {
    job.pin()?;
    let payloads = Job::payloads(job.batch_bytes);
    match (job.subject.as_str(), job.durability) {
        ("commitlog", Durability::PageCache) => commitlog(job, &payloads),
        ("mrecordlog", Durability::PageCache) => mrecordlog(job, &payloads),
        ("okaywal", Durability::Durable) => okaywal(job, &payloads),
        ("walrus-rust", Durability::PageCache | Durability::Durable) => walrus(job, &payloads),
        (name, durability) => Err(format!("no {name} that is {durability:?}").into()),
    }
}

/// A buffer of messages a turn, one `write` each. Its index files would be doubled when they are
/// full; they are made large enough for a segment.
fn commitlog(job: &Job, payloads: &[Vec<u8>]) -> Result<Done> {
    let segment_bytes = usize::try_from(job.segment_bytes)?;
    let mut options = LogOptions::new(&job.dir);
    options.segment_max_bytes(segment_bytes);
    options.index_max_items(segment_bytes / job.batch_bytes + 1);
    options.message_max_bytes(job.group * (job.batch_bytes + commitlog::message::HEADER_SIZE));
    let mut log = CommitLog::new(options)?;
    let mut buffer = MessageBuf::default();
    let mut meter = job.start();
    while let Some(group) = meter.next() {
        buffer.clear();
        for number in group {
            buffer.push(&payloads[turn(number)]).map_err(|e| format!("{e:?}"))?;
        }
        log.append(&mut buffer)?;
    }
    Ok(meter.end())
}

/// A multi-record a turn, written out by `sync`: into the page cache, whatever its name says.
fn mrecordlog(job: &Job, payloads: &[Vec<u8>]) -> Result<Done> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        // Longer than any run: what is written out when is said below.
        let policy = SyncPolicy::OnDelay(Duration::from_secs(86_400));
        let mut log = MultiRecordLog::open_with_prefs(&job.dir, policy).await?;
        log.create_queue("append").await?;
        let mut meter = job.start();
        while let Some(group) = meter.next() {
            let records = group.map(|number| payloads[turn(number)].as_slice());
            log.append_records("append", None, records).await?;
            log.sync().await?;
        }
        Ok(meter.end())
    })
}

/// A manager that keeps nothing: a segment that is full is free to be used again.
#[derive(Debug)]
struct Forget;

impl LogManager for Forget {
    fn recover(&mut self, _: &mut Entry<'_>) -> io::Result<()> {
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _: EntryId,
        _: &mut SegmentReader,
        _: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}

/// An entry a group, for a commit syncs: threads that commit at once share a sync, one alone can
/// only put more into an entry.
fn okaywal(job: &Job, payloads: &[Vec<u8>]) -> Result<Done> {
    let log = okaywal::Configuration::default_for(&job.dir)
        .preallocate_bytes(job.segment_bytes)
        .checkpoint_after_bytes(job.segment_bytes.into())
        .buffer_bytes(BUFFER_BYTES)
        .open(Forget)?;
    let mut meter = job.start();
    while let Some(group) = meter.next() {
        let mut entry = log.begin_entry()?;
        for number in group {
            entry.write_chunk(&payloads[turn(number)])?;
        }
        entry.commit()?;
    }
    let done = meter.end();
    log.shutdown()?;
    Ok(done)
}

/// Its directory is told by `WALRUS_DATA_DIR`. A batch is synced at its end with any schedule; with
/// `SyncEach` each of its writes would be as well.
fn walrus(job: &Job, payloads: &[Vec<u8>]) -> Result<Done> {
    let is_durable = job.durability == Durability::Durable;
    let is_alone = job.group == 1;
    let schedule = match is_durable && is_alone {
        true => FsyncSchedule::SyncEach,
        false => FsyncSchedule::NoFsync,
    };
    let log = Walrus::with_consistency_and_schedule(ReadConsistency::StrictlyAtOnce, schedule)?;
    let mut batch: Vec<&[u8]> = Vec::with_capacity(job.group);
    let mut meter = job.start();
    while let Some(group) = meter.next() {
        let mut payloads = group.map(|number| payloads[turn(number)].as_slice());
        if is_durable && !is_alone {
            batch.clear();
            batch.extend(payloads);
            log.batch_append_for_topic("append", &batch)?;
        } else {
            payloads.try_for_each(|payload| log.append_for_topic("append", payload))?;
        }
    }
    Ok(meter.end())
}
