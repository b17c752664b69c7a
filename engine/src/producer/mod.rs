//! Idempotent producers of one partition: which batches came already, and which may come next.
//!
//! A producer numbers its records (its *sequence*, from 0 in each *epoch*). Of each producer the
//! last five batches are kept, as many as it may have in flight, so a retry of any of them is
//! answered with the offsets it got the first time.
//!
//! The state moves when a batch is *staged*, before it is written, so that batches of one turn
//! see each other. What it was before is kept until the write has succeeded ([`mark_written`]) or
//! failed ([`roll_back`]).
//!
//! **Invariant:** the kept batches of a producer are of its current epoch, follow one another in
//! sequence, and lie in the log or are staged for it.
//!
//! Memory: some 170 bytes a producer until it is silent for `producer.id.expiration.ms`. As in
//! Kafka there is no other bound.
//!
//! [`mark_written`]: Producers::mark_written
//! [`roll_back`]: Producers::roll_back

mod snapshot;

#[cfg(test)]
mod tests;

use crate::batch::Header;
use crate::types::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use rustc_hash::FxHashMap;

/// Batches kept of a producer. Source: Kafka's `NUM_BATCHES_TO_RETAIN`; its clients have no more
/// than this in flight when they are idempotent.
const KEPT_BATCHES: usize = 5;

/// Why a producer's batch is refused; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError {
    /// Neither the next batch nor one of the last five. Kafka: 45.
    #[error(
        "producer {} sent sequence {} in epoch {} where {} comes next: a batch before it was lost \
         or refused", id.0, sequence.0, epoch.0, expected.0
    )]
    OutOfOrderSequence {
        /// The producer.
        id: ProducerId,
        /// Its epoch in this batch.
        epoch: ProducerEpoch,
        /// The first sequence of this batch.
        sequence: Sequence,
        /// The one that would have been accepted.
        expected: Sequence,
    },
    /// A later epoch of the same producer has written here. Kafka: 47.
    #[error(
        "producer {} sent epoch {} after epoch {}: it was replaced", id.0, epoch.0, current.0
    )]
    StaleEpoch {
        /// The producer.
        id: ProducerId,
        /// Its epoch in this batch.
        epoch: ProducerEpoch,
        /// The latest epoch seen.
        current: ProducerEpoch,
    },
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Append it.
    New,
    /// It is in the log already, or staged for it: answer with these, once `end_offset` has
    /// reached what the ack asks for.
    Duplicate {
        /// The first offset it got.
        base_offset: Offset,
        /// The offset after its last one.
        end_offset: Offset,
        /// Its largest timestamp: the time of its append under `LogAppendTime`.
        timestamp: Timestamp,
    },
}

/// One batch of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    last_sequence: Sequence,
    last_offset: Offset,
    /// Last offset less first, and last sequence less first.
    delta: i32,
    timestamp: Timestamp,
}

impl Kept {
    const NONE: Self = Self {
        last_sequence: Sequence(-1),
        last_offset: Offset(-1),
        delta: 0,
        timestamp: Timestamp::NONE,
    };

    fn first_sequence(&self) -> Sequence {
        if self.last_sequence.0 < 0 {
            return self.last_sequence;
        }
        self.last_sequence.plus(self.delta.saturating_neg())
    }
}

/// One producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    epoch: ProducerEpoch,
    /// When the broker last appended a batch of it.
    seen: Timestamp,
    /// Of the transaction coordinator, and the first offset of the open transaction. Carried
    /// through snapshots; -1 until there are transactions.
    coordinator_epoch: i32,
    transaction_start: Offset,
    /// Oldest first; the first `len` are set.
    kept: [Kept; KEPT_BATCHES],
    len: usize,
}

impl State {
    fn new(epoch: ProducerEpoch, seen: Timestamp) -> Self {
        Self {
            epoch,
            seen,
            coordinator_epoch: -1,
            transaction_start: Offset(-1),
            kept: [Kept::NONE; KEPT_BATCHES],
            len: 0,
        }
    }

    fn kept(&self) -> &[Kept] {
        self.kept.get(..self.len).unwrap_or_default()
    }

    /// Its last batch; in a new epoch, none: its last sequence is then -1, and 0 comes next.
    fn last(&self) -> Kept {
        self.kept().last().copied().unwrap_or(Kept::NONE)
    }

    fn enter(&mut self, epoch: ProducerEpoch) {
        if self.epoch != epoch {
            (self.epoch, self.len) = (epoch, 0);
        }
    }

    fn push(&mut self, batch: Kept) {
        if self.len == KEPT_BATCHES {
            self.kept.rotate_left(1);
            self.len -= 1;
        }
        if let Some(slot) = self.kept.get_mut(self.len) {
            *slot = batch;
            self.len += 1;
        }
    }
}

/// A producer as it was before a staged batch.
#[derive(Debug)]
struct Undo {
    id: ProducerId,
    before: Option<State>,
}

/// The producers of one partition.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    states: FxHashMap<ProducerId, State>,
    /// In the order of the appends since the last write.
    undo: Vec<Undo>,
}

impl Producers {
    /// No producers yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Whether a batch with this head may be appended. Changes nothing.
    ///
    /// # Errors
    /// [`ProducerError`].
    pub(crate) fn check(&self, header: &Header) -> Result<Verdict, ProducerError> {
        if !header.has_producer_id() {
            return Ok(Verdict::New);
        }
        let id = header.producer_id();
        // A producer of which nothing is known (new here, expired, or its records deleted) may go
        // on wherever it is.
        let Some(state) = self.states.get(&id) else {
            return Ok(Verdict::New);
        };
        let (epoch, sequence) = (header.producer_epoch(), header.base_sequence());
        // The broker's own batches (markers, offsets in a transaction) have no sequence.
        let numbered = sequence.0 >= 0;
        if numbered && epoch == state.epoch {
            let range = (sequence, header.last_sequence());
            let same = |b: &&Kept| (b.first_sequence(), b.last_sequence) == range;
            if let Some(original) = state.kept().iter().find(same) {
                return Ok(Verdict::Duplicate {
                    base_offset: original.last_offset.plus(-i64::from(original.delta)),
                    end_offset: original.last_offset.plus(1),
                    timestamp: original.timestamp,
                });
            }
        }
        if epoch < state.epoch {
            return Err(ProducerError::StaleEpoch { id, epoch, current: state.epoch });
        }
        // Kafka's "no epoch": only its snapshots can hold it, of a producer without batches.
        if !numbered || state.epoch.0 < 0 {
            return Ok(Verdict::New);
        }
        let expected = match epoch == state.epoch {
            true => state.last().last_sequence.plus(1),
            false => Sequence(0),
        };
        if sequence == expected {
            Ok(Verdict::New)
        } else {
            Err(ProducerError::OutOfOrderSequence { id, epoch, sequence, expected })
        }
    }

    /// Takes a batch that [`check`](Self::check) called new, staged from `base_offset` at `now`.
    pub(crate) fn append(&mut self, header: &Header, base_offset: Offset, now: Timestamp) {
        debug_assert!(matches!(self.check(header), Ok(Verdict::New)), "append what was checked");
        if header.has_producer_id() {
            let id = header.producer_id();
            self.undo.push(Undo { id, before: self.states.get(&id).copied() });
            self.apply(header, base_offset, now);
        }
    }

    /// All that was appended is in the log.
    pub(crate) fn mark_written(&mut self) {
        self.undo.clear();
    }

    /// Nothing that was appended since the last [`mark_written`](Self::mark_written) is in the
    /// log: forgets it.
    pub(crate) fn roll_back(&mut self) {
        while let Some(Undo { id, before }) = self.undo.pop() {
            match before {
                Some(state) => self.states.insert(id, state),
                None => self.states.remove(&id),
            };
        }
    }

    /// Takes a batch that is in the log, unchecked: the leader that wrote it has checked it.
    /// `seen` is when that was, as far as is known; expiry counts from it.
    pub(crate) fn rebuild(&mut self, header: &Header, seen: Timestamp) {
        debug_assert!(self.undo.is_empty(), "recovery comes before the first append");
        if header.has_producer_id() {
            self.apply(header, header.base_offset(), seen);
        }
    }

    fn apply(&mut self, header: &Header, base_offset: Offset, seen: Timestamp) {
        let epoch = header.producer_epoch();
        let state =
            self.states.entry(header.producer_id()).or_insert_with(|| State::new(epoch, seen));
        state.enter(epoch);
        state.seen = seen;
        if header.is_control() {
            // A marker ends the transaction and may raise the epoch; it has no sequence.
            state.transaction_start = Offset(-1);
            return;
        }
        state.push(Kept {
            last_sequence: header.last_sequence(),
            last_offset: base_offset.plus(i64::from(header.last_offset_delta())),
            delta: header.last_offset_delta(),
            timestamp: header.max_timestamp(),
        });
    }

    /// The log ends at `end` now: forgets all batches from there on. A producer of which no batch
    /// is left is forgotten whole, and may then go on with any sequence. Returns whether that
    /// happened: what was known of it is still in the log, for who can [`rebuild`](Self::rebuild).
    pub(crate) fn truncate_to(&mut self, end: Offset) -> bool {
        self.undo.clear();
        let before = self.states.len();
        self.states.retain(|_, state| {
            let had = state.len;
            state.len = state.kept().partition_point(|batch| batch.last_offset < end);
            // One that had none is known by its epoch only, from a marker of unknown offset.
            state.len > 0 || had == 0
        });
        self.states.len() < before
    }

    /// Forgets the producers that have been silent for `expiration_ms`.
    pub(crate) fn expire(&mut self, now: Timestamp, expiration_ms: i64) {
        self.states.retain(|_, state| {
            state.transaction_start.0 >= 0 || now.0.saturating_sub(state.seen.0) < expiration_ms
        });
    }

    /// Forgets everything: the log begins anew.
    pub(crate) fn clear(&mut self) {
        self.states.clear();
        self.undo.clear();
    }
}
