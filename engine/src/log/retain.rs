//! Which segments may go, and their going.
//!
//! Only whole sealed segments, oldest first, and none that holds a record at or past the high
//! watermark. Whoever reads one keeps it open; unlinking does not disturb them.

use super::{Log, names};
use crate::io::Io;
use crate::types::{Offset, Timestamp};
use std::io;

/// How long, and how much, is kept. Kafka's names; negative is without limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    pub(crate) retention_ms: i64,
    pub(crate) retention_bytes: i64,
}

impl<I: Io> Log<I> {
    /// The log start that `retention` asks for at `now`: a segment's first offset, at most `high`.
    pub(crate) fn retained_from(
        &self,
        retention: Retention,
        now: Timestamp,
        high: Offset,
    ) -> Offset {
        let mut start = self.first_base();
        let mut bytes = self.size_bytes();
        for (i, sealed) in self.sealed.iter().enumerate() {
            let next = self.sealed.get(i + 1).map_or(self.active.base, |s| s.base);
            let keep = u64::try_from(retention.retention_bytes).ok();
            let too_big = keep.is_some_and(|keep| bytes.saturating_sub(sealed.bytes) >= keep);
            if next > high
                || !(too_big || is_old(sealed.max_timestamp, retention.retention_ms, now))
            {
                break;
            }
            bytes = bytes.saturating_sub(sealed.bytes);
            start = next;
        }
        start
    }

    /// Whether the active segment has only records older than `retention`: then it should be
    /// rolled, for only sealed segments are deleted.
    pub(crate) fn is_active_expired(&self, retention: Retention, now: Timestamp) -> bool {
        let newest = self.active.index.max_timestamp();
        self.active.bytes > 0 && is_old(newest, retention.retention_ms, now)
    }

    /// Unlinks the segments that end at or before `start`; returns how many. Their bytes stay for
    /// whoever has them open.
    pub(crate) fn delete_before(&mut self, start: Offset) -> io::Result<usize> {
        let mut deleted = 0;
        while let Some(first) = self.sealed.first() {
            let next = self.sealed.get(1).map_or(self.active.base, |s| s.base);
            if next > start {
                break;
            }
            let (base, serial) = (first.base, first.serial);
            names::remove_if_there(&self.io, &names::log(&self.dir, base))?;
            names::remove_indexes(&self.io, &self.dir, base)?;
            self.sealed.remove(0);
            self.unsynced.retain(|dirty| dirty.serial != serial);
            self.dir_changes += 1;
            deleted += 1;
        }
        self.epochs_dirty |= self.epochs.truncate_from_start(start);
        Ok(deleted)
    }
}

/// A record without a timestamp, or with one that is still to come, is never old.
fn is_old(newest: Timestamp, retention_ms: i64, now: Timestamp) -> bool {
    retention_ms >= 0
        && newest > Timestamp::NONE
        && newest <= now
        && now.0.saturating_sub(newest.0) > retention_ms
}
