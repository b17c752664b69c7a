//! What a record says about itself, so that it can be checked wherever it turns up.
//!
//! ```text
//! value:  | run u64 | partition u32 | producer u32 | sequence u64 | intended u64 |
//!         | zeros in percent u8, window u24 | filler: the rest |
//! ```
//!
//! Sequences count from 0 in each partition and producing connection. `intended` is the Unix time
//! in nanoseconds at which the record was due to be sent. The filler is a window of a pool of
//! bytes that the run's number determines: whoever reads the value can say what it must be.

use crate::num;

/// Bytes of a value before its filler: the least size of a value.
pub const IDENTITY_BYTES: usize = 36;

/// Where in an identity the part begins that differs from batch to batch.
pub(crate) const STAMP_AT: usize = 8;

/// Windows start below this.
const POOL_BYTES: usize = 1 << 16;

/// Zeros come in stretches of this many bytes: long enough for every codec to find them.
const STRETCH_BYTES: usize = 64;

/// Who a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The run that wrote it.
    pub run: u64,
    /// The partition it was sent to.
    pub partition: u32,
    /// The connection that sent it.
    pub producer: u32,
    /// Its place among what that connection sent to that partition, from 0.
    pub sequence: u64,
    /// Unix time in nanoseconds at which it was due.
    pub intended_unix_ns: u64,
    /// Which filler follows.
    pub filler: Filler,
}

/// Names a window of a [`Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filler {
    /// How many of a hundred filler bytes are zero.
    pub zero_percent: u8,
    /// Where the window starts, below 65,536.
    pub window: u32,
}

impl Filler {
    fn to_word(self) -> u32 {
        u32::from(self.zero_percent) << 24 | (self.window & 0x00ff_ffff)
    }

    fn from_word(word: u32) -> Self {
        let [zero_percent, ..] = word.to_be_bytes();
        Self { zero_percent, window: word & 0x00ff_ffff }
    }
}

impl Identity {
    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; IDENTITY_BYTES] {
        let mut bytes = [0; IDENTITY_BYTES];
        bytes[..8].copy_from_slice(&self.run.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.partition.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.producer.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.intended_unix_ns.to_be_bytes());
        bytes[32..].copy_from_slice(&self.filler.to_word().to_be_bytes());
        bytes
    }

    /// Reads the identity at the start of a value, and returns the filler behind it; `None` if
    /// the value is too short to have one.
    #[must_use]
    pub fn split(value: &[u8]) -> Option<(Self, &[u8])> {
        let (head, filler) = value.split_first_chunk::<IDENTITY_BYTES>()?;
        let (run, rest) = head.split_first_chunk::<8>()?;
        let (partition, rest) = rest.split_first_chunk::<4>()?;
        let (producer, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (intended, rest) = rest.split_first_chunk::<8>()?;
        let word = rest.first_chunk::<4>()?;
        let identity = Self {
            run: u64::from_be_bytes(*run),
            partition: u32::from_be_bytes(*partition),
            producer: u32::from_be_bytes(*producer),
            sequence: u64::from_be_bytes(*sequence),
            intended_unix_ns: u64::from_be_bytes(*intended),
            filler: Filler::from_word(u32::from_be_bytes(*word)),
        };
        Some((identity, filler))
    }
}

/// The bytes that a run's fillers are windows of.
#[derive(Debug)]
pub struct Pool {
    run: u64,
    zero_percent: u8,
    state: u64,
    bytes: Vec<u8>,
}

impl Pool {
    /// The pool of a run whose fillers are zero to `zero_percent` (at most 100), with windows of
    /// up to `filler_bytes`.
    #[must_use]
    pub fn new(run: u64, zero_percent: u8, filler_bytes: usize) -> Self {
        let mut pool = Self { run, zero_percent, state: run, bytes: Vec::new() };
        pool.widen(filler_bytes);
        pool
    }

    /// The run it belongs to.
    #[must_use]
    pub fn run(&self) -> u64 {
        self.run
    }

    /// Whether it is the pool of that run and share of zeros.
    #[must_use]
    pub fn is_of(&self, run: u64, zero_percent: u8) -> bool {
        self.run == run && self.zero_percent == zero_percent
    }

    /// Makes windows of `filler_bytes` possible. What was there stays: a longer pool continues a
    /// shorter one.
    pub fn widen(&mut self, filler_bytes: usize) {
        let zeros = STRETCH_BYTES * usize::from(self.zero_percent.min(100)) / 100;
        while self.bytes.len() < POOL_BYTES + filler_bytes {
            let mut stretch = [0; STRETCH_BYTES];
            for word in stretch.chunks_exact_mut(8) {
                word.copy_from_slice(&num::random(&mut self.state).to_be_bytes());
            }
            stretch[..zeros].fill(0);
            self.bytes.extend_from_slice(&stretch);
        }
    }

    /// The filler number `n` of this run, whatever `n`: fillers are spread over the pool.
    #[must_use]
    pub fn filler(&self, n: u64) -> Filler {
        let mut state = self.run ^ n;
        let [a, b, ..] = num::random(&mut state).to_be_bytes();
        let window = u32::from(u16::from_be_bytes([a, b]));
        Filler { zero_percent: self.zero_percent, window }
    }

    /// The bytes of a window, if it lies in the pool.
    #[must_use]
    pub fn window(&self, filler: Filler, bytes: usize) -> Option<&[u8]> {
        let at = usize::try_from(filler.window).ok()?;
        self.bytes.get(at..at.checked_add(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_identity_survives_its_bytes(
            run: u64, partition: u32, producer: u32, sequence: u64, at: u64,
            zero_percent in 0_u8..=100, window in 0_u32..65_536, rest: Vec<u8>,
        ) {
            let identity = Identity {
                run, partition, producer, sequence, intended_unix_ns: at,
                filler: Filler { zero_percent, window },
            };
            let mut value = identity.to_bytes().to_vec();
            value.extend_from_slice(&rest);
            prop_assert_eq!(Identity::split(&value), Some((identity, &rest[..])));
            prop_assert_eq!(Identity::split(&value[..IDENTITY_BYTES - 1]), None);
        }
    }

    #[test]
    fn a_wider_pool_continues_a_narrower_one() {
        let mut narrow = Pool::new(7, 50, 10);
        let wide = Pool::new(7, 50, 5000);
        let last = Filler { zero_percent: 50, window: 65_535 };
        assert_eq!(narrow.window(last, 10), wide.window(last, 10));
        assert!(narrow.window(last, 5000).is_none());
        narrow.widen(5000);
        assert_eq!(narrow.window(last, 5000).unwrap(), wide.window(last, 5000).unwrap());
    }

    #[test]
    fn zeros_are_as_many_as_asked() {
        for percent in [0_u8, 25, 50, 100] {
            let pool = Pool::new(3, percent, 0);
            let zeros = pool.bytes.iter().filter(|b| **b == 0).count() * 100 / pool.bytes.len();
            assert!(zeros.abs_diff(usize::from(percent)) <= 1, "{percent}: {zeros}");
        }
    }
}
