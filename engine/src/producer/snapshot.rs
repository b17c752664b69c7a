//! Kafka's `.snapshot` files: the producers as they were before the batch at an offset.
//!
//! ```text
//! | version i16 = 1 | CRC-32C u32 of what follows | count i32 | entries, 46 bytes each
//! entry: | producer id i64 | epoch i16 | last sequence i32 | last offset i64 | offset delta i32
//!        | timestamp i64 | coordinator epoch i32 | first offset of the open transaction i64, or -1 |
//!
//! then, where Kafka has the file's end, for each entry in their order:
//!        | count u8 | the batches that are kept of it, oldest first, 24 bytes each
//! batch: | last sequence i32 | last offset i64 | offset delta i32 | largest timestamp i64 |
//! ```
//!
//! An entry has room for the last batch of a producer only, so that after a restart a retry of
//! those before it would be out of order. Kafka reads no further than the entries, and its CRC is
//! over all that the file holds. From a file of Kafka's the last batches have to do.

use super::{KEPT_BATCHES, Kept, Producers, State};
use crate::batch::crc32c;
use crate::types::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use zerocopy::byteorder::big_endian::{I16, I32, I64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The only version. Source: Kafka's `ProducerSnapshot.json`.
const VERSION: i16 = 1;
/// Where the bytes begin over which the CRC is computed.
const CRC_FROM: usize = 6;

/// Why a snapshot cannot be used; the state can be rebuilt from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("a producer snapshot of {bytes} bytes: its entries do not fit its count")]
    Length { bytes: usize },
    #[error("a producer snapshot of version {0}, where 1 is known")]
    Version(i16),
    #[error("a producer snapshot's CRC-32C is {computed:08x}, and {stored:08x} is stored")]
    Crc { stored: u32, computed: u32 },
    #[error("a producer snapshot holds producer {id} with epoch {epoch} and offset delta {delta}")]
    Entry { id: i64, epoch: i16, delta: i32 },
    #[error("a producer snapshot's batches of producer {id} are not those that end in its last")]
    Batches { id: i64 },
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    version: I16,
    crc: U32,
    count: I32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    id: I64,
    epoch: I16,
    last_sequence: I32,
    last_offset: I64,
    offset_delta: I32,
    timestamp: I64,
    coordinator_epoch: I32,
    transaction_start: I64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct KeptBatch {
    last_sequence: I32,
    last_offset: I64,
    offset_delta: I32,
    timestamp: I64,
}

const _: () = assert!(size_of::<Head>() == 10 && size_of::<Entry>() == 46);
const _: () = assert!(size_of::<KeptBatch>() == 24);

impl Producers {
    /// The producers as a snapshot file. Everything that was appended must be written.
    pub(crate) fn encode(&self) -> Vec<u8> {
        debug_assert!(self.undo.is_empty(), "a snapshot speaks of what is in the log");
        let mut entries: Vec<_> = self.states.iter().collect();
        // Equal states make equal files, whatever the order in the map.
        entries.sort_unstable_by_key(|(id, _)| **id);
        let count = i32::try_from(entries.len()).unwrap_or(i32::MAX);
        let head = Head { version: VERSION.into(), crc: 0.into(), count: count.into() };
        let mut out = Vec::with_capacity(size_of::<Head>() + entries.len() * size_of::<Entry>());
        out.extend(head.as_bytes());
        for (id, state) in &entries {
            let last = state.last();
            let entry = Entry {
                id: id.0.into(),
                epoch: state.epoch.0.into(),
                last_sequence: last.last_sequence.0.into(),
                last_offset: last.last_offset.0.into(),
                offset_delta: last.delta.into(),
                // Kafka has the batch's timestamp here, and expires by it. The time of the append
                // is the better one: records of long ago do not make their producer forgotten.
                timestamp: state.seen.0.into(),
                coordinator_epoch: state.coordinator_epoch.into(),
                transaction_start: state.transaction_start.0.into(),
            };
            out.extend(entry.as_bytes());
        }
        for (_, state) in entries {
            out.push(u8::try_from(state.len).unwrap_or(0));
            for batch in state.kept() {
                let batch = KeptBatch {
                    last_sequence: batch.last_sequence.0.into(),
                    last_offset: batch.last_offset.0.into(),
                    offset_delta: batch.delta.into(),
                    timestamp: batch.timestamp.0.into(),
                };
                out.extend(batch.as_bytes());
            }
        }
        let crc = crc32c(out.get(CRC_FROM..).unwrap_or_default());
        if let Some(field) = out.get_mut(2..CRC_FROM) {
            field.copy_from_slice(&crc.to_be_bytes());
        }
        out
    }

    /// The producers in the snapshot file `bytes`.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let length = SnapshotError::Length { bytes: bytes.len() };
        let (head, rest) = Head::ref_from_prefix(bytes).map_err(|_| length)?;
        if head.version.get() != VERSION {
            return Err(SnapshotError::Version(head.version.get()));
        }
        let computed = crc32c(bytes.get(CRC_FROM..).unwrap_or_default());
        let stored = head.crc.get();
        if stored != computed {
            return Err(SnapshotError::Crc { stored, computed });
        }
        let count = usize::try_from(head.count.get()).map_err(|_| length)?;
        let (entries, mut rest) =
            <[Entry]>::ref_from_prefix_with_elems(rest, count).map_err(|_| length)?;
        let is_ours = !rest.is_empty();
        let mut producers = Self::new();
        producers.states.reserve(entries.len());
        for entry in entries {
            let (id, mut state) = entry.state()?;
            if is_ours {
                let (count, behind) = rest.split_first().ok_or(length)?;
                let batches = <[KeptBatch]>::ref_from_prefix_with_elems(behind, (*count).into());
                let (batches, behind) = batches.map_err(|_| length)?;
                state.keep(batches).ok_or(SnapshotError::Batches { id: id.0 })?;
                rest = behind;
            }
            producers.states.insert(id, state);
        }
        if rest.is_empty() { Ok(producers) } else { Err(length) }
    }
}

impl State {
    /// Keeps `batches` instead of the last one, which they end in; `None` if they do not.
    fn keep(&mut self, batches: &[KeptBatch]) -> Option<()> {
        let (last, mut end) = (self.last(), Offset::ZERO);
        if batches.len() > KEPT_BATCHES {
            return None;
        }
        self.len = 0;
        for batch in batches {
            let kept = Kept {
                last_sequence: Sequence(batch.last_sequence.get()),
                last_offset: Offset(batch.last_offset.get()),
                delta: batch.offset_delta.get(),
                timestamp: Timestamp(batch.timestamp.get()),
            };
            let first = i128::from(kept.last_offset.0) - i128::from(kept.delta);
            if kept.delta < 0 || first < i128::from(end.0) {
                return None;
            }
            end = kept.last_offset.plus(1);
            self.push(kept);
        }
        let now = self.last();
        let is_last = |a: Kept, b: Kept| {
            (a.last_sequence, a.last_offset, a.delta) == (b.last_sequence, b.last_offset, b.delta)
        };
        is_last(now, last).then_some(())
    }
}

impl Entry {
    fn state(&self) -> Result<(ProducerId, State), SnapshotError> {
        let (id, epoch, delta) = (self.id.get(), self.epoch.get(), self.offset_delta.get());
        let last_offset = Offset(self.last_offset.get());
        // -1 is Kafka's "no epoch", and a last offset below 0 its "no batch".
        if id < 0
            || epoch < -1
            || delta < 0
            || (last_offset.0 >= 0 && i64::from(delta) > last_offset.0)
        {
            return Err(SnapshotError::Entry { id, epoch, delta });
        }
        let timestamp = Timestamp(self.timestamp.get());
        let mut state = State::new(ProducerEpoch(epoch), timestamp);
        state.coordinator_epoch = self.coordinator_epoch.get();
        state.transaction_start = Offset(self.transaction_start.get());
        if last_offset.0 >= 0 {
            let last_sequence = Sequence(self.last_sequence.get());
            state.push(Kept { last_sequence, last_offset, delta, timestamp });
        }
        Ok((ProducerId(id), state))
    }
}
