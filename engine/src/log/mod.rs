//! The segments of one partition: where its batches lie on disk.
//!
//! ```text
//! topic-partition/
//!   00000000000000000000.log  .index  .timeindex     sealed: never written again
//!   00000000000000081920.log  .index  .timeindex     active: appended to
//!   00000000000000100000.snapshot                    producers as of that offset
//!   leader-epoch-checkpoint   partition.metadata
//!   next-segment.tmp                                 what the next roll renames
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
pub(crate) mod spare;
pub(crate) mod staging;
mod truncate;

pub use truncate::TruncateError;

use crate::config::LogConfig;
use crate::futures::join_all;
use crate::io::turn::SyncTurn;
use crate::io::{File, Io, OpenMode, is_out_of_descriptors};
use crate::num;
use crate::types::{LeaderEpoch, Offset, Timestamp};
use epochs::Epochs;
use index::Index;
use scan::ScanError;
use spare::Spare;
use staging::Staging;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

/// The first step of preallocation; it doubles up to `PREALLOCATE_BYTES_MAX`, so that ten
/// thousand small partitions do not cost a GiB each.
const PREALLOCATE_BYTES_MIN: u64 = 64 << 10;
/// Ahead of the log end at most this much is allocated.
const PREALLOCATE_BYTES_MAX: u64 = 16 << 20;

/// The end of something in a log: an offset, and where its bytes end on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    /// The next offset.
    pub(crate) offset: Offset,
    /// The base offset of the segment that the bytes before it are in.
    pub(crate) segment: Offset,
    /// Where those bytes end in that segment's file.
    pub(crate) position: u32,
}

/// When a segment is full. Kafka's names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) segment_bytes: u64,
    pub(crate) segment_ms: i64,
    pub(crate) index_interval_bytes: u32,
}

impl From<&LogConfig> for Limits {
    fn from(config: &LogConfig) -> Self {
        Self {
            segment_bytes: config.segment_bytes,
            segment_ms: config.segment_ms,
            index_interval_bytes: config.index_interval_bytes,
        }
    }
}

/// A segment that takes no more batches.
struct Sealed<F> {
    base: Offset,
    file: F,
    serial: u64,
    bytes: u64,
    /// None: not known, as its index files are missing or cannot be right.
    max_timestamp: Option<Timestamp>,
    /// Here until it is in its files.
    index: Option<Index>,
    /// What was allocated behind its end was given back. Only once: it counts as a change of the
    /// file, whose age can be the segment's.
    is_trimmed: bool,
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
    turn: SyncTurn,
}

impl<I: Io> Unsynced<I> {
    /// Syncs all of it at once; returns how many syncs that took. After one that failed all fail.
    pub(crate) async fn sync(&self) -> io::Result<u64> {
        self.turn.run(self.sync_all()).await
    }

    async fn sync_all(&self) -> io::Result<u64> {
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
    /// It may go better later.
    #[error(transparent)]
    Shortage(io::Error),
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(e: io::Error) -> Self {
        if is_shortage(&e) { Self::Shortage(e) } else { Self::Io(e) }
    }
}

/// Whether `error` is for want of something, room or descriptors: nothing was done, and it may go
/// better later.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    is_full(error) || is_out_of_descriptors(error)
}

/// Whether `error` is for want of room on the disk.
pub(crate) fn is_full(error: &io::Error) -> bool {
    // QuotaExceeded is EDQUOT, FileTooLarge EFBIG (RLIMIT_FSIZE).
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// The log of one partition.
pub(crate) struct Log<I: Io> {
    io: I,
    dir: PathBuf,
    sealed: Vec<Sealed<I::File>>,
    active: Active<I::File>,
    spare: Spare<I::File>,
    epochs: Epochs,
    epochs_dirty: bool,
    limits: Limits,
    unsynced: Vec<Dirty<I::File>>,
    /// Segments that a cut took, by serial, and what they are called until they are durably empty.
    gone: Vec<(u64, PathBuf)>,
    writes: u64,
    next_serial: u64,
    dir_changes: u64,
    dir_synced: u64,
    /// Segments whose names may not be durable yet, and the changes of the directory with them.
    unnamed: Vec<(Offset, u64)>,
    turn: SyncTurn,
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
            spare: Spare::None,
            epochs: Epochs::default(),
            epochs_dirty: true,
            limits,
            unsynced: Vec::new(),
            gone: Vec::new(),
            writes: 0,
            next_serial: 1,
            dir_changes: 1,
            dir_synced: 0,
            unnamed: Vec::new(),
            turn: SyncTurn::default(),
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

    /// Fills `buffer` from byte `at` of the active segment; whether all of it was there.
    pub(crate) fn read_active(&self, buffer: &mut [u8], at: u64) -> bool {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.active.file.read_at(rest, at + filled as u64) {
                Ok(n) if n > 0 => filled += n,
                _ => return false,
            }
        }
        true
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
        let next = match self.take_spare(base)? {
            Some((file, allocated)) => Active::new(file, base, self.limits, serial, allocated),
            None => Active::create(&self.io, &self.dir, base, self.limits, serial)?,
        };
        self.dir_changes += 1;
        self.unnamed.push((base, self.dir_changes));
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
        // Taken, not copied: a full segment's is some megabytes.
        let anew = Index::new(active.base, self.limits.index_interval_bytes);
        let index = std::mem::replace(&mut active.index, anew);
        self.sealed.push(Sealed {
            base: active.base,
            file: active.file.clone(),
            serial: active.serial,
            bytes: active.bytes,
            max_timestamp: Some(index.max_timestamp()),
            index: Some(index),
            is_trimmed: false,
        });
    }

    /// Writes `staging` behind the log end in one go. On an error nothing of it remains.
    pub(crate) fn write(&mut self, staging: &Staging, now: Timestamp) -> Result<(), WriteError> {
        let at = self.active.bytes;
        let end = at + staging.bytes() as u64;
        // A disk that is full says so here, or at the write; either way nothing is kept.
        while let Err(error) =
            self.preallocate(end).and_then(|()| write_slices(&self.active.file, staging, at))
        {
            // Bytes behind the end would look like batches to recovery.
            self.active.file.set_len(at).map_err(WriteError::Io)?;
            self.active.allocated = at;
            self.mark_dirty();
            // What is written now goes before what may be.
            if !is_full(&error) || !self.drop_spare() {
                return Err(error.into());
            }
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

    /// How much is allocated at a time.
    fn step(&self) -> u64 {
        let step = self.active.bytes.clamp(PREALLOCATE_BYTES_MIN, PREALLOCATE_BYTES_MAX);
        step.min(self.limits.segment_bytes)
    }

    fn preallocate(&mut self, end: u64) -> io::Result<()> {
        let step = self.step();
        let active = &mut self.active;
        if end <= active.allocated {
            return Ok(());
        }
        let to = end.max(active.allocated + step).min(end.max(self.limits.segment_bytes));
        match active.file.preallocate(active.allocated, to - active.allocated) {
            // The step ahead does not fit: then what is written now, if that does. The file system
            // may have allocated part of the step.
            Err(error) if is_full(&error) && to > end => {
                active.file.set_len(active.bytes)?;
                active.allocated = active.bytes;
                active.file.preallocate(active.bytes, end - active.bytes)?;
                active.allocated = end;
            }
            done => {
                done?;
                active.allocated = to;
            }
        }
        Ok(())
    }

    fn mark_dirty(&mut self) {
        // Never begun anew for a file that was clean in between: of two syncs at a time the one
        // that began first may end last.
        self.writes += 1;
        let last_write = self.writes;
        let active = &self.active;
        match self.unsynced.iter_mut().rfind(|dirty| dirty.serial == active.serial) {
            Some(dirty) => dirty.last_write = last_write,
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
        let (io, turn) = (self.io.clone(), self.turn.clone());
        Unsynced { io, files: self.unsynced.clone(), dir, turn }
    }

    /// The sync of `what` has succeeded: what was written meanwhile stays unsynced.
    pub(crate) fn synced(&mut self, what: &Unsynced<I>) {
        self.unsynced.retain(|dirty| {
            let done = what.files.iter().find(|f| f.serial == dirty.serial);
            done.is_none_or(|f| f.last_write < dirty.last_write)
        });
        if let Some((_, changes)) = &what.dir {
            self.dir_synced = self.dir_synced.max(*changes);
            self.unnamed.retain(|(_, change)| *change > self.dir_synced);
        }
        self.unlink_gone();
    }

    /// Whether anything of it is in no synced file, or its index in no file.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.unsynced.is_empty()
            || self.dir_synced < self.dir_changes
            || self.epochs_dirty
            || self.active.index.is_ahead()
            || self.sealed.iter().any(|s| s.index.is_some())
    }

    /// Brings the indexes on disk up to the log, and gives back what was allocated behind sealed
    /// segments. Those of sealed segments are synced with the log; the active one's is not, and
    /// recovery believes of it what it can check.
    pub(crate) fn save_indexes(&mut self) -> io::Result<()> {
        for i in 0..self.sealed.len() {
            let Some(sealed) = self.sealed.get_mut(i) else { break };
            let Some(index) = &mut sealed.index else { continue };
            if !sealed.is_trimmed {
                sealed.file.set_len(sealed.bytes)?;
                sealed.is_trimmed = true;
            }
            let files = index.save(&self.io, &self.dir)?;
            sealed.index = None;
            self.dir_changes += 1;
            for file in files {
                self.writes += 1;
                let (serial, last_write) = (self.serial(), self.writes);
                self.unsynced.push(Dirty { file, serial, last_write });
            }
        }
        self.active.index.save(&self.io, &self.dir).map(|_| ())
    }

    /// The epoch file's new content, if it has changed since this was last asked.
    pub(crate) fn take_changed_epochs(&mut self) -> Option<String> {
        std::mem::take(&mut self.epochs_dirty).then(|| self.epochs.encode())
    }

    /// What [`Log::take_changed_epochs`] gave was not written.
    pub(crate) fn keep_epochs_changed(&mut self) {
        self.epochs_dirty = true;
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
        Ok(Self::new(file, base, limits, serial, 0))
    }

    /// One in `file`, which is empty.
    fn new(file: F, base: Offset, limits: Limits, serial: u64, allocated: u64) -> Self {
        let index = Index::new(base, limits.index_interval_bytes);
        Self { base, file, serial, bytes: 0, allocated, index, begun: None }
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn what_is_short_now_is_told_from_a_disk_that_fails() {
        for (errno, expected) in [
            (Errno::NOSPC, (true, true)),
            (Errno::DQUOT, (true, true)),
            (Errno::FBIG, (true, true)),
            (Errno::MFILE, (true, false)),
            (Errno::NFILE, (true, false)),
            (Errno::IO, (false, false)),
            (Errno::ROFS, (false, false)),
            (Errno::ACCESS, (false, false)),
            (Errno::NOENT, (false, false)),
        ] {
            let error = io::Error::from(errno);
            assert_eq!((is_shortage(&error), is_full(&error)), expected, "{error}");
            let is_short = matches!(WriteError::from(error), WriteError::Shortage(_));
            assert_eq!(is_short, expected.0, "{errno}");
        }
    }
}
