//! The simulation's randomness: one seed, one independent stream a purpose.

use std::ops::Range;
use std::time::Duration;

/// `SplitMix64` (Steele, Lea and Flood, 2014): a few instructions, and the same numbers for the
/// same seed in every version of every dependency, so that a seed kept in a test stays that test.
#[derive(Debug)]
pub(super) struct Rng(u64);

/// What a stream is for. Each has its own, so that a random number the application draws does not
/// move the faults.
#[derive(Clone, Copy)]
pub(super) enum Stream {
    /// What `Io::random` returns.
    App,
    /// Latencies, faults and splits.
    Machine,
    /// What a power cut leaves.
    Crash,
    /// Which faults a seed has.
    Faults,
}

impl Rng {
    /// The stream `stream` of `seed`.
    pub(super) fn new(seed: u64, stream: Stream) -> Self {
        let salt = match stream {
            Stream::App => 0x6b61_7269_7a5f_6170,
            Stream::Machine => 0x6b61_7269_7a5f_6d61,
            Stream::Crash => 0x6b61_7269_7a5f_6372,
            Stream::Faults => 0x6b61_7269_7a5f_6661,
        };
        // Drawn once, because neighbouring seeds must not make neighbouring streams.
        let mut mixer = Self(seed ^ salt);
        Self(mixer.next())
    }

    /// 64 random bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`, or 0 if there is none. The bias of the remainder, `n / 2^64`, is far
    /// below what a simulation can see.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next().checked_rem(n).unwrap_or(0)
    }

    /// A number in `0..n`, or 0 if there is none.
    pub(super) fn index(&mut self, n: usize) -> usize {
        super::to_usize(self.below(super::to_u64(n)))
    }

    /// True with probability `p`.
    pub(super) fn chance(&mut self, p: f64) -> bool {
        // No draw for "never" and "always": switching a fault off keeps the rest of the history.
        if p <= 0.0 {
            return false;
        }
        let unit = f64::from(u32::try_from(self.next() >> 32).unwrap_or(0)) / 4_294_967_296.0;
        p >= 1.0 || unit < p
    }

    /// True half the time.
    pub(super) fn coin(&mut self) -> bool {
        self.next() & 1 == 0
    }

    /// A duration in `range`; its start if the range is empty.
    pub(super) fn duration(&mut self, range: &Range<Duration>) -> Duration {
        let width = range.end.saturating_sub(range.start);
        let nanos = u64::try_from(width.as_nanos()).unwrap_or(u64::MAX);
        range.start + Duration::from_nanos(self.below(nanos))
    }
}
