//! Batches that have their offsets and wait for the end of the turn to be written in one go.

use crate::batch::HEADER_BYTES;
use crate::types::{Offset, Timestamp};
use bytes::Bytes;
use std::io::IoSlice;
use std::ops::Range;

/// Below this a batch is copied whole: a slice of its own in `pwritev` costs more.
const COPY_BYTES_MAX: usize = 4 << 10;
/// A staging buffer larger than this gives its memory back after the write.
const KEEP_BYTES_MAX: usize = 256 << 10;

/// What an index needs to know of a staged batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StagedBatch {
    pub(crate) last_offset: Offset,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) bytes: u32,
}

#[derive(Debug)]
enum Piece {
    Copied(Range<usize>),
    Borrowed(Bytes),
}

/// The staged batches of one partition, and their bytes in order.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    copied: Vec<u8>,
    pieces: Vec<Piece>,
    batches: Vec<StagedBatch>,
    bytes: usize,
}

impl Staging {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn batches(&self) -> &[StagedBatch] {
        &self.batches
    }

    /// Stages a batch: its stamped head, and the rest as it was received.
    pub(crate) fn push(&mut self, head: &[u8; HEADER_BYTES], wire: &Bytes, batch: StagedBatch) {
        let rest = wire.get(HEADER_BYTES..).unwrap_or_default();
        let at = self.copied.len();
        self.copied.extend_from_slice(head);
        if wire.len() < COPY_BYTES_MAX {
            self.copied.extend_from_slice(rest);
        }
        match self.pieces.last_mut() {
            Some(Piece::Copied(range)) => range.end = self.copied.len(),
            _ => self.pieces.push(Piece::Copied(at..self.copied.len())),
        }
        if wire.len() >= COPY_BYTES_MAX {
            self.pieces.push(Piece::Borrowed(wire.slice(HEADER_BYTES..)));
        }
        self.batches.push(batch);
        self.bytes += wire.len();
    }

    /// The staged bytes, in order.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| match piece {
            Piece::Copied(range) => self.copied.get(range.clone()).unwrap_or_default(),
            Piece::Borrowed(bytes) => bytes,
        })
    }

    pub(crate) fn io_slices(&self) -> Vec<IoSlice<'_>> {
        self.slices().map(IoSlice::new).collect()
    }

    /// Empties it; received chunks go back to where they came from.
    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        self.batches.clear();
        self.bytes = 0;
        if self.copied.capacity() > KEEP_BYTES_MAX {
            self.copied = Vec::new();
        } else {
            self.copied.clear();
        }
    }
}
