//! What the core's tasks do with a partition: commit, checkpoint, retain, truncate, delete.

use super::{Event, Health, JOURNAL_BYTES_MAX, Membership, Partition, TrimError};
use crate::checkpoint::{ReplaceError, replace_cache, write_all};
use crate::io::{Io, OpenMode, is_out_of_descriptors};
use crate::journal::entry::{Entry, Item, Kind};
use crate::log::retain::Retention;
use crate::log::{Log, LogEnd, TruncateError, Unsynced, is_shortage, names};
use crate::num;
use crate::producer::Producers;
use crate::types::{Offset, Timestamp};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A partition's share of a commit that is under way.
pub(crate) struct Commit<I: Io> {
    partition: Partition<I>,
    end: LogEnd,
    files: Option<Unsynced<I>>,
}

impl<I: Io> Commit<I> {
    /// Syncs the partition's own files, if its bytes are not in the journal; how many syncs.
    pub(crate) async fn sync(&self) -> io::Result<u64> {
        match &self.files {
            Some(files) => files.sync().await,
            None => Ok(0),
        }
    }

    /// What was committed is durable. A statement for the next entry, if recovery would not
    /// know otherwise.
    pub(crate) fn succeed(&self) -> Option<Item<'static>> {
        let inner = &*self.partition.0;
        let state = &mut *inner.state.borrow_mut();
        if !state.can_be_durable() {
            return None;
        }
        if let Some(files) = &self.files {
            state.log.synced(files);
            state.files_hold(self.end);
        }
        state.marks.sync(self.end);
        state.wake();
        self.files.as_ref().map(|_| Item {
            topic_id: inner.topic_id,
            partition: inner.name.partition,
            kind: Kind::Synced,
            leader_epoch: state.epoch,
            base: self.end.offset,
            end: self.end.offset,
            segment: self.end.segment,
            position: self.end.position,
            bytes: &[],
        })
    }

    /// The sync failed: what it covered may be lost, although it still reads back.
    pub(crate) fn fail(&self, error: &io::Error) {
        self.partition.fail(&format!("a sync failed: {error}"));
    }
}

/// A partition's share of a checkpoint that is under way.
pub(crate) struct Checkpointed<I: Io> {
    partition: Partition<I>,
    end: LogEnd,
    files: Unsynced<I>,
    epochs: Option<(PathBuf, String)>,
    /// A log that was cut back meanwhile has not come to `end`.
    failures: u64,
}

impl<I: Io> Checkpointed<I> {
    /// Makes all that was written durable in the partition's own files; how many syncs.
    pub(crate) async fn run(self) -> io::Result<u64> {
        let done = self.sync().await;
        match &done {
            Ok(_) => {
                let state = &mut *self.partition.0.state.borrow_mut();
                state.log.synced(&self.files);
                if state.can_be_durable() && state.failures == self.failures {
                    state.files_hold(self.end);
                    state.marks.sync(self.end);
                    state.wake();
                }
            }
            // Nothing was synced, and nothing is lost.
            Err(error) if is_out_of_descriptors(error) => {}
            Err(error) => self.partition.fail(&format!("a sync failed: {error}")),
        }
        done
    }

    async fn sync(&self) -> io::Result<u64> {
        if let Some((dir, epochs)) = &self.epochs {
            let io = &self.partition.0.core.io;
            match replace_cache(io, dir, names::EPOCHS, epochs.as_bytes()).await {
                Ok(()) => {}
                // Told once, and perhaps here of what the log's own sync is to cover: the names in
                // this directory.
                Err(ReplaceError::Sync(error)) if !is_shortage(&error) => return Err(error),
                // They can be read from the batches; the log must be synced all the same.
                Err(error) => {
                    self.partition.0.state.borrow_mut().log.keep_epochs_changed();
                    self.partition.warn(&format!("its leader epochs were not saved: {error}"));
                }
            }
        }
        self.files.sync().await
    }
}

impl<I: Io> Partition<I> {
    /// Has the next commit sync what is in none: bytes that came under `write.caching`.
    pub(super) fn join_next_commit(&self) {
        let (state, core) = (&mut *self.0.state.borrow_mut(), &self.0.core);
        let is_in_none =
            state.marks.is_write_caching() || state.covered.offset < state.marks.written().offset;
        if is_in_none && state.membership == Membership::None {
            state.membership = Membership::Files(0);
            core.group.borrow_mut().members.push(self.clone());
            core.dirty.set();
        }
    }

    /// Takes what was written since the last commit began into this one, whose journal entry is
    /// `entry`.
    pub(crate) fn begin_commit(&self, entry: &mut Entry) -> Commit<I> {
        let state = &mut *self.0.state.borrow_mut();
        let files = match std::mem::replace(&mut state.membership, Membership::None) {
            Membership::Files(bytes) if !self.read_back(state, entry, bytes) => {
                Some(state.log.unsynced())
            }
            _ => None,
        };
        Commit { partition: self.clone(), end: state.marks.written(), files }
    }

    /// Puts what the journal lacks into `entry`, from the file, if it is little; whether it did.
    /// Bytes that came while the partition's own files were synced could not go there at once: had
    /// that sync failed, the journal would promise records behind ones that are lost.
    fn read_back(&self, state: &mut super::State<I>, entry: &mut Entry, bytes: usize) -> bool {
        let (from, to) = (state.covered, state.marks.written());
        let lacks = num::index(u64::from(to.position.saturating_sub(from.position)));
        let room = self.0.core.group.borrow().entry_bytes_max.saturating_sub(entry.len());
        if !matches!(state.health, Health::Good)
            || from.segment != to.segment
            || bytes.max(lacks) > JOURNAL_BYTES_MAX.min(room)
        {
            return false;
        }
        let mut copy = vec![0; lacks];
        if !state.log.read_active(&mut copy, u64::from(from.position)) {
            return false;
        }
        let item = Item {
            topic_id: self.0.topic_id,
            partition: self.0.name.partition,
            kind: Kind::Bytes,
            leader_epoch: state.epoch,
            base: from.offset,
            end: to.offset,
            segment: from.segment,
            position: from.position,
            bytes: &copy,
        };
        entry.push(&item, std::iter::empty());
        state.covered = to;
        true
    }

    /// Brings the caches on disk up to date, and says what a checkpoint must sync; `None` if all
    /// is durable in the partition's own files. Of a fenced one the records alone: the journal lets
    /// go of them.
    pub(crate) fn begin_checkpoint(&self) -> Option<Checkpointed<I>> {
        let state = &mut *self.0.state.borrow_mut();
        if !state.can_be_durable() || !state.log.is_dirty() {
            return None;
        }
        let mut epochs = None;
        if matches!(state.health, Health::Good) {
            let dir = state.log.dir().to_owned();
            let saved = state.log.save_indexes().and_then(|()| match state.staging {
                None => self.save_producers(state, &dir),
                Some(_) => Ok(()),
            });
            // They can be rebuilt; the log must be synced all the same.
            if let Err(error) = saved {
                self.warn(&format!("its indexes and producers were not saved: {error}"));
            }
            epochs = state.log.take_changed_epochs().map(|text| (dir, text));
        }
        let (end, files) = (state.marks.written(), state.log.unsynced());
        let failures = state.failures;
        Some(Checkpointed { partition: self.clone(), end, files, epochs, failures })
    }

    fn save_producers(&self, state: &mut super::State<I>, dir: &std::path::Path) -> io::Result<()> {
        let io = &self.0.core.io;
        let offset = state.marks.written().offset;
        let path = names::snapshot(dir, offset);
        let written = io
            .open(&path, OpenMode::Create)
            .and_then(|file| write_all(&file, &state.producers.encode(), 0));
        if let Err(error) = written {
            // Half a snapshot is of no use, and takes room.
            let _best_effort = io.remove_file(&path);
            return Err(error);
        }
        let old = state.snapshot.replace(offset).filter(|old| *old != offset);
        old.map_or(Ok(()), |old| names::remove_if_there(io, &names::snapshot(dir, old)))
    }

    /// Below this offset every record is durable in the partition's own files.
    pub(crate) fn recovery_point(&self) -> Offset {
        self.0.state.borrow().file_end.offset
    }

    /// Whether its disk failed, so that the journal's copy may be the only one, or the journal the
    /// only witness of a cut. Entries count that were still on their way when it failed: behind one
    /// that was freed, those after it would promise records that no file holds.
    pub(crate) fn needs_journal(&self) -> bool {
        let state = self.0.state.borrow();
        state.disk_failure.is_some()
            && (state.is_cutting || state.file_end.offset < state.covered.offset)
    }

    /// Why its disk takes nothing any more, if so.
    pub(crate) fn disk_failure(&self) -> Option<Arc<str>> {
        let state = self.0.state.borrow();
        state.disk_failure.as_ref().map(|reason| format!("{}: {reason}", self.name()).into())
    }

    /// Moves the log start past the segments that its topic's settings let go; whether it moved.
    /// The segments go with the next checkpoint.
    pub(crate) fn retain(&self, now: Timestamp) -> bool {
        let state = &mut *self.0.state.borrow_mut();
        if !matches!(state.health, Health::Good) || !state.is_configured || !state.config.deletes()
        {
            return false;
        }
        let retention = Retention {
            retention_ms: state.config.retention_ms,
            retention_bytes: state.config.retention_bytes,
        };
        let marks = state.marks.marks();
        let all_visible = marks.high_watermark == state.marks.staged();
        if all_visible && state.log.is_active_expired(retention, now) {
            let _rolled = self.0.roll(self, state, marks.written);
        }
        let start = state.log.retained_from(retention, now, marks.high_watermark);
        let moves = start > state.marks.start();
        state.marks.trim(start);
        moves
    }

    /// Rebuilds, one after the other, the indexes of sealed segments that recovery could not
    /// believe.
    pub(crate) async fn mend_indexes(&self) {
        loop {
            let unindexed = match &*self.0.state.borrow() {
                state if matches!(state.health, Health::Good) => state.log.unindexed(),
                _ => None,
            };
            let Some(unindexed) = unindexed else { return };
            match unindexed.index().await {
                Ok(index) => self.0.state.borrow_mut().log.indexed(&unindexed, index),
                Err(error) => return self.warn(&format!("an index was not rebuilt: {error}")),
            }
        }
    }

    /// Makes the files that its log will need next.
    pub(crate) async fn prepare(&self) {
        let making = {
            let state = &mut *self.0.state.borrow_mut();
            if !matches!(state.health, Health::Good) {
                return;
            }
            state.log.begin_making()
        };
        let made = making.run().await;
        self.0.state.borrow_mut().log.made(made);
    }

    /// Removes what was made for the next segment; whether there was anything.
    pub(crate) fn drop_spare(&self) -> bool {
        self.0.state.borrow_mut().log.drop_spare()
    }

    /// Moves the log start up to `before`. Durable with the next checkpoint, which this asks for;
    /// the segments that end before it go with that. Returns the log start.
    ///
    /// ```
    /// # use kariz_engine::{io::sim::{Faults, World}, *};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
    /// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
    /// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
    /// let span = log.append(&batch)?;
    /// log.reach(Mark::High, &span).await?;
    /// assert_eq!(log.trim(span.end)?, Offset(1));
    /// assert!(matches!(log.slice(Offset(0), 1).await, Err(ReadError::OutOfRange { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    ///
    /// # Errors
    /// [`TrimError`].
    pub fn trim(&self, before: Offset) -> Result<Offset, TrimError> {
        let state = &mut *self.0.state.borrow_mut();
        let high = state.marks.high().offset;
        if before > high {
            return Err(TrimError::PastHighWatermark { to: before, high });
        }
        state.marks.trim(before);
        self.0.core.checkpoint.set();
        Ok(state.marks.start())
    }

    /// Unlinks the segments before `start`, a log start that is durable.
    pub(crate) fn delete_before(&self, start: Offset) -> io::Result<()> {
        let state = &mut *self.0.state.borrow_mut();
        if matches!(state.health, Health::Good) {
            let deleted = state.log.delete_before(start)?;
            self.0.core.metrics.segments_deleted.add(deleted as u64);
        }
        Ok(())
    }

    /// Unlinks the oldest segment if it lies before the log start; its directory, which must be
    /// synced before this is called again. For want of the room that a durable log start takes.
    pub(crate) fn delete_first(&self) -> io::Result<Option<PathBuf>> {
        let state = &mut *self.0.state.borrow_mut();
        let start = state.marks.start();
        if !matches!(state.health, Health::Good) || !state.log.delete_first(start)? {
            return Ok(None);
        }
        self.0.core.metrics.segments_deleted.add(1);
        Ok(Some(state.log.dir().to_owned()))
    }

    /// While it is cut back it takes no batch: one would go into the journal behind the cut, at a
    /// place that is no more.
    pub(crate) fn set_cutting(&self, cutting: bool) {
        self.0.state.borrow_mut().is_cutting = cutting;
    }

    /// The statement with which a cut back to `to` goes into the journal.
    pub(crate) fn truncation(&self, to: Offset) -> Result<Item<'static>, TruncateError> {
        let state = self.0.state.borrow();
        let start = state.marks.start();
        if to < start {
            return Err(TruncateError::BelowStart { to, start });
        }
        let end = state.log.place_of(to.min(state.marks.written().offset))?;
        Ok(Item {
            topic_id: self.0.topic_id,
            partition: self.0.name.partition,
            kind: Kind::Truncated,
            leader_epoch: state.epoch,
            base: end.offset,
            end: end.offset,
            segment: end.segment,
            position: end.position,
            bytes: &[],
        })
    }

    /// Cuts the log back as `item`, which is in the journal, says; waits for what is cut fail. The
    /// caller runs a checkpoint.
    pub(crate) fn truncate(&self, item: &Item<'_>) -> Result<(), TruncateError> {
        let state = &mut *self.0.state.borrow_mut();
        let end = LogEnd { offset: item.end, segment: item.segment, position: item.position };
        if end.offset >= state.marks.written().offset {
            return Ok(());
        }
        let seen = end.offset < state.marks.high().offset;
        state.log.truncate(end, seen)?;
        let dir = state.log.dir();
        // It would be believed once others have taken the place of the batches it speaks of.
        if let Some(stale) = state.snapshot.take_if(|offset| *offset > end.offset) {
            names::remove_if_there(&self.0.core.io, &names::snapshot(dir, stale))?;
        }
        let end = state.log.end_at(end.offset);
        state.marks.truncate(end);
        state.file_end = earlier(state.file_end, end);
        state.covered = earlier(state.covered, end);
        let now = self.0.core.io.timestamp();
        rebuild_producers(&state.log, &mut state.producers, end.offset, now)?;
        state.failures += 1;
        state.failed_at.push_back(end.offset);
        state.waiters.wake_all();
        Ok(())
    }

    /// Stops serving for good, because the topic is gone.
    pub(crate) fn mark_deleted(&self) {
        let state = &mut *self.0.state.borrow_mut();
        state.health = Health::Deleted;
        state.staging = None;
        state.waiters.wake_all();
    }

    pub(crate) fn fail(&self, reason: &str) {
        let state = &mut *self.0.state.borrow_mut();
        self.0.fail(state, reason);
    }

    /// Wakes whoever waits, for the core has failed.
    pub(crate) fn wake_all(&self) {
        self.0.state.borrow().waiters.wake_all();
    }

    /// Forgets producers that have been silent for longer than `ms`.
    pub(crate) fn expire_producers(&self, now: Timestamp, ms: i64) {
        self.0.state.borrow_mut().producers.expire(now, ms);
    }

    pub(crate) fn warn(&self, what: &str) {
        let what = format!("{}: {what}", self.0.name);
        (self.0.core.on_event)(&Event::Warning { what });
    }
}

impl<I: Io> super::State<I> {
    /// Whether what was written can still become durable: also what is fenced was promised.
    fn can_be_durable(&self) -> bool {
        self.disk_failure.is_none() && !matches!(self.health, Health::Deleted)
    }

    /// The partition's own files are durable up to `end`.
    fn files_hold(&mut self, end: LogEnd) {
        self.file_end = later(self.file_end, end);
        self.covered = later(self.covered, end);
    }
}

/// The producers' state as the log tells it, up to `end`.
fn rebuild_producers<I: Io>(
    log: &Log<I>,
    producers: &mut Producers,
    end: Offset,
    now: Timestamp,
) -> io::Result<()> {
    if producers.truncate_to(end) {
        // The batches that were cut pushed others out of the last five: read those again.
        producers.clear();
        log.each_head(log.first_base(), |header| producers.rebuild(header, now))?;
    }
    Ok(())
}

fn later(a: LogEnd, b: LogEnd) -> LogEnd {
    if a.offset < b.offset { b } else { a }
}

fn earlier(a: LogEnd, b: LogEnd) -> LogEnd {
    if a.offset > b.offset { b } else { a }
}
