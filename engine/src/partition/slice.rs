//! What a read gives: a pinned range of a segment file.

use super::ReadError;
use crate::batch::{Batch, Batches, announced_bytes};
use crate::io::uring::Uring;
use crate::io::{File, Io};
use crate::types::Offset;
use bytes::Bytes;
use std::fmt;
use std::io;

/// A range of whole stored bytes: one segment's, below the high watermark, beginning with the
/// batch that holds the offset asked for. It may end inside a batch. It pins its file: neither
/// retention nor deletion takes the bytes away while it lives. It may go to any thread.
///
/// ```
/// # use kariz_engine::{io::sim::{Faults, World}, *};
/// # World::new(1, Faults::none()).boot(|io| async move {
/// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
/// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
/// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
/// # log.append(&batch)?;
/// # log.reach(Mark::High, &log.append(&batch)?).await?;
/// let slice = log.slice(Offset(0), batch.total_bytes() + 1).await?; // one batch, and a byte more
/// let (whole, next) = slice.whole()?.unwrap();
/// assert_eq!((whole.len(), next), (batch.total_bytes(), Offset(1)));
/// for batch in whole.batches()? {
///     for record in batch.records(1 << 20)?.iter() {
///         assert_eq!(record?.value, Some(&b"one coffee"[..]));
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).done().unwrap();
/// ```
#[derive(Clone)]
pub struct Slice<I: Io = Uring> {
    pub(super) file: I::File,
    pub(super) position: u64,
    pub(super) len: usize,
    pub(super) is_followed: bool,
}

impl<I: Io> fmt::Debug for Slice<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({} bytes at {})", self.len, self.position)
    }
}

impl<I: Io> Slice<I> {
    /// Its length in bytes; 0 if there is nothing to read yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to read yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it lies in an older segment: more follows that no slice from here on will have.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        self.is_followed
    }

    /// The segment file. On a real machine it is an `AsFd`: `sendfile(2)` from any thread takes it.
    #[must_use]
    pub fn file(&self) -> &I::File {
        &self.file
    }

    /// Where in that file the slice begins, in bytes.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Brings its pages into the page cache, so that neither sending nor [`Slice::batches`] waits
    /// for the disk. Only on the cores; what [`Partition::read`](super::Partition::read) gives is
    /// there already.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn load(&self) -> io::Result<()> {
        self.file.load(self.position, self.len).await
    }

    /// Its whole batches, each checked against its CRC: for protocols that do not speak
    /// RecordBatch. Reads from the page cache, or waits for the disk.
    ///
    /// # Errors
    /// Those of the disk, and damage: [`ReadError::Fenced`], although the partition serves on.
    pub fn batches(&self) -> Result<Vec<Batch>, ReadError> {
        let bytes = self.bytes()?;
        let mut batches = Vec::new();
        let mut at = 0;
        while let Some(len) = announced_bytes(bytes.get(at..).unwrap_or_default()) {
            if at + len > bytes.len() {
                break;
            }
            let batch = Batch::from_stored(bytes.slice(at..at + len));
            batches.push(batch.map_err(|fault| ReadError::Fenced(fault.to_string().into()))?);
            at += len;
        }
        Ok(batches)
    }

    /// The same without the batch that it cuts at its end, and the offset behind it: where to read
    /// on. `None` if there is no whole batch. Reads from the page cache, or waits for the disk.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn whole(&self) -> Result<Option<(Self, Offset)>, ReadError> {
        let bytes = self.bytes()?;
        let mut next = None;
        let mut batches = Batches::new(&bytes);
        for batch in batches.by_ref().map_while(Result::ok) {
            next = Some(batch.header.last_offset().plus(1));
        }
        let len = batches.position();
        Ok(next.map(|next| (Self { len, ..self.clone() }, next)))
    }

    fn bytes(&self) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.len];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|r| !r.is_empty()) {
            match self.file.read_at(rest, self.position + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        bytes.truncate(filled);
        Ok(bytes.into())
    }
}
