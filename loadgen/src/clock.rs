//! The one clock: monotonic nanoseconds for measuring, Unix time for stamping records.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A monotonic clock with a fixed relation to Unix time. Copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    anchor: Instant,
    anchor_unix_ns: u64,
}

impl Clock {
    /// Starts a clock; its zero is now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the load generator's clock")]
    pub fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { anchor: Instant::now(), anchor_unix_ns: nanos(unix) }
    }

    /// Nanoseconds since the clock was started.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        nanos(self.anchor.elapsed())
    }

    /// Unix time in nanoseconds of a moment of this clock. It never jumps: later corrections of
    /// the machine's time are not followed.
    #[must_use]
    pub fn unix_ns(&self, at_ns: u64) -> u64 {
        self.anchor_unix_ns.saturating_add(at_ns)
    }
}

/// A duration in nanoseconds; 584 years is the most it can say.
#[must_use]
pub fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
