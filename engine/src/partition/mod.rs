//! One partition: its log, how far it has come, who waits for it, and its producers.
//!
//! `append` fixes a batch's offset and stages it; the end of the turn writes what is staged in one
//! go; a commit of the core makes it durable; `reach` waits for any of that. No borrow is ever
//! held across an await.
//!
//! **Invariants**
//! - What is staged is seen by nobody: a failed write takes it back, with its offsets, sequences
//!   and waits.
//! - After an error of the disk nothing is acked and nothing retried until the partition is
//!   opened again.

pub(crate) mod backlog;
pub(crate) mod core;
mod error;
mod reach;
mod read;
mod slice;
mod tail;
mod upkeep;
mod waiters;
pub(crate) mod watermarks;

pub use core::Event;
pub use error::{AppendError, ReachError, ReadError, TrimError, Written};
pub use reach::{Mark, Reach, Span};
pub use read::{Found, Want};
pub use slice::Slice;
pub use tail::Tail;
pub use watermarks::Marks;

pub(crate) use reach::any;
pub(crate) use upkeep::Commit;

use self::core::Core;
use crate::batch::{Batch, TimestampType};
use crate::config::LogConfig;
use crate::io::Io;
use crate::io::uring::Uring;
use crate::journal::entry::{Item, Kind};
use crate::log::staging::{StagedBatch, Staging};
use crate::log::{Limits, Log, LogEnd, WriteError};
use crate::num;
use crate::producer::{Producers, Verdict};
use crate::types::{Instant, LeaderEpoch, Offset, Timestamp, TopicId, TopicPartition};
use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use waiters::Waiters;
use watermarks::Watermarks;

/// More than this is not staged: the write goes out within the turn.
const STAGED_BYTES_MAX: usize = 256 << 10;
/// From here on a partition's bytes are made durable in its own file instead of the journal.
const JOURNAL_BYTES_MAX: usize = 256 << 10;
/// How many failed writes are remembered for those who have not asked yet.
const FAILURES_MAX: usize = 1024;

/// A handle to one partition; clones are the same partition. It stays on its core.
pub struct Partition<I: Io = Uring>(Rc<Inner<I>>);

impl<I: Io> Clone for Partition<I> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct Inner<I: Io> {
    name: TopicPartition,
    topic_id: TopicId,
    core: Rc<Core<I>>,
    state: RefCell<State<I>>,
}

/// Whether a partition serves.
#[derive(Clone, Debug)]
enum Health {
    Good,
    /// The disk failed: no write and no ack; what was readable stays so.
    Failed(Arc<str>),
    /// The log is damaged: nothing at all.
    Fenced(Arc<str>),
    Deleted,
}

impl Health {
    fn readable(&self) -> Result<(), ReadError> {
        match self {
            Self::Good | Self::Failed(_) => Ok(()),
            Self::Fenced(reason) => Err(ReadError::Fenced(Arc::clone(reason))),
            Self::Deleted => Err(ReadError::Deleted),
        }
    }

    fn writable(&self) -> Result<(), AppendError> {
        match self {
            Self::Good => Ok(()),
            Self::Failed(reason) | Self::Fenced(reason) => {
                Err(AppendError::Failed(Arc::clone(reason)))
            }
            Self::Deleted => Err(AppendError::Deleted),
        }
    }
}

/// How the group that gathers will make a partition's new bytes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Membership {
    /// Nothing new since the last commit began.
    None,
    /// They are in the journal's entry: so many bytes.
    Journal(usize),
    /// So many bytes, and not all of them are in the entry: the partition's own files are synced.
    Files(usize),
}

struct State<I: Io> {
    log: Log<I>,
    marks: Watermarks,
    producers: Producers,
    staging: Option<Staging>,
    config: LogConfig,
    /// Nothing is deleted by the defaults of a topic whose settings are not known yet.
    is_configured: bool,
    epoch: LeaderEpoch,
    waiters: Waiters,
    health: Health,
    /// Why its files take nothing any more; it may be fenced besides.
    disk_failure: Option<Arc<str>>,
    membership: Membership,
    /// Up to here the journal's entries, with the one that gathers, or the partition's own files
    /// hold every byte: only what follows it may go into the journal.
    covered: LogEnd,
    /// Up to here the partition's own files are durable.
    file_end: LogEnd,
    is_full: bool,
    is_cutting: bool,
    /// How many writes have failed, and the log end at the last of these failures.
    failures: u64,
    failed_at: VecDeque<Offset>,
    /// The offset of the producer snapshot on disk, to be replaced by the next one.
    snapshot: Option<Offset>,
}

/// What recovery found out about a partition.
pub(crate) struct Opened<I: Io> {
    pub(crate) log: Log<I>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) producers: Producers,
    pub(crate) fence: Option<String>,
    pub(crate) snapshot: Option<Offset>,
}

impl<I: Io> Partition<I> {
    pub(crate) fn new(
        core: Rc<Core<I>>,
        name: TopicPartition,
        topic_id: TopicId,
        opened: Opened<I>,
    ) -> Self {
        let config = LogConfig::default();
        let end = opened.log.end_at(opened.end);
        let epoch = opened.log.epochs().latest().unwrap_or_default();
        let state = State {
            marks: Watermarks::recovered(opened.start, end, config.write_caching),
            log: opened.log,
            producers: opened.producers,
            staging: None,
            config,
            is_configured: false,
            epoch,
            waiters: Waiters::default(),
            health: opened.fence.map_or(Health::Good, |why| Health::Fenced(why.into())),
            disk_failure: None,
            membership: Membership::None,
            covered: end,
            file_end: end,
            is_full: false,
            is_cutting: false,
            failures: 0,
            failed_at: VecDeque::new(),
            snapshot: opened.snapshot,
        };
        Self(Rc::new(Inner { name, topic_id, core, state: RefCell::new(state) }))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &TopicPartition {
        &self.0.name
    }

    /// Its topic's id.
    #[must_use]
    pub fn topic_id(&self) -> TopicId {
        self.0.topic_id
    }

    /// The term that appends carry.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.0.state.borrow().epoch
    }

    /// Appends from now on carry `epoch`; an earlier one than the present is ignored.
    pub fn lead(&self, epoch: LeaderEpoch) {
        let state = &mut *self.0.state.borrow_mut();
        if state.epoch <= epoch {
            state.epoch = epoch;
            state.log.assign_epoch(epoch, state.marks.staged());
        }
    }

    /// The term of the record at `offset`.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.0.state.borrow().log.epochs().at(offset)
    }

    /// The largest term at or before `epoch`, and the offset where it ends.
    #[must_use]
    pub fn epoch_end(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let state = self.0.state.borrow();
        state.log.epochs().end_of(epoch, state.marks.written().offset)
    }

    /// Its topic's settings.
    #[must_use]
    pub fn config(&self) -> Ref<'_, LogConfig> {
        Ref::map(self.0.state.borrow(), |state| &state.config)
    }

    /// Puts other settings in force.
    pub fn configure(&self, config: LogConfig) {
        let state = &mut *self.0.state.borrow_mut();
        state.log.set_limits(Limits::from(&config));
        state.marks.set_write_caching(config.write_caching);
        state.config = config;
        state.is_configured = true;
        state.wake();
    }

    /// How far it has come.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.0.state.borrow().marks.marks()
    }

    /// Bytes of its segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.0.state.borrow().log.size_bytes()
    }

    /// How many waits it has.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.0.state.borrow().waiters.len()
    }

    /// Why it does not serve, if so.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<str>> {
        match &self.0.state.borrow().health {
            Health::Failed(reason) | Health::Fenced(reason) => Some(Arc::clone(reason)),
            Health::Good | Health::Deleted => None,
        }
    }

    /// Appends `batch`. Its offsets are given out at once, in the order of the calls, and are
    /// provisional until [`Partition::reach`] says otherwise.
    ///
    /// ```
    /// # use kariz_engine::{io::sim::{Faults, World}, *};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
    /// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
    /// let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
    /// let (first, second) = (log.append(&batch)?, log.append(&batch)?);
    /// assert_eq!((first.base, second.base), (Offset(0), Offset(1))); // neither is kept yet
    /// log.reach(Mark::High, &second).await?; // both are
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    ///
    /// # Errors
    /// [`AppendError`]: nothing was appended.
    pub fn append(&self, batch: &Batch) -> Result<Span, AppendError> {
        let inner = &*self.0;
        let state = &mut *inner.state.borrow_mut();
        state.health.writable()?;
        if let Some(reason) = inner.core.failure() {
            return Err(AppendError::Failed(reason));
        }
        inner.core.check_open()?;
        if state.is_cutting {
            return Err(AppendError::Failed("it is being cut back".into()));
        }
        let (header, bytes) = (batch.header(), batch.total_bytes());
        let config = &state.config;
        if bytes > config.max_message_bytes {
            return Err(AppendError::TooLarge { bytes, max: config.max_message_bytes });
        }
        if bytes as u64 > config.segment_bytes {
            return Err(AppendError::LargerThanSegment { bytes, max: config.segment_bytes });
        }
        let now = inner.core.append_time();
        config.timestamp_bounds().check(batch, config.message_timestamp_type, now)?;
        if config.is_compacted() && batch.has_null_key() == Some(true) {
            return Err(AppendError::NullKey);
        }
        if let Verdict::Duplicate { base_offset, end_offset, timestamp } =
            state.producers.check(header)?
        {
            inner.core.metrics.duplicates.add(1);
            return Ok(Span {
                base: base_offset,
                end: end_offset,
                append_time: state.append_time(timestamp),
                duplicate: true,
                failures: state.failures,
            });
        }

        let base = state.marks.staged();
        let end = base.plus(batch.offsets());
        let last = end.plus(-1);
        let staged = state.staging.as_ref().map_or(0, |s| s.bytes());
        if state.log.is_full(staged, bytes, last, now) {
            inner.write_staged(self, state);
            state.health.writable()?;
            if state.marks.staged() != base {
                return Err(AppendError::Full);
            }
            inner.roll(self, state, base)?;
        }

        let append_time = state.append_time(now);
        let head = batch.stamp(base, state.epoch, append_time);
        let staging = state.staging.get_or_insert_with(|| {
            inner.core.stage(self.clone(), now);
            inner.core.take_staging()
        });
        let staged = StagedBatch {
            last_offset: last,
            max_timestamp: head.max_timestamp(),
            bytes: num::u32_of(bytes),
        };
        staging.push(&head.to_bytes(), batch.wire(), staged);
        let is_large = staging.bytes() >= STAGED_BYTES_MAX;
        state.producers.append(&head, base, now);
        state.marks.stage(end);
        inner.core.metrics.appends.add(1);
        inner.core.metrics.append_bytes.add(bytes as u64);
        let span = Span { base, end, append_time, duplicate: false, failures: state.failures };
        if is_large {
            inner.write_staged(self, state);
        }
        Ok(span)
    }

    /// Writes what is staged.
    pub(crate) fn drain(&self) {
        let state = &mut *self.0.state.borrow_mut();
        self.0.write_staged(self, state);
    }

    /// Stops serving: the log is damaged.
    fn fence(&self, reason: &Arc<str>) {
        let state = &mut *self.0.state.borrow_mut();
        self.0.stop(state, Health::Fenced(Arc::clone(reason)), reason);
    }
}

impl<I: Io> Inner<I> {
    fn write_staged(&self, handle: &Partition<I>, state: &mut State<I>) {
        let Some(staging) = state.staging.take() else {
            return;
        };
        let core = &*self.core;
        let started = core.io.now();
        let at = state.log.end_at(state.marks.written().offset);
        let now = core.io.timestamp();
        match state.log.write(&staging, now) {
            Ok(()) => {
                let end = state.log.end_at(state.marks.staged());
                self.join_group(handle, state, (at, end), &staging, started);
                state.marks.write(end);
                state.producers.mark_written();
                if std::mem::take(&mut state.is_full) {
                    (core.on_event)(&Event::RoomAgain { partition: self.name.to_string() });
                }
                state.wake();
                if state.waiters.want_durable(end.offset) {
                    core.demand.set();
                }
                if state.log.wants_spare(now) {
                    core.prepare(handle.clone());
                }
            }
            Err(WriteError::Shortage(error)) => self.roll_back(state, &error.to_string()),
            Err(WriteError::Io(error)) => {
                state.marks.roll_back();
                state.producers.roll_back();
                self.fail(state, &format!("a write failed: {error}"));
            }
        }
        core.give_back(staging);
        core.metrics.writes.add(1);
        core.metrics.write_us.record_us(core.io.now() - started);
    }

    /// Takes back what is staged: there was no room for it, or no descriptor.
    fn roll_back(&self, state: &mut State<I>, reason: &str) {
        self.core.give_spares_back();
        state.marks.roll_back();
        state.producers.roll_back();
        state.failures += 1;
        state.failed_at.push_back(state.marks.written().offset);
        if state.failed_at.len() > FAILURES_MAX {
            state.failed_at.pop_front();
        }
        state.waiters.wake_all();
        self.core.metrics.full.add(1);
        if !std::mem::replace(&mut state.is_full, true) {
            let partition = self.name.to_string();
            (self.core.on_event)(&Event::Full { partition, reason: reason.to_owned() });
        }
    }

    fn roll(
        &self,
        handle: &Partition<I>,
        state: &mut State<I>,
        base: Offset,
    ) -> Result<(), AppendError> {
        self.core.metrics.rolls.add(1);
        match state.log.roll(base) {
            Ok(()) => {
                self.core.prepare(handle.clone());
                Ok(())
            }
            Err(WriteError::Shortage(error)) => {
                self.roll_back(state, &error.to_string());
                Err(AppendError::Full)
            }
            Err(WriteError::Io(error)) => {
                self.fail(state, &format!("a segment could not be begun: {error}"));
                state.health.writable()
            }
        }
    }

    /// The bytes just written go into the group that gathers.
    fn join_group(
        &self,
        handle: &Partition<I>,
        state: &mut State<I>,
        (at, end): (LogEnd, LogEnd),
        staging: &Staging,
        now: Instant,
    ) {
        let core = &*self.core;
        let bytes = staging.bytes() as u64;
        if core.backlog.write(bytes) {
            core.checkpoint.set();
        }
        if state.marks.is_write_caching() && state.membership == Membership::None {
            return;
        }
        let group = &mut *core.group.borrow_mut();
        group.bytes += bytes;
        group.since.get_or_insert(now);
        if core.backlog.gather(bytes) {
            core.demand.set();
        }
        let gathered = match state.membership {
            Membership::None => {
                group.members.push(handle.clone());
                core.dirty.set();
                0
            }
            Membership::Journal(bytes) | Membership::Files(bytes) => bytes,
        };
        let total = gathered + staging.bytes();
        state.membership = Membership::Files(total);
        if total > JOURNAL_BYTES_MAX
            || group.entry.len() + staging.bytes() > group.entry_bytes_max
            || state.covered.offset != at.offset
            || state.marks.is_write_caching()
        {
            return;
        }
        let item = Item {
            topic_id: self.topic_id,
            partition: self.name.partition,
            kind: Kind::Bytes,
            leader_epoch: state.epoch,
            base: at.offset,
            end: end.offset,
            segment: end.segment,
            position: at.position,
            bytes: &[],
        };
        group.entry.push(&item, staging.slices());
        state.covered = end;
        state.membership = Membership::Journal(total);
    }

    /// The disk failed: what it holds is not known any more.
    fn fail(&self, state: &mut State<I>, reason: &str) {
        state.disk_failure.get_or_insert_with(|| reason.into());
        self.stop(state, Health::Failed(reason.into()), reason);
    }

    fn stop(&self, state: &mut State<I>, health: Health, reason: &str) {
        if matches!(state.health, Health::Good) {
            state.health = health;
            self.core.metrics.fenced.add(1);
            let partition = self.name.to_string();
            (self.core.on_event)(&Event::Fenced { partition, reason: reason.to_owned() });
        }
        state.waiters.wake_all();
    }
}

impl<I: Io> State<I> {
    fn at(&self, mark: Mark) -> Offset {
        match mark {
            Mark::Appended => self.marks.written().offset,
            Mark::Durable => self.marks.durable().offset,
            Mark::High => self.marks.high().offset,
        }
    }

    fn wake(&self) {
        self.waiters.wake(|mark| self.at(mark));
    }

    fn append_time(&self, now: Timestamp) -> Option<Timestamp> {
        (self.config.message_timestamp_type == TimestampType::LogAppendTime).then_some(now)
    }

    /// Whether a write that failed after `span` was staged took it back.
    fn was_rolled_back(&self, span: &Span) -> bool {
        if span.failures == self.failures {
            return false;
        }
        let kept = self.failed_at.len() as u64;
        match span.failures.checked_sub(self.failures - kept) {
            // The first failure after the append decides: what was written by then is written.
            Some(i) => self.failed_at.get(num::index(i)).is_some_and(|end| span.end > *end),
            None => true,
        }
    }
}
