//! The segments of one partition: where its batches lie on disk.
//!
//! ```text
//! topic-partition/
//!   00000000000000000000.log  .index  .timeindex     sealed: never written again
//!   00000000000000081920.log  .index  .timeindex     active: appended to
//!   00000000000000100000.snapshot                    producers as of that offset
//!   leader-epoch-checkpoint   partition.metadata
//! ```
//!
//! **Invariants**
//! - The log files are the evidence; every other file is a cache and can be rebuilt from them.
//! - A sealed segment never changes, and an unlinked one stays readable for whoever holds it.
//! - A file is in `unsynced` from the write that dirtied it until a sync that began later succeeds.
//!
//! *Architecture invariant:* no watermark and no waiter is known here; a log knows bytes only.

pub(crate) mod epochs;
pub(crate) mod index;
pub(crate) mod names;
pub(crate) mod read;
pub(crate) mod recover;
pub(crate) mod retain;
pub(crate) mod scan;

use crate::futures::join_all;
use crate::io::{File, Io, OpenMode};
use crate::num;
use crate::partition::staging::Staging;
use crate::partition::watermarks::LogEnd;
use crate::types::{LeaderEpoch, Offset, Timestamp};
use epochs::Epochs;
use index::Index;
use scan::{Heads, ScanError};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

/// The first step of preallocation; it doubles up to `PREALLOCATE_BYTES_MAX`, so that ten
/// thousand small partitions do not cost a GiB each.
const PREALLOCATE_BYTES_MIN: u64 = 64 << 10;
/// Ahead of the log end at most this much is allocated.
const PREALLOCATE_BYTES_MAX: u64 = 16 << 20;

/// When a segment is full. Kafka's names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) segment_bytes: u64,
    pub(crate) segment_ms: i64,
    pub(crate) index_interval_bytes: u32,
}

/// A segment that takes no more batches.
struct Sealed<F> {
    base: Offset,
    file: F,
    serial: u64,
    bytes: u64,
    max_timestamp: Timestamp,
    /// Here until it is in its files.
    index: Option<Index>,
}

/// The segment that takes the next batches.
struct Active<F> {
    base: Offset,
    file: F,
    bytes: u64,
    serial: u64,
    allocated: u64,
    index: Index,
    /// When its first batch came; `segment.ms` counts from here.
    begun: Option<Timestamp>,
}

/// A file with bytes that may not be on the disk.
#[derive(Clone)]
struct Dirty<F> {
    file: F,
    /// Which file; a segment's never comes again, even under the same name.
    serial: u64,
    /// The number of its last write, so that a sync clears only what it covered.
    last_write: u64,
}

/// What must be synced so that all that was written before is durable in its own files.
pub(crate) struct Unsynced<I: Io> {
    io: I,
    files: Vec<Dirty<I::File>>,
    dir: Option<(PathBuf, u64)>,
}

impl<I: Io> Unsynced<I> {
    /// Syncs all of it at once; returns how many syncs that took.
    pub(crate) async fn sync(&self) -> io::Result<u64> {
        let files = self.files.iter().map(|dirty| dirty.file.sync());
        let synced = join_all(files);
        let dir = async {
            match &self.dir {
                Some((dir, _)) => self.io.sync_dir(dir).await,
                None => Ok(()),
            }
        };
        let (files, dir) = (synced.await, dir.await);
        let count = files.len() as u64 + u64::from(self.dir.is_some());
        files.into_iter().collect::<io::Result<()>>().and(dir).map(|()| count)
    }
}

/// Why staged bytes are not in the log; the log is as it was before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("the disk is full: {0}")]
    Full(io::Error),
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(e: io::Error) -> Self {
        // QuotaExceeded is EDQUOT, FileTooLarge EFBIG (RLIMIT_FSIZE).
        match e.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::Full(e),
            _ => Self::Io(e),
        }
    }
}

/// The log of one partition.
pub(crate) struct Log<I: Io> {
    io: I,
    dir: PathBuf,
    sealed: Vec<Sealed<I::File>>,
    active: Active<I::File>,
    epochs: Epochs,
    epochs_dirty: bool,
    limits: Limits,
    unsynced: Vec<Dirty<I::File>>,
    writes: u64,
    next_serial: u64,
    dir_changes: u64,
    dir_synced: u64,
}

impl<I: Io> Log<I> {
    /// An empty log in `dir`, which is there, from `base` on. Its names are not durable yet.
    pub(crate) fn create(io: I, dir: &Path, base: Offset, limits: Limits) -> io::Result<Self> {
        let active = Active::create(&io, dir, base, limits, 0)?;
        Ok(Self::with(io, dir, limits, active))
    }

    fn with(io: I, dir: &Path, limits: Limits, active: Active<I::File>) -> Self {
        Self {
            io,
            dir: dir.to_owned(),
            sealed: Vec::new(),
            active,
            epochs: Epochs::default(),
            epochs_dirty: true,
            limits,
            unsynced: Vec::new(),
            writes: 0,
            next_serial: 1,
            dir_changes: 1,
            dir_synced: 0,
        }
    }

    fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial - 1
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn active_file(&self) -> &I::File {
        &self.active.file
    }

    pub(crate) fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The first offset of the oldest segment.
    pub(crate) fn first_base(&self) -> Offset {
        self.sealed.first().map_or(self.active.base, |s| s.base)
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.sealed.iter().map(|s| s.bytes).sum::<u64>() + self.active.bytes
    }

    /// Where the next batch goes, if it has `offset`.
    pub(crate) fn end_at(&self, offset: Offset) -> LogEnd {
        LogEnd {
            offset,
            segment: self.active.base,
            position: num::u32_of(num::index(self.active.bytes)),
        }
    }

    /// Notes that batches from `start` on belong to `epoch`.
    pub(crate) fn assign_epoch(&mut self, epoch: LeaderEpoch, start: Offset) {
        self.epochs_dirty |= self.epochs.assign(epoch, start);
    }

    /// Whether a batch of `bytes` up to `last`, behind `staged` bytes, must go to a new segment.
    pub(crate) fn is_full(
        &self,
        staged: usize,
        bytes: usize,
        last: Offset,
        now: Timestamp,
    ) -> bool {
        let before = self.active.bytes + staged as u64;
        if before == 0 {
            return false;
        }
        let old =
            self.active.begun.is_some_and(|b| now.0.saturating_sub(b.0) > self.limits.segment_ms);
        let far = last.since(self.active.base) > i64::from(i32::MAX);
        old || far || before + bytes as u64 > self.limits.segment_bytes
    }

    /// Seals the active segment and begins one at `base`. Its index goes to disk later.
    pub(crate) fn roll(&mut self, base: Offset) -> Result<(), WriteError> {
        if base == self.active.base {
            return Ok(());
        }
        let serial = self.serial();
        let next = Active::create(&self.io, &self.dir, base, self.limits, serial)?;
        self.dir_changes += 1;
        if self.active.bytes == 0 {
            // An empty segment holds nothing but its name.
            self.io.remove_file(&names::log(&self.dir, self.active.base))?;
        } else {
            self.seal_active();
        }
        self.active = next;
        Ok(())
    }

    /// Puts the active segment among the sealed ones; a new one must take its place.
    fn seal_active(&mut self) {
        let active = &mut self.active;
        active.index.seal();
        self.sealed.push(Sealed {
            base: active.base,
            file: active.file.clone(),
            serial: active.serial,
            bytes: active.bytes,
            max_timestamp: active.index.max_timestamp(),
            index: Some(active.index.clone()),
        });
    }

    /// Writes `staging` behind the log end in one go. On an error nothing of it remains.
    pub(crate) fn write(&mut self, staging: &Staging, now: Timestamp) -> Result<(), WriteError> {
        let at = self.active.bytes;
        let end = at + staging.bytes() as u64;
        // A disk that is full says so here, or at the write; either way nothing is kept.
        let written =
            self.preallocate(end).and_then(|()| write_slices(&self.active.file, staging, at));
        if let Err(error) = written {
            // Bytes behind the end would look like batches to recovery.
            self.active.file.set_len(at).map_err(WriteError::Io)?;
            self.active.allocated = at;
            return Err(error.into());
        }
        let active = &mut self.active;
        active.begun.get_or_insert(now);
        for batch in staging.batches() {
            let position = num::u32_of(num::index(active.bytes));
            active.index.note(batch.last_offset, batch.max_timestamp, position, batch.bytes);
            active.bytes += u64::from(batch.bytes);
        }
        debug_assert_eq!(active.bytes, end);
        self.mark_dirty();
        Ok(())
    }

    fn preallocate(&mut self, end: u64) -> io::Result<()> {
        let active = &mut self.active;
        if end <= active.allocated {
            return Ok(());
        }
        let step = active.bytes.clamp(PREALLOCATE_BYTES_MIN, PREALLOCATE_BYTES_MAX);
        let to = end.max(active.allocated + step).min(end.max(self.limits.segment_bytes));
        active.file.preallocate(active.allocated, to - active.allocated)?;
        active.allocated = to;
        Ok(())
    }

    fn mark_dirty(&mut self) {
        // Never begun anew for a file that was clean in between: of two syncs at a time the one
        // that began first may end last.
        self.writes += 1;
        let last_write = self.writes;
        let active = &self.active;
        match self.unsynced.last_mut().filter(|last| last.serial == active.serial) {
            Some(last) => last.last_write = last_write,
            None => {
                let (file, serial) = (active.file.clone(), active.serial);
                self.unsynced.push(Dirty { file, serial, last_write });
            }
        }
    }

    /// What a sync must cover for all that is written now to be durable in its own files.
    pub(crate) fn unsynced(&self) -> Unsynced<I> {
        let dir =
            (self.dir_synced < self.dir_changes).then(|| (self.dir.clone(), self.dir_changes));
        Unsynced { io: self.io.clone(), files: self.unsynced.clone(), dir }
    }

    /// The sync of `what` has succeeded: what was written meanwhile stays unsynced.
    pub(crate) fn synced(&mut self, what: &Unsynced<I>) {
        self.unsynced.retain(|dirty| {
            let done = what.files.iter().find(|f| f.serial == dirty.serial);
            done.is_none_or(|f| f.last_write < dirty.last_write)
        });
        if let Some((_, changes)) = &what.dir {
            self.dir_synced = self.dir_synced.max(*changes);
        }
    }

    /// Where a log that ends at `to` ends on disk; `to` must be a batch's first offset, or the end.
    pub(crate) fn place_of(&self, to: Offset) -> Result<LogEnd, TruncateError> {
        let start = self.first_base();
        if to < start {
            return Err(TruncateError::BelowStart { to, start });
        }
        let active = &self.active;
        let after = self.sealed.partition_point(|s| s.base <= to);
        let (base, file, bytes, index) = match after.checked_sub(1).and_then(|i| self.sealed.get(i))
        {
            Some(s) if to < active.base => (s.base, &s.file, s.bytes, s.index.as_ref()),
            _ => (active.base, &active.file, active.bytes, Some(&active.index)),
        };
        let from = index.map_or(0, |index| u64::from(index.lookup(to)));
        let found = Heads::new(file.clone(), from, bytes).find(|h| h.next_offset() > to)?;
        let position = match found {
            Some(found) if found.header.base_offset() == to => found.position,
            Some(found) => {
                return Err(TruncateError::InsideBatch { to, base: found.header.base_offset() });
            }
            None => bytes,
        };
        Ok(LogEnd { offset: to, segment: base, position: num::u32_of(num::index(position)) })
    }

    /// Cuts the log back to `end`, a [`Log::place_of`]. The caller makes that durable. If `seen`,
    /// readers may still hold what is cut: appends go to a new file.
    pub(crate) fn truncate(&mut self, end: LogEnd, seen: bool) -> Result<(), TruncateError> {
        while self.active.base > end.segment {
            let Some(last) = self.sealed.pop() else {
                return Err(TruncateError::BelowStart { to: end.offset, start: self.active.base });
            };
            self.io.remove_file(&names::log(&self.dir, self.active.base))?;
            names::remove_indexes(&self.io, &self.dir, self.active.base)?;
            self.active = Active::reopen(last, self.limits)?;
        }
        // Also a producer snapshot may go with what is cut, and for good.
        self.dir_changes += 1;
        let active = &mut self.active;
        let cut = u64::from(end.position);
        active.file.set_len(cut)?;
        active.bytes = cut;
        active.allocated = cut;
        active.index.truncate(end.offset, end.position);
        // The batches behind the last entry that is left: their timestamps, and the way to the next.
        let from = u64::from(active.index.lookup(end.offset));
        let mut heads = Heads::new(active.file.clone(), from, cut);
        while let Some(found) = heads.next()? {
            note(&mut active.index, &found);
        }
        self.epochs_dirty |= self.epochs.truncate_from_end(end.offset);
        self.mark_dirty();
        if seen && self.active.bytes > 0 {
            self.roll(end.offset)?;
        }
        Ok(())
    }

    /// Whether anything of it is in no synced file.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.unsynced.is_empty() || self.dir_synced < self.dir_changes || self.epochs_dirty
    }

    /// Brings the indexes on disk up to the log. Not synced: they can be rebuilt. Also gives back
    /// what was allocated behind sealed segments.
    pub(crate) fn save_indexes(&mut self) -> io::Result<()> {
        for sealed in &mut self.sealed {
            if let Some(mut index) = sealed.index.take() {
                sealed.file.set_len(sealed.bytes)?;
                index.save(&self.io, &self.dir)?;
            }
        }
        self.active.index.save(&self.io, &self.dir)
    }

    /// The epoch file's new content, if it has changed since this was last asked.
    pub(crate) fn take_changed_epochs(&mut self) -> Option<String> {
        std::mem::take(&mut self.epochs_dirty).then(|| self.epochs.encode())
    }
}

/// Why a log could not be cut.
#[derive(Debug, thiserror::Error)]
pub enum TruncateError {
    /// The offset is no batch's first one.
    #[error(
        "offset {to} lies inside the batch that begins at {base}: cut at a batch's first offset"
    )]
    InsideBatch {
        /// Where to cut.
        to: Offset,
        /// The batch around it.
        base: Offset,
    },
    /// The log begins later.
    #[error("offset {to} lies below the log's first segment, which begins at {start}")]
    BelowStart {
        /// Where to cut.
        to: Offset,
        /// The first segment.
        start: Offset,
    },
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The log on disk is damaged.
    #[error("the log is damaged: {0}")]
    Damaged(String),
}

impl From<ScanError> for TruncateError {
    fn from(e: ScanError) -> Self {
        match e {
            ScanError::Io(e) => Self::Io(e),
            fault @ ScanError::Fault { .. } => Self::Damaged(fault.to_string()),
        }
    }
}

impl From<WriteError> for TruncateError {
    fn from(e: WriteError) -> Self {
        match e {
            WriteError::Full(e) | WriteError::Io(e) => Self::Io(e),
        }
    }
}

impl<F: File> Active<F> {
    fn create<I: Io<File = F>>(
        io: &I,
        dir: &Path,
        base: Offset,
        limits: Limits,
        serial: u64,
    ) -> io::Result<Self> {
        let file = io.open(&names::log(dir, base), OpenMode::Create)?;
        let index = Index::new(base, limits.index_interval_bytes);
        Ok(Self { base, file, serial, bytes: 0, allocated: 0, index, begun: None })
    }

    /// Takes up a sealed segment again, for it has lost its end.
    fn reopen(sealed: Sealed<F>, limits: Limits) -> Result<Self, ScanError> {
        let index = match sealed.index {
            Some(index) => index,
            None => read::rebuild_index(&sealed.file, sealed.base, sealed.bytes, limits)?,
        };
        Ok(Self {
            base: sealed.base,
            file: sealed.file,
            serial: sealed.serial,
            bytes: sealed.bytes,
            allocated: sealed.bytes,
            index,
            begun: None,
        })
    }
}

/// Notes a batch that was found in a file.
fn note(index: &mut Index, found: &scan::Found) {
    let (position, bytes) =
        (num::u32_of(num::index(found.position)), num::u32_of(num::index(found.bytes)));
    index.note(found.header.last_offset(), found.header.max_timestamp(), position, bytes);
}

/// Writes all of `staging` at `at`, continuing short writes.
fn write_slices<F: File>(file: &F, staging: &Staging, at: u64) -> io::Result<()> {
    let mut slices = staging.io_slices();
    let mut rest = slices.as_mut_slice();
    let mut position = at;
    while !rest.is_empty() {
        let n = file.write_at(rest, position)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        position += n as u64;
        IoSlice::advance_slices(&mut rest, n);
    }
    Ok(())
}
