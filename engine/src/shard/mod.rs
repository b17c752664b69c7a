//! One core: its partitions, its journal, and the tasks that keep both.
//!
//! | task | wakes | does |
//! |---|---|---|
//! | drain | when a batch is staged, at the end of the turn | one write a partition |
//! | commit | at once if somebody waits or there is much, else within 1 ms | one journal entry, one sync |
//! | prepare | when a segment is nearly full, or new | makes files, so that a roll waits for none |
//! | checkpoint | when there is much to sync, or it is time | syncs files, frees the journal |
//! | retention | every `log.retention.check.interval.ms` | deletes old segments |

mod adopt;
mod checkpointing;
mod commit;
mod handle;
mod open;

pub(crate) use adopt::adopt;
pub(crate) use checkpointing::CLEAN_SHUTDOWN;
pub use handle::{Closed, Handle};
pub(crate) use handle::{Job, Mailbox};
pub use open::{PartitionRecovery, RecoveryReport};

use crate::config::LogConfig;
use crate::futures::{Latch, Signal};
use crate::io::uring::Uring;
use crate::io::{Entry as Listed, File, Io, OpenMode};
use crate::journal::entry::{Entry, Item};
use crate::journal::{Journal, Place};
use crate::log::{Log, TruncateError, names};
use crate::metrics::ShardMetrics;
use crate::partition::core::Core;
use crate::partition::{self, Mark, Opened, Partition};
use crate::producer::Producers;
use crate::types::{Instant, LeaderEpoch, Offset, ShardId, TopicId, TopicPartition};
use rustc_hash::{FxHashMap, FxHashSet};
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

/// Why a partition could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// It is there already.
    #[error("partition {0} exists")]
    Exists(TopicPartition),
    /// The disk.
    #[error("partition {partition} could not be created: {source}")]
    Io {
        /// Which one.
        partition: TopicPartition,
        /// What the disk said.
        source: io::Error,
    },
}

/// A handle to the core that the caller runs on; clones are the same core. It stays there.
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
    /// Partitions that were deleted since the checkpoint files were written, which may name them.
    stale: RefCell<FxHashSet<TopicPartition>>,
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

    /// The partitions that live here, in no order.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition<I>> {
        self.0.partitions.borrow().values().cloned().collect()
    }

    /// The partition called `name`, if it lives here.
    #[must_use]
    pub fn partition(&self, name: &TopicPartition) -> Option<Partition<I>> {
        self.0.partitions.borrow().get(name).cloned()
    }

    /// Makes an empty partition here; durable when this returns.
    ///
    /// # Errors
    /// [`CreateError`].
    pub async fn create(
        &self,
        name: &TopicPartition,
        topic_id: TopicId,
        epoch: LeaderEpoch,
        config: LogConfig,
    ) -> Result<Partition<I>, CreateError> {
        if self.partition(name).is_some() {
            return Err(CreateError::Exists(name.clone()));
        }
        let failed = |source| CreateError::Io { partition: name.clone(), source };
        // Recovery goes by names: what was said of the one before is not true of this one.
        let is_stale = || self.0.stale.borrow().contains(name);
        if is_stale() {
            let _checkpointing = self.0.checkpointing.lock().await;
            if is_stale() {
                self.write_checkpoints().await.map_err(failed)?;
            }
        }
        self.refuse_records(name).map_err(failed)?;
        let log = match self.create_log(name, topic_id, &config).await {
            Ok(log) => log,
            Err(error) => {
                // After a failed sync its names read back and are not durable: a later start must
                // not take them for a partition. What cannot be removed is refused there.
                let _best_effort =
                    self.io().remove_dir(&self.0.settings.dir.join(name.to_string()));
                return Err(failed(error));
            }
        };
        let opened = Opened {
            log,
            start: Offset::ZERO,
            end: Offset::ZERO,
            producers: Producers::new(),
            fence: None,
            snapshot: None,
        };
        let core = Rc::clone(&self.0.core);
        let partition = Partition::new(core, name.clone(), topic_id, opened);
        partition.configure(config);
        partition.lead(epoch);
        // Two creations of one name at a time: the first to end has made it.
        let mut partitions = self.0.partitions.borrow_mut();
        if partitions.contains_key(name) {
            return Err(CreateError::Exists(name.clone()));
        }
        partitions.insert(name.clone(), partition.clone());
        Ok(partition)
    }

    /// Records that no partition owns, as their metadata was damaged, are not to be written over.
    fn refuse_records(&self, name: &TopicPartition) -> io::Result<()> {
        let dir = self.0.settings.dir.join(name.to_string());
        let entries = match self.io().list(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed?,
        };
        let is_log = |entry: &&Listed| names::offset_of(&entry.name, "log").is_some();
        for entry in entries.iter().filter(is_log) {
            if self.io().open(&dir.join(&entry.name), OpenMode::Read)?.len()? > 0 {
                let what = format!(
                    "{} holds records and no {} that can be read: restore that, or move them away",
                    dir.display(),
                    names::METADATA
                );
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
            }
        }
        Ok(())
    }

    async fn create_log(
        &self,
        name: &TopicPartition,
        topic_id: TopicId,
        config: &LogConfig,
    ) -> io::Result<Log<I>> {
        let io = self.io();
        let dir = self.0.settings.dir.join(name.to_string());
        io.create_dir(&dir)?;
        let log = Log::create(io.clone(), &dir, Offset::ZERO, partition::limits(config))?;
        log.unsynced().sync().await?;
        // Its name is the last to be durable: with it the partition exists.
        let metadata = format!("version: 0\ntopic_id: {topic_id}\n");
        crate::checkpoint::replace_file(io, &dir, names::METADATA, metadata.as_bytes()).await?;
        io.sync_dir(&self.0.settings.dir).await?;
        Ok(log)
    }

    /// Deletes a partition: it stops serving at once, and its files are unlinked.
    ///
    /// # Errors
    /// Those of the disk; the partition serves no more all the same.
    pub async fn delete(&self, name: &TopicPartition) -> io::Result<()> {
        match self.put_away(name, "delete").await? {
            Some(gone) => self.io().remove_dir(&gone),
            None => Ok(()),
        }
    }

    /// As [`Shard::delete`], but the files stay, in a directory that says so, which is returned: for
    /// partitions that nobody asked to delete.
    ///
    /// # Errors
    /// Those of the disk; the partition serves no more all the same.
    pub async fn set_aside(&self, name: &TopicPartition) -> io::Result<Option<PathBuf>> {
        self.put_away(name, "stray").await
    }

    async fn put_away(&self, name: &TopicPartition, why: &str) -> io::Result<Option<PathBuf>> {
        if let Some(partition) = self.partition(name) {
            partition.mark_deleted();
        }
        let io = self.io();
        let gone = {
            // A file that is being made must not come into the directory of the next of that name.
            let _preparing = self.0.preparing.lock().await;
            let Some(partition) = self.0.partitions.borrow_mut().remove(name) else {
                return Ok(None);
            };
            self.0.stale.borrow_mut().insert(name.clone());
            let dir = partition.mark_deleted();
            // Renamed first: a crash in the middle of the removal must not leave half a partition.
            let gone = dir.with_file_name(format!("{name}.{:016x}-{why}", io.random()));
            io.rename(&dir, &gone)?;
            gone
        };
        io.sync_dir(&self.0.settings.dir).await?;
        Ok(Some(gone))
    }

    /// Waits for the first of several partitions to come far enough, or to fail; its place in
    /// `waits`, or `None` once `until` has passed.
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
