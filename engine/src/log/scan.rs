//! Walks the batches in a segment file: their heads, or all of them.

use crate::batch::{HEADER_BYTES, Header, StoredFault, frame_head, validate_stored};
use crate::io::File;
use crate::num;
use crate::types::Offset;
use std::io;
use std::ops::Range;
use tokio::task::yield_now;

/// Read at once: the next head is likely within, as an index entry stands for 4 KiB of log.
const WINDOW_BYTES: usize = 4 << 10;
/// Loaded at once while heads are walked, and walked in one turn. Source: a thousand heads of the
/// smallest batches, some 100 us.
const LOAD_BYTES: usize = 64 << 10;
/// Read at once while batches are checked.
const CHUNK_BYTES: usize = 1 << 20;

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
    /// Up to here the disk need not be waited for.
    loaded: u64,
    /// Which offsets the batches that are left may have.
    offsets: Range<Offset>,
    window: Vec<u8>,
    window_at: u64,
}

impl<F: File> Heads<F> {
    pub(crate) fn new(file: F, position: u64, limit: u64, offsets: Range<Offset>) -> Self {
        Self { file, position, limit, loaded: 0, offsets, window: Vec::new(), window_at: 0 }
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

    /// `bytes` from where it begins are in the page cache.
    pub(crate) fn loaded(mut self, bytes: usize) -> Self {
        self.loaded = self.position + bytes as u64;
        self
    }

    /// As [`Heads::next`], but waits for the disk a piece at a time; others have their turn then.
    pub(crate) async fn next_loaded(&mut self) -> Result<Option<Found>, ScanError> {
        let end = self.limit.min(self.position + HEADER_BYTES as u64);
        if self.loaded < end {
            let piece = LOAD_BYTES.min(num::index(self.limit - self.position));
            self.file.load(self.position, piece).await?;
            self.loaded = self.position + piece as u64;
            yield_now().await;
        }
        self.next()
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

/// Reads a file's batches, a large piece at a time.
pub(crate) struct Batches<F> {
    file: F,
    len: u64,
    chunk: Vec<u8>,
    chunk_at: u64,
}

impl<F: File> Batches<F> {
    /// Those in the first `len` bytes of `file`.
    pub(crate) fn new(file: F, len: u64) -> Self {
        Self { file, len, chunk: Vec::new(), chunk_at: 0 }
    }

    /// The batch at `position`; its CRC is not looked at where it ends at or below `trusted`.
    pub(crate) fn at(
        &mut self,
        position: u64,
        trusted: Offset,
    ) -> io::Result<Result<(Header, u64), StoredFault>> {
        let have = num::index(self.len - position);
        let head = match Header::read(self.bytes(position, HEADER_BYTES)?) {
            Some(head) => *head,
            None => return Ok(Err(StoredFault::Incomplete { need: HEADER_BYTES, have })),
        };
        match frame_head(&head, have) {
            Ok(bytes) if head.next_offset() <= trusted => Ok(Ok((head, bytes as u64))),
            Ok(bytes) => {
                let whole = self.bytes(position, bytes)?;
                Ok(validate_stored(whole).map(|head| (head, bytes as u64)))
            }
            Err(fault) => Ok(Err(fault)),
        }
    }

    /// `count` bytes from `position`, or what the file has of them.
    fn bytes(&mut self, position: u64, count: usize) -> io::Result<&[u8]> {
        let inside = position.checked_sub(self.chunk_at).map(num::index);
        let have = inside.and_then(|at| self.chunk.get(at..)).map_or(0, <[u8]>::len);
        if have < count {
            let want = count.max(CHUNK_BYTES).min(num::index(self.len - position));
            self.chunk.resize(want, 0);
            let mut filled = 0;
            while let Some(rest) = self.chunk.get_mut(filled..).filter(|r| !r.is_empty()) {
                match self.file.read_at(rest, position + filled as u64)? {
                    0 => break,
                    n => filled += n,
                }
            }
            self.chunk.truncate(filled);
            self.chunk_at = position;
        }
        let rest = self.chunk.get(num::index(position - self.chunk_at)..).unwrap_or_default();
        Ok(rest.get(..count).unwrap_or(rest))
    }
}
