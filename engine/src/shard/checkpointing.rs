//! The background: checkpoints that free the journal and shorten recovery, retention, the journal's
//! growth, and the clean end of it all.

use super::Shard;
use crate::checkpoint;
use crate::futures::{Either, either, join_all};
use crate::io::{Io, is_out_of_descriptors};
use crate::journal::entry::Entry;
use crate::log::{is_full, is_shortage};
use crate::partition::Event;
use crate::types::Offset;
use std::io;
use std::time::Duration;
use tokio::task::yield_now;

/// A checkpoint syncs this many partitions at a time.
const SYNCS_AT_ONCE: usize = 8;
/// With little written, a checkpoint comes after this time.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);
/// How often it is looked whether one is due, or can succeed that was short of something.
const CHECKPOINT_POLL: Duration = Duration::from_millis(500);
/// Between two steps of the journal's growth, so that a new core serves meanwhile; and after one that
/// found no room.
const GROWTH_INTERVAL: Duration = Duration::from_millis(20);
const GROWTH_RETRY: Duration = Duration::from_secs(5);
/// Kafka's name for the sign that nothing needs recovery.
pub(crate) const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";

impl<I: Io> Shard<I> {
    pub(super) async fn checkpoint_loop(&self) {
        let core = &self.0.core;
        let mut last = core.io.now();
        while !self.0.stopped.get() {
            let asked = either(core.checkpoint.wait(), core.io.sleep(CHECKPOINT_POLL)).await;
            let is_asked = matches!(asked, Either::Left(())) || core.is_full();
            let is_time = core.io.now() - last >= CHECKPOINT_INTERVAL;
            let (is_unnoted, are_many) = {
                let absent = self.0.absent.borrow();
                (core.backlog.unsynced() > 0 || absent.has_deleted(), absent.is_due())
            };
            let is_due = core.backlog.is_due() || are_many || is_time && is_unnoted;
            if !is_asked && !is_due {
                continue;
            }
            match self.checkpoint().await {
                Ok(_) => core.set_full(None),
                Err(error) if is_shortage(&error) => core.set_full(Some(&error)),
                Err(error) => self.fail(&format!("a checkpoint failed: {error}")),
            }
            last = core.io.now();
        }
    }

    /// Makes all that is written durable in the partitions' own files, notes how far that is, and
    /// frees the journal up to where it stood at the beginning; whether it could.
    pub(crate) async fn checkpoint(&self) -> io::Result<bool> {
        let _checkpointing = self.0.checkpointing.lock().await;
        self.0.core.backlog.begin_checkpoint();
        let mut done = self.sync_and_release().await;
        if done.as_ref().is_err_and(is_shortage) && self.drop_spares() {
            done = self.sync_and_release().await;
        }
        self.0.core.backlog.end_checkpoint(done.is_ok());
        if done.is_err() {
            // Whoever waits for room may have to give up.
            self.0.room.set();
        }
        done
    }

    async fn sync_and_release(&self) -> io::Result<bool> {
        let core = &self.0.core;
        let end = self.0.cutting.get().unwrap_or_else(|| self.0.journal.borrow().end());
        for some in self.partitions().chunks(SYNCS_AT_ONCE) {
            let begun = some.iter().filter_map(|partition| partition.begin_checkpoint());
            for done in join_all(begun.map(|share| share.run())).await {
                match done {
                    Ok(syncs) => core.metrics.syncs.add(syncs),
                    Err(error) if is_out_of_descriptors(&error) => return Err(error),
                    // A partition that failed has said so, and keeps the journal from being freed.
                    Err(_) => {}
                }
            }
            yield_now().await;
        }
        self.write_checkpoints().await?;
        if core.failure().is_some() || self.partitions().iter().any(|p| p.needs_journal()) {
            // Whoever waits for room learns that there will be none.
            self.0.room.set();
            return Ok(false);
        }
        self.0.journal.borrow_mut().release(end)?;
        let synced = self.0.journal.borrow().sync();
        synced.await?;
        core.metrics.syncs.add(1);
        self.0.journal.borrow_mut().released(end);
        self.0.room.set();
        Ok(true)
    }

    pub(super) async fn write_checkpoints(&self) -> io::Result<()> {
        // Those that are deleted from here on may be in the files.
        let deleted = self.0.absent.borrow().deleted();
        self.write_points().await?;
        self.end_deletions(&deleted).await;
        Ok(())
    }

    async fn write_points(&self) -> io::Result<()> {
        let (io, dir) = (self.io(), &self.0.settings.dir);
        // The log starts first: a recovery point below a log start is harmless.
        match self.write_starts().await {
            Err(error) if is_full(&error) && self.make_room().await? => self.write_starts().await?,
            done => done?,
        }
        let (mut points, _) = self.0.absent.borrow().lost_lines();
        for partition in self.partitions() {
            points.insert(partition.name().clone(), partition.recovery_point());
        }
        checkpoint::write(io, dir, checkpoint::RECOVERY_POINTS, &points).await
    }

    /// Makes the log starts durable, and only then unlinks the segments before them.
    async fn write_starts(&self) -> io::Result<()> {
        let (io, dir) = (self.io(), &self.0.settings.dir);
        let (_, mut starts) = self.0.absent.borrow().lost_lines();
        for partition in self.partitions() {
            let start = partition.marks().log_start;
            if start > Offset::ZERO {
                starts.insert(partition.name().clone(), start);
            }
        }
        let old = checkpoint::read(io, &dir.join(checkpoint::LOG_STARTS)).unwrap_or_default();
        if starts != old {
            checkpoint::write(io, dir, checkpoint::LOG_STARTS, &starts).await?;
        }
        for (name, start) in starts {
            if let Ok(partition) = self.partition(&name)
                && let Err(error) = partition.delete_before(start)
            {
                partition.warn(&format!("its old segments were not unlinked: {error}"));
            }
        }
        Ok(())
    }

    /// Unlinks old segments although there is no room to note the log starts: one at a time, each
    /// durably, so that what is left has no gap. Whether there were any.
    async fn make_room(&self) -> io::Result<bool> {
        let mut found = false;
        for partition in self.partitions() {
            if let Some(dir) = partition.delete_first()? {
                self.io().sync_dir(&dir).await?;
                found = true;
            }
        }
        Ok(found)
    }

    pub(super) async fn prepare_loop(&self) {
        let core = &self.0.core;
        while !self.0.stopped.get() {
            core.to_prepare.wait().await;
            if core.take_spares_unwanted() {
                self.drop_spares();
            }
            for partition in core.take_preparing() {
                let _preparing = self.0.preparing.lock().await;
                if !self.0.stopped.get() {
                    partition.prepare().await;
                }
            }
        }
    }

    /// Gives back what is held for the partitions' next segments; whether that was anything.
    fn drop_spares(&self) -> bool {
        // All of them: no short cut at the first.
        self.partitions().iter().filter(|partition| partition.drop_spare()).count() > 0
    }

    pub(super) async fn retention_loop(&self) {
        let (core, settings) = (&self.0.core, &self.0.settings);
        while !self.0.stopped.get() {
            core.io.sleep(settings.retention_check).await;
            for partition in self.partitions() {
                partition.mend_indexes().await;
                let now = core.io.timestamp();
                if partition.retain(now) {
                    core.checkpoint.set();
                }
                partition.expire_producers(now, settings.producer_expiration_ms);
                yield_now().await;
            }
        }
    }

    /// Fills the journal with zeros, a step at a time, until it has its size. A smaller one serves
    /// as well, where there is no room for more: then it is tried again later.
    pub(super) async fn grow_journal(&self) {
        let core = &self.0.core;
        let mut was_told = false;
        while !self.0.stopped.get() && core.failure().is_none() {
            let grown = self.0.journal.borrow().grow();
            let capacity = match grown {
                Ok(Some(capacity)) => capacity,
                Ok(None) => return,
                Err(error) => {
                    if !std::mem::replace(&mut was_told, true) {
                        let what = format!("the journal stays smaller for now: {error}");
                        (core.on_event)(&Event::Warning { what });
                    }
                    core.io.sleep(GROWTH_RETRY).await;
                    continue;
                }
            };
            let synced = self.0.journal.borrow().sync();
            if let Err(error) = synced.await {
                return self.fail(&format!("the journal failed: {error}"));
            }
            self.0.journal.borrow_mut().grown(capacity);
            core.group.borrow_mut().entry_bytes_max = self.0.journal.borrow().entry_bytes_max();
            core.io.sleep(GROWTH_INTERVAL).await;
        }
    }

    /// Makes everything durable and notes that nothing needs recovery. The shard is of no more use.
    ///
    /// # Errors
    /// Those of the disk, also earlier ones that stopped this core or a partition: what these had
    /// not made durable cannot be any more.
    pub(crate) async fn close(&self) -> io::Result<()> {
        self.0.stopping.set();
        self.0.core.close();
        {
            let _committing = self.0.committing.lock().await;
            self.commit(Entry::new()).await;
        }
        self.checkpoint().await?;
        self.0.stopped.set(true);
        let core = &self.0.core;
        // The tasks end when they are woken; their clones of this shard go with them.
        core.drain.set();
        core.dirty.set();
        core.demand.set();
        core.to_prepare.set();
        core.checkpoint.set();
        {
            let _preparing = self.0.preparing.lock().await;
            self.drop_spares();
        }
        let failed =
            core.failure().or_else(|| self.partitions().iter().find_map(|p| p.disk_failure()));
        let is_fenced = self.partitions().iter().any(|p| p.failure().is_some())
            || self.0.absent.borrow().unopened() > 0;
        if failed.is_none() && !is_fenced {
            let (io, dir) = (self.io(), &self.0.settings.dir);
            let high = self
                .partitions()
                .iter()
                .map(|p| (p.name().clone(), p.marks().high_watermark))
                .collect();
            checkpoint::write(io, dir, checkpoint::HIGH_WATERMARKS, &high).await?;
            let sign = br#"{"version":0,"brokerEpoch":-1}"#;
            checkpoint::replace_file(io, dir, CLEAN_SHUTDOWN, sign).await?;
        }
        self.0.partitions.borrow_mut().clear();
        failed.map_or(Ok(()), |reason| Err(io::Error::other(reason.to_string())))
    }
}
