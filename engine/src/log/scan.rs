//! Walks the heads of the batches in a segment file, without their records.

use crate::batch::{HEADER_BYTES, Header, StoredFault, frame_head};
use crate::io::File;
use crate::num;
use crate::types::Offset;
use std::io;
use std::ops::Range;

/// Read at once: the next head is likely within, as an index entry stands for 4 KiB of log.
const WINDOW_BYTES: usize = 4 << 10;

/// Why a walk ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no batch at byte {position}: {fault}")]
    Fault { position: u64, fault: StoredFault },
}

/// A head, and where its batch lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) position: u64,
    pub(crate) bytes: u64,
    pub(crate) header: Header,
}

/// A walk over the batches of `file` from `position`, which must be one's first byte, to `limit`.
///
/// Of a base offset no CRC tells that it was damaged. The walk sees it where one batch overlaps
/// another, or leaves `offsets`; a gap may be what a compaction has left.
pub(crate) struct Heads<F> {
    file: F,
    position: u64,
    limit: u64,
    /// Which offsets the batches that are left may have.
    offsets: Range<Offset>,
    window: Vec<u8>,
    window_at: u64,
}

impl<F: File> Heads<F> {
    pub(crate) fn new(file: F, position: u64, limit: u64, offsets: Range<Offset>) -> Self {
        Self { file, position, limit, offsets, window: Vec::new(), window_at: 0 }
    }

    /// The next batch's head; none at the limit.
    pub(crate) fn next(&mut self) -> Result<Option<Found>, ScanError> {
        if self.position >= self.limit {
            return Ok(None);
        }
        let head = *self.head()?;
        let position = self.position;
        let bytes = frame_head(&head, num::index(self.limit - position))
            .map_err(|fault| ScanError::Fault { position, fault })? as u64;
        let Range { start: from, end: to } = self.offsets;
        let (base, last) = (head.base_offset(), head.last_offset());
        if base < from || last >= to {
            let fault = StoredFault::Misplaced { base, last, from, to };
            return Err(ScanError::Fault { position, fault });
        }
        self.offsets.start = head.next_offset();
        self.position += bytes;
        Ok(Some(Found { position, bytes, header: head }))
    }

    /// The first batch that `wanted` accepts.
    pub(crate) fn find(
        &mut self,
        wanted: impl Fn(&Header) -> bool,
    ) -> Result<Option<Found>, ScanError> {
        while let Some(found) = self.next()? {
            if wanted(&found.header) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn head(&mut self) -> Result<&Header, ScanError> {
        let within = self.position.checked_sub(self.window_at).map(num::index);
        let have = within.and_then(|at| self.window.get(at..)).unwrap_or_default().len();
        if have < HEADER_BYTES {
            let want = WINDOW_BYTES.min(num::index(self.limit - self.position));
            self.window.resize(want, 0);
            let mut filled = 0;
            while let Some(rest) = self.window.get_mut(filled..).filter(|r| !r.is_empty()) {
                match self.file.read_at(rest, self.position + filled as u64)? {
                    0 => break,
                    n => filled += n,
                }
            }
            self.window.truncate(filled);
            self.window_at = self.position;
        }
        let at = num::index(self.position - self.window_at);
        let rest = self.window.get(at..).unwrap_or_default();
        Header::read(rest).ok_or(ScanError::Fault {
            position: self.position,
            fault: StoredFault::Incomplete { need: HEADER_BYTES, have: rest.len() },
        })
    }
}
