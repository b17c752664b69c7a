//! `kariz check DIR`: whether every batch and every index of a stopped data directory is sound.
//!
//! Evidence are the logs: each batch's CRC, and offsets without a hole. Indexes and epoch files are
//! caches, but a server that was stopped has written them, so they must agree. After a clean stop
//! the checkpoints say where each log starts and ends: no file at either end may be missing. The
//! cluster's own log says which partitions there are, on which core, and of which topic.

mod cluster;

use crate::cluster::log;
use crate::walk::walk;
use kariz_engine::types::TopicPartition;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes of an entry of an offset index: relative offset and position.
const OFFSET_ENTRY_BYTES: usize = 8;
/// Bytes of an entry of a time index: timestamp and relative offset.
const TIME_ENTRY_BYTES: usize = 12;
/// Says that a broker stopped cleanly, and so noted all. Source: FORMAT.md, as for the next three.
const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
/// Has what is not yet in the logs, unless the broker stopped cleanly.
const JOURNAL: &str = "kariz.journal";
/// Where logs start that do not start at 0.
const LOG_STARTS: &str = "log-start-offset-checkpoint";
/// Up to where logs are durable: after a clean stop, their ends.
const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";

/// What was looked at, and what was wrong.
#[derive(Debug, Default)]
struct Report {
    partitions: u64,
    segments: u64,
    batches: u64,
    bytes: u64,
    faults: Vec<String>,
}

impl Report {
    fn fault(&mut self, file: &Path, what: impl Display) {
        self.faults.push(format!("{}: {what}", file.display()));
    }
}

/// A batch, as far as indexes speak of it.
struct Seen {
    position: u64,
    base: i64,
    last: i64,
    epoch: i32,
    /// The largest timestamp of this batch and those before it in the segment.
    timestamp_max: i64,
}

/// Checks all below `dir`, prints what is wrong and a summary; `false` if anything is.
///
/// # Errors
/// When `dir` is in use, holds no broker's directory, or cannot be listed.
pub fn run(dir: &Path, out: &mut impl Write) -> Result<bool, Box<dyn std::error::Error>> {
    let _lock = lock(dir)?;
    let mut report = Report::default();
    let (mut brokers, mut missing, mut owner) = (0_u64, Vec::new(), None);
    for (name, path) in directories(dir)? {
        if name.starts_with("broker-") {
            brokers += 1;
            let id = name.strip_prefix("broker-").and_then(|id| id.parse::<u32>().ok());
            let first = id.map(|id| dir.join(format!("broker-{}", id & !0xff)));
            if let Some(first) = first.filter(|first| !first.is_dir() && !missing.contains(first)) {
                report.fault(&first, format!("not there, but {name} is"));
                missing.push(first);
            }
            let mut noted = noted(&path, &mut report);
            for (name, path) in directories(&path)? {
                if TopicPartition::from_dir_name(&name).is_some() {
                    check_partition(&path, noted.remove(&name), &mut report);
                }
            }
            for name in noted.keys() {
                missing.push(path.join(name));
                report.fault(&path.join(name), "not there, but in the checkpoint");
            }
            if path.join(log::partition_name().to_string()).is_dir() {
                owner = Some(path.clone());
            }
            if path.join(JOURNAL).exists() && !path.join(CLEAN_SHUTDOWN).exists() {
                let path = path.display();
                writeln!(out, "{path}: not stopped in order: its journal is not looked at")?;
            }
        }
    }
    if brokers == 0 {
        return Err(format!(
            "{}: no broker-<id> directory: is it a data directory?",
            dir.display()
        )
        .into());
    }
    // An engine without a cluster has none.
    if let Some(owner) = owner {
        cluster::check(dir, &owner, &missing, &mut report);
    }
    for fault in &report.faults {
        writeln!(out, "{fault}")?;
    }
    writeln!(
        out,
        "{} brokers, {} partitions, {} segments, {} batches, {} bytes: {}",
        brokers,
        report.partitions,
        report.segments,
        report.batches,
        report.bytes,
        match report.faults.len() {
            0 => "sound".to_owned(),
            n => format!("{n} faults"),
        }
    )?;
    Ok(report.faults.is_empty())
}

/// Keeps servers off `dir`, whose files change while one runs. Nothing is written to do so: a
/// directory without a lock has never been served, or is a copy.
fn lock(dir: &Path) -> Result<Option<File>, Box<dyn std::error::Error>> {
    let path = dir.join(".lock");
    let fail = |error: io::Error| format!("{}: {error}", path.display());
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error).into()),
    };
    // Shared: two checks are not in each other's way.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => {
            Err(format!("{} is in use by another process: stop that one", dir.display()).into())
        }
        Err(error) => Err(fail(error.into()).into()),
    }
}

/// The directories in `dir`, in the order of their names.
fn directories(dir: &Path) -> Result<Vec<(String, PathBuf)>, Box<dyn std::error::Error>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Where a log was when its server stopped.
#[derive(Clone, Copy, Debug)]
struct Noted {
    start: i64,
    end: i64,
}

/// What the broker in `dir` noted of each of its logs, by the name of its directory, when it
/// stopped; nothing if that was no clean stop, for recovery then finds out by itself.
fn noted(dir: &Path, report: &mut Report) -> BTreeMap<String, Noted> {
    if !dir.join(CLEAN_SHUTDOWN).exists() {
        return BTreeMap::new();
    }
    let mut read = |name: &str| {
        let file = dir.join(name);
        checkpoint_file(&file).unwrap_or_else(|what| {
            report.fault(&file, what);
            BTreeMap::new()
        })
    };
    let (starts, ends) = (read(LOG_STARTS), read(RECOVERY_POINTS));
    let noted = ends.into_iter().map(|(name, end)| {
        // Those that start at 0 are left out.
        let start = starts.get(&name).copied().unwrap_or(0);
        (name, Noted { start, end })
    });
    noted.collect()
}

/// The offsets in a checkpoint file, by the names of the partitions' directories; none if it is
/// missing, for before the first checkpoint there is nothing to note.
fn checkpoint_file(file: &Path) -> Result<BTreeMap<String, i64>, String> {
    let mut offsets = BTreeMap::new();
    for line in entry_lines(file)? {
        let entry = line.rsplit_once(' ').and_then(|(partition, offset)| {
            let (topic, index) = partition.split_once(' ')?;
            Some((format!("{topic}-{index}"), offset.parse().ok()?))
        });
        let (name, offset) = entry.ok_or_else(|| format!("`{line}` is no partition and offset"))?;
        offsets.insert(name, offset);
    }
    Ok(offsets)
}

fn check_partition(dir: &Path, noted: Option<Noted>, report: &mut Report) {
    report.partitions += 1;
    let mut segments: Vec<(i64, PathBuf)> = match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().filter_map(|entry| segment(entry.path())).collect(),
        Err(error) => return report.fault(dir, error),
    };
    segments.sort();
    if segments.is_empty() {
        report.fault(dir, "no segment");
    }
    let epochs = match epoch_file(&dir.join("leader-epoch-checkpoint")) {
        Ok(epochs) => epochs,
        Err(what) => {
            report.fault(&dir.join("leader-epoch-checkpoint"), what);
            Vec::new()
        }
    };
    if let (Some(noted), Some((base, log))) = (noted, segments.first())
        && *base > noted.start
    {
        report.fault(
            log,
            format!("no records from offset {}, the log start, to {base}", noted.start),
        );
    }
    // Where the segment before ends.
    let mut end = None;
    for (base, log) in segments {
        if let Some(why) = end.and_then(|end| no_sequel(end, base)) {
            report.fault(&log, why);
        }
        let (seen, whole) = check_segment(&log, base, &epochs, report);
        check_offset_index(&log.with_extension("index"), base, &seen, report);
        check_time_index(&log.with_extension("timeindex"), base, &seen, report);
        // Behind a fault there may be more batches, which the next segment goes on from.
        end = whole.then(|| seen.last().map_or(base, |batch| batch.last + 1));
    }
    if let (Some(noted), Some(end)) = (noted, end)
        && end < noted.end
    {
        report.fault(dir, format!("no records from offset {end} to {}, the log end", noted.end));
    }
}

/// What is wrong if what ends at offset `end` is followed by what begins at `base`. Nothing is
/// compacted, and so every offset has its record.
fn no_sequel(end: i64, base: i64) -> Option<String> {
    match base.cmp(&end) {
        Ordering::Less => {
            Some(format!("begins at offset {base}, but what is before ends at {end}"))
        }
        Ordering::Equal => None,
        Ordering::Greater => Some(format!("no records from offset {end} to {base}")),
    }
}

/// The base offset of the segment file at `path`, if it is one.
fn segment(path: PathBuf) -> Option<(i64, PathBuf)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".log")?;
    let digits = name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit());
    let base = name.parse().ok().filter(|_| digits)?;
    Some((base, path))
}

/// The batches of the segment that begins at `first`, and whether those are all to the file's end.
fn check_segment(
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
        end = last + 1;
        let timestamp_max = before.map_or(-1, |b| b.timestamp_max).max(h.max_timestamp().0);
        seen.push(Seen { position, base, last, epoch, timestamp_max });
    });
    let whole = walked.is_ok();
    match walked {
        Ok(bytes) => report.bytes += bytes,
        Err(error) => faults.push(error.to_string()),
    }
    report.batches += crate::num::u64_from(seen.len());
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

fn check_offset_index(file: &Path, base: i64, seen: &[Seen], report: &mut Report) {
    let mut before = -1;
    for entry in entries::<OFFSET_ENTRY_BYTES>(file, report).unwrap_or_default() {
        let (relative, position) = entry.split_at(4);
        let (offset, position) = (base + number(relative), number(position));
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

fn check_time_index(file: &Path, base: i64, seen: &[Seen], report: &mut Report) {
    let mut before = (i64::MIN, -1);
    for entry in entries::<TIME_ENTRY_BYTES>(file, report).unwrap_or_default() {
        let (timestamp, relative) = entry.split_at(8);
        let (timestamp, offset) = (number(timestamp), base + number(relative));
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

/// Epochs and their first offsets; none if the file is missing, for it can be rebuilt.
fn epoch_file(file: &Path) -> Result<Vec<(i32, i64)>, String> {
    let mut epochs = Vec::new();
    for line in entry_lines(file)? {
        let entry =
            line.split_once(' ').and_then(|(e, o)| Some((e.parse().ok()?, o.parse().ok()?)));
        let entry: (i32, i64) = entry.ok_or_else(|| format!("`{line}` is no epoch and offset"))?;
        if epochs.last().is_some_and(|last: &(i32, i64)| last.0 >= entry.0 || last.1 > entry.1) {
            return Err(format!("`{line}` is not after the line before"));
        }
        epochs.push(entry);
    }
    Ok(epochs)
}

/// The entries of one of Kafka's checkpoint files, a line each; none if the file is missing.
fn entry_lines(file: &Path) -> Result<Vec<String>, String> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let mut lines = text.lines();
    if lines.next() != Some("0") {
        return Err("the first line is not the version, 0".to_owned());
    }
    let count: usize =
        lines.next().and_then(|n| n.parse().ok()).ok_or("the second line is no count")?;
    let entries: Vec<String> = lines.map(str::to_owned).collect();
    if entries.len() != count {
        return Err(format!("{} entries, {count} announced", entries.len()));
    }
    Ok(entries)
}
