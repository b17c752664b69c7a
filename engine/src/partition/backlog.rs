//! What a core has written and not yet made durable, and who waits until it is less.
//!
//! Two bounds. What commits have yet to make durable is as much as the disk takes in
//! [`LAG`], so that readers are not far behind writers whatever comes in. What files have yet to
//! be synced is the core's share of what the kernel holds before it makes a writer wait, in the
//! middle of an append and for as long as it likes. Past either, whoever brings more is asked to
//! wait (`Core::room`); an append that is made all the same is taken.

use std::cell::Cell;
use std::time::Duration;
use tokio::sync::Notify;

/// For how long the disk may be behind. A batch waits for the commit that runs, and then for its
/// own: with both in this time on average, 99 of 100 are visible within 20 ms. Measured on a disk of
/// 1 GB/s: 8 ms is too long for that, and takes in no more.
const LAG: Duration = Duration::from_millis(5);
/// The least that commits may have before them: a slow disk is not made slower by small pieces.
const UNCOMMITTED_BYTES_MIN: u64 = 4 << 20;
/// The most, on the fastest of disks.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// A commit of fewer bytes says nothing about the disk's speed.
const TELLING_BYTES: u64 = 256 << 10;
/// How much the bound moves towards what one commit says: one part in so many.
const AVERAGE_OVER: u64 = 8;
/// A checkpoint comes after this many bytes. Source: recovery reads them, and is to take a second.
const CHECKPOINT_BYTES_MAX: u64 = 256 << 20;

/// The bytes of one core that are on their way to the disk.
pub(crate) struct Backlog {
    /// Written, and to be made durable by a commit.
    uncommitted: Cell<u64>,
    /// How many of them there may be.
    uncommitted_max: Cell<u64>,
    /// Bytes of a commit on average, lately, and its microseconds: together, for commits of much
    /// that take little would count for too much.
    commit_bytes: Cell<u64>,
    commit_us: Cell<u64>,
    /// Written since the last checkpoint began, if commits have synced some of it or not.
    unsynced: Cell<u64>,
    /// Written before it, while it runs.
    checkpointing: Cell<u64>,
    /// How many the last two may be together.
    dirty_max: u64,
    changed: Notify,
}

impl Backlog {
    /// Nothing yet. Files may hold up to `dirty_max` bytes that are not synced.
    pub(crate) fn new(dirty_max: u64) -> Self {
        Self {
            uncommitted: Cell::new(0),
            uncommitted_max: Cell::new(UNCOMMITTED_BYTES_MIN),
            commit_bytes: Cell::new(0),
            commit_us: Cell::new(0),
            unsynced: Cell::new(0),
            checkpointing: Cell::new(0),
            dirty_max,
            changed: Notify::new(),
        }
    }

    /// `bytes` were written; whether a checkpoint has become due with them.
    pub(crate) fn write(&self, bytes: u64) -> bool {
        let was_due = self.is_due();
        self.unsynced.set(self.unsynced.get() + bytes);
        !was_due && self.is_due()
    }

    /// Whether there is enough for a checkpoint.
    pub(crate) fn is_due(&self) -> bool {
        // The other half is for what comes while it runs.
        self.unsynced.get() >= CHECKPOINT_BYTES_MAX.min(self.dirty_max / 2)
    }

    /// A commit is to make `bytes` durable that were written; whether it should not be waited for.
    pub(crate) fn gather(&self, bytes: u64) -> bool {
        let uncommitted = self.uncommitted.get() + bytes;
        self.uncommitted.set(uncommitted);
        // The other half may come while it runs.
        uncommitted >= self.uncommitted_max.get() / 2
    }

    /// A commit of `bytes` has ended, whether it could or not, after `took`.
    pub(crate) fn commit(&self, bytes: u64, took: Duration) {
        self.uncommitted.set(self.uncommitted.get().saturating_sub(bytes));
        if bytes >= TELLING_BYTES {
            let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX).max(1);
            let average = |of: &Cell<u64>, now: u64| {
                of.set(of.get() - of.get() / AVERAGE_OVER + now / AVERAGE_OVER);
                of.get()
            };
            let bytes = average(&self.commit_bytes, bytes);
            let took = average(&self.commit_us, micros(took)).max(1);
            let in_time = bytes.saturating_mul(micros(LAG)) / took;
            let max = in_time.clamp(UNCOMMITTED_BYTES_MIN, UNCOMMITTED_BYTES_MAX);
            self.uncommitted_max.set(max);
        }
        if self.has_room() {
            self.wake();
        }
    }

    /// Bytes written since the last checkpoint began.
    pub(crate) fn unsynced(&self) -> u64 {
        self.unsynced.get()
    }

    /// A checkpoint begins, of all that was written until now.
    pub(crate) fn begin_checkpoint(&self) {
        self.checkpointing.set(self.unsynced.take());
    }

    /// It has ended, and if `done` all of that is synced.
    pub(crate) fn end_checkpoint(&self, done: bool) {
        let bytes = self.checkpointing.take();
        if !done {
            self.unsynced.set(self.unsynced.get() + bytes);
        }
        if self.has_room() {
            self.wake();
        }
    }

    /// Whether more may come.
    pub(crate) fn has_room(&self) -> bool {
        let dirty = self.unsynced.get() + self.checkpointing.get();
        self.uncommitted.get() < self.uncommitted_max.get() && dirty < self.dirty_max
    }

    /// Waits until there may be room that was not there.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Lets all who wait look again.
    pub(crate) fn wake(&self) {
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_bound_is_what_the_disk_commits_in_the_lag() {
        let backlog = Backlog::new(u64::MAX);
        for (mib_per_ms, wanted) in [(1, 5), (100, 64), (3, 15), (0, 4), (2, 10)] {
            for _ in 0..100 {
                backlog.gather(8 * MIB);
                let took = millis(8).checked_div(mib_per_ms).unwrap_or(millis(999));
                backlog.commit(8 * MIB, took);
            }
            backlog.gather(wanted * MIB - MIB / 2);
            assert!(backlog.has_room(), "{mib_per_ms} MiB/ms");
            backlog.gather(MIB);
            assert!(!backlog.has_room(), "{mib_per_ms} MiB/ms");
            backlog.commit(0, millis(100));
            assert!(!backlog.has_room(), "nothing was committed, and nothing learned");
            backlog.commit(wanted * MIB + MIB / 2, millis(1));
            assert!(backlog.has_room());
        }
    }

    #[test]
    fn what_a_checkpoint_syncs_counts_until_it_has_ended() {
        let backlog = Backlog::new(100);
        assert!(!backlog.write(49));
        assert!(backlog.write(1), "half of it is worth a checkpoint");
        assert!(!backlog.write(1), "which is asked for once");
        backlog.begin_checkpoint();
        assert!(!backlog.write(48));
        assert!(backlog.has_room());
        assert!(!backlog.write(1));
        assert!(!backlog.has_room());
        backlog.end_checkpoint(false);
        assert!(!backlog.has_room(), "it failed: all is as before");
        assert_eq!(backlog.unsynced(), 100);
        backlog.begin_checkpoint();
        backlog.end_checkpoint(true);
        assert!(backlog.has_room());
        assert_eq!(backlog.unsynced(), 0);
    }
}
