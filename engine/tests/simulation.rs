//! A core on the simulated disk against a model of fifty lines: appends, flushes, rolls, cuts,
//! retries of idempotent producers, full disks, power cuts and kills, and opening again.
//!
//! `KARIZ_SEEDS=2000 cargo sim` runs that many; `KARIZ_SEED=42 cargo sim` replays one.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{End, Faults, Outcome, Sim, World};
use kariz_engine::{
    AppendError, LeaderEpoch, LogConfig, Mark, Offset, Partition, ProducerEpoch, ProducerId,
    ReachError, Sequence, Shard, Span, Timestamp, TopicId, TopicPartition, sim,
};
use std::cell::RefCell;
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
    /// The batch that the producer sent last, and whether it was acked.
    last: Option<(i32, Vec<u64>)>,
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

    /// After a crash: `found` must be what was promised, and nothing that never was.
    fn recover(&mut self, found: &[u64]) {
        let floor = self.promised.min(self.cutting.unwrap_or(usize::MAX));
        assert!(found.len() >= floor, "lost: {} of {floor} promised records", found.len());
        assert!(found.len() <= self.records.len(), "invented: {found:?}");
        assert_eq!(found, &self.records[..found.len()], "not what was written");
        let whole = found.is_empty() || self.ends.contains(&found.len());
        assert!(whole, "half a batch: the log ends at {}", found.len());
        self.cut(found.len());
        self.promised = found.len();
    }
}

type Models = Rc<RefCell<Vec<Model>>>;

/// Why a session ended before its time.
struct Failed(String);

impl<E: std::error::Error> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.to_string())
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
    config: LogConfig,
}

impl Session {
    fn pick(&self, n: u64) -> u64 {
        self.io.random() % n
    }

    async fn open(io: Sim, models: Models, seed: u64) -> Result<Self, Failed> {
        let config = config(seed);
        // The smallest goes round many times, and takes few batches at a time.
        let journal_bytes = [4 << 10, 16 << 10, 64 << 10][usize::try_from(seed / 9 % 3).unwrap()];
        let options = sim::Options { journal_bytes, ..sim::Options::default() };
        let opened = sim::open(io.clone(), Path::new("/data"), options).await;
        let (shard, report) = opened?;
        for p in &report.partitions {
            assert!(p.fenced.is_none(), "{}: {:?}", p.partition, p.fenced);
        }
        let session = Self { io, shard, models, config };
        for p in 0..usize::try_from(PARTITIONS).unwrap() {
            let partition = session.partition(p).await?;
            let marks = partition.marks();
            assert_eq!(marks.high_watermark, marks.written, "all that recovery kept is durable");
            let found = session.read(&partition, Offset::ZERO).await?;
            assert_eq!(i64::try_from(found.len()).unwrap(), marks.written.0);
            session.models.borrow_mut()[p].recover(&found);
        }
        Ok(session)
    }

    async fn partition(&self, p: usize) -> Result<Partition<Sim>, Failed> {
        let name = name(p);
        if let Some(partition) = self.shard.partition(&name) {
            partition.configure(self.config.clone());
            return Ok(partition);
        }
        // It may be gone only if nothing in it was ever promised.
        assert_eq!(self.models.borrow()[p].promised, 0, "{name} is gone");
        let id = TopicId([u8::try_from(p).unwrap() + 1; 16]);
        let created = self.shard.create(&name, id, LeaderEpoch(0), self.config.clone()).await;
        Ok(created?)
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
            for batch in slice.batches().await? {
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
            match self.pick(20) {
                0..=7 => self.append(p, &partition, false).await?,
                8..=11 => self.append(p, &partition, true).await?,
                12..=13 => self.retry(p, &partition).await?,
                14..=15 => self.look(p, &partition).await?,
                16 => self.cut(p, &partition).await?,
                17 => self.shard_checkpoint().await,
                _ => self.io.sleep(Duration::from_millis(self.pick(20))).await,
            }
        }
        Ok(())
    }

    async fn shard_checkpoint(&self) {
        self.io.sleep(Duration::from_secs(self.pick(40))).await;
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
            let mut models = self.models.borrow_mut();
            let model = &mut models[p];
            let sequence = model.next_sequence;
            model.next_sequence += i32::try_from(count).unwrap();
            model.last = Some((sequence, values.clone()));
            (p, sequence)
        });
        self.send(p, partition, &values, producer).await
    }

    /// The producer's last batch once more: it must be in the log once.
    async fn retry(&self, p: usize, partition: &Partition<Sim>) -> Result<(), Failed> {
        let last = self.models.borrow()[p].last.clone();
        match last {
            Some((sequence, values)) => self.send(p, partition, &values, Some((p, sequence))).await,
            None => Ok(()),
        }
    }

    async fn send(
        &self,
        p: usize,
        partition: &Partition<Sim>,
        values: &[u64],
        producer: Option<(usize, i32)>,
    ) -> Result<(), Failed> {
        let bytes = usize::try_from(self.pick(400)).unwrap();
        let batch = batch(values, bytes, producer, self.io.timestamp());
        let known = self.models.borrow()[p].records.windows(values.len()).any(|w| w == values);
        if !known {
            // Before the call: the machine may stop inside it.
            self.models.borrow_mut()[p].append(values);
        }
        let span = match partition.append(&batch) {
            Ok(span) => span,
            Err(AppendError::Full) => {
                self.rolled_back(p, partition);
                return Ok(());
            }
            // After a cut the producer's earlier batch may be gone, and this one out of sequence.
            Err(AppendError::Producer(_)) => {
                assert!(!known, "a duplicate was refused");
                let kept = self.models.borrow()[p].records.len() - values.len();
                let mut models = self.models.borrow_mut();
                let promised = models[p].promised;
                models[p].cut(kept);
                models[p].promised = promised;
                return Ok(());
            }
            Err(error @ AppendError::Failed(_)) => return Err(error.into()),
            Err(e) => panic!("{e}"),
        };
        assert_eq!(span.duplicate, known, "a duplicate is known by its sequence, and only that");
        let at = usize::try_from(span.base.0).unwrap();
        let there = self.models.borrow()[p].records.get(at..at + values.len()) == Some(values);
        assert!(there, "appended at {at}, which is not behind what was appended before");
        if self.pick(2) == 0 { self.ack(p, partition, &span).await } else { Ok(()) }
    }

    async fn ack(&self, p: usize, partition: &Partition<Sim>, span: &Span) -> Result<(), Failed> {
        let mark =
            [Mark::Appended, Mark::Durable, Mark::High][usize::try_from(self.pick(3)).unwrap()];
        match partition.reach(mark, span).await {
            Ok(()) if mark == Mark::Appended => Ok(()),
            Ok(()) => {
                self.models.borrow_mut()[p].promise(span.end);
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
        let mut models = self.models.borrow_mut();
        let promised = models[p].promised;
        assert!(written >= promised, "a full disk took back what was promised");
        models[p].cut(written);
        models[p].promised = promised;
    }

    async fn look(&self, p: usize, partition: &Partition<Sim>) -> Result<(), Failed> {
        let high = partition.marks().high_watermark;
        let from = Offset(i64::try_from(self.pick(u64::try_from(high.0).unwrap() + 1)).unwrap());
        let found = self.read(partition, from).await?;
        let mut models = self.models.borrow_mut();
        let at = usize::try_from(from.0).unwrap();
        assert_eq!(models[p].records.get(at..at + found.len()), Some(&found[..]), "read from {at}");
        // Whatever anybody has seen must be there for ever.
        models[p].promise(from.plus(i64::try_from(found.len()).unwrap()));
        Ok(())
    }

    async fn cut(&self, p: usize, partition: &Partition<Sim>) -> Result<(), Failed> {
        if self.pick(4) > 0 {
            return Ok(());
        }
        let to = {
            let models = self.models.borrow();
            let ends = &models[p].ends;
            let i = usize::try_from(self.pick(ends.len() as u64 + 1)).unwrap();
            i.checked_sub(1).map_or(0, |i| ends[i])
        };
        self.models.borrow_mut()[p].cutting = Some(to);
        let offset = Offset(i64::try_from(to).unwrap());
        self.shard.truncate(partition, offset).await?;
        self.models.borrow_mut()[p].cut(to);
        Ok(())
    }
}

fn config(seed: u64) -> LogConfig {
    let mut config = LogConfig::default();
    config.segment_bytes = [2 << 10, 8 << 10, 64 << 10][usize::try_from(seed % 3).unwrap()];
    config.index_interval_bytes = [0, 200, 4096][usize::try_from(seed / 3 % 3).unwrap()];
    config.retention_ms = -1;
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
    models.borrow_mut().resize_with(usize::try_from(PARTITIONS).unwrap(), Model::default);
    for session in 0..SESSIONS {
        // The odd seeds live on a disk that fails now and then.
        let is_faulty = seed % 2 == 1;
        world.set_faults(if is_faulty { Faults::swarm(seed) } else { Faults::none() });
        let n = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20).wrapping_add(session as u64 * 77)
            % 400;
        if session + 1 < SESSIONS {
            world.stop_after(n, if n.is_multiple_of(4) { End::Killed } else { End::PowerCut });
        } else {
            world.set_faults(Faults::none());
            world.stop_after(u64::MAX, End::Killed);
        }
        let mine = Rc::clone(&models);
        let outcome = world.boot(move |io| async move {
            let session = Session::open(io.clone(), mine, seed).await?;
            session.run().await?;
            if session.pick(2) == 0 {
                sim::close(&session.shard).await?;
            }
            Ok::<(), Failed>(())
        });
        match outcome {
            Outcome::Done(Err(Failed(why))) if !is_faulty => panic!("without a fault: {why}"),
            Outcome::Done(_) | Outcome::Stopped(_) => {}
            Outcome::Stuck => panic!("stuck: every task waits"),
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
    let last = world.boot(move |io| async move { Session::open(io, mine, seed).await.map(drop) });
    if let Err(Failed(why)) = last.done() {
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
