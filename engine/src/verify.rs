//! The offline check: whether every batch and every index of a stopped data directory is sound.
//!
//! Evidence are the logs: each batch's CRC, and offsets without a hole. Indexes and epoch files are
//! caches, but an engine that was stopped has written them, so they must agree. After a clean stop
//! the checkpoints say where each log starts and ends: no file at either end may be missing.
//!
//! It reads plain files, outside the seam: no core runs, and a machine without io_uring may check.
//! It has its own reading of every format, so that it does not share the engine's mistakes.
//!
//! **Invariant:** nothing below the directory is written.

mod segment;
mod walk;

pub use walk::{WalkError, walk};

use crate::checkpoint::{LOG_STARTS, RECOVERY_POINTS};
use crate::journal;
use crate::log::names;
use crate::shard::CLEAN_SHUTDOWN;
use crate::types::{Offset, TopicPartition};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use segment::{check_offset_index, check_segment, check_time_index, no_sequel};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Why a data directory was not looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// An engine has the directory, and changes its files.
    #[error("{0} is in use by another process: stop that one")]
    Locked(PathBuf),
    /// No engine has ever used it.
    #[error("{0}: no broker-<id> directory: is it a data directory?")]
    NoData(PathBuf),
    /// The directory, or a core's directory in it, cannot be read.
    #[error("{path}: {source}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What is to be said of a file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Which one.
    pub path: PathBuf,
    /// What, in a line for people.
    pub what: String,
}

impl Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

/// What was looked at, and what was wrong.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Cores' directories.
    pub cores: u64,
    /// Partitions' directories in them.
    pub partitions: u64,
    /// Segment files.
    pub segments: u64,
    /// Batches in them.
    pub batches: u64,
    /// Bytes of the segment files that hold batches from end to end.
    pub bytes: u64,
    /// What is wrong, in the order in which it was found: by core, partition and segment.
    pub faults: Vec<Finding>,
    /// What was left out, and why; no fault.
    pub notes: Vec<Finding>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// Adds a fault: for those who check more than the engine knows.
    pub fn fault(&mut self, path: &Path, what: impl Display) {
        self.faults.push(Finding { path: path.to_owned(), what: what.to_string() });
    }
}

/// Keeps engines off a directory until dropped.
#[derive(Debug)]
pub struct Held {
    _lock: Option<File>,
}

/// Keeps engines off the data directory `dir`, for one who checks more than
/// [`Engine::verify`](crate::Engine::verify) does. Nothing is written to do so: a directory without
/// a lock has never been served, or is a copy.
///
/// # Errors
/// [`VerifyError::Locked`], or [`VerifyError::Directory`] with the lock's own path.
pub fn hold(dir: &Path) -> Result<Held, VerifyError> {
    let path = dir.join(".lock");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Held { _lock: None }),
        Err(source) => return Err(VerifyError::Directory { path, source }),
    };
    // Shared: two checks are not in each other's way.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Held { _lock: Some(file) }),
        Err(Errno::WOULDBLOCK) => Err(VerifyError::Locked(dir.to_owned())),
        Err(error) => Err(VerifyError::Directory { path, source: error.into() }),
    }
}

/// Checks all below `dir`: see [`Engine::verify`](crate::Engine::verify).
pub(crate) fn verify(dir: &Path) -> Result<Report, VerifyError> {
    let _held = hold(dir)?;
    let mut report = Report::default();
    for (name, path) in directories(dir)? {
        if let Some(id) = name.strip_prefix("broker-") {
            report.cores += 1;
            check_first(dir, &name, id.parse().ok(), &mut report);
            check_core(&path, &mut report)?;
        }
    }
    if report.cores == 0 {
        return Err(VerifyError::NoData(dir.to_owned()));
    }
    Ok(report)
}

/// The first core's directory is never missing: it has what the cluster is.
fn check_first(dir: &Path, name: &str, id: Option<u32>, report: &mut Report) {
    let first = id.map(|id| dir.join(format!("broker-{}", id & !0xff)));
    let told = |first: &Path| report.faults.iter().any(|fault| fault.path == first);
    if let Some(first) = first.filter(|first| !first.is_dir() && !told(first)) {
        report.fault(&first, format!("not there, but {name} is"));
    }
}

fn check_core(dir: &Path, report: &mut Report) -> Result<(), VerifyError> {
    let mut noted = noted(dir, report);
    for (name, path) in directories(dir)? {
        if TopicPartition::from_dir_name(&name).is_some() {
            check_partition(&path, noted.remove(&name), report);
        }
    }
    for name in noted.keys() {
        report.fault(&dir.join(name), "not there, but in the checkpoint");
    }
    if dir.join(journal::FILE_NAME).exists() && !dir.join(CLEAN_SHUTDOWN).exists() {
        let what = "not stopped in order: its journal is not looked at".to_owned();
        report.notes.push(Finding { path: dir.to_owned(), what });
    }
    Ok(())
}

/// The directories in `dir`, in the order of their names.
fn directories(dir: &Path) -> Result<Vec<(String, PathBuf)>, VerifyError> {
    let list = || {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                found.push((name, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    };
    list().map_err(|source| VerifyError::Directory { path: dir.to_owned(), source })
}

/// The segment files in `dir`, a partition's directory, by their base offsets.
///
/// # Errors
/// As opendir(3).
pub fn segments(dir: &Path) -> io::Result<Vec<(Offset, PathBuf)>> {
    let base = |path: &Path| names::offset_of(path.file_name()?.to_str()?, "log");
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        found.extend(base(&path).map(|base| (base, path)));
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
    let segments = match segments(dir) {
        Ok(segments) => segments,
        Err(error) => return report.fault(dir, error),
    };
    if segments.is_empty() {
        report.fault(dir, "no segment");
    }
    let epochs = epoch_file(&dir.join(names::EPOCHS)).unwrap_or_else(|what| {
        report.fault(&dir.join(names::EPOCHS), what);
        Vec::new()
    });
    if let (Some(noted), Some((base, log))) = (noted, segments.first())
        && base.0 > noted.start
    {
        report.fault(
            log,
            format!("no records from offset {}, the log start, to {base}", noted.start),
        );
    }
    // Where the segment before ends.
    let mut end = None;
    for (Offset(base), log) in segments {
        if let Some(why) = end.and_then(|end| no_sequel(end, base)) {
            report.fault(&log, why);
        }
        let (seen, whole) = check_segment(&log, base, &epochs, report);
        check_offset_index(&log.with_extension("index"), base, &seen, report);
        check_time_index(&log.with_extension("timeindex"), base, &seen, report);
        // Behind a fault there may be more batches, which the next segment goes on from.
        end = whole.then(|| seen.last().map_or(base, |batch| batch.last.saturating_add(1)));
    }
    if let (Some(noted), Some(end)) = (noted, end)
        && end < noted.end
    {
        report.fault(dir, format!("no records from offset {end} to {}, the log end", noted.end));
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
