//! What happened: one line an operation, and one number for all of it.

use super::faults::OpKind;
use rustc_hash::FxHasher;
use std::collections::VecDeque;
use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

/// Lines kept unless a test asks for more: enough to see what led to a failure.
const KEPT_DEFAULT: usize = 256;

/// One operation and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it ended, since the machine was made.
    pub at: Duration,
    /// What it was.
    pub kind: OpKind,
    /// On which file, directory or connection.
    pub path: Arc<str>,
    /// From which byte; 0 where that means nothing.
    pub offset: u64,
    /// On how many bytes.
    pub len: u64,
    /// How many bytes were done (0 where that means nothing), or the error as `errno`.
    pub outcome: Result<u64, i32>,
    /// A hash of the bytes written, read, sent or received.
    pub digest: u64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, kind, path, offset, len, outcome, digest } = self;
        write!(f, "{:>12} us {kind:?} {path} {offset}+{len} ", at.as_micros())?;
        match outcome {
            Ok(n) => write!(f, "= {n} #{digest:016x}"),
            Err(errno) => write!(f, "failed, errno {errno}"),
        }
    }
}

/// The last operations, and the hash of all of them.
#[derive(Debug)]
pub(super) struct History {
    events: VecDeque<Event>,
    kept: usize,
    hash: u64,
    count: u64,
}

impl Default for History {
    fn default() -> Self {
        Self { events: VecDeque::new(), kept: KEPT_DEFAULT, hash: 0, count: 0 }
    }
}

impl History {
    /// Adds `event`, and forgets the oldest if there are too many.
    pub(super) fn note(&mut self, event: Event) {
        let mut hasher = FxHasher::default();
        hasher.write_u64(self.hash);
        hasher.write_u128(event.at.as_nanos());
        hasher.write_u8(event.kind as u8);
        hasher.write(event.path.as_bytes());
        hasher.write_u64(event.offset);
        hasher.write_u64(event.len);
        match event.outcome {
            Ok(n) => hasher.write_u64(n),
            Err(errno) => hasher.write_i32(errno),
        }
        hasher.write_u64(event.digest);
        self.hash = hasher.finish();
        self.count += 1;
        if self.events.len() >= self.kept {
            self.events.pop_front();
        }
        if self.kept > 0 {
            self.events.push_back(event);
        }
    }

    /// Keeps the last `n` operations from now on.
    pub(super) fn keep(&mut self, n: usize) {
        self.kept = n;
        self.events.drain(..self.events.len().saturating_sub(n));
    }

    /// The operations kept, oldest first.
    pub(super) fn events(&self) -> impl ExactSizeIterator<Item = &Event> {
        self.events.iter()
    }

    /// A hash of every operation so far, kept or not.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

/// A hash of `bytes`, for [`Event::digest`].
pub(super) fn digest<'a>(slices: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = FxHasher::default();
    for slice in slices {
        hasher.write(slice);
    }
    hasher.finish()
}
