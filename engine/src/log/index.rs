//! Sparse indexes of one segment: from an offset to the file position where a scan for it starts,
//! and from a timestamp to an offset.
//!
//! ```text
//! .index     entry, 8 bytes:  | last offset of a batch - base: u32 | its first byte: u32       |
//! .timeindex entry, 12 bytes: | largest timestamp so far: i64 | last offset of its batch - base: u32 |
//! ```
//!
//! **Invariant:** a cache. A lost entry costs a longer scan, a wrong one a rebuild, never a record:
//! whoever starts a scan at an entry checks what it finds there.

use super::names;
use super::scan::Heads;
use crate::batch::Header;
use crate::checkpoint::{read_file, write_all};
use crate::io::{File, Io, OpenMode};
use crate::num;
use crate::types::{Offset, Timestamp};
use std::io;
use std::path::Path;

#[cfg(test)]
mod tests;

/// Bytes of an entry of the offset index.
pub(crate) const ENTRY_BYTES: usize = 8;
/// Bytes of an entry of the time index.
pub(crate) const TIME_ENTRY_BYTES: usize = 12;

/// An entry of the offset index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// The last offset of a batch, relative to the segment's base.
    last: u32,
    /// Where that batch begins.
    position: u32,
}

/// An entry of the time index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TimeEntry {
    /// No batch up to `last` has a larger timestamp.
    timestamp: Timestamp,
    /// The last offset of the batch that has it, relative to the segment's base.
    last: u32,
}

/// A batch, as an offset index tells it. To be believed if it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its last offset.
    pub(crate) last: Offset,
    /// Its first byte.
    pub(crate) position: u64,
}

/// The batch with the largest timestamp so far, as a time index tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newest {
    timestamp: Timestamp,
    /// The batch's last offset.
    pub(crate) offset: Offset,
}

impl Newest {
    /// Whether the batch with this `header` is the one that was meant.
    pub(crate) fn is_of(self, header: &Header) -> bool {
        (header.last_offset(), header.max_timestamp()) == (self.offset, self.timestamp)
    }
}

/// Both indexes of one segment, in memory while it grows.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    base: Offset,
    interval_bytes: u32,
    /// Bytes of log since the last entry.
    since_bytes: u32,
    entries: Vec<Entry>,
    times: Vec<TimeEntry>,
    /// The batch with the largest timestamp so far.
    latest: TimeEntry,
    /// How many of each are in the files already.
    saved: usize,
    saved_times: usize,
}

impl Index {
    pub(crate) fn new(base: Offset, interval_bytes: u32) -> Self {
        Self {
            base,
            interval_bytes,
            since_bytes: 0,
            entries: Vec::new(),
            times: Vec::new(),
            latest: TimeEntry { timestamp: Timestamp::NONE, last: 0 },
            saved: 0,
            saved_times: 0,
        }
    }

    /// The indexes as their files tell them, for the log's first `position` bytes, which end at
    /// offset `end`. `None`: the files are missing or cannot be right.
    pub(crate) fn load<I: Io>(
        io: &I,
        dir: &Path,
        base: Offset,
        interval_bytes: u32,
        end: Offset,
        position: u64,
    ) -> Option<Self> {
        let entries = read_file(io, &names::index(dir, base)).ok()?;
        let times = read_file(io, &names::time_index(dir, base)).ok()?;
        let mut index = Self::new(base, interval_bytes);
        for bytes in entries.chunks_exact(ENTRY_BYTES) {
            let entry = Entry::decode(bytes)?;
            // Not even the first entry names the first byte: `interval_bytes` lie before it. So
            // zeros, which a crash can leave, are no entry anywhere.
            let after = index.entries.last().copied().unwrap_or(Entry { last: 0, position: 0 });
            let rises = entry.position > after.position
                && (entry.last > after.last || index.entries.is_empty());
            if !rises {
                return None;
            }
            if base.plus(i64::from(entry.last)) >= end || u64::from(entry.position) >= position {
                break;
            }
            index.entries.push(entry);
        }
        for bytes in times.chunks_exact(TIME_ENTRY_BYTES) {
            let entry = TimeEntry::decode(bytes)?;
            if entry.is_zero() || index.times.last().is_some_and(|before| !before.rises_to(entry)) {
                return None;
            }
            if base.plus(i64::from(entry.last)) >= end {
                break;
            }
            index.times.push(entry);
            index.latest = entry;
        }
        // A time index that lost its end says nothing of what lies behind: that is scanned again.
        let timed = index.times.last().map_or(0, |t| t.last);
        index.entries.truncate(index.entries.partition_point(|e| e.last <= timed));
        index.saved = index.entries.len();
        index.saved_times = index.times.len();
        Some(index)
    }

    /// Notes the batch of `bytes` from `position` to offset `last`: at most one entry every
    /// `index.interval.bytes`. The batch of the last entry may be noted again, as a scan that
    /// starts there does: for its timestamp, which the time index may have lost.
    pub(crate) fn note(
        &mut self,
        last: Offset,
        max_timestamp: Timestamp,
        position: u32,
        bytes: u32,
    ) {
        let last = self.relative(last);
        if self.latest.timestamp < max_timestamp {
            self.latest = TimeEntry { timestamp: max_timestamp, last };
        }
        if self.entries.last().is_some_and(|e| e.last == last) {
            self.since_bytes = bytes;
            return;
        }
        if self.since_bytes > self.interval_bytes {
            debug_assert!(self.entries.last().is_none_or(|e| e.last < last)); // pair: `lookup`
            self.entries.push(Entry { last, position });
            self.note_time();
            self.since_bytes = 0;
        }
        self.since_bytes = self.since_bytes.saturating_add(bytes);
    }

    /// The segment is complete: its largest timestamp becomes the time index's last entry.
    pub(crate) fn seal(&mut self) {
        self.note_time();
    }

    fn note_time(&mut self) {
        let latest = self.latest;
        if latest.timestamp > Timestamp::NONE
            && self
                .times
                .last()
                .is_none_or(|t| t.timestamp < latest.timestamp && t.last < latest.last)
        {
            self.times.push(latest);
        }
    }

    /// The largest timestamp noted; [`Timestamp::NONE`] if there is none.
    pub(crate) fn max_timestamp(&self) -> Timestamp {
        self.latest.timestamp
    }

    /// The largest timestamp of the batches up to an offset, which is the last that is known before
    /// `end`.
    pub(crate) fn newest_before(&self, end: Offset) -> Option<(Timestamp, Offset)> {
        let latest = self.latest.of(self.base);
        if latest.timestamp > Timestamp::NONE && latest.offset < end {
            return Some((latest.timestamp, end));
        }
        let after = self.times.partition_point(|t| t.of(self.base).offset < end);
        let before = self.times.get(after.checked_sub(1)?)?.of(self.base);
        Some((before.timestamp, before.offset))
    }

    /// Where to start scanning for `target`: at or before its batch, never after. `None`: at the
    /// first byte.
    pub(crate) fn lookup(&self, target: Offset) -> Option<Place> {
        let relative = target.since(self.base);
        let after = self.entries.partition_point(|e| i64::from(e.last) <= relative);
        let entry = after.checked_sub(1).and_then(|i| self.entries.get(i))?;
        Some(entry.of(self.base))
    }

    /// As [`Index::lookup`], but looked at in `file`, which has `limit` bytes: the first byte of
    /// all, if the batch at the entry's place is not the one that the entry is of.
    pub(crate) fn lookup_checked<F: File>(&self, target: Offset, file: &F, limit: u64) -> u64 {
        let Some(Place { last, position }) = self.lookup(target) else { return 0 };
        match Heads::new(file.clone(), position, limit, self.base..Offset::MAX).next() {
            Ok(Some(found)) if found.header.last_offset() == last => position,
            _ => 0,
        }
    }

    /// The last batch before which none has a timestamp of at least `at`, as the entries tell.
    pub(crate) fn lookup_time(&self, at: Timestamp) -> Option<Newest> {
        let after = self.times.partition_point(|t| t.timestamp < at);
        let before = after.checked_sub(1).and_then(|i| self.times.get(i))?;
        Some(before.of(self.base))
    }

    /// Whether the last entry of the time index is of a batch in `file`, which has `limit` bytes.
    pub(crate) fn is_newest_right<F: File>(&self, file: &F, limit: u64) -> bool {
        let Some(newest) = self.times.last().map(|t| t.of(self.base)) else { return true };
        let from = self.lookup_checked(newest.offset, file, limit);
        let mut heads = Heads::new(file.clone(), from, limit, self.base..Offset::MAX);
        let found = heads.find(|h| h.last_offset() >= newest.offset);
        matches!(found, Ok(Some(found)) if newest.is_of(&found.header))
    }

    /// Forgets the batches from offset `to`, byte `position`, on.
    pub(crate) fn truncate(&mut self, to: Offset, position: u32) {
        let to = to.since(self.base);
        self.entries.retain(|e| i64::from(e.last) < to && e.position < position);
        self.times.retain(|t| i64::from(t.last) < to);
        self.latest =
            self.times.last().copied().unwrap_or(TimeEntry { timestamp: Timestamp::NONE, last: 0 });
        self.since_bytes = 0;
        // The files hold more than is true now: the caller removes them.
        self.forget_saved();
    }

    /// Writes the entries that are not in the files yet. Not synced: these are the files.
    pub(crate) fn save<I: Io>(&mut self, io: &I, dir: &Path) -> io::Result<[I::File; 2]> {
        let fresh = self.entries.get(self.saved..).unwrap_or_default();
        let bytes: Vec<u8> = fresh.iter().flat_map(Entry::encode).collect();
        let index = append(io, &names::index(dir, self.base), self.saved * ENTRY_BYTES, &bytes)?;
        let fresh = self.times.get(self.saved_times..).unwrap_or_default();
        let bytes: Vec<u8> = fresh.iter().flat_map(TimeEntry::encode).collect();
        let at = self.saved_times * TIME_ENTRY_BYTES;
        let time_index = append(io, &names::time_index(dir, self.base), at, &bytes)?;
        self.saved = self.entries.len();
        self.saved_times = self.times.len();
        Ok([index, time_index])
    }

    /// Whether its files hold what it holds, and nothing else.
    pub(crate) fn is_saved<I: Io>(&self, io: &I, dir: &Path) -> bool {
        let len = |path: &Path| {
            io.open(path, OpenMode::Read).and_then(|file| file.len()).map_or(0, num::index)
        };
        len(&names::index(dir, self.base)) == self.entries.len() * ENTRY_BYTES
            && len(&names::time_index(dir, self.base)) == self.times.len() * TIME_ENTRY_BYTES
    }

    /// Whether it has entries that were not saved.
    pub(crate) fn is_ahead(&self) -> bool {
        self.saved < self.entries.len() || self.saved_times < self.times.len()
    }

    /// Its files are gone: they will be written anew.
    pub(crate) fn forget_saved(&mut self) {
        self.saved = 0;
        self.saved_times = 0;
    }

    fn relative(&self, offset: Offset) -> u32 {
        // A segment is rolled before its offsets leave 31 bits.
        u32::try_from(offset.since(self.base)).unwrap_or(u32::MAX)
    }
}

impl Entry {
    fn of(self, base: Offset) -> Place {
        Place { last: base.plus(i64::from(self.last)), position: u64::from(self.position) }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (last, rest) = bytes.split_first_chunk()?;
        let (position, _) = rest.split_first_chunk()?;
        Some(Self { last: u32::from_be_bytes(*last), position: u32::from_be_bytes(*position) })
    }

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..4].copy_from_slice(&self.last.to_be_bytes());
        bytes[4..].copy_from_slice(&self.position.to_be_bytes());
        bytes
    }
}

impl TimeEntry {
    /// Zeros are what a crash can leave. The only entry that they could be, a record of 1970 at
    /// the segment's first offset, is never worth more than a scan.
    fn is_zero(self) -> bool {
        self == Self { timestamp: Timestamp(0), last: 0 }
    }

    fn of(self, base: Offset) -> Newest {
        Newest { timestamp: self.timestamp, offset: base.plus(i64::from(self.last)) }
    }

    fn rises_to(self, next: Self) -> bool {
        self.last < next.last && self.timestamp < next.timestamp
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (timestamp, rest) = bytes.split_first_chunk()?;
        let (last, _) = rest.split_first_chunk()?;
        let timestamp = Timestamp(i64::from_be_bytes(*timestamp));
        Some(Self { timestamp, last: u32::from_be_bytes(*last) })
    }

    fn encode(&self) -> [u8; TIME_ENTRY_BYTES] {
        let mut bytes = [0; TIME_ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.timestamp.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.last.to_be_bytes());
        bytes
    }
}

/// Puts `bytes` at `at` into the file at `path` and ends it there.
fn append<I: Io>(io: &I, path: &Path, at: usize, bytes: &[u8]) -> io::Result<I::File> {
    let file = match io.open(path, OpenMode::Write) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => io.open(path, OpenMode::Create)?,
        opened => opened?,
    };
    // Something else cut or emptied the file: what is before `at` is lost. Recovery sees that.
    write_all(&file, bytes, at as u64)?;
    file.set_len((at + bytes.len()) as u64)?;
    Ok(file)
}

/// [`Index::lookup`] in the file of a sealed segment, without reading all of it.
pub(crate) fn lookup_in_file<F: File>(
    file: &F,
    base: Offset,
    target: Offset,
) -> io::Result<Option<Place>> {
    let count = num::index(file.len()?) / ENTRY_BYTES;
    let entry = |i: usize| -> io::Result<Entry> {
        let mut bytes = [0; ENTRY_BYTES];
        file.read_at(&mut bytes, (i * ENTRY_BYTES) as u64)?;
        Ok(Entry::decode(&bytes).unwrap_or(Entry { last: 0, position: 0 }))
    };
    let target = target.since(base);
    let after = partition_point(count, |i| Ok(i64::from(entry(i)?.last) <= target))?;
    after.checked_sub(1).map(|i| Ok(entry(i)?.of(base))).transpose()
}

/// [`Index::lookup_time`] in the file of a sealed segment.
pub(crate) fn lookup_time_in_file<F: File>(
    file: &F,
    base: Offset,
    at: Timestamp,
) -> io::Result<Option<Newest>> {
    let count = num::index(file.len()?) / TIME_ENTRY_BYTES;
    let after = partition_point(count, |i| Ok(time_entry(file, i)?.timestamp < at))?;
    after.checked_sub(1).map(|i| Ok(time_entry(file, i)?.of(base))).transpose()
}

/// The largest timestamp of a sealed segment, as its index files tell it and the last of its
/// batches bear out, and where these end; `None` if the files are missing or cannot be right, for
/// example as they lost their end. Retention goes by this: what is not known must not look old.
pub(crate) fn newest_and_end_in_files<I: Io>(
    io: &I,
    dir: &Path,
    base: Offset,
    log: &I::File,
    bytes: u64,
) -> Option<(Timestamp, Offset)> {
    let index = io.open(&names::index(dir, base), OpenMode::Read).ok()?;
    let times = io.open(&names::time_index(dir, base), OpenMode::Read).ok()?;
    let len = num::index(times.len().ok()?);
    let last =
        (len / TIME_ENTRY_BYTES).checked_sub(1).filter(|_| len.is_multiple_of(TIME_ENTRY_BYTES))?;
    let newest = time_entry(&times, last).ok()?;
    let rises = match last.checked_sub(1) {
        Some(before) => time_entry(&times, before).ok()?.rises_to(newest),
        None => !newest.is_zero(),
    };
    let newest = newest.of(base);
    let from = lookup_in_file(&index, base, newest.offset).ok()?;
    let from = from.map_or(0, |place| place.position);
    let mut heads = Heads::new(log.clone(), from, bytes, base..Offset::MAX);
    let (mut is_borne_out, mut end) = (false, base);
    while let Some(found) = heads.next().ok()? {
        is_borne_out |= newest.is_of(&found.header);
        end = found.header.next_offset();
        if found.header.max_timestamp() > newest.timestamp {
            return None;
        }
    }
    (rises && is_borne_out).then_some((newest.timestamp, end))
}

fn time_entry<F: File>(file: &F, i: usize) -> io::Result<TimeEntry> {
    let mut bytes = [0; TIME_ENTRY_BYTES];
    file.read_at(&mut bytes, (i * TIME_ENTRY_BYTES) as u64)?;
    Ok(TimeEntry::decode(&bytes).unwrap_or(TimeEntry { timestamp: Timestamp::NONE, last: 0 }))
}

/// The first of `0..count` for which `before` does not hold.
fn partition_point(count: usize, before: impl Fn(usize) -> io::Result<bool>) -> io::Result<usize> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
