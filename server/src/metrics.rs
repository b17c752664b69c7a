//! What one core counts of the protocol. Merged over the cores only when somebody asks.

use kariz_engine::metrics::{Counter, Histogram, HistogramSnapshot};
use kariz_protocol::ApiKey;
use std::time::Duration;

/// How many APIs are counted apart.
const APIS: usize = ApiKey::ALL.len();
/// Kafka's error codes lie in -1..this; higher ones are counted as the last.
const ERRORS: usize = 160;

/// The counters of one core.
pub(crate) struct Metrics {
    /// Bytes received from clients.
    pub(crate) bytes_in: Counter,
    /// Bytes sent to clients.
    pub(crate) bytes_out: Counter,
    /// Connections accepted.
    pub(crate) accepted: Counter,
    /// Connections turned away because there were too many.
    pub(crate) turned_away: Counter,
    /// Connections closed because of what the client sent, or how slowly.
    pub(crate) refused: Counter,
    /// Fetches that were parked.
    pub(crate) parked: Counter,
    /// Microseconds from a request's arrival to its answer's departure, by API.
    latency_us: [Histogram; APIS],
    /// Answers by Kafka's error code, one per partition or topic; -1 first.
    errors: [Counter; ERRORS],
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            accepted: Counter::default(),
            turned_away: Counter::default(),
            refused: Counter::default(),
            parked: Counter::default(),
            latency_us: std::array::from_fn(|_| Histogram::default()),
            errors: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl Metrics {
    /// Counts an answered request.
    pub(crate) fn answered(&self, api: ApiKey, took: Duration) {
        if let Some(i) = ApiKey::ALL.iter().position(|a| *a == api)
            && let Some(histogram) = self.latency_us.get(i)
        {
            histogram.record_us(took);
        }
    }

    /// Counts an error that was answered.
    pub(crate) fn error(&self, code: i16) {
        let i = usize::try_from(i32::from(code) + 1).unwrap_or(0).min(ERRORS - 1);
        if let Some(counter) = self.errors.get(i) {
            counter.add(1);
        }
    }

    /// A copy that can leave the core.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            accepted: self.accepted.get(),
            turned_away: self.turned_away.get(),
            refused: self.refused.get(),
            parked: self.parked.get(),
            latency_us: self.latency_us.each_ref().map(Histogram::snapshot),
            errors: (-1_i16..)
                .zip(&self.errors)
                .map(|(c, n)| (c, n.get()))
                .filter(|e| e.1 > 0)
                .collect(),
        }
    }
}

/// The counters of one core at one moment.
pub(crate) struct Snapshot {
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) accepted: u64,
    pub(crate) turned_away: u64,
    pub(crate) refused: u64,
    pub(crate) parked: u64,
    /// In the order of [`ApiKey::ALL`].
    pub(crate) latency_us: [HistogramSnapshot; APIS],
    /// Error codes that were answered, and how often.
    pub(crate) errors: Vec<(i16, u64)>,
}
