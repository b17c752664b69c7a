//! What the partitions of one core share: the I/O seam, the group that gathers for the next
//! commit, and the list of those with staged batches.
//!
//! The shard's tasks run it; partitions only put themselves on its lists.

use super::backlog::Backlog;
use super::{AppendError, Partition};
use crate::futures::Signal;
use crate::io::Io;
use crate::journal::entry::Entry;
use crate::log::staging::Staging;
use crate::metrics::ShardMetrics;
use crate::types::{Instant, Timestamp};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// Staging buffers kept for reuse.
const POOL_MAX: usize = 64;

/// What is worth telling an operator. Cold; called on the core's thread, never under a lock.
///
/// ```
/// use kariz_engine::{Config, Event};
///
/// let tell = |event: &Event| match event {
///     Event::Fenced { partition, reason } => eprintln!("{partition} does not serve: {reason}"),
///     Event::CoreFailed { reason } => eprintln!("a core takes no writes: {reason}"),
///     other => eprintln!("{other:?}"),
/// };
/// let config = Config { on_event: std::sync::Arc::new(tell), ..Config::default() };
/// # drop(config);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A partition stopped serving: its log is damaged, or its disk failed.
    Fenced {
        /// Which one.
        partition: String,
        /// Why.
        reason: String,
    },
    /// All of a core's partitions stopped taking writes: its journal failed.
    CoreFailed {
        /// Why.
        reason: String,
    },
    /// The disk is full, or no descriptor is left: writes are refused, reads go on.
    Full {
        /// The partition that noticed.
        partition: String,
        /// What the system said.
        reason: String,
    },
    /// A write succeeded after [`Event::Full`].
    RoomAgain {
        /// The partition that noticed.
        partition: String,
    },
    /// Recovery moved bytes aside that nobody was promised.
    Cut {
        /// Which partition.
        partition: String,
        /// How many bytes.
        bytes: u64,
    },
    /// Something cold went wrong and will be tried again, or can be rebuilt.
    Warning {
        /// What.
        what: String,
    },
}

/// Who is told of events.
pub(crate) type OnEvent = Rc<dyn Fn(&Event)>;

/// What the next commit will make durable.
pub(crate) struct Group<I: Io> {
    /// The journal entry, filled as partitions write.
    pub(crate) entry: Entry,
    /// Who wrote since the last commit began.
    pub(crate) members: Vec<Partition<I>>,
    /// How much they wrote.
    pub(crate) bytes: u64,
    /// Since when.
    pub(crate) since: Option<Instant>,
    /// An entry longer than this does not take another batch.
    pub(crate) entry_bytes_max: usize,
}

/// What the partitions of one core share.
pub(crate) struct Core<I: Io> {
    pub(crate) io: I,
    pub(crate) metrics: ShardMetrics,
    pub(crate) on_event: OnEvent,
    /// Partitions with staged batches.
    staged: RefCell<Vec<Partition<I>>>,
    /// When the first of them was.
    staged_at: Cell<Option<Timestamp>>,
    /// There is something to drain.
    pub(crate) drain: Signal,
    pub(crate) group: RefCell<Group<I>>,
    /// There is something to commit.
    pub(crate) dirty: Signal,
    /// The commit should not wait: somebody does, or there is much.
    pub(crate) demand: Signal,
    /// Partitions that need files made on the side.
    preparing: RefCell<Vec<Partition<I>>>,
    /// The disk is full, and what was made for later takes room.
    spares_unwanted: Cell<bool>,
    /// There is one or the other.
    pub(crate) to_prepare: Signal,
    pub(crate) backlog: Backlog,
    /// There is enough for a checkpoint, or the journal needs room.
    pub(crate) checkpoint: Signal,
    /// A checkpoint found the disk full, or no descriptor: no writes are taken until one succeeds.
    is_full: Cell<bool>,
    /// The core ends: what came now would be missing in what its end notes.
    is_closing: Cell<bool>,
    /// Why this core takes no writes any more.
    failed: RefCell<Option<Arc<str>>>,
    pool: RefCell<Vec<Staging>>,
}

impl<I: Io> Core<I> {
    pub(crate) fn new(
        io: I,
        on_event: OnEvent,
        entry_bytes_max: usize,
        dirty_bytes_max: u64,
    ) -> Self {
        Self {
            io,
            metrics: ShardMetrics::default(),
            on_event,
            staged: RefCell::default(),
            staged_at: Cell::new(None),
            drain: Signal::default(),
            group: RefCell::new(Group {
                entry: Entry::new(),
                members: Vec::new(),
                bytes: 0,
                since: None,
                entry_bytes_max,
            }),
            dirty: Signal::default(),
            demand: Signal::default(),
            preparing: RefCell::default(),
            spares_unwanted: Cell::new(false),
            to_prepare: Signal::default(),
            backlog: Backlog::new(dirty_bytes_max),
            checkpoint: Signal::default(),
            is_full: Cell::new(false),
            is_closing: Cell::new(false),
            failed: RefCell::default(),
            pool: RefCell::default(),
        }
    }

    /// Takes `partition`, which was staged at `now`, among those to be written.
    pub(super) fn stage(&self, partition: Partition<I>, now: Timestamp) {
        self.staged.borrow_mut().push(partition);
        self.staged_at.set(Some(now));
        self.drain.set();
    }

    /// The time of an append: all that is written together has one, for asking the clock is felt
    /// in an append of 100 B.
    pub(super) fn append_time(&self) -> Timestamp {
        self.staged_at.get().unwrap_or_else(|| self.io.timestamp())
    }

    /// Writes all that is staged on this core: one write a partition.
    pub(crate) fn drain(&self) {
        self.staged_at.set(None);
        // Whoever stages meanwhile is on the next list.
        for partition in self.staged.take() {
            partition.drain();
        }
    }

    /// Takes `partition` among those that need files made on the side.
    pub(super) fn prepare(&self, partition: Partition<I>) {
        self.preparing.borrow_mut().push(partition);
        self.to_prepare.set();
    }

    /// The partitions that need files made on the side.
    pub(crate) fn take_preparing(&self) -> Vec<Partition<I>> {
        self.preparing.take()
    }

    /// Has what all partitions hold for later given back: the disk is full.
    pub(super) fn give_spares_back(&self) {
        self.spares_unwanted.set(true);
        self.to_prepare.set();
    }

    /// Whether that was asked since this was asked last.
    pub(crate) fn take_spares_unwanted(&self) -> bool {
        self.spares_unwanted.take()
    }

    /// Takes the group that has gathered; the next one, whose entry is `spare`, gathers from now on.
    pub(crate) fn take_group(&self, spare: Entry) -> Group<I> {
        let mut group = self.group.borrow_mut();
        let entry_bytes_max = group.entry_bytes_max;
        let (members, bytes, since) = (Vec::new(), 0, None);
        let next = Group { entry: spare, members, bytes, since, entry_bytes_max };
        std::mem::replace(&mut *group, next)
    }

    /// Forgets who waits to be written or committed: they hold the core that lists them, and would
    /// keep it, themselves and their files for ever.
    pub(crate) fn forget(&self) {
        self.staged.take();
        self.preparing.take();
        self.group.borrow_mut().members.clear();
    }

    /// The journal is not to be trusted any more: nothing on this core may be acked.
    pub(crate) fn fail(&self, reason: &str) {
        if self.failed.borrow().is_none() {
            *self.failed.borrow_mut() = Some(reason.into());
            self.backlog.wake();
            (self.on_event)(&Event::CoreFailed { reason: reason.to_owned() });
        }
    }

    /// Whether a checkpoint was short of something, and none has succeeded since.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.get()
    }

    /// Takes no more appends.
    pub(crate) fn close(&self) {
        self.is_closing.set(true);
    }

    /// Whether appends are taken now.
    pub(super) fn check_open(&self) -> Result<(), AppendError> {
        match (self.is_closing.get(), self.is_full()) {
            (true, _) => Err(AppendError::Closed),
            (_, true) => Err(AppendError::Full),
            _ => Ok(()),
        }
    }

    pub(crate) fn set_full(&self, why: Option<&io::Error>) {
        if let (false, Some(error)) = (self.is_full.replace(why.is_some()), why) {
            let what = format!("a checkpoint could not be made, and will be tried again: {error}");
            (self.on_event)(&Event::Warning { what });
        }
        self.backlog.wake();
    }

    /// Whether more may come; also where nothing is taken any more, so that nobody waits who is to
    /// learn why.
    pub(crate) fn has_room(&self) -> bool {
        self.backlog.has_room() || self.is_full() || self.failed.borrow().is_some()
    }

    /// Waits until more may come.
    pub(crate) async fn room(&self) {
        while !self.has_room() {
            self.backlog.changed().await;
        }
    }

    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        self.failed.borrow().clone()
    }

    pub(super) fn take_staging(&self) -> Staging {
        self.pool.borrow_mut().pop().unwrap_or_default()
    }

    pub(super) fn give_back(&self, mut staging: Staging) {
        staging.clear();
        let mut pool = self.pool.borrow_mut();
        if pool.len() < POOL_MAX {
            pool.push(staging);
        }
    }
}
