//! One core: its partitions, its journal, and the tasks that keep both.
//!
//! | task | wakes | does |
//! |---|---|---|
//! | drain | when a batch is staged, at the end of the turn | one write a partition |
//! | commit | at once if somebody waits or there is much, else within 1 ms | one journal entry, one sync |
//! | prepare | when a segment is nearly full, or new | makes files, so that a roll waits for none |
//! | checkpoint | when there is much to sync, or it is time | syncs files, frees the journal |
//! | retention | every `log.retention.check.interval.ms` | deletes old segments |

mod accept;
mod adopt;
mod checkpointing;
mod commit;
mod handle;
mod lifecycle;
mod open;
mod owners;
mod remote;

pub(crate) use adopt::adopt;
pub(crate) use checkpointing::CLEAN_SHUTDOWN;
pub use handle::{Closed, Handle, HandleError};
pub(crate) use handle::{Job, Mailbox};
use lifecycle::Absent;
pub use lifecycle::CreateError;
pub use open::{PartitionRecovery, RecoveryReport};
pub use owners::NotHere;
pub(crate) use remote::take_appends;

use crate::futures::{Latch, Signal};
use crate::io::Io;
use crate::io::uring::Uring;
use crate::journal::entry::{Entry, Item};
use crate::journal::{Journal, Place};
use crate::log::TruncateError;
use crate::metrics::{LogSize, ShardMetrics, Snapshot};
use crate::partition::core::Core;
use crate::partition::{self, Mark, Partition};
use crate::types::{Instant, Offset, ShardId, TopicId, TopicPartition};
use rustc_hash::FxHashMap;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// What a shard is told when it is opened.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) id: ShardId,
    /// Its directory: a Kafka log directory of its own.
    pub(crate) dir: PathBuf,
    pub(crate) journal_bytes: u64,
    /// Bytes of its files that may wait to be synced.
    pub(crate) dirty_bytes_max: u64,
    pub(crate) retention_check: Duration,
    pub(crate) producer_expiration_ms: i64,
}

/// A handle to the core that the caller runs on; clones are the same core. It stays there.
///
/// ```
/// # use kariz_engine::{io::sim::{Faults, World}, *};
/// # World::new(1, Faults::none()).boot(|io| async move {
/// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
/// let name = TopicPartition::new("orders", 0);
/// assert!(matches!(shard.partition(&name), Err(NotHere::Unknown)));
/// let orders = shard.create(&name, LogConfig::default()).await?;
/// assert_eq!(shard.owner(&name), Some(shard.id()));
/// assert_eq!(shard.partitions().len(), 1);
/// # drop(orders);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).done().unwrap();
/// ```
pub struct Shard<I: Io = Uring>(Rc<Inner<I>>);

impl<I: Io> Clone for Shard<I> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct Inner<I: Io> {
    settings: Settings,
    directory_id: TopicId,
    core: Rc<Core<I>>,
    partitions: RefCell<FxHashMap<TopicPartition, Partition<I>>>,
    journal: RefCell<Journal<I>>,
    /// The journal has room again.
    room: Signal,
    /// Held by whoever changes what is durable: a commit, a checkpoint, a truncation.
    committing: tokio::sync::Mutex<()>,
    /// Held while files are made in a partition's directory.
    preparing: tokio::sync::Mutex<()>,
    /// One checkpoint at a time.
    checkpointing: tokio::sync::Mutex<()>,
    absent: RefCell<Absent>,
    /// A partition has been made, or could not be.
    made: tokio::sync::Notify,
    /// The place of the entry that speaks of a cut, until the files were cut.
    cutting: Cell<Option<Place>>,
    stopping: Latch,
    stopped: Cell<bool>,
    /// Apps that were started and have not ended.
    apps: Cell<usize>,
    app_ended: Signal,
    handle: OnceCell<Handle>,
}

impl<I: Io> Drop for Inner<I> {
    fn drop(&mut self) {
        self.core.forget();
    }
}

impl<I: Io> Shard<I> {
    /// Which core this is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.0.settings.id
    }

    /// The core's clock, tasks, disk and network.
    #[must_use]
    pub fn io(&self) -> &I {
        &self.0.core.io
    }

    /// The id of this core's log directory, as `meta.properties` has it.
    #[must_use]
    pub fn directory_id(&self) -> TopicId {
        self.0.directory_id
    }

    /// What this core counts.
    #[must_use]
    pub fn metrics(&self) -> &ShardMetrics {
        &self.0.core.metrics
    }

    /// What this core has counted so far, and how large its logs are; it can leave the core.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.metrics().snapshot();
        snapshot.shard = Some(self.id());
        let partitions = self.0.partitions.borrow();
        let log = |p: &Partition<I>| LogSize { partition: p.name().clone(), bytes: p.size_bytes() };
        snapshot.logs.extend(partitions.values().map(log));
        snapshot
    }

    /// The partitions that live here, in no order.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition<I>> {
        self.0.partitions.borrow().values().cloned().collect()
    }

    /// The partition called `name`, if it lives here.
    ///
    /// # Errors
    /// [`NotHere`], which says who has it.
    pub fn partition(&self, name: &TopicPartition) -> Result<Partition<I>, NotHere> {
        if let Some(partition) = self.0.partitions.borrow().get(name) {
            return Ok(partition.clone());
        }
        match self.owner(name).filter(|owner| *owner != self.id()) {
            Some(other) => Err(NotHere::Elsewhere(other)),
            None => Err(NotHere::Unknown),
        }
    }

    /// Which core the partition called `name` lives on.
    #[must_use]
    pub fn owner(&self, name: &TopicPartition) -> Option<ShardId> {
        if self.0.partitions.borrow().contains_key(name) {
            return Some(self.id());
        }
        self.0.handle.get().and_then(|handle| handle.owner(name))
    }

    /// How many cores the engine has.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.0.handle.get().map_or(1, Handle::shards)
    }

    /// Waits for the first of several partitions to come far enough, or to fail; its place in
    /// `waits`, or `None` once `until` has passed.
    ///
    /// ```
    /// # use kariz_engine::{io::sim::{Faults, World}, *};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
    /// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
    /// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
    /// use kariz_engine::io::Io;
    /// use std::time::Duration;
    ///
    /// let other = shard.ensure(&TopicPartition::new("other", 0), LogConfig::default()).await?;
    /// other.append(&batch)?;
    /// let waits = [(log, Mark::High, Offset(1)), (other, Mark::High, Offset(1))];
    /// let until = shard.io().now().plus(Duration::from_secs(1));
    /// assert_eq!(shard.any(&waits, until).await, Some(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    pub async fn any(
        &self,
        waits: &[(Partition<I>, Mark, Offset)],
        until: Instant,
    ) -> Option<usize> {
        partition::any(self.io(), waits, until).await
    }

    /// Whether the disk keeps up with this core, so that more may be received.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.0.core.has_room()
    }

    /// Waits until the disk keeps up with this core: whoever receives what is to be appended does
    /// so before each piece, or the kernel will stop the core in the middle of an append.
    pub async fn room(&self) {
        if !self.has_room() {
            self.metrics().held.add(1);
            self.0.core.room().await;
        }
    }

    /// Runs `task` on this core until it ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.io().spawn(task);
    }

    /// Waits until the engine begins to shut down.
    pub async fn stopping(&self) {
        self.0.stopping.wait().await;
    }

    /// Counts an app as running until it is dropped.
    pub(crate) fn guard(&self) -> Running<I> {
        self.0.apps.set(self.0.apps.get() + 1);
        Running(self.clone())
    }

    /// Waits until every app has ended, but not longer than `until`.
    pub(crate) async fn apps_ended(&self, until: Instant) {
        let ended = async {
            while self.0.apps.get() > 0 {
                self.0.app_ended.wait().await;
            }
        };
        crate::futures::either(ended, self.io().sleep_until(until)).await;
    }

    pub(crate) fn stop(&self) {
        self.0.stopping.set();
    }

    pub(crate) fn set_handle(&self, handle: Handle) {
        for partition in self.partitions() {
            // Two cores have it only if somebody has copied a directory: the first is told of.
            let _first = handle.owners().claim(partition.name(), self.id());
        }
        // Set once, right after the shard was opened.
        let _first = self.0.handle.set(handle);
    }

    /// Cuts a partition's log back to `to`, a batch's first offset; durable when it returns.
    ///
    /// # Errors
    /// [`TruncateError`]. After one of the disk the partition takes no writes until it is opened
    /// again: what the log is after the next start may be the cut one.
    pub async fn truncate(
        &self,
        partition: &Partition<I>,
        to: Offset,
    ) -> Result<(), TruncateError> {
        // Held to the end: the journal's word of the cut is obeyed again at each start, so nothing
        // may be promised behind the cut before that entry has been released.
        let _committing = self.0.committing.lock().await;
        // A disk without room for a checkpoint shows here, where nothing has been cut.
        self.checkpoint().await?;
        partition.set_cutting(true);
        // All that is written goes into entries before the one that speaks of the cut.
        let spare = self.commit(Entry::new()).await;
        let cut = match partition.truncation(to) {
            Ok(cut) => cut,
            Err(error) => {
                partition.set_cutting(false);
                return Err(error);
            }
        };
        // Still cutting if that fails: the entry may be the only witness of a cut that came to the
        // disk in part.
        self.cut(partition, &cut, spare).await.inspect_err(|error| {
            partition.fail(&format!("it was to be cut back: {error}"));
        })?;
        partition.set_cutting(false);
        Ok(())
    }

    async fn cut(
        &self,
        partition: &Partition<I>,
        cut: &Item<'_>,
        spare: Entry,
    ) -> Result<(), TruncateError> {
        // Behind what the last commit has left to be said of the files that it synced.
        self.0.core.group.borrow_mut().entry.push(cut, std::iter::empty());
        // A checkpoint that began before the files were cut must not release this entry.
        self.0.cutting.set(Some(self.0.journal.borrow().end()));
        self.commit(spare).await;
        self.0.cutting.set(None);
        if let Some(reason) = self.0.core.failure() {
            return Err(io::Error::other(reason.to_string()).into());
        }
        partition.truncate(cut)?;
        if self.checkpoint().await? {
            return Ok(());
        }
        let why = "the journal keeps the entry, for it holds the only copy of a failed partition";
        Err(io::Error::other(why).into())
    }

    /// Starts the core's tasks.
    pub(crate) fn start(&self) {
        let shard = self.clone();
        self.spawn(async move {
            while !shard.0.stopped.get() {
                shard.0.core.drain.wait().await;
                shard.0.core.drain();
            }
        });
        let shard = self.clone();
        self.spawn(async move { shard.commit_loop().await });
        let shard = self.clone();
        self.spawn(async move { shard.prepare_loop().await });
        let shard = self.clone();
        self.spawn(async move { shard.checkpoint_loop().await });
        let shard = self.clone();
        self.spawn(async move { shard.retention_loop().await });
        let shard = self.clone();
        self.spawn(async move { shard.grow_journal().await });
    }
}

impl Shard<Uring> {
    /// A way to this and every other core, for any thread.
    ///
    /// # Panics
    /// Never: the engine sets it before anybody has the shard.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.0.handle.get().cloned().unwrap_or_default()
    }
}

/// An app that has not ended.
pub(crate) struct Running<I: Io>(Shard<I>);

impl<I: Io> Drop for Running<I> {
    fn drop(&mut self) {
        let inner = &self.0.0;
        inner.apps.set(inner.apps.get().saturating_sub(1));
        inner.app_ended.set();
    }
}
