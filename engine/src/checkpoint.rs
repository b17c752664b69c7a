//! Kafka's checkpoint files: an offset a partition, as text.
//!
//! ```text
//! 0                      version
//! 2                      entries
//! orders 0 1500          topic partition offset
//! orders 1 7
//! ```
//!
//! **Invariant:** replaced whole, never changed in place: written aside, synced, renamed, and the
//! directory synced. A damaged one reads as an error, and recovery then scans instead.

use crate::io::{File, Io, OpenMode};
use crate::num;
use crate::types::{Offset, TopicPartition};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::path::Path;

/// The name of the checkpoint below which every batch is durable in its own file.
pub(crate) const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
/// The name of the checkpoint of first kept offsets.
pub(crate) const LOG_STARTS: &str = "log-start-offset-checkpoint";
/// The name of the checkpoint below which Kafka has compacted, and may have left gaps.
pub(crate) const CLEANED: &str = "cleaner-offset-checkpoint";
/// The name of the checkpoint of high watermarks.
pub(crate) const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";

/// An offset a partition.
pub(crate) type Checkpoint = BTreeMap<TopicPartition, Offset>;

/// Why a checkpoint file was not understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("line {line} is not as expected: `{text}`")]
    Malformed { line: usize, text: String },
}

/// Reads the checkpoint at `path`; one that does not exist is empty.
pub(crate) fn read<I: Io>(io: &I, path: &Path) -> Result<Checkpoint, CheckpointError> {
    match read_file(io, path) {
        Ok(bytes) => parse(&bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Checkpoint::new()),
        Err(e) => Err(e.into()),
    }
}

/// Replaces the checkpoint `name` in `dir`; durable when it returns.
pub(crate) async fn write<I: Io>(
    io: &I,
    dir: &Path,
    name: &str,
    checkpoint: &Checkpoint,
) -> io::Result<()> {
    let mut text = format!("0\n{}\n", checkpoint.len());
    for (p, offset) in checkpoint {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{} {} {offset}", p.topic, p.partition);
    }
    replace_file(io, dir, name, text.as_bytes()).await
}

fn parse(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines().enumerate();
    let malformed = |(line, text): (usize, &str)| CheckpointError::Malformed {
        line: line.saturating_add(1),
        text: text.chars().take(80).collect(),
    };
    let end = (text.lines().count(), "<end of file>");

    let version = lines.next().ok_or_else(|| malformed(end))?;
    if version.1 != "0" {
        return Err(malformed(version));
    }
    let count = lines.next().ok_or_else(|| malformed(end))?;
    let expected: usize = count.1.parse().map_err(|_| malformed(count))?;

    let mut checkpoint = Checkpoint::new();
    for line in lines.by_ref() {
        // Topic names hold no spaces, so the fields are the three between them.
        let mut fields = line.1.split(' ');
        let (Some(topic), Some(partition), Some(offset), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(malformed(line));
        };
        let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse()) else {
            return Err(malformed(line));
        };
        checkpoint.insert(TopicPartition::new(topic, partition), Offset(offset));
    }
    if checkpoint.len() == expected { Ok(checkpoint) } else { Err(malformed(count)) }
}

/// Reads a whole small file.
pub(crate) fn read_file<I: Io>(io: &I, path: &Path) -> io::Result<Vec<u8>> {
    let file = io.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; num::index(file.len()?)];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Writes all of `bytes` at `at`, continuing short writes.
pub(crate) fn write_all<F: File>(file: &F, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = file.write_at(&[IoSlice::new(bytes)], at)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(n..).unwrap_or_default();
        at += n as u64;
    }
    Ok(())
}

/// Why a small file was not replaced.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplaceError {
    /// It could not be written aside, or not renamed; it is what it was.
    #[error(transparent)]
    Write(io::Error),
    /// Its sync failed, or that of its directory: what else lies there may have lost its name.
    #[error(transparent)]
    Sync(io::Error),
}

impl From<ReplaceError> for io::Error {
    fn from(e: ReplaceError) -> Self {
        let (ReplaceError::Write(e) | ReplaceError::Sync(e)) = e;
        e
    }
}

/// Replaces `dir/name` by `bytes`: aside, synced, renamed, directory synced.
pub(crate) async fn replace_file<I: Io>(
    io: &I,
    dir: &Path,
    name: &str,
    bytes: &[u8],
) -> io::Result<()> {
    Ok(replace_cache(io, dir, name, bytes).await?)
}

/// As [`replace_file`], for whoever can do without the file.
pub(crate) async fn replace_cache<I: Io>(
    io: &I,
    dir: &Path,
    name: &str,
    bytes: &[u8],
) -> Result<(), ReplaceError> {
    use ReplaceError::{Sync, Write};
    let aside = dir.join(format!("{name}.tmp"));
    let file = io.open(&aside, OpenMode::Create).map_err(Write)?;
    write_all(&file, bytes, 0).map_err(Write)?;
    file.sync().await.map_err(Sync)?;
    io.rename(&aside, &dir.join(name)).map_err(Write)?;
    io.sync_dir(dir).await.map_err(Sync)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_checkpoint_is_refused_by_line() {
        let bad = [
            ("", 1),
            ("1\n0\n", 1),
            ("0\n", 2),
            ("0\nx\n", 2),
            ("0\n2\na 0 1\n", 2),
            ("0\n1\na 0\n", 3),
            ("0\n1\na 0 1 2\n", 3),
            ("0\n1\na x 1\n", 3),
        ];
        for (text, at) in bad {
            match parse(text.as_bytes()) {
                Err(CheckpointError::Malformed { line, .. }) => assert!(line <= at + 1, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn kafkas_own_file_is_read() {
        let checkpoint = parse(b"0\n2\norders 0 1500\norders 1 7\n").unwrap();
        assert_eq!(checkpoint.get(&TopicPartition::new("orders", 0)), Some(&Offset(1500)));
        assert_eq!(checkpoint.len(), 2);
    }
}
