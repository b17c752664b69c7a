//! What is left of a log when it is opened.
//!
//! Below the recovery point every batch is durable in its own file and is not looked at, but for
//! where segments end. Below the floor every batch was promised: one that is bad is rot. Above the
//! floor nothing was.
//!
//! | at the next expected offset | below the floor | at or above |
//! |---|---|---|
//! | a whole batch               | keep            | keep, and write it again |
//! | a bad batch                 | fence           | cut, move the bytes aside |
//! | nothing: the log ends       | fence           | done |
//! | a gap before the next file  | fence           | cut, move that file aside |
//!
//! What is kept above the floor is written again: after a failed sync, or a kill, a page can be in
//! the cache, clean, and not on the disk; so can the file's name and its length. Indexes are believed up to the recovery point, where
//! they read back as possible, and rebuilt from the log otherwise.

use super::epochs::Epochs;
use super::index::{self, Index};
use super::scan::{Batches, Heads, ScanError};
use super::{Active, Limits, Log, Sealed, names};
use crate::batch::Header;
use crate::checkpoint::{read_file, write_all};
use crate::io::{File, Io, OpenMode};
use crate::num;
use crate::types::{Offset, Timestamp};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// Copied at once.
const CHUNK_BYTES: usize = 1 << 20;

/// What is known of a log before it is looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The first offset that is kept, as the checkpoint has it.
    pub(crate) log_start: Offset,
    /// Everything below is durable in its own file.
    pub(crate) recovery_point: Offset,
    /// Everything below was promised.
    pub(crate) floor: Offset,
    /// Below, a compaction may have left gaps.
    pub(crate) cleaned: Offset,
    /// The last stop was in order: what reads back is durable.
    pub(crate) was_clean: bool,
    /// The segments into which the journal's bytes were just written.
    pub(crate) rewritten: BTreeSet<Offset>,
}

impl Facts {
    /// Whether a record from `from` on was promised. What lies before the log start is to nobody
    /// any more.
    fn promised(&self, from: Offset) -> bool {
        from.max(self.log_start) < self.floor
    }
}

/// What stands at the next expected offset, if not a whole batch: that is always kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Bad,
    Nothing,
    Gap,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Cut,
    Fence,
    Done,
}

fn decide(next: Next, below_floor: bool) -> Action {
    match (next, below_floor) {
        (Next::Bad | Next::Nothing | Next::Gap, true) => Action::Fence,
        (Next::Bad | Next::Gap, false) => Action::Cut,
        (Next::Nothing, false) => Action::Done,
    }
}

/// A log that was opened, and what that took.
pub(crate) struct Recovered<I: Io> {
    pub(crate) log: Log<I>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    /// Bytes that were moved aside.
    pub(crate) cut_bytes: u64,
    /// Why the partition must not serve, if so.
    pub(crate) fence: Option<String>,
}

/// A segment while it is looked at.
struct Scanned<F> {
    base: Offset,
    file: F,
    bytes: u64,
    index: Index,
    end: Offset,
    /// Why the scan stopped before the end of the file.
    fault: Option<(u64, String)>,
    /// What follows is in the next segment: here it was taken back, and the removal lost.
    is_elsewhere: bool,
    /// The first byte of what is kept above the floor.
    above_floor: Option<u64>,
    epochs: Vec<(crate::types::LeaderEpoch, Offset)>,
}

/// Opens the log in `dir`.
///
/// # Errors
/// Those of the disk; damage is no error here, see [`Recovered::fence`].
pub(crate) async fn recover<I: Io>(
    io: &I,
    dir: &Path,
    limits: Limits,
    facts: &Facts,
) -> io::Result<Recovered<I>> {
    let segments = segments(io, dir, facts).await?;
    if segments.is_empty() {
        let fence = (facts.floor > facts.log_start).then(|| {
            format!("its segments are gone, but records up to {} were promised", facts.floor)
        });
        return begin_anew(io, dir, limits, facts, fence);
    }

    let trusted = segments.partition_point(|s| s.base <= facts.recovery_point).saturating_sub(1);
    let mut log = Log::recovering(io.clone(), dir, limits)?;
    let mut segments = segments.into_iter();
    let (mut fence, mut cut_bytes) = (None, 0);
    for _ in 0..trusted {
        let Some(segment) = segments.next() else { break };
        let end = log.push_trusted(segment)?;
        let next = segments.as_slice().first().map(|s| s.base);
        if let (Some(end), Some(next)) = (end, next)
            && end < next
            && facts.cleaned < next
        {
            fence.get_or_insert_with(|| format!("no records from {end} to {next}"));
        }
    }

    let mut expected = segments.as_slice().first().map_or(Offset::ZERO, |s| s.base);
    let mut scanned: Vec<Scanned<I::File>> = Vec::new();
    while let Some(segment) = segments.next() {
        let (base, next) = (segment.base, segments.as_slice().first().map(|s| s.base));
        // A gap is where a file begins later than the one before it ends.
        if base > expected && base > facts.cleaned {
            match decide(Next::Gap, fence.is_some() || facts.promised(expected)) {
                Action::Fence => {
                    fence.get_or_insert_with(|| format!("no records from {expected} to {base}"));
                    break;
                }
                _ => {
                    cut_bytes += move_aside(io, dir, base, 0).await?;
                    names::discard(io, &names::log(dir, base)).await?;
                    names::remove_indexes(io, dir, base)?;
                }
            }
            continue;
        }
        let segment = scan_segment(io, dir, segment, next, limits, facts)?;
        expected = segment.end;
        let (fault, is_elsewhere) = (segment.fault.clone(), segment.is_elsewhere);
        scanned.push(segment);
        if let Some((position, why)) = fault {
            let is_promised = facts.promised(expected) && !is_elsewhere;
            match decide(Next::Bad, fence.is_some() || is_promised) {
                Action::Fence => {
                    fence.get_or_insert_with(|| format!("segment {base}: {why}"));
                    break;
                }
                _ => cut_bytes += move_aside(io, dir, base, position).await?,
            }
        }
    }
    if fence.is_none() && decide(Next::Nothing, facts.promised(expected)) == Action::Fence {
        fence = Some(format!(
            "the log ends at {expected}, but records up to {} were promised",
            facts.floor
        ));
    }
    if fence.is_none() && expected < facts.log_start {
        // Nobody was promised what is missing (`write.caching`), and the rest was let go.
        drop((log, scanned));
        for segment in self::segments(io, dir, facts).await? {
            names::discard(io, &names::log(dir, segment.base)).await?;
            names::remove_indexes(io, dir, segment.base)?;
        }
        return begin_anew(io, dir, limits, facts, None);
    }

    let epochs = read_file(io, &dir.join(names::EPOCHS))
        .ok()
        .and_then(|bytes| Epochs::decode(&String::from_utf8_lossy(&bytes)).ok());
    let known = epochs.is_some();
    // Nothing of a fenced log is changed: whoever mends it needs all of it.
    let in_doubt = !facts.was_clean && fence.is_none();
    log.finish(scanned, epochs.unwrap_or_default(), facts, in_doubt)?;
    if !known {
        log.rebuild_epochs()?;
    }
    log.epochs_dirty |= log.epochs.truncate_from_end(expected);
    // Only what is fenced can end before its start.
    let start = facts.log_start.max(log.first_base()).min(expected);
    log.epochs_dirty |= log.epochs.truncate_from_start(start);
    Ok(Recovered { log, start, end: expected, cut_bytes, fence })
}

/// A segment file as it was found.
struct Segment<F> {
    base: Offset,
    file: F,
    bytes: u64,
}

/// The segments in `dir`, in order, but those that a cut emptied or that lie before the log start.
async fn segments<I: Io>(io: &I, dir: &Path, facts: &Facts) -> io::Result<Vec<Segment<I::File>>> {
    let mut segments: Vec<Segment<I::File>> = Vec::new();
    for entry in io.list(dir)? {
        let path = dir.join(&entry.name);
        if entry.name.ends_with(".tmp") {
            io.remove_file(&path)?;
        } else if entry.name.ends_with(names::GONE) {
            names::discard(io, &path).await?;
        } else if let Some(base) = names::offset_of(&entry.name, "log") {
            let file = io.open(&path, OpenMode::Write)?;
            let bytes = file.len()?;
            segments.push(Segment { base, file, bytes });
        }
    }
    segments.sort_unstable_by_key(|s| s.base);
    // An empty segment holds nothing but its name, and is kept only if no other says where the log
    // goes on.
    let known = facts.recovery_point.max(facts.log_start);
    let said = segments.iter().any(|s| s.bytes > 0 && s.base <= known);
    let mark = segments.iter().rfind(|s| s.base <= known).or(segments.first()).map(|s| s.base);
    let mut kept: Vec<Segment<I::File>> = Vec::with_capacity(segments.len());
    for segment in segments {
        if segment.bytes == 0 && (said || Some(segment.base) != mark) {
            names::discard(io, &names::log(dir, segment.base)).await?;
            names::remove_indexes(io, dir, segment.base)?;
            continue;
        }
        // The log start was durable before any segment was unlinked, and not all of them may be.
        if segment.base <= facts.log_start && !kept.is_empty() {
            // What begins the log then must be there for good.
            io.sync_dir(dir).await?;
            for before in kept.drain(..) {
                names::remove_if_there(io, &names::log(dir, before.base))?;
                names::remove_indexes(io, dir, before.base)?;
            }
        }
        kept.push(segment);
    }
    Ok(kept)
}

/// An empty log from the log start on.
fn begin_anew<I: Io>(
    io: &I,
    dir: &Path,
    limits: Limits,
    facts: &Facts,
    fence: Option<String>,
) -> io::Result<Recovered<I>> {
    let (start, end) = (facts.log_start, facts.log_start);
    let log = Log::create(io.clone(), dir, start, limits)?;
    Ok(Recovered { log, start, end, cut_bytes: 0, fence })
}

/// Moves what lies behind byte `position` of a segment into a file of its own, for whoever wants
/// to look at it, in the place of those of an earlier cut, and cuts it off. Returns how many bytes
/// that were.
async fn move_aside<I: Io>(io: &I, dir: &Path, base: Offset, position: u64) -> io::Result<u64> {
    let path = names::log(dir, base);
    let file = io.open(&path, OpenMode::Write)?;
    let bytes = file.len()?.saturating_sub(position);
    let aside = io.open(&names::cut(dir, base), OpenMode::Create)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut moved = 0;
    while moved < bytes {
        match file.read_at(&mut chunk, position + moved)? {
            0 => break,
            n => {
                write_all(&aside, chunk.get(..n).unwrap_or_default(), moved)?;
                moved += n as u64;
            }
        }
    }
    aside.sync().await?;
    file.set_len(position)?;
    file.sync().await?;
    Ok(bytes)
}

fn scan_segment<I: Io>(
    io: &I,
    dir: &Path,
    segment: Segment<I::File>,
    next: Option<Offset>,
    limits: Limits,
    facts: &Facts,
) -> io::Result<Scanned<I::File>> {
    let Segment { base, file, bytes: len } = segment;
    let trusted =
        Index::load(io, dir, base, limits.index_interval_bytes, facts.recovery_point, len)
            .filter(|index| is_right(&file, index, facts.recovery_point, len));
    let mut index = trusted.unwrap_or_else(|| Index::new(base, limits.index_interval_bytes));
    if !index.is_saved(io, dir) {
        // Entries of batches that are gone must not come back, after a later power cut, for others
        // that have taken their offsets: a file that is cut may grow again, one that is removed not.
        names::remove_indexes(io, dir, base)?;
        index.forget_saved();
    }
    // The entry's batch is scanned again, and must not be noted twice.
    let from = index.lookup(facts.recovery_point).map_or(0, |place| place.position);
    let mut scan = Scanned {
        base,
        file: file.clone(),
        bytes: from,
        index,
        end: base,
        fault: None,
        is_elsewhere: false,
        above_floor: None,
        epochs: Vec::new(),
    };
    let mut batches = Batches::new(file, len);
    while scan.bytes < len && scan.fault.is_none() {
        match batches.at(scan.bytes, facts.recovery_point)? {
            Ok((header, _)) if next.is_some_and(|next| header.next_offset() > next) => {
                let last = header.last_offset();
                scan.is_elsewhere = next == Some(scan.end) && header.base_offset() >= scan.end;
                scan.fault = Some((scan.bytes, format!("offset {last} is in the next segment")));
            }
            // The offset is under no CRC: one that leaves promised records out is not believed.
            Ok((header, _)) if header.base_offset() >= facts.floor && facts.promised(scan.end) => {
                let why =
                    format!("offset {} where {} was promised", header.base_offset(), scan.end);
                scan.fault = Some((scan.bytes, why));
            }
            Ok((header, bytes)) if header.base_offset() >= scan.end => {
                scan.keep(&header, bytes, facts)
            }
            Ok((header, _)) => {
                let why = format!("offset {} behind {}", header.base_offset(), scan.end);
                scan.fault = Some((scan.bytes, why));
            }
            Err(fault) => scan.fault = Some((scan.bytes, format!("byte {}: {fault}", scan.bytes))),
        }
    }
    Ok(scan)
}

impl<F> Scanned<F> {
    fn keep(&mut self, header: &Header, bytes: u64, facts: &Facts) {
        let (position, size) =
            (num::u32_of(num::index(self.bytes)), num::u32_of(num::index(bytes)));
        self.index.note(header.last_offset(), header.max_timestamp(), position, size);
        if header.next_offset() > facts.floor {
            self.above_floor.get_or_insert(self.bytes);
        }
        if self.epochs.last().is_none_or(|(e, _)| *e < header.leader_epoch()) {
            self.epochs.push((header.leader_epoch(), header.base_offset()));
        }
        self.end = header.next_offset();
        self.bytes += bytes;
    }
}

/// Whether the place that `index` names for `offset` is the right one, and its newest batch.
fn is_right<F: File>(file: &F, index: &Index, offset: Offset, len: u64) -> bool {
    index.lookup_checked(offset, file, len) == index.lookup(offset).map_or(0, |p| p.position)
        && index.is_newest_right(file, len)
}

/// Since when a segment of `bytes` is written to: its first batch's time, as far as that can be.
fn begun<F: File>(file: &F, base: Offset, bytes: u64, now: Timestamp) -> Option<Timestamp> {
    let first = Heads::new(file.clone(), 0, bytes, base..Offset::MAX).next().ok().flatten();
    let then = first.map(|batch| batch.header.max_timestamp()).filter(|then| then.0 >= 0);
    (bytes > 0).then(|| then.unwrap_or(now).min(now))
}

impl<I: Io> Log<I> {
    /// A log whose segments are still to come.
    fn recovering(io: I, dir: &Path, limits: Limits) -> io::Result<Self> {
        // Replaced by `finish`, before anybody reads or writes it.
        let placeholder = io.open(&dir.join("recovery.tmp"), OpenMode::Create)?;
        let active = Active {
            base: Offset::ZERO,
            file: placeholder,
            serial: 0,
            bytes: 0,
            allocated: 0,
            index: Index::new(Offset::ZERO, 0),
            begun: None,
        };
        Ok(Self::with(io, dir, limits, active))
    }

    /// Takes over a segment that lies below the recovery point. Returns where it ends, if its
    /// indexes tell.
    fn push_trusted(&mut self, segment: Segment<I::File>) -> io::Result<Option<Offset>> {
        let Segment { base, file, bytes } = segment;
        let known = index::newest_and_end_in_files(&self.io, &self.dir, base, &file, bytes);
        let (max_timestamp, end) = known.unzip();
        let serial = self.serial();
        let is_trimmed = true;
        self.sealed.push(Sealed {
            base,
            file,
            serial,
            bytes,
            max_timestamp,
            index: None,
            is_trimmed,
        });
        Ok(end)
    }

    fn finish(
        &mut self,
        scanned: Vec<Scanned<I::File>>,
        epochs: Epochs,
        facts: &Facts,
        in_doubt: bool,
    ) -> io::Result<()> {
        self.epochs = epochs;
        let last = scanned.len().saturating_sub(1);
        let mut began = false;
        for (i, segment) in scanned.into_iter().enumerate() {
            for (epoch, start) in &segment.epochs {
                self.epochs_dirty |= self.epochs.assign(*epoch, *start);
            }
            if let Some(from) = segment.above_floor {
                write_again(&segment.file, from, segment.bytes)?;
            }
            let serial = self.serial();
            let rewritten =
                segment.above_floor.is_some() || facts.rewritten.contains(&segment.base);
            let begun = begun(&segment.file, segment.base, segment.bytes, self.io.timestamp());
            let active = Active {
                base: segment.base,
                file: segment.file,
                serial,
                bytes: segment.bytes,
                allocated: segment.bytes,
                index: segment.index,
                begun,
            };
            self.active = active;
            began = true;
            let in_doubt = in_doubt && i == last;
            if in_doubt {
                // Also its end: what was cut off may be on the disk still.
                names::cut_anew(&self.active.file, self.active.bytes)?;
            }
            if rewritten || in_doubt {
                self.mark_dirty();
                names::name_anew(&self.io, &names::log(&self.dir, self.active.base))?;
            }
            if i < last {
                self.seal_active();
            }
        }
        names::remove_if_there(&self.io, &self.dir.join("recovery.tmp"))?;
        if facts.was_clean && self.unsynced.is_empty() {
            self.dir_synced = self.dir_changes;
        }
        // Every segment was moved aside: begin anew behind the trusted ones.
        if !began {
            let base = facts.recovery_point;
            let serial = self.serial();
            self.active = Active::create(&self.io, &self.dir, base, self.limits, serial)?;
        }
        Ok(())
    }

    fn rebuild_epochs(&mut self) -> io::Result<()> {
        let mut epochs = Epochs::default();
        self.each_head(Offset::ZERO, |header| {
            epochs.assign(header.leader_epoch(), header.base_offset());
        })?;
        self.epochs = epochs;
        self.epochs_dirty = true;
        Ok(())
    }

    /// Shows every batch that ends past `from` to `visit`, in order; stops at damage.
    pub(crate) fn each_head(&self, from: Offset, mut visit: impl FnMut(&Header)) -> io::Result<()> {
        let active = &self.active;
        let segments = self.sealed.iter().map(|s| (s.base, &s.file, s.bytes, s.index.as_ref()));
        let all = segments.chain([(active.base, &active.file, active.bytes, Some(&active.index))]);
        for (base, file, bytes, index) in all {
            if self.next_base(base).is_some_and(|next| next <= from) {
                continue;
            }
            let start = index.map_or(0, |index| index.lookup_checked(from, file, bytes));
            let mut heads = Heads::new(file.clone(), start, bytes, base..Offset::MAX);
            loop {
                match heads.next() {
                    Ok(Some(found)) if found.header.next_offset() > from => visit(&found.header),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(ScanError::Io(e)) => return Err(e),
                    Err(ScanError::Fault { .. }) => return Ok(()),
                }
            }
        }
        Ok(())
    }
}

/// Makes the pages of a range dirty again with what they hold.
fn write_again<F: File>(file: &F, from: u64, to: u64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = from;
    while at < to {
        let want = num::index((to - at).min(CHUNK_BYTES as u64));
        let Some(buffer) = chunk.get_mut(..want) else {
            break;
        };
        match file.read_at(buffer, at)? {
            0 => break,
            n => {
                write_all(file, buffer.get(..n).unwrap_or_default(), at)?;
                at += n as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table at the top of this file, row by row.
    #[test]
    fn the_table_holds() {
        let rows = [
            (Next::Bad, Action::Fence, Action::Cut),
            (Next::Nothing, Action::Fence, Action::Done),
            (Next::Gap, Action::Fence, Action::Cut),
        ];
        for (next, below, above) in rows {
            assert_eq!(decide(next, true), below, "{next:?} below the floor");
            assert_eq!(decide(next, false), above, "{next:?} above the floor");
        }
    }
}
