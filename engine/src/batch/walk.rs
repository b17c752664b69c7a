//! Walking over batches that lie one after another, as they do in a log file.

use super::crc::crc32c;
use super::header::{CRC_FROM, HEADER_BYTES, Header, LENGTH_EXCLUDES, MAGIC};
use crate::types::Offset;

/// Why stored bytes are no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredFault {
    /// The buffer ends before the batch does.
    #[error("the batch needs {need} bytes and {have} are there")]
    Incomplete {
        /// Bytes of the whole batch; of its head, if not even that is there.
        need: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// The length field leaves no room for a head. Zeros read as this.
    #[error("a batch of {length} bytes after its length field is too short to be one")]
    Length {
        /// The length field.
        length: i32,
    },
    /// Another format.
    #[error("a batch of format {0}, where only format 2 is stored")]
    Magic(i8),
    /// Offsets that no broker assigns.
    #[error("a batch from offset {base} with a last offset delta of {delta}")]
    Offsets {
        /// The base offset.
        base: Offset,
        /// The last offset delta.
        delta: i32,
    },
    /// A batch that overlaps the one before it, or what lies behind its segment.
    #[error("a batch from offset {base} to {last}, where only {} to {} can be", .from, .to.0 - 1)]
    Misplaced {
        /// The base offset.
        base: Offset,
        /// The last offset.
        last: Offset,
        /// The lowest offset that it may have.
        from: Offset,
        /// The offset that it must not reach.
        to: Offset,
    },
    /// The bytes are not the ones whose CRC was stored.
    #[error("the batch's CRC-32C is {computed:08x}, and {stored:08x} is stored")]
    Crc {
        /// What the head says.
        stored: u32,
        /// What the bytes say.
        computed: u32,
    },
}

/// One batch inside a buffer, framed: its length and format are right, its CRC is not looked at.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    /// Its first byte, counted from the start of the buffer.
    pub position: usize,
    /// Its head.
    pub header: &'a Header,
    /// All of its bytes.
    pub bytes: &'a [u8],
}

impl BatchView<'_> {
    /// Computes the CRC and compares it with the stored one.
    ///
    /// # Errors
    /// [`StoredFault::Crc`].
    pub fn check_crc(&self) -> Result<(), StoredFault> {
        let computed = crc32c(self.bytes.get(CRC_FROM..).unwrap_or_default());
        let stored = self.header.crc();
        if stored == computed { Ok(()) } else { Err(StoredFault::Crc { stored, computed }) }
    }
}

/// The first batch of `bytes`, framed: reads its head only.
///
/// # Errors
/// Every [`StoredFault`] but `Crc` and `Misplaced`.
pub fn frame(bytes: &[u8]) -> Result<BatchView<'_>, StoredFault> {
    let have = bytes.len();
    let Some(header) = Header::read(bytes) else {
        return Err(StoredFault::Incomplete { need: HEADER_BYTES, have });
    };
    let need = frame_head(header, have)?;
    let bytes = bytes.get(..need).ok_or(StoredFault::Incomplete { need, have })?;
    Ok(BatchView { position: 0, header, bytes })
}

/// The bytes of the whole batch whose head this is, of which `have` are there.
///
/// # Errors
/// Every [`StoredFault`] but `Crc` and `Misplaced`.
pub(crate) fn frame_head(header: &Header, have: usize) -> Result<usize, StoredFault> {
    let Some(need) = header.total_bytes() else {
        return Err(StoredFault::Length { length: header.length() });
    };
    if header.magic() != MAGIC {
        return Err(StoredFault::Magic(header.magic()));
    }
    let (base, delta) = (header.base_offset(), header.last_offset_delta());
    if base.0 < 0 || delta < 0 || base.0.checked_add(i64::from(delta) + 1).is_none() {
        return Err(StoredFault::Offsets { base, delta });
    }
    if need <= have { Ok(need) } else { Err(StoredFault::Incomplete { need, have }) }
}

/// The head of the batch at the start of `bytes`, once its frame and its CRC are found right. For
/// recovery and offline checks; what follows the batch is not looked at.
///
/// # Errors
/// Every [`StoredFault`].
pub fn validate_stored(bytes: &[u8]) -> Result<Header, StoredFault> {
    let batch = frame(bytes)?;
    batch.check_crc()?;
    Ok(*batch.header)
}

/// Iterates over a buffer of batches. Ends at the end of the buffer, or after the first fault:
/// [`StoredFault::Incomplete`] when the buffer ends inside a batch, anything else is corrupt.
///
/// ```
/// use kariz_engine::batch::{Batch, Batches};
///
/// let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
/// let log = batch.wire().repeat(3);
/// for view in Batches::new(&log) {
///     view?.check_crc()?;
/// }
/// assert_eq!(Batches::new(&log).count(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    buffer: &'a [u8],
    position: usize,
    failed: bool,
}

impl<'a> Batches<'a> {
    /// Starts at the first byte of `buffer`, which must be the first byte of a batch.
    #[must_use]
    pub fn new(buffer: &'a [u8]) -> Self {
        Self { buffer, position: 0, failed: false }
    }

    /// Bytes passed so far: where the next batch begins, or the faulty one.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<BatchView<'a>, StoredFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.buffer.get(self.position..).filter(|rest| !rest.is_empty())?;
        if self.failed {
            return None;
        }
        let position = self.position;
        let framed = frame(rest).map(|batch| BatchView { position, ..batch });
        match &framed {
            Ok(batch) => self.position += batch.bytes.len(),
            Err(_) => self.failed = true,
        }
        Some(framed)
    }
}

impl std::iter::FusedIterator for Batches<'_> {}

/// Bytes of the whole batch whose first bytes these are, as its length field says; `None` if
/// the field is not there yet or makes no sense. Enough to cut a stream into batches.
#[must_use]
pub fn announced_bytes(bytes: &[u8]) -> Option<usize> {
    let field = bytes.get(8..LENGTH_EXCLUDES)?.try_into().ok()?;
    let total = usize::try_from(i32::from_be_bytes(field)).ok()?.checked_add(LENGTH_EXCLUDES)?;
    (total >= HEADER_BYTES).then_some(total)
}
