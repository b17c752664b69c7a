//! Numbers of a phase: counted and recorded on the load's cores without allocation, merged and
//! summed up on the control thread.

pub mod resources;

use crate::num;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// An interval of the time series.
pub const INTERVAL_NS: u64 = 1_000_000_000;

/// The most that is told apart: an hour. What took longer counts as an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Significant digits of a histogram; five would be 100 times the memory for nothing.
const DIGITS: u8 = 3;

/// Spare intervals of a recorder: what the control thread may be behind.
const SPARES: usize = 3;

/// An empty histogram of latencies in nanoseconds. Recording to it never allocates.
#[must_use]
#[expect(clippy::expect_used, reason = "constants, which a test checks")]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("bounds and digits are allowed")
}

/// What was done, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Answered requests.
    pub requests: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of values in them, uncompressed.
    pub bytes: u64,
    /// Bytes on the wire: of requests when producing, of responses when fetching.
    pub wire_bytes: u64,
    /// Requests that were sent again.
    pub retries: u64,
    /// Requests of an open loop that had to wait because as many as allowed were in flight.
    pub depth_waits: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.records += other.records;
        self.bytes += other.bytes;
        self.wire_bytes += other.wire_bytes;
        self.retries += other.retries;
        self.depth_waits += other.depth_waits;
    }
}

/// What was recorded in some time.
#[derive(Debug)]
pub struct Interval {
    /// What was done.
    pub counts: Counts,
    /// From the moment a request was due to its answer.
    pub response: Histogram<u64>,
    /// From the moment it was sent. Empty in a closed loop, where both are one.
    pub service: Histogram<u64>,
    /// How late the generator itself was: from the moment a request was due, and could be sent,
    /// to the moment it was. Empty in a closed loop.
    pub lag: Histogram<u64>,
}

impl Default for Interval {
    fn default() -> Self {
        let counts = Counts::default();
        Self { counts, response: histogram(), service: histogram(), lag: histogram() }
    }
}

impl Interval {
    fn clear(&mut self) {
        self.counts = Counts::default();
        for h in [&mut self.response, &mut self.service, &mut self.lag] {
            if !h.is_empty() {
                h.reset();
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        for (into, from) in [
            (&mut self.response, &other.response),
            (&mut self.service, &other.service),
            (&mut self.lag, &other.lag),
        ] {
            if !from.is_empty() {
                // Cannot fail: all histograms here have the same bounds.
                let _same_bounds = into.add(from);
            }
        }
    }
}

/// Where a thread's numbers are handed over, once an interval.
#[derive(Debug)]
pub struct Handover {
    boxes: Mutex<Boxes>,
    /// Requests and records so far, for the progress line.
    requests: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Debug)]
#[expect(clippy::vec_box, reason = "under the lock a pointer is moved, not a histogram")]
struct Boxes {
    full: Vec<(u64, Box<Interval>)>,
    spare: Vec<Box<Interval>>,
    /// Intervals below this are complete.
    complete: u64,
}

impl Default for Handover {
    fn default() -> Self {
        let spare = (0..SPARES).map(|_| Box::default()).collect();
        let full = Vec::with_capacity(SPARES + 1);
        Self {
            boxes: Mutex::new(Boxes { full, spare, complete: 0 }),
            requests: AtomicU64::new(0),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }
}

impl Handover {
    /// Requests, records and bytes of values so far.
    #[must_use]
    pub fn so_far(&self) -> (u64, u64, u64) {
        (
            self.requests.load(Ordering::Relaxed),
            self.records.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }
}

/// Records on one load thread.
#[derive(Debug)]
pub struct Recorder<'h> {
    handover: &'h Handover,
    current: Box<Interval>,
    total: Counts,
    start_ns: u64,
    index: u64,
    open_loop: bool,
    last_answer_ns: u64,
}

impl<'h> Recorder<'h> {
    /// Records intervals that count from `start_ns`.
    #[must_use]
    pub fn new(handover: &'h Handover, start_ns: u64, open_loop: bool) -> Self {
        Self {
            handover,
            current: Box::default(),
            total: Counts::default(),
            start_ns,
            index: 0,
            open_loop,
            last_answer_ns: start_ns,
        }
    }

    /// Notes an answered request that was due at `intended_ns`, could be sent from `ready_ns` on
    /// and was sent at `sent_ns`.
    pub fn answered(&mut self, now_ns: u64, intended_ns: u64, sent_ns: u64, done: Counts) {
        self.last_answer_ns = self.last_answer_ns.max(now_ns);
        self.current.counts.add(&done);
        self.current.response.saturating_record(now_ns.saturating_sub(intended_ns));
        if self.open_loop {
            self.current.service.saturating_record(now_ns.saturating_sub(sent_ns));
        }
    }

    /// Notes how late the generator sent a request of an open loop.
    pub fn lagged(&mut self, lag_ns: u64) {
        if self.open_loop {
            self.current.lag.saturating_record(lag_ns);
        }
    }

    /// Counts something that is no answer.
    pub fn count(&mut self, done: Counts) {
        self.current.counts.add(&done);
    }

    /// To be called often: hands an interval over when it is past, and tells how far the phase
    /// is.
    pub fn tick(&mut self, now_ns: u64) {
        let index = now_ns.saturating_sub(self.start_ns) / INTERVAL_NS;
        if index != self.index {
            self.hand_over(index);
        }
    }

    /// Updates what the progress line shows.
    pub fn show(&self) {
        let c = &self.current.counts;
        self.handover.requests.store(self.total.requests + c.requests, Ordering::Relaxed);
        self.handover.records.store(self.total.records + c.records, Ordering::Relaxed);
        self.handover.bytes.store(self.total.bytes + c.bytes, Ordering::Relaxed);
    }

    fn hand_over(&mut self, index: u64) {
        let mut boxes = self.handover.boxes.lock().unwrap_or_else(PoisonError::into_inner);
        // No spare: the control thread is behind. The interval grows instead.
        if let Some(spare) = boxes.spare.pop() {
            self.total.add(&self.current.counts);
            let full = std::mem::replace(&mut self.current, spare);
            boxes.full.push((self.index, full));
        }
        boxes.complete = index;
        self.index = index;
    }

    /// Hands over what is left; returns when the last answer came, or the start if none did.
    pub fn finish(self) -> u64 {
        let mut boxes = self.handover.boxes.lock().unwrap_or_else(PoisonError::into_inner);
        boxes.full.push((self.index, self.current));
        boxes.complete = u64::MAX;
        self.last_answer_ns
    }
}

/// An interval of all threads, merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// When it began, from the start of its phase.
    pub start_ns: u64,
    /// How long it is.
    pub duration_ns: u64,
    /// What was done in it.
    pub counts: Counts,
    /// The median response time; 0 if nothing was answered.
    pub p50_ns: u64,
    /// The response time of 99 of 100.
    pub p99_ns: u64,
    /// The greatest response time.
    pub max_ns: u64,
    /// The histogram of response times, for the interval log: compressed, not base64.
    #[serde(skip)]
    pub histogram: Vec<u8>,
}

/// Merges what the threads hand over: into rows as intervals become complete, and into a total.
#[derive(Debug, Default)]
pub struct Collector {
    open: BTreeMap<u64, Interval>,
    /// The complete intervals.
    pub rows: Vec<Row>,
    /// Everything.
    pub total: Interval,
}

impl Collector {
    /// Takes what `threads` have handed over.
    pub fn collect<'h>(&mut self, threads: impl Iterator<Item = &'h Handover>) {
        let mut complete = u64::MAX;
        for thread in threads {
            let full = {
                let mut boxes = thread.boxes.lock().unwrap_or_else(PoisonError::into_inner);
                complete = complete.min(boxes.complete);
                std::mem::take(&mut boxes.full)
            };
            for (index, mut interval) in full {
                self.total.add(&interval);
                self.open.entry(index).or_default().add(&interval);
                interval.clear();
                let mut boxes = thread.boxes.lock().unwrap_or_else(PoisonError::into_inner);
                boxes.spare.push(interval);
            }
        }
        while let Some(first) = self.open.first_entry()
            && *first.key() < complete
        {
            let (index, interval) = first.remove_entry();
            self.rows.push(row(index, &interval));
        }
    }

    /// Ends the series: the phase took `elapsed_ns`, so its last interval may be shorter.
    pub fn finish(&mut self, elapsed_ns: u64) {
        if let Some(last) = self.rows.last_mut() {
            last.duration_ns = elapsed_ns.saturating_sub(last.start_ns).min(INTERVAL_NS);
        }
    }
}

fn row(index: u64, interval: &Interval) -> Row {
    let h = &interval.response;
    let mut histogram = Vec::new();
    // A histogram that cannot be written leaves the row without one.
    if V2DeflateSerializer::new().serialize(h, &mut histogram).is_err() {
        histogram.clear();
    }
    Row {
        start_ns: index.saturating_mul(INTERVAL_NS),
        duration_ns: INTERVAL_NS,
        counts: interval.counts,
        p50_ns: h.value_at_quantile(0.5),
        p99_ns: h.value_at_quantile(0.99),
        max_ns: if h.is_empty() { 0 } else { h.max() },
        histogram,
    }
}

/// A distribution of latencies, summed up. A percentile that the samples cannot carry (fewer than
/// 100 beyond it) is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub samples: u64,
    /// The least.
    pub min_ns: u64,
    /// The mean.
    pub mean_ns: u64,
    /// 50 of 100 are at most this.
    pub p50_ns: Option<u64>,
    /// 90 of 100.
    pub p90_ns: Option<u64>,
    /// 99 of 100.
    pub p99_ns: Option<u64>,
    /// 999 of 1,000.
    pub p99_9_ns: Option<u64>,
    /// 9,999 of 10,000.
    pub p99_99_ns: Option<u64>,
    /// The greatest.
    pub max_ns: u64,
    /// The whole histogram: HdrHistogram's V2 encoding, compressed, in base64.
    pub hdr_v2_base64: String,
}

impl Latency {
    /// Sums a histogram up.
    #[must_use]
    pub fn of(h: &Histogram<u64>) -> Self {
        if h.is_empty() {
            return Self::default();
        }
        // `per` samples have 1 beyond the percentile; 100 must be.
        let quantile = |q: f64, per: u64| (h.len() >= 100 * per).then(|| h.value_at_quantile(q));
        let mut bytes = Vec::new();
        if V2DeflateSerializer::new().serialize(h, &mut bytes).is_err() {
            bytes.clear();
        }
        Self {
            samples: h.len(),
            min_ns: h.min(),
            mean_ns: num::round(h.mean()),
            p50_ns: quantile(0.5, 2),
            p90_ns: quantile(0.9, 10),
            p99_ns: quantile(0.99, 100),
            p99_9_ns: quantile(0.999, 1_000),
            p99_99_ns: quantile(0.9999, 10_000),
            max_ns: h.max(),
            hdr_v2_base64: base64(&bytes),
        }
    }
}

/// RFC 4648's base64, with padding.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4_usize {
            if digit > chunk.len() {
                text.push('=');
                continue;
            }
            let six = num::index(u64::from(word >> (18 - 6 * digit) & 63));
            text.push(char::from(ALPHABET[six]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;

    #[test]
    fn a_histogram_takes_an_hour_and_clamps_the_rest() {
        let mut h = histogram();
        assert!(!h.is_auto_resize());
        h.saturating_record(0);
        h.saturating_record(u64::MAX);
        assert_eq!(h.len(), 2);
        assert!(h.max() >= LATENCY_NS_MAX);
    }

    #[test]
    fn nothing_is_lost_between_threads_and_rows() {
        let handovers = [Handover::default(), Handover::default()];
        let mut collector = Collector::default();
        let mut recorders = handovers.each_ref().map(|h| Recorder::new(h, 1_000, true));
        let one = Counts { requests: 1, records: 10, ..Counts::default() };
        for second in 0..8_u64 {
            for (i, r) in (1..).zip(&mut recorders) {
                let now = 1_000 + second * INTERVAL_NS + 500;
                r.tick(now);
                for _ in 0..i {
                    r.answered(now, now - 300, now - 100, one);
                    r.lagged(7);
                }
                r.show();
            }
            // The control thread sleeps through some intervals.
            if second % 5 == 4 {
                collector.collect(handovers.iter());
            }
        }
        assert_eq!(handovers[1].so_far().0, 16);
        let last = recorders.map(Recorder::finish);
        assert_eq!(last, [1_000 + 7 * INTERVAL_NS + 500; 2]);
        collector.collect(handovers.iter());
        collector.finish(7_200_000_000);
        assert_eq!(collector.total.counts.requests, 24);
        assert_eq!(collector.total.response.len(), 24);
        assert_eq!((collector.total.service.max(), collector.total.lag.max()), (100, 7));
        assert_eq!(collector.rows.iter().map(|r| r.counts.records).sum::<u64>(), 240);
        assert!(collector.rows.is_sorted_by_key(|r| r.start_ns));
        assert_eq!(collector.rows.last().unwrap().duration_ns, 200_000_000);
        let mut rows = histogram();
        for row in &collector.rows {
            let h: Histogram<u64> =
                Deserializer::new().deserialize(&mut &row.histogram[..]).unwrap();
            rows.add(h).unwrap();
        }
        assert_eq!(rows, collector.total.response);
    }

    #[test]
    fn percentiles_need_samples() {
        let mut h = histogram();
        (0..9_999_u64).for_each(|i| h.saturating_record(i));
        let latency = Latency::of(&h);
        assert!(latency.p90_ns.is_some() && latency.p99_ns.is_none());
        h.saturating_record(1);
        assert!(Latency::of(&h).p99_ns.is_some() && Latency::of(&h).p99_9_ns.is_none());
        assert_eq!(Latency::of(&histogram()), Latency::default());
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
