//! Which segments may go, and their going.
//!
//! Only whole sealed segments, oldest first, and none that holds a record at or past the high
//! watermark. Whoever reads one keeps it open; unlinking does not disturb them.

use super::{Log, names};
use crate::io::{File, Io};
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
            let is_old = || is_old(newest(&sealed.file, sealed.max_timestamp), retention, now);
            if next > high || !(too_big || is_old()) {
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
        let active = &self.active;
        let newest = || newest(&active.file, Some(active.index.max_timestamp()));
        active.bytes > 0 && is_old(newest(), retention, now)
    }

    /// Unlinks the segments that end at or before `start`; returns how many. Their bytes stay for
    /// whoever has them open. The start must be durable: after a crash some of them may be back,
    /// and in any order.
    pub(crate) fn delete_before(&mut self, start: Offset) -> io::Result<usize> {
        let mut deleted = 0;
        while self.delete_first(start)? {
            deleted += 1;
        }
        self.epochs_dirty |= self.epochs.truncate_from_start(start);
        Ok(deleted)
    }

    /// Unlinks the oldest segment if it ends at or before `start`; whether it did. Only one at a
    /// time may be gone without its directory being synced, if `start` is not durable. It stays
    /// while the next one's name may be lost: what begins the log must be there.
    pub(crate) fn delete_first(&mut self, start: Offset) -> io::Result<bool> {
        let next = self.sealed.get(1).map_or(self.active.base, |s| s.base);
        let Some((base, serial)) =
            self.sealed.first().filter(|_| next <= start).map(|s| (s.base, s.serial))
        else {
            return Ok(false);
        };
        if self.unnamed.iter().any(|(base, _)| *base == next) {
            return Ok(false);
        }
        names::remove_if_there(&self.io, &names::log(&self.dir, base))?;
        names::remove_indexes(&self.io, &self.dir, base)?;
        self.sealed.remove(0);
        self.unsynced.retain(|dirty| dirty.serial != serial);
        self.dir_changes += 1;
        Ok(true)
    }
}

/// The newest timestamp of a segment in `file`, of which `known` is known. Where no record has one
/// it is that of the file's last change, as in Kafka: nothing else says when it may go.
fn newest<F: File>(file: &F, known: Option<Timestamp>) -> Option<Timestamp> {
    match known {
        Some(newest) if newest <= Timestamp::NONE => file.modified().ok(),
        newest => newest,
    }
}

/// What is still to come is never old, nor is what is not known.
fn is_old(newest: Option<Timestamp>, retention: Retention, now: Timestamp) -> bool {
    let Some(newest) = newest.filter(|newest| *newest <= now) else { return false };
    retention.retention_ms >= 0 && now.0.saturating_sub(newest.0) > retention.retention_ms
}
