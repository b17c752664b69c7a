//! Partitions made and put away, and those that ought to be there and are not.
//!
//! The checkpoint files know partitions by name only. What they say of one that is not there can
//! mean two things, which are told apart by what a deletion leaves until the files say no more of
//! it: an empty directory whose name ends in `-delete`. Without that nobody has deleted it, and to
//! make it anew, empty, would be to lose its records without a word.

use super::Shard;
use crate::checkpoint::Checkpoint;
use crate::config::LogConfig;
use crate::io::{Entry as Listed, File, Io, OpenMode};
use crate::log::{Limits, Log, names};
use crate::partition::core::OnEvent;
use crate::partition::{Event, Opened, Partition};
use crate::producer::Producers;
use crate::types::{LeaderEpoch, NameError, Offset, ShardId, TopicId, TopicPartition};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use tokio::task::yield_now;

/// What deletions leave may wait for the next checkpoint up to this many. Source: some 100 KiB of
/// names.
const DELETED_MAX: usize = 1000;
/// Behind the name of a directory whose partition was deleted. Kafka's.
const DELETE: &str = "-delete";
/// Behind the name of a directory that belongs to no partition of the cluster. Kafka's.
const STRAY: &str = "-stray";
/// The longest name of a directory. Source: `NAME_MAX` of Linux.
const DIR_NAME_BYTES_MAX: usize = 255;

/// Why a partition could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// No partition can be called so.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It is there already.
    #[error("partition {0} exists")]
    Exists(TopicPartition),
    /// It is there already, or is being made, on another core.
    #[error("partition {0} exists on core {core}", core = .1.0)]
    Elsewhere(TopicPartition, ShardId),
    /// It was there, and nobody has deleted it.
    #[error(
        "partition {partition} had records up to offset {end}, and its directory is not there: put \
         that back, or delete the partition"
    )]
    Lost {
        /// Which one.
        partition: TopicPartition,
        /// How far its records were durable, at least.
        end: Offset,
    },
    /// The disk.
    #[error("partition {partition} could not be created: {source}")]
    Io {
        /// Which one.
        partition: TopicPartition,
        /// What the disk said.
        source: io::Error,
    },
}

/// What the checkpoint files, or the journal, may say of partitions that are not there.
#[derive(Default)]
pub(super) struct Absent {
    /// Deleted since the files were written; and the directory that says so.
    deleted: FxHashMap<TopicPartition, PathBuf>,
    /// Never deleted: what the files say of them is kept.
    pub(super) lost: BTreeMap<TopicPartition, Lost>,
    /// Of those, the ones that are there and could not be opened, and why.
    unopened: FxHashMap<TopicPartition, String>,
    /// How far the journal knew those that nobody has claimed yet, ...
    pub(super) journalled: FxHashMap<(TopicId, i32), Offset>,
    /// ... of which these were deleted before the start.
    pub(super) traces: Traces,
    /// Being made.
    making: FxHashSet<TopicPartition>,
}

/// What the checkpoint files say of a partition that is not there.
#[derive(Clone, Copy, Default)]
pub(super) struct Lost {
    pub(super) recovery_point: Offset,
    pub(super) log_start: Offset,
}

impl Absent {
    /// Whether so much was deleted that the checkpoint files should be written.
    pub(super) fn is_due(&self) -> bool {
        self.deleted.len() >= DELETED_MAX
    }

    /// Whether the checkpoint files may speak of what was deleted.
    pub(super) fn has_deleted(&self) -> bool {
        !self.deleted.is_empty()
    }

    /// Serves without `name`, whose directory `dir` could not be opened. Whoever mends that finds it
    /// as it was: nothing may take its place.
    pub(super) fn pass_over(
        &mut self,
        name: TopicPartition,
        known: Lost,
        dir: &Path,
        error: &io::Error,
        on_event: &OnEvent,
    ) {
        let reason = format!("{} could not be opened: {error}", dir.display());
        on_event(&Event::Fenced { partition: name.to_string(), reason: reason.clone() });
        self.lost.insert(name.clone(), known);
        self.unopened.insert(name, reason);
    }

    /// How many were passed over: what a start has to do for them is still to be done.
    pub(super) fn unopened(&self) -> usize {
        self.unopened.len()
    }

    /// What the files of recovery points and of log starts have to say of those that are lost.
    pub(super) fn lost_lines(&self) -> (Checkpoint, Checkpoint) {
        let points = self.lost.iter().map(|(name, lost)| (name.clone(), lost.recovery_point));
        let starts = self.lost.iter().map(|(name, lost)| (name.clone(), lost.log_start));
        // A line says that the creation is durable, which nobody knows of one that has none.
        let is_known = |line: &(TopicPartition, Offset)| line.1 > Offset::ZERO;
        (points.filter(is_known).collect(), starts.filter(is_known).collect())
    }

    /// Those that were deleted until now.
    pub(super) fn deleted(&self) -> Vec<TopicPartition> {
        self.deleted.keys().cloned().collect()
    }
}

/// What a deletion leaves of the partitions whose directories are called so.
#[derive(Default)]
pub(super) struct Traces(Vec<String>);

impl Traces {
    /// Those among `entries` of a core's directory.
    pub(super) fn among(entries: &[Listed]) -> Self {
        let ours = entries.iter().filter(|entry| entry.is_dir && entry.name.ends_with(DELETE));
        Self(ours.map(|entry| entry.name.clone()).collect())
    }

    /// Whether a partition of that name was deleted.
    pub(super) fn tell_of(&self, name: &TopicPartition) -> bool {
        let name = name.to_string();
        self.0.iter().any(|trace| {
            let stem = trace.strip_suffix(DELETE).and_then(|rest| rest.rsplit_once('.'));
            // A long name was cut.
            let is_cut = trace.len() + 4 > DIR_NAME_BYTES_MAX;
            stem.is_some_and(|(stem, _)| stem == name || is_cut && name.starts_with(stem))
        })
    }

    /// The directories' names.
    pub(super) fn names(&self) -> &[String] {
        &self.0
    }
}

/// What the directory of `name` is called once it is put away.
fn aside(name: &TopicPartition, random: u64, why: &str) -> String {
    let behind = format!(".{random:016x}{why}");
    let mut aside = name.to_string();
    while aside.len() + behind.len() > DIR_NAME_BYTES_MAX {
        aside.pop();
    }
    aside + &behind
}

/// The name of a partition that is being made, until that has ended.
struct Making<'a, I: Io>(&'a Shard<I>, &'a TopicPartition);

impl<I: Io> Drop for Making<'_, I> {
    fn drop(&mut self) {
        let Self(shard, name) = self;
        shard.0.absent.borrow_mut().making.remove(name);
        shard.0.made.notify_waiters();
        if !shard.0.partitions.borrow().contains_key(name) {
            shard.release(name);
        }
    }
}

impl<I: Io> Shard<I> {
    /// Makes an empty partition here, with a topic id of its own; durable when this returns. It lives
    /// on this core from now on. Its settings are not stored: after the next start, say them again
    /// ([`Partition::configure`]); until then nothing of it is deleted.
    ///
    /// ```
    /// # use kariz_engine::{io::sim::{Faults, World}, *};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
    /// let name = TopicPartition::new("orders", 0);
    /// let config = LogConfig::parse([("segment.bytes", "1048576"), ("retention.ms", "3600000")])?;
    /// let orders = shard.create(&name, config).await?;
    /// assert_eq!(orders.config().segment_bytes, 1 << 20);
    /// assert!(matches!(
    ///     shard.create(&name, LogConfig::default()).await,
    ///     Err(CreateError::Exists(_))
    /// ));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    ///
    /// # Errors
    /// [`CreateError`].
    pub async fn create(
        &self,
        name: &TopicPartition,
        config: LogConfig,
    ) -> Result<Partition<I>, CreateError> {
        let random = u128::from(self.io().random()) << 64 | u128::from(self.io().random());
        self.create_as(name, TopicId(random.to_be_bytes()), LeaderEpoch(0), config).await
    }

    /// The partition called `name`, with the settings `config`; made here if no core has it. Any
    /// number of tasks may ask for the same one at once.
    ///
    /// ```
    /// # use kariz_engine::{io::sim::{Faults, World}, *};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
    /// let name = TopicPartition::new("orders", 0);
    /// let first = shard.ensure(&name, LogConfig::default()).await?;
    /// let again = shard.ensure(&name, LogConfig::default()).await?;
    /// assert_eq!(first.topic_id(), again.topic_id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    ///
    /// # Errors
    /// [`CreateError`], but `Exists`.
    pub async fn ensure(
        &self,
        name: &TopicPartition,
        config: LogConfig,
    ) -> Result<Partition<I>, CreateError> {
        loop {
            if let Ok(partition) = self.partition(name) {
                partition.configure(config);
                return Ok(partition);
            }
            match self.create(name, config.clone()).await {
                Err(CreateError::Exists(_)) => self.0.made.notified().await,
                made => return made,
            }
        }
    }

    /// As [`Shard::create`], for whoever keeps topic ids and terms of its own: appends carry `epoch`.
    ///
    /// # Errors
    /// [`CreateError`].
    pub async fn create_as(
        &self,
        name: &TopicPartition,
        topic_id: TopicId,
        epoch: LeaderEpoch,
        config: LogConfig,
    ) -> Result<Partition<I>, CreateError> {
        name.check()?;
        let is_first = || self.0.absent.borrow_mut().making.insert(name.clone());
        if self.0.partitions.borrow().contains_key(name) || !is_first() {
            return Err(CreateError::Exists(name.clone()));
        }
        let _making = Making(self, name);
        if let Some(handle) = self.0.handle.get() {
            let claimed = handle.owners().claim(name, self.id());
            claimed.map_err(|other| CreateError::Elsewhere(name.clone(), other))?;
        }
        let failed = |source| CreateError::Io { partition: name.clone(), source };
        if let Some(why) = self.0.absent.borrow().unopened.get(name) {
            return Err(failed(io::Error::other(why.clone())));
        }
        self.refuse_records(name).map_err(failed)?;
        if let Some(end) = self.find_lost(name, topic_id) {
            return Err(CreateError::Lost { partition: name.clone(), end });
        }
        // Recovery goes by names: what was said of the one before is not true of this one.
        let is_stale = || self.0.absent.borrow().deleted.contains_key(name);
        if is_stale() {
            let _checkpointing = self.0.checkpointing.lock().await;
            if is_stale() {
                self.write_checkpoints().await.map_err(failed)?;
            }
        }
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
        let core = std::rc::Rc::clone(&self.0.core);
        let partition = Partition::new(core, name.clone(), topic_id, opened);
        partition.configure(config);
        partition.lead(epoch);
        self.0.partitions.borrow_mut().insert(name.clone(), partition.clone());
        Ok(partition)
    }

    /// How far the partition went, if it ought to be there.
    fn find_lost(&self, name: &TopicPartition, topic_id: TopicId) -> Option<Offset> {
        let absent = &mut *self.0.absent.borrow_mut();
        // The journal has forgotten it by the next start, the checkpoint has not.
        if let Some(end) = absent.journalled.remove(&(topic_id, name.partition))
            && !absent.traces.tell_of(name)
        {
            let lost = absent.lost.entry(name.clone()).or_default();
            lost.recovery_point = lost.recovery_point.max(end);
        }
        absent.lost.get(name).map(|lost| lost.recovery_point)
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
        let log = Log::create(io.clone(), &dir, Offset::ZERO, Limits::from(config))?;
        log.unsynced().sync().await?;
        // Its name is the last to be durable: with it the partition exists.
        let metadata = format!("version: 0\ntopic_id: {topic_id}\n");
        crate::checkpoint::replace_file(io, &dir, names::METADATA, metadata.as_bytes()).await?;
        io.sync_dir(&self.0.settings.dir).await?;
        Ok(log)
    }

    /// Deletes a partition: it stops serving at once, and its files are unlinked. Of one that is
    /// lost ([`CreateError::Lost`]) it is forgotten that it ought to be there; the files of one that
    /// could not be opened stay, in a directory that says so.
    ///
    /// ```
    /// # use kariz_engine::{io::sim::{Faults, World}, *};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
    /// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
    /// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
    /// shard.delete(log.name()).await?;
    /// assert!(matches!(log.append(&batch), Err(AppendError::Deleted)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of the disk; the partition serves no more all the same.
    pub async fn delete(&self, name: &TopicPartition) -> io::Result<()> {
        if self.0.absent.borrow().unopened.contains_key(name) {
            match self.rename_away(name, STRAY) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                renamed => drop(renamed?),
            }
            self.io().sync_dir(&self.0.settings.dir).await?;
            self.0.absent.borrow_mut().unopened.remove(name);
        }
        if self.0.absent.borrow_mut().lost.remove(name).is_some() {
            let _checkpointing = self.0.checkpointing.lock().await;
            return self.write_checkpoints().await;
        }
        self.stop_serving(name);
        let io = self.io();
        let gone = {
            // A file that is being made must not come into the directory of the next of that name.
            let _preparing = self.0.preparing.lock().await;
            let removed = self.0.partitions.borrow_mut().remove(name);
            let Some(partition) = removed else { return Ok(()) };
            partition.mark_deleted();
            let gone = self.rename_away(name, DELETE)?;
            self.release(name);
            self.0.absent.borrow_mut().deleted.insert(name.clone(), gone.clone());
            gone
        };
        io.sync_dir(&self.0.settings.dir).await?;
        let entries = match io.list(&gone) {
            // A checkpoint has been there meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed?,
        };
        for entry in entries {
            io.remove_file(&gone.join(&entry.name))?;
        }
        Ok(())
    }

    /// As [`Shard::delete`], but the files stay, in a directory that says so, which is returned: for
    /// partitions that nobody asked to delete.
    ///
    /// # Errors
    /// Those of the disk; the partition serves no more all the same.
    pub async fn set_aside(&self, name: &TopicPartition) -> io::Result<Option<PathBuf>> {
        self.stop_serving(name);
        let _preparing = self.0.preparing.lock().await;
        let removed = self.0.partitions.borrow_mut().remove(name);
        let Some(partition) = removed else { return Ok(None) };
        partition.mark_deleted();
        {
            // The directory stays, so it cannot tell for how long the files may speak of it.
            let _checkpointing = self.0.checkpointing.lock().await;
            self.write_checkpoints().await?;
        }
        let gone = self.rename_away(name, STRAY)?;
        self.release(name);
        self.io().sync_dir(&self.0.settings.dir).await?;
        Ok(Some(gone))
    }

    /// Others may make a partition of that name from now on.
    fn release(&self, name: &TopicPartition) {
        if let Some(handle) = self.0.handle.get() {
            handle.owners().release(name, self.id());
        }
    }

    fn stop_serving(&self, name: &TopicPartition) {
        if let Ok(partition) = self.partition(name) {
            partition.mark_deleted();
        }
    }

    /// Gives the partition's directory a name that no partition has: a crash in the middle of the
    /// removal must not leave half of one.
    fn rename_away(&self, name: &TopicPartition, why: &str) -> io::Result<PathBuf> {
        let dir = self.0.settings.dir.join(name.to_string());
        let gone = dir.with_file_name(aside(name, self.io().random(), why));
        self.io().rename(&dir, &gone)?;
        Ok(gone)
    }

    /// Ends what the deletion of `names` has left, for the checkpoint files say no more of them.
    pub(super) async fn end_deletions(&self, names: &[TopicPartition]) {
        for name in names {
            let left = self.0.absent.borrow_mut().deleted.remove(name);
            if let Some(dir) = left {
                // If it stays the next start removes it.
                let _best_effort = self.io().remove_dir(&dir);
                yield_now().await;
            }
        }
    }
}
