//! From an offset or a timestamp to bytes in a segment file.
//!
//! A lookup is two steps, so that nothing is borrowed while the disk is waited for: `seek` picks
//! the segment and what its index says, inline; [`Seek::find`] reads from the file.

use super::index::{self, Index, Newest, Place};
use super::scan::{Found, Heads, ScanError};
use super::{Limits, Log, LogEnd, Sealed, names};
use crate::io::{File, Io, OpenMode};
use crate::num;
use crate::types::{Offset, Timestamp};
use std::io;
use std::path::{Path, PathBuf};

/// Around the place that an index names this much must be resident for a scan not to wait: an
/// index interval, and a head.
const SCAN_BYTES: usize = 8 << 10;

/// From there a scan goes so far before it looks whether it has to wait: some large batches.
const INTERVAL_BYTES: usize = 1 << 20;

/// A segment, and how to find a place in it.
pub(crate) struct Seek<I: Io> {
    io: I,
    pub(crate) file: I::File,
    /// The segment's first offset.
    pub(crate) base: Offset,
    /// Where the readable bytes of this segment end, ...
    pub(crate) limit: u64,
    /// ... and an offset that none of its batches reaches.
    end: Offset,
    hint: Hint,
}

/// Where a timestamp is: in the segment that begins at `base`, or behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeSeek {
    pub(crate) base: Offset,
    /// The segment's index says that all up to this batch is older. To be believed if there is
    /// such a batch.
    pub(crate) before: Option<Newest>,
}

enum Hint {
    /// The index in memory says: start here.
    Known(Option<Place>),
    /// The index is in this file.
    File(PathBuf),
}

impl<I: Io> Log<I> {
    /// How to find the batch that holds `offset`, reading no further than `end`; `None` if no
    /// readable segment holds it. The one in which `end` lies may be gone.
    pub(crate) fn seek(&self, offset: Offset, end: LogEnd) -> Option<Seek<I>> {
        if offset >= end.offset {
            return None;
        }
        if offset >= self.active.base {
            let active = &self.active;
            let hint = Hint::Known(active.index.lookup(offset));
            return Some(self.seek_in(&active.file, active.base, active.bytes, end, hint));
        }
        let after = self.sealed.partition_point(|s| s.base <= offset);
        let sealed =
            after.checked_sub(1).and_then(|i| self.sealed.get(i)).or(self.sealed.first())?;
        if sealed.base >= end.offset {
            return None;
        }
        let hint = match &sealed.index {
            Some(index) => Hint::Known(index.lookup(offset)),
            None => Hint::File(names::index(&self.dir, sealed.base)),
        };
        Some(self.seek_in(&sealed.file, sealed.base, sealed.bytes, end, hint))
    }

    fn seek_in(
        &self,
        file: &I::File,
        base: Offset,
        bytes: u64,
        end: LogEnd,
        hint: Hint,
    ) -> Seek<I> {
        let limit = if base == end.segment { bytes.min(u64::from(end.position)) } else { bytes };
        let end = self.next_base(base).map_or(end.offset, |next| next.min(end.offset));
        Seek { io: self.io.clone(), file: file.clone(), base, limit, end, hint }
    }

    /// The first offset of the segment behind the one that begins at `base`.
    pub(crate) fn next_base(&self, base: Offset) -> Option<Offset> {
        let after = self.sealed.partition_point(|s| s.base <= base);
        let next = self.sealed.get(after).map_or(self.active.base, |s| s.base);
        (next > base).then_some(next)
    }

    /// Where to look for the first batch with a timestamp of at least `at`; `None` if every batch
    /// is older.
    pub(crate) fn seek_time(&self, at: Timestamp) -> io::Result<Option<TimeSeek>> {
        for sealed in &self.sealed {
            // A segment whose largest timestamp is not known may hold it.
            if sealed.max_timestamp.is_none_or(|newest| newest >= at) {
                let before = self.look_up_time(sealed, at)?;
                return Ok(Some(TimeSeek { base: sealed.base, before }));
            }
        }
        let active = &self.active;
        let may_hold = active.index.max_timestamp() >= at;
        let seek = || TimeSeek { base: active.base, before: active.index.lookup_time(at) };
        Ok(may_hold.then(seek))
    }

    fn look_up_time(&self, sealed: &Sealed<I::File>, at: Timestamp) -> io::Result<Option<Newest>> {
        if let Some(index) = &sealed.index {
            return Ok(index.lookup_time(at));
        }
        match self.io.open(&names::time_index(&self.dir, sealed.base), OpenMode::Read) {
            Ok(file) => index::lookup_time_in_file(&file, sealed.base, at),
            Err(_) => Ok(None),
        }
    }

    /// The largest timestamp before `end`, as far as it is known, of the batches up to an offset;
    /// those from there on are to be looked at.
    pub(crate) fn max_timestamp(&self, end: LogEnd) -> (Timestamp, Offset) {
        let before = self.sealed.iter().filter(|s| s.base < end.segment);
        let newest = before.filter_map(|s| s.max_timestamp).max().unwrap_or(Timestamp::NONE);
        let sealed = self.sealed.iter().find(|s| s.base == end.segment);
        let (whole, index) = match sealed {
            Some(s) => (s.max_timestamp.filter(|_| s.bytes == u64::from(end.position)), &s.index),
            None => (None, &None),
        };
        if let Some(whole) = whole {
            return (newest.max(whole), end.offset);
        }
        let active = (self.active.base == end.segment).then_some(&self.active.index);
        match index.as_ref().or(active).and_then(|index| index.newest_before(end.offset)) {
            Some((timestamp, next)) => (newest.max(timestamp), next),
            None => (newest, end.segment),
        }
    }
}

impl<I: Io> Seek<I> {
    /// The first batch whose last offset is at or past `offset`; `None` if the segment has none.
    ///
    /// # Errors
    /// Those of the disk, and a damaged log.
    pub(crate) async fn find(&self, offset: Offset) -> Result<Option<Found>, ScanError> {
        let place = match &self.hint {
            Hint::Known(place) => *place,
            Hint::File(path) => self.look_up(path, offset).await.unwrap_or(None),
        };
        let start = place.map_or(0, |place| place.position);
        self.file.load(start, SCAN_BYTES.min(num::index(self.limit.saturating_sub(start)))).await?;
        if let Some(place) = place {
            match self.scan_from(place, offset).await {
                Err(ScanError::Io(e)) => return Err(ScanError::Io(e)),
                Ok(Some(found)) => return Ok(Some(found)),
                // An index is not believed: what it points at may be no batch, or another.
                Ok(None) | Err(ScanError::Fault { .. }) => {}
            }
        }
        find_in(&mut self.heads(0, self.base).loaded(SCAN_BYTES), offset).await
    }

    /// The batches behind `found`, and itself.
    pub(crate) fn heads_from(&self, found: &Found) -> Heads<I::File> {
        self.heads(found.position, found.header.base_offset())
    }

    fn heads(&self, position: u64, first: Offset) -> Heads<I::File> {
        Heads::new(self.file.clone(), position, self.limit, first..self.end)
    }

    async fn scan_from(&self, place: Place, offset: Offset) -> Result<Option<Found>, ScanError> {
        let mut heads = self.heads(place.position, self.base).loaded(INTERVAL_BYTES);
        match heads.next()? {
            Some(first) if first.header.last_offset() != place.last => Ok(None),
            Some(first) if place.last >= offset => Ok(Some(first)),
            _ => find_in(&mut heads, offset).await,
        }
    }

    async fn look_up(&self, path: &Path, offset: Offset) -> io::Result<Option<Place>> {
        let file = self.io.open(path, OpenMode::Read)?;
        file.load(0, num::index(file.len()?)).await?;
        index::lookup_in_file(&file, self.base, offset)
    }
}

/// The first batch whose last offset is at or past `offset`.
async fn find_in<F: File>(
    heads: &mut Heads<F>,
    offset: Offset,
) -> Result<Option<Found>, ScanError> {
    while let Some(found) = heads.next_loaded().await? {
        if found.header.last_offset() >= offset {
            if found.header.base_offset() > offset {
                // A gap, or a base offset that was damaged: then the next batch overlaps it.
                heads.next()?;
            }
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The index of a segment, from its batches.
pub(crate) fn rebuild_index<F: File>(
    file: &F,
    base: Offset,
    bytes: u64,
    limits: Limits,
) -> Result<Index, ScanError> {
    let mut index = Index::new(base, limits.index_interval_bytes);
    let mut heads = Heads::new(file.clone(), 0, bytes, base..Offset::MAX);
    while let Some(found) = heads.next()? {
        super::note(&mut index, &found);
    }
    Ok(index)
}

/// A sealed segment whose index files are missing or cannot be right.
pub(crate) struct Unindexed<F> {
    file: F,
    serial: u64,
    base: Offset,
    bytes: u64,
    limits: Limits,
}

impl<F: File> Unindexed<F> {
    /// Its index, from its batches; waits for the disk a piece at a time.
    ///
    /// # Errors
    /// Those of the disk, and a damaged log.
    pub(crate) async fn index(&self) -> Result<Index, ScanError> {
        let mut index = Index::new(self.base, self.limits.index_interval_bytes);
        let mut heads = Heads::new(self.file.clone(), 0, self.bytes, self.base..Offset::MAX);
        while let Some(found) = heads.next_loaded().await? {
            super::note(&mut index, &found);
        }
        index.seal();
        Ok(index)
    }
}

impl<I: Io> Log<I> {
    /// The oldest segment that needs its indexes rebuilt.
    pub(crate) fn unindexed(&self) -> Option<Unindexed<I::File>> {
        let sealed = self.sealed.iter().find(|s| s.max_timestamp.is_none())?;
        Some(Unindexed {
            file: sealed.file.clone(),
            serial: sealed.serial,
            base: sealed.base,
            bytes: sealed.bytes,
            limits: self.limits,
        })
    }

    /// Puts in place what [`Unindexed::index`] found, unless the segment has changed or gone.
    pub(crate) fn indexed(&mut self, what: &Unindexed<I::File>, index: Index) {
        let same = |s: &&mut Sealed<I::File>| s.serial == what.serial && s.bytes == what.bytes;
        if let Some(sealed) = self.sealed.iter_mut().find(same) {
            sealed.max_timestamp = Some(index.max_timestamp());
            sealed.index = Some(index);
        }
    }
}
