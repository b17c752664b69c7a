//! A core on the simulated disk against a model of a page: appends, flushes, rolls, cuts, moved log
//! starts, retention, `write.caching`, retries of idempotent producers, full and failing disks,
//! power cuts and kills, index entries that are wrong, and opening again.
//!
//! `KARIZ_SEEDS=2000 cargo sim` runs that many; `KARIZ_SEED=42 cargo sim` replays one.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::sim::{End, Faults, Outcome, Sim, World};
use kariz_engine::io::{File, Io, OpenMode};
use kariz_engine::{
    AppendError, LeaderEpoch, LogConfig, Mark, Offset, Partition, ProducerEpoch, ProducerId,
    ReachError, Sequence, Shard, Span, Timestamp, TopicId, TopicPartition, TruncateError, sim,
};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PARTITIONS: i32 = 3;
const SESSIONS: usize = 4;
const OPS: u64 = 60;
/// What fills the records up behind their numbers.
const FILL: u8 = 0xa5;

/// What goes wrong on the disk of a seed, besides power cuts and kills.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    Good,
    Failing,
    /// Full now and then, and nothing else.
    Full,
    Both,
}

impl Disk {
    fn of(seed: u64) -> Self {
        match seed % 8 {
            1 | 5 => Self::Failing,
            3 => Self::Full,
            7 => Self::Both,
            _ => Self::Good,
        }
    }

    fn fills_up(self) -> bool {
        matches!(self, Self::Full | Self::Both)
    }
}

/// What a partition must be, written from the contract.
#[derive(Default)]
struct Model {
    /// Every record that may be in the log, by its offset; its value is unique.
    records: Vec<u64>,
    /// Where its batches end: a batch is there whole, or not at all.
    ends: Vec<usize>,
    /// So many were promised: acked as durable, or seen by a reader.
    promised: usize,
    /// So many were cut back to, if that was begun and not known to be done.
    cutting: Option<usize>,
    /// The log start: what was asked for, or found.
    start: usize,
    /// The batches that the producer sent last, as many as it may send again.
    last: VecDeque<(i32, Vec<u64>)>,
    next_sequence: i32,
}

impl Model {
    fn append(&mut self, values: &[u64]) {
        self.records.extend(values);
        self.ends.push(self.records.len());
    }

    fn promise(&mut self, end: Offset) {
        self.promised = self.promised.max(usize::try_from(end.0).unwrap());
    }

    fn cut(&mut self, to: usize) {
        self.records.truncate(to);
        self.ends.retain(|end| *end <= to);
        self.promised = self.promised.min(to);
        self.cutting = None;
    }

    /// What was appended and not written is gone.
    fn take_back(&mut self, to: usize) {
        let promised = self.promised;
        assert!(to >= promised, "what was promised was taken back");
        self.cut(to);
        self.promised = promised;
    }

    /// Where `values` were appended, if they were.
    fn place(&self, values: &[u64]) -> Option<usize> {
        self.records.windows(values.len()).position(|w| w == values)
    }

    /// After a crash: `found` from `start` on must be what was promised, and nothing that never was.
    fn recover(&mut self, start: usize, found: &[u64], retains: bool) {
        assert!(
            start <= self.start || retains,
            "the log start moved from {} to {start}",
            self.start
        );
        let end = start + found.len();
        let floor = self.promised.min(self.cutting.unwrap_or(usize::MAX));
        assert!(end >= floor, "lost: the log ends at {end}, and {floor} records were promised");
        assert!(end <= self.records.len(), "invented: {found:?}");
        assert_eq!(found, &self.records[start..end], "not what was written");
        let whole = found.is_empty() || self.ends.contains(&end);
        assert!(whole, "half a batch: the log ends at {end}");
        self.cut(end);
        (self.start, self.promised) = (start, end);
    }
}

/// What outlives a process.
#[derive(Default)]
struct Known {
    models: Vec<Model>,
    /// The directory's id, once a start has succeeded.
    directory: Option<TopicId>,
}

type Models = Rc<RefCell<Known>>;

/// Why a session ended before its time.
struct Failed {
    why: String,
    /// The partition, or the core, takes no writes any more.
    is_fatal: bool,
}

impl<E: std::error::Error + 'static> From<E> for Failed {
    fn from(error: E) -> Self {
        let any: &dyn std::error::Error = &error;
        let is_fatal = matches!(any.downcast_ref(), Some(AppendError::Failed(_)))
            || matches!(any.downcast_ref(), Some(ReachError::Failed(_)));
        Self { why: error.to_string(), is_fatal }
    }
}

fn name(p: usize) -> TopicPartition {
    TopicPartition::new("t", i32::try_from(p).unwrap())
}

fn batch(values: &[u64], bytes: usize, producer: Option<(usize, i32)>, now: Timestamp) -> Batch {
    let mut builder = Batch::build();
    for value in values {
        let mut payload = value.to_be_bytes().to_vec();
        payload.resize(bytes.max(8), FILL);
        builder.add(None, Some(&payload), &[], now);
    }
    if let Some((id, sequence)) = producer {
        let id = ProducerId(i64::try_from(id).unwrap() + 1000);
        builder = builder.producer(id, ProducerEpoch(0), Sequence(sequence));
    }
    builder.done().unwrap()
}

/// One process: opens the core, checks what it finds, and works on it until it is stopped.
struct Session {
    io: Sim,
    shard: Shard<Sim>,
    models: Models,
    seed: u64,
}

impl Session {
    fn pick(&self, n: u64) -> u64 {
        self.io.random() % n
    }

    async fn open(io: Sim, models: Models, seed: u64) -> Result<Self, Failed> {
        // The smallest goes round many times, and takes few batches at a time.
        let journal_bytes = [4 << 10, 16 << 10, 64 << 10][usize::try_from(seed / 9 % 3).unwrap()];
        // The smallest wants a checkpoint after every other batch. Not in all: the fewer there are,
        // the more a crash leaves to find out.
        let dirty_bytes_max =
            [4 << 10, u64::MAX, 64 << 10, u64::MAX][usize::try_from(seed % 4).unwrap()];
        let options = sim::Options { journal_bytes, dirty_bytes_max, ..sim::Options::default() };
        let opened = sim::open(io.clone(), Path::new("/data"), options).await;
        let (shard, report) = opened?;
        for p in &report.partitions {
            assert!(p.fenced.is_none(), "{}: {:?}", p.partition, p.fenced);
        }
        let session = Self { io, shard, models, seed };
        let directory = session.shard.directory_id();
        let known = session.models.borrow_mut().directory.replace(directory);
        assert!(known.is_none_or(|id| id == directory), "the directory has another id");
        for p in 0..usize::try_from(PARTITIONS).unwrap() {
            let partition = session.partition(p).await?;
            let marks = partition.marks();
            assert_eq!(marks.high_watermark, marks.written, "all that recovery kept is durable");
            let found = session.read(&partition, marks.log_start).await?;
            let start = usize::try_from(marks.log_start.0).unwrap();
            assert_eq!(i64::try_from(start + found.len()).unwrap(), marks.written.0);
            let retains = config(seed, p).retention_bytes >= 0;
            session.models.borrow_mut().models[p].recover(start, &found, retains);
            // Whatever the indexes on the disk say.
            let ends = session.models.borrow().models[p].ends.clone();
            for at in ends.into_iter().filter(|end| start <= *end) {
                let at = Offset(i64::try_from(at).unwrap());
                if !retains && at < marks.high_watermark {
                    session.look_by_time(&partition, at).await?;
                }
            }
        }
        Ok(session)
    }

    /// No record may hang on what an index says: now and then an entry names another place.
    fn misplace(io: &Sim) {
        let partition = Path::new("/data").join(name(0).to_string());
        for entry in io.list(&partition).unwrap_or_default() {
            let (entry_bytes, below) = match entry.name.rsplit_once('.') {
                Some((_, "index")) => (8, 4 << 10),
                Some((_, "timeindex")) => (12, 40),
                _ => continue,
            };
            let Ok(file) = io.open(&partition.join(&entry.name), OpenMode::Write) else { continue };
            let entries = file.len().unwrap_or(0) / entry_bytes;
            if entries > 0 && io.random().is_multiple_of(4) {
                let at = (io.random() % entries + 1) * entry_bytes - 4;
                let wrong = u32::try_from(io.random() % below).unwrap().to_be_bytes();
                let _where_the_disk_fails = file.write_at(&[IoSlice::new(&wrong)], at);
            }
        }
    }

    async fn partition(&self, p: usize) -> Result<Partition<Sim>, Failed> {
        let (name, config) = (name(p), config(self.seed, p));
        if let Ok(partition) = self.shard.partition(&name) {
            partition.configure(config);
            return Ok(partition);
        }
        let id = TopicId([u8::try_from(p).unwrap() + 1; 16]);
        let made = self.shard.create_as(&name, id, LeaderEpoch(0), config).await?;
        assert_eq!(self.models.borrow().models[p].promised, 0, "{name}, promised, is made anew");
        Ok(made)
    }

    /// All records from `from` to the high watermark, read in pieces of random size.
    async fn read(&self, partition: &Partition<Sim>, from: Offset) -> Result<Vec<u64>, Failed> {
        let mut values = Vec::new();
        let mut at = from;
        loop {
            let max_bytes = usize::try_from(self.pick(2000)).unwrap();
            let slice = partition.slice(at, max_bytes).await?;
            if slice.is_empty() {
                return Ok(values);
            }
            for batch in slice.batches()? {
                let records = batch.records(1 << 20).unwrap();
                for record in records.iter().map(Result::unwrap) {
                    if record.offset < at {
                        continue;
                    }
                    assert_eq!(record.offset, at, "a reader was given a gap");
                    let value = record.value.unwrap();
                    let (number, rest) = value.split_at(8);
                    assert!(rest.iter().all(|byte| *byte == FILL), "torn: record {at}");
                    values.push(u64::from_be_bytes(number.try_into().unwrap()));
                    at = at.plus(1);
                }
            }
        }
    }

    async fn run(&self) -> Result<(), Failed> {
        let ops = self.pick(OPS);
        for _ in 0..ops {
            let p = usize::try_from(self.pick(u64::try_from(PARTITIONS).unwrap())).unwrap();
            let partition = self.partition(p).await?;
            // A producer's state may go with the records that retention takes.
            let retries = config(self.seed, p).retention_bytes < 0;
            match self.pick(24) {
                8..=11 if retries => self.append(p, &partition, true).await?,
                0..=11 => self.append(p, &partition, false).await?,
                12..=13 => self.retry(p, &partition).await?,
                14..=15 => self.look(p, &partition).await?,
                16 => self.cut(p, &partition).await?,
                17 => self.io.sleep(Duration::from_secs(self.pick(40))).await,
                18 => self.trim(p, &partition),
                19 if Disk::of(self.seed).fills_up() => self.fill_up().await,
                _ => self.io.sleep(Duration::from_millis(self.pick(20))).await,
            }
        }
        Ok(())
    }

    /// Leaves little room on the disk, or as much as anybody wants.
    async fn fill_up(&self) {
        let disk = self.io.disk();
        if self.pick(2) == 0 {
            disk.set_capacity(disk.used_bytes() + self.pick(30 << 10));
        } else {
            disk.set_capacity(1 << 40);
            // Until a checkpoint that waited for room has succeeded.
            self.io.sleep(Duration::from_secs(3)).await;
        }
    }

    /// Moves the log start, but not past what the producer may send again.
    fn trim(&self, p: usize, partition: &Partition<Sim>) {
        let mut known = self.models.borrow_mut();
        let model = &mut known.models[p];
        let place = model.last.iter().find_map(|(_, values)| model.place(values));
        let high = usize::try_from(partition.marks().high_watermark.0).unwrap();
        let most = place.unwrap_or(high).min(high);
        let to = usize::try_from(self.pick(most as u64 + 1)).unwrap();
        let start = partition.trim(Offset(i64::try_from(to).unwrap())).unwrap();
        model.start = usize::try_from(start.0).unwrap();
        assert!(model.start >= to, "the log start is {start}, and was moved to {to}");
    }

    async fn append(
        &self,
        p: usize,
        partition: &Partition<Sim>,
        idempotent: bool,
    ) -> Result<(), Failed> {
        let count = 1 + self.pick(4);
        let values: Vec<u64> = (0..count).map(|_| self.io.random()).collect();
        let producer = idempotent.then(|| {
            let mut known = self.models.borrow_mut();
            let model = &mut known.models[p];
            let sequence = model.next_sequence;
            model.next_sequence += i32::try_from(count).unwrap();
            model.last.push_back((sequence, values.clone()));
            model.last.drain(..model.last.len().saturating_sub(5));
            (p, sequence)
        });
        self.send(p, partition, &values, producer).await
    }

    /// One of the producer's last batches once more: it must be in the log once.
    async fn retry(&self, p: usize, partition: &Partition<Sim>) -> Result<(), Failed> {
        let nth = usize::try_from(self.pick(5)).unwrap();
        let sent = self.models.borrow().models[p].last.get(nth).cloned();
        let Some((sequence, values)) = sent else { return Ok(()) };
        self.send(p, partition, &values, Some((p, sequence))).await
    }

    async fn send(
        &self,
        p: usize,
        partition: &Partition<Sim>,
        values: &[u64],
        producer: Option<(usize, i32)>,
    ) -> Result<(), Failed> {
        // It comes in time, whatever the disk does: else this is stuck, or late.
        self.shard.room().await;
        let bytes = usize::try_from(self.pick(400)).unwrap();
        let batch = batch(values, bytes, producer, self.io.timestamp());
        if Disk::of(self.seed).fills_up() {
            // What was staged before is written, or taken back, by the end of the turn.
            self.io.sleep(Duration::from_millis(1)).await;
            self.rolled_back(p, partition);
        }
        let known = self.models.borrow().models[p].place(values).is_some();
        if !known {
            // Before the call: the machine may stop inside it.
            self.models.borrow_mut().models[p].append(values);
        }
        let span = match partition.append(&batch) {
            Ok(span) => span,
            Err(AppendError::Full) => {
                assert!(Disk::of(self.seed).fills_up(), "nothing is full");
                self.rolled_back(p, partition);
                return Ok(());
            }
            // After a cut the producer's earlier batch may be gone, and this one out of sequence.
            Err(AppendError::Producer(_)) => {
                assert!(!known, "a duplicate was refused");
                let mut known = self.models.borrow_mut();
                let kept = known.models[p].records.len() - values.len();
                known.models[p].take_back(kept);
                return Ok(());
            }
            Err(error @ AppendError::Failed(_)) => return Err(error.into()),
            Err(e) => panic!("{e}"),
        };
        assert_eq!(span.duplicate, known, "a duplicate is known by its sequence, and only that");
        let at = usize::try_from(span.base.0).unwrap();
        let there =
            self.models.borrow().models[p].records.get(at..at + values.len()) == Some(values);
        assert!(there, "appended at {at}, which is not behind what was appended before");
        if self.pick(2) == 0 { self.ack(p, partition, &span).await } else { Ok(()) }
    }

    async fn ack(&self, p: usize, partition: &Partition<Sim>, span: &Span) -> Result<(), Failed> {
        let mark =
            [Mark::Appended, Mark::Durable, Mark::High][usize::try_from(self.pick(3)).unwrap()];
        match partition.reach(mark, span).await {
            Ok(()) if mark == Mark::Appended => Ok(()),
            Ok(()) if mark == Mark::High && config(self.seed, p).write_caching => Ok(()),
            Ok(()) => {
                self.models.borrow_mut().models[p].promise(span.end);
                Ok(())
            }
            Err(ReachError::Full) => {
                self.rolled_back(p, partition);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The disk was full: what was not written is gone.
    fn rolled_back(&self, p: usize, partition: &Partition<Sim>) {
        let written = usize::try_from(partition.marks().written.0).unwrap();
        self.models.borrow_mut().models[p].take_back(written);
    }

    async fn look(&self, p: usize, partition: &Partition<Sim>) -> Result<(), Failed> {
        let marks = partition.marks();
        let (start, high) = (marks.log_start, marks.high_watermark);
        let from =
            start.plus(i64::try_from(self.pick(high.since(start).unsigned_abs() + 1)).unwrap());
        let found = match self.read(partition, from).await {
            // Retention came in between.
            Err(_) if partition.marks().log_start > from => return Ok(()),
            found => found?,
        };
        if config(self.seed, p).retention_bytes < 0 {
            self.look_by_time(partition, from).await?;
        }
        let mut known = self.models.borrow_mut();
        let model = &mut known.models[p];
        let at = usize::try_from(from.0).unwrap();
        assert_eq!(model.records.get(at..at + found.len()), Some(&found[..]), "read from {at}");
        // Whatever anybody has seen must be there for ever; but the page cache is no promise.
        if !config(self.seed, p).write_caching {
            model.promise(from.plus(i64::try_from(found.len()).unwrap()));
        }
        Ok(())
    }

    /// The batch at `from` must be found by its timestamp: timestamps rise here.
    async fn look_by_time(&self, partition: &Partition<Sim>, from: Offset) -> Result<(), Failed> {
        let slice = partition.slice(from, 1).await?;
        let Some(first) = slice.batches()?.into_iter().next() else { return Ok(()) };
        let (at, last) = (first.header().max_timestamp(), first.header().last_offset());
        let found = partition.find(at).await?;
        let right = found.is_some_and(|found| found.timestamp >= at && found.offset <= last);
        assert!(right, "{last} is of {at:?}, and for that time there is {found:?}");
        Ok(())
    }

    async fn cut(&self, p: usize, partition: &Partition<Sim>) -> Result<(), Failed> {
        if self.pick(4) > 0 {
            return Ok(());
        }
        let start = usize::try_from(partition.marks().log_start.0).unwrap();
        let to = {
            let known = self.models.borrow();
            let ends: Vec<_> = known.models[p].ends.iter().filter(|end| **end >= start).collect();
            let i = usize::try_from(self.pick(ends.len() as u64 + 1)).unwrap();
            i.checked_sub(1).map_or(start, |i| *ends[i])
        };
        self.models.borrow_mut().models[p].cutting = Some(to);
        let offset = Offset(i64::try_from(to).unwrap());
        match self.shard.truncate(partition, offset).await {
            // A log start may lie inside a batch; and retention may have moved it.
            Err(TruncateError::InsideBatch { .. } | TruncateError::BelowStart { .. }) => {
                self.models.borrow_mut().models[p].cutting = None;
                Ok(())
            }
            done => {
                done?;
                self.models.borrow_mut().models[p].cut(to);
                Ok(())
            }
        }
    }
}

fn config(seed: u64, p: usize) -> LogConfig {
    let mut config = LogConfig::default();
    config.segment_bytes = [2 << 10, 8 << 10, 64 << 10][usize::try_from(seed % 3).unwrap()];
    config.index_interval_bytes = [0, 200, 4096][usize::try_from(seed / 3 % 3).unwrap()];
    config.retention_ms = -1;
    if p == 1 && (seed / 27).is_multiple_of(4) {
        config.retention_bytes = 4 << 10;
    }
    config.write_caching = p == 2 && (seed / 27) % 4 == 1;
    config
}

fn simulate(seed: u64) {
    live(&mut World::new(seed, Faults::none()), seed);
}

/// As [`simulate`], but prints every operation of the machine if it fails.
fn replay(seed: u64) {
    let mut world = World::new(seed, Faults::none());
    world.keep_history(1 << 20);
    let lived = std::panic::catch_unwind(AssertUnwindSafe(|| live(&mut world, seed)));
    if let Err(panic) = lived {
        for event in world.history() {
            eprintln!("{event}");
        }
        std::panic::resume_unwind(panic);
    }
}

fn live(world: &mut World, seed: u64) {
    let models: Models = Rc::default();
    models.borrow_mut().models.resize_with(usize::try_from(PARTITIONS).unwrap(), Model::default);
    let disk = Disk::of(seed);
    for session in 0..SESSIONS {
        let mut faults = match disk {
            Disk::Good | Disk::Full => Faults::none(),
            Disk::Failing | Disk::Both => Faults::swarm(seed),
        };
        let n = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20).wrapping_add(session as u64 * 77)
            % 400;
        if disk.fills_up() && n.is_multiple_of(3) {
            faults.capacity_bytes = world.disk().used_bytes() + (n << 10);
        }
        world.set_faults(faults);
        if session + 1 < SESSIONS {
            world.stop_after(n, if n.is_multiple_of(4) { End::Killed } else { End::PowerCut });
        } else {
            world.set_faults(Faults::none());
            world.stop_after(u64::MAX, End::Killed);
        }
        let mine = Rc::clone(&models);
        let outcome = world.boot(move |io| async move {
            Session::misplace(&io);
            let session = Session::open(io.clone(), mine, seed).await?;
            session.run().await?;
            if session.pick(2) == 0 {
                sim::close(&session.shard).await?;
            }
            Ok::<(), Failed>(())
        });
        match outcome {
            Outcome::Done(Err(Failed { why, .. })) if disk == Disk::Good => {
                panic!("without a fault: {why}")
            }
            Outcome::Done(Err(Failed { why, is_fatal: true })) if disk == Disk::Full => {
                panic!("a full disk is no reason to fail: {why}")
            }
            Outcome::Done(_) | Outcome::Stopped(_) => {}
            Outcome::Stuck => panic!("stuck: every task waits"),
            // Where there is no room a promise may be long in coming.
            Outcome::Late if disk.fills_up() => {}
            Outcome::Late => panic!("hung"),
        }
        if (seed / 2).is_multiple_of(2) {
            world.crash();
        } else {
            world.kill();
        }
    }
    let mine = Rc::clone(&models);
    world.crash();
    world.set_faults(Faults::none());
    let last = world.boot(move |io| async move { Session::open(io, mine, seed).await.map(drop) });
    if let Err(Failed { why, .. }) = last.done() {
        panic!("the last start failed on a disk without faults: {why}");
    }
}

#[test]
fn the_log_keeps_its_promises() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().expect(name));
    if let Some(seed) = number("KARIZ_SEED") {
        return replay(seed);
    }
    let seeds = number("KARIZ_SEEDS").unwrap_or(100);
    let next = AtomicU64::new(0);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            if let Err(panic) = std::panic::catch_unwind(|| simulate(seed)) {
                next.store(seeds, Ordering::Relaxed);
                eprintln!("replay: KARIZ_SEED={seed} cargo sim");
                std::panic::resume_unwind(panic);
            }
        }
    };
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let done: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        assert!(done.iter().all(Result::is_ok), "a seed has failed: its replay is above");
    });
}
