//! One segment: its batches, and what its two indexes say of them.

use super::Report;
use super::walk::walk;
use std::cmp::Ordering;
use std::fs;
use std::io;
use std::path::Path;

/// Bytes of an entry of an offset index: relative offset and position. Source: FORMAT.md.
const OFFSET_ENTRY_BYTES: usize = 8;
/// Bytes of an entry of a time index: timestamp and relative offset. Source: FORMAT.md.
const TIME_ENTRY_BYTES: usize = 12;

/// A batch, as far as indexes speak of it.
pub(super) struct Seen {
    position: u64,
    base: i64,
    pub(super) last: i64,
    epoch: i32,
    /// The largest timestamp of this batch and those before it in the segment.
    timestamp_max: i64,
}

/// What is wrong if what ends at offset `end` is followed by what begins at `base`. Nothing is
/// compacted, and so every offset has its record.
pub(super) fn no_sequel(end: i64, base: i64) -> Option<String> {
    match base.cmp(&end) {
        Ordering::Less => {
            Some(format!("begins at offset {base}, but what is before ends at {end}"))
        }
        Ordering::Equal => None,
        Ordering::Greater => Some(format!("no records from offset {end} to {base}")),
    }
}

/// The batches of the segment that begins at `first`, and whether those are all to the file's end.
pub(super) fn check_segment(
    log: &Path,
    first: i64,
    epochs: &[(i32, i64)],
    report: &mut Report,
) -> (Vec<Seen>, bool) {
    report.segments += 1;
    let (mut seen, mut end, mut faults) = (Vec::<Seen>::new(), first, Vec::new());
    let walked = walk(log, |position, batch| {
        let h = batch.header;
        let (base, last, epoch) = (h.base_offset().0, h.last_offset().0, h.leader_epoch().0);
        if let Err(fault) = batch.check_crc() {
            faults.push(format!("at position {position}, offset {base}: {fault}"));
        }
        if let Some(why) = no_sequel(end, base) {
            faults.push(format!("at position {position}: {why}"));
        }
        let before = seen.last();
        if before.is_some_and(|b| b.epoch > epoch) {
            faults.push(format!("at position {position}: leader epoch {epoch} after a later one"));
        }
        let start = epochs.iter().find(|e| e.0 == epoch).map(|e| e.1);
        if let Some(start) = start.filter(|start| base < *start) {
            faults.push(format!(
                "at position {position}: offset {base} in leader epoch {epoch}, \
                 which began at {start} by leader-epoch-checkpoint"
            ));
        }
        // Also behind a break, so that each is told once.
        end = last.saturating_add(1);
        let timestamp_max = before.map_or(-1, |b| b.timestamp_max).max(h.max_timestamp().0);
        seen.push(Seen { position, base, last, epoch, timestamp_max });
    });
    let whole = walked.is_ok();
    match walked {
        Ok(bytes) => report.bytes += bytes,
        Err(error) => faults.push(error.to_string()),
    }
    report.batches += seen.len() as u64;
    for fault in faults {
        report.fault(log, fault);
    }
    (seen, whole)
}

/// The entries of an index file, or `None` when it is not there: it will be rebuilt.
fn entries<const N: usize>(file: &Path, report: &mut Report) -> Option<Vec<[u8; N]>> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            report.fault(file, error);
            return None;
        }
    };
    let (entries, rest) = bytes.as_chunks::<N>();
    if !rest.is_empty() {
        report.fault(file, format!("{} bytes are no multiple of {N}", bytes.len()));
    }
    Some(entries.to_vec())
}

/// The big-endian number in `bytes`, which are at most eight.
fn number(bytes: &[u8]) -> i64 {
    let start = if bytes.first().is_some_and(|b| *b >= 0x80) { -1 } else { 0 };
    bytes.iter().fold(start, |n, b| n << 8 | i64::from(*b))
}

pub(super) fn check_offset_index(file: &Path, base: i64, seen: &[Seen], report: &mut Report) {
    let mut before = -1;
    for entry in entries::<OFFSET_ENTRY_BYTES>(file, report).unwrap_or_default() {
        let (relative, position) = entry.split_at(4);
        let (offset, position) = (base.saturating_add(number(relative)), number(position));
        let batch = u64::try_from(position)
            .ok()
            .and_then(|p| seen.binary_search_by_key(&p, |batch| batch.position).ok())
            .and_then(|i| seen.get(i));
        match batch {
            None => report.fault(file, format!("no batch begins at position {position}")),
            Some(batch) if batch.last != offset => {
                report.fault(
                    file,
                    format!("the batch at {position} ends at offset {}, not {offset}", batch.last),
                );
            }
            Some(_) => (),
        }
        if offset <= before {
            report.fault(file, format!("offset {offset} follows {before}"));
        }
        before = offset;
    }
}

pub(super) fn check_time_index(file: &Path, base: i64, seen: &[Seen], report: &mut Report) {
    let mut before = (i64::MIN, -1);
    for entry in entries::<TIME_ENTRY_BYTES>(file, report).unwrap_or_default() {
        let (timestamp, relative) = entry.split_at(8);
        let (timestamp, offset) = (number(timestamp), base.saturating_add(number(relative)));
        let batch = seen.get(seen.partition_point(|batch| batch.last < offset));
        match batch {
            Some(batch) if batch.base <= offset && timestamp == batch.timestamp_max => (),
            Some(Seen { base, timestamp_max, .. }) if *base <= offset => {
                let what = format!("up to offset {offset} the largest is {timestamp_max}");
                report.fault(file, format!("timestamp {timestamp}, and {what}"));
            }
            _ => report.fault(file, format!("no batch holds offset {offset}")),
        }
        if timestamp <= before.0 || offset < before.1 {
            report.fault(file, format!("({timestamp}, {offset}) follows {before:?}"));
        }
        before = (timestamp, offset);
    }
}
