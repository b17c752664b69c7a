//! Cutting a log back at its end.

use super::index::Index;
use super::scan::{Heads, ScanError};
use super::{Active, Log, LogEnd, WriteError, names, note};
use crate::io::{File, Io};
use crate::num;
use crate::types::Offset;
use std::io;

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
    #[error("offset {to} lies below the log, which begins at {start}")]
    BelowStart {
        /// Where to cut.
        to: Offset,
        /// The log start.
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
            WriteError::Shortage(e) | WriteError::Io(e) => Self::Io(e),
        }
    }
}

impl<I: Io> Log<I> {
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
        let from = index.map_or(0, |index| index.lookup_checked(to, file, bytes));
        let mut heads = Heads::new(file.clone(), from, bytes, base..Offset::MAX);
        let found = heads.find(|h| h.next_offset() > to)?;
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
            self.empty_active()?;
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
        // Removed, for a file that is cut may grow again in a power cut.
        names::remove_indexes(&self.io, &self.dir, active.base)?;
        // The batches behind the last entry that is left: their timestamps, and the way to the next.
        let from = active.index.lookup_checked(end.offset, &active.file, cut);
        if from == 0 {
            active.index = Index::new(active.base, self.limits.index_interval_bytes);
        }
        let mut heads = Heads::new(active.file.clone(), from, cut, active.base..end.offset);
        while let Some(found) = heads.next()? {
            note(&mut active.index, &found);
        }
        self.epochs_dirty |= self.epochs.truncate_from_end(end.offset);
        self.mark_dirty();
        if seen && cut > 0 {
            self.roll(end.offset)?;
        } else if seen {
            let (base, serial) = (self.active.base, self.serial());
            self.empty_active()?;
            self.active = Active::create(&self.io, &self.dir, base, self.limits, serial)?;
            self.unnamed.push((base, self.dir_changes));
        }
        Ok(())
    }

    /// Empties the active segment and takes its name away; another must take its place. It is
    /// unlinked once it is durably empty: a removal can be lost in a failed sync and read back as
    /// done, and what then comes back must hold no batch.
    fn empty_active(&mut self) -> io::Result<()> {
        let (base, serial) = (self.active.base, self.active.serial);
        self.active.file.set_len(0)?;
        self.mark_dirty();
        let aside = names::gone(&self.dir, base);
        self.io.rename(&names::log(&self.dir, base), &aside)?;
        self.gone.push((serial, aside));
        names::remove_indexes(&self.io, &self.dir, base)
    }

    /// Unlinks the emptied segments whose emptiness is durable.
    pub(super) fn unlink_gone(&mut self) {
        let (io, unsynced) = (&self.io, &self.unsynced);
        self.gone.retain(|(serial, path)| {
            let kept = unsynced.iter().any(|dirty| dirty.serial == *serial);
            if !kept {
                // What stays is an empty file, which the next start removes.
                let _best_effort = io.remove_file(path);
            }
            kept
        });
    }
}
