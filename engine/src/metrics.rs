//! What one core counts. Plain cells: no atomics, no locks; merged only when somebody asks.

mod snapshot;

pub use snapshot::{LogSize, Snapshot, Unit, Value, prometheus};

use std::cell::Cell;
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.set(self.0.get().wrapping_add(n));
    }

    /// The sum so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Powers of two that a histogram tells apart; the last one takes everything above.
pub const BUCKETS: usize = 40;

/// Counts values by their power of two: bucket `i` holds values below `2^i`, the first 0.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Cell<u64>; BUCKETS],
    sum: Cell<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Cell::new(0)), sum: Cell::new(0) }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&self, value: u64) {
        let power = usize::try_from(u64::BITS - value.leading_zeros()).unwrap_or(BUCKETS);
        let bucket = &self.buckets[power.min(BUCKETS - 1)];
        bucket.set(bucket.get().wrapping_add(1));
        self.sum.set(self.sum.get().wrapping_add(value));
    }

    /// Counts a duration, in microseconds.
    pub fn record_us(&self, d: Duration) {
        self.record(u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    }

    /// A copy that can leave the core.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot { buckets: self.buckets.each_ref().map(Cell::get), sum: self.sum.get() }
    }
}

/// A histogram's counts at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// How many values lie below `2^i`, and not below `2^(i-1)`.
    pub buckets: [u64; BUCKETS],
    /// The sum of all values.
    pub sum: u64,
}

impl HistogramSnapshot {
    /// Adds the counts of another core.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine = mine.wrapping_add(theirs);
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// What the engine counts on one core.
#[derive(Debug, Default)]
pub struct ShardMetrics {
    /// Batches appended.
    pub appends: Counter,
    /// Bytes of batches appended.
    pub append_bytes: Counter,
    /// Batches that were duplicates of an idempotent producer.
    pub duplicates: Counter,
    /// Group writes into segment files.
    pub writes: Counter,
    /// Microseconds of each of them, with what it took to roll.
    pub write_us: Histogram,
    /// Group commits.
    pub commits: Counter,
    /// Partitions in each of them.
    pub commit_partitions: Histogram,
    /// Bytes of each journal entry.
    pub commit_bytes: Histogram,
    /// Microseconds of each commit, from its start until its waiters are woken.
    pub commit_us: Histogram,
    /// Microseconds from the first write of each commit's group until all of it is durable: how far
    /// readers are behind writers, at most.
    pub lag_us: Histogram,
    /// Waits for the disk to keep up, before more was received.
    pub held: Counter,
    /// `fdatasync` calls on journals and segment files.
    pub syncs: Counter,
    /// Segments begun.
    pub rolls: Counter,
    /// Segments deleted by retention or trimming.
    pub segments_deleted: Counter,
    /// Writes refused because the disk was full.
    pub full: Counter,
    /// Partitions that stopped serving because of an I/O error or damage.
    pub fenced: Counter,
    /// Reads answered with records.
    pub reads: Counter,
    /// Bytes handed out by reads.
    pub read_bytes: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lands_below_its_power_of_two() {
        let h = Histogram::default();
        for v in [0, 1, 2, 3, 4, u64::MAX] {
            h.record(v);
        }
        let s = h.snapshot();
        assert_eq!(&s.buckets[..4], &[1, 1, 2, 1]);
        assert_eq!(s.buckets[BUCKETS - 1], 1);
        assert_eq!(s.count(), 6);
    }
}
