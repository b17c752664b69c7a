//! The background: checkpoints that free the journal and shorten recovery, retention, the journal's
//! growth, and the clean end of it all.

use super::Shard;
use crate::checkpoint::{self, Checkpoint};
use crate::futures::{Either, either, join_all, yield_now};
use crate::io::Io;
use crate::journal::entry::Entry;
use crate::types::Offset;
use std::io;
use std::time::Duration;

/// A checkpoint syncs this many partitions at a time.
const SYNCS_AT_ONCE: usize = 8;
/// Recovery reads at most about this much: what was written since the last checkpoint.
const CHECKPOINT_BYTES: u64 = 256 << 20;
/// With less than that written, a checkpoint comes after this time.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);
/// How often it is looked whether enough was written.
const CHECKPOINT_POLL: Duration = Duration::from_millis(500);
/// Kafka's name for the sign that nothing needs recovery.
pub(crate) const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";

impl<I: Io> Shard<I> {
    pub(super) async fn checkpoint_loop(&self) {
        let core = &self.0.core;
        let mut last = core.io.now();
        while !self.0.stopped.get() {
            let asked = either(core.checkpoint.wait(), core.io.sleep(CHECKPOINT_POLL)).await;
            let unsynced = core.unsynced_bytes.get();
            let is_due = unsynced > 0 && core.io.now() - last >= CHECKPOINT_INTERVAL;
            if !matches!(asked, Either::Left(())) && unsynced < CHECKPOINT_BYTES && !is_due {
                continue;
            }
            if let Err(error) = self.checkpoint().await {
                self.fail(&format!("a checkpoint failed: {error}"));
            }
            last = core.io.now();
        }
    }

    /// Makes all that is written durable in the partitions' own files, notes how far that is, and
    /// frees the journal up to where it stood at the beginning; whether it could.
    pub(crate) async fn checkpoint(&self) -> io::Result<bool> {
        let _checkpointing = self.0.checkpointing.lock().await;
        let core = &self.0.core;
        let end = self.0.cutting.get().unwrap_or_else(|| self.0.journal.borrow().end());
        core.unsynced_bytes.set(0);
        for some in self.partitions().chunks(SYNCS_AT_ONCE) {
            let begun = some.iter().filter_map(|partition| partition.begin_checkpoint());
            for done in join_all(begun.map(|share| share.run())).await {
                // A partition that failed has said so, and keeps the journal from being freed.
                core.metrics.syncs.add(done.unwrap_or(0));
            }
            yield_now().await;
        }
        self.write_checkpoints().await?;
        if core.failure().is_some() || self.partitions().iter().any(|p| p.needs_journal()) {
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

    async fn write_checkpoints(&self) -> io::Result<()> {
        let (io, dir) = (self.io(), &self.0.settings.dir);
        let (mut points, mut starts) = (Checkpoint::new(), Checkpoint::new());
        for partition in self.partitions() {
            points.insert(partition.name().clone(), partition.recovery_point());
            let start = partition.marks().log_start;
            if start > Offset::ZERO {
                starts.insert(partition.name().clone(), start);
            }
        }
        // The log starts first: a recovery point below a log start is harmless.
        let old_starts =
            checkpoint::read(io, &dir.join(checkpoint::LOG_STARTS)).unwrap_or_default();
        if starts != old_starts {
            checkpoint::write(io, dir, checkpoint::LOG_STARTS, &starts).await?;
        }
        checkpoint::write(io, dir, checkpoint::RECOVERY_POINTS, &points).await
    }

    pub(super) async fn retention_loop(&self) {
        let (core, settings) = (&self.0.core, &self.0.settings);
        while !self.0.stopped.get() {
            core.io.sleep(settings.retention_check).await;
            for partition in self.partitions() {
                let now = core.io.timestamp();
                match partition.retain(now) {
                    Ok(0) => {}
                    Ok(_) => core.checkpoint.set(),
                    Err(error) => partition.warn(&format!("retention: {error}")),
                }
                partition.expire_producers(now, settings.producer_expiration_ms);
                yield_now().await;
            }
        }
    }

    /// Fills the journal with zeros, a step at a time, until it has its size.
    pub(super) async fn grow_journal(&self) {
        loop {
            let grown = self.0.journal.borrow().grow();
            let synced = self.0.journal.borrow().sync();
            match grown {
                Ok(None) => return,
                Ok(Some(capacity)) if synced.await.is_ok() => {
                    self.0.journal.borrow_mut().grown(capacity);
                }
                // A smaller journal serves as well; what is wrong shows at the next commit.
                _ => return,
            }
            self.io().sleep(Duration::from_millis(20)).await;
        }
    }

    /// Makes everything durable and notes that nothing needs recovery. The shard is of no more use.
    pub(crate) async fn close(&self) -> io::Result<()> {
        self.0.stopping.set();
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
        core.checkpoint.set();
        let failed = self.partitions().iter().any(|p| p.failure().is_some());
        if core.failure().is_none() && !failed {
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
        Ok(())
    }
}
