//! What was acknowledged, kept in a file on this machine: whoever kills the broker can say
//! afterwards what must still be there.
//!
//! ```text
//! {"schema":"kariz-loadgen/ledger/1","run":123,"topic":"t","partitions":4}
//! <partition> <producer> <first sequence> <first offset> <records>
//! ...
//! ```
//!
//! A line is a run of records that were acknowledged at consecutive offsets. Lines are written
//! some times a second, whole; a last line that is cut off is not counted.

use super::{Expected, Offsets, Run};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The format and its version.
const SCHEMA: &str = "kariz-loadgen/ledger/1";

/// Why a ledger could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file system refused.
    #[error("the ledger cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// The first line is none.
    #[error("the ledger's first line does not say what it is: {0}")]
    Head(#[from] serde_json::Error),
    /// Another format.
    #[error("the ledger is `{0}`, this program reads `{SCHEMA}`")]
    Schema(String),
    /// A line makes no sense.
    #[error("line {0} of the ledger is malformed")]
    Line(usize),
    /// Acknowledgements contradict each other.
    #[error(
        "the ledger is contradictory: records of connection {producer} in partition {partition} \
         were acknowledged out of order"
    )]
    Order {
        /// The partition.
        partition: u32,
        /// The connection.
        producer: u32,
    },
}

/// Whose acknowledgements these are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    schema: String,
    /// The run's number, as it stands in every record.
    pub run: u64,
    /// The topic.
    pub topic: String,
    /// Its number of partitions.
    pub partitions: u32,
}

/// A ledger being written; shared by the threads that send.
#[derive(Debug)]
pub struct Ledger {
    file: Mutex<File>,
}

/// What one thread has not yet written to its ledger.
#[derive(Debug, Default)]
pub struct Pending {
    runs: BTreeMap<(u32, u32), Run>,
    text: String,
}

impl Ledger {
    /// Begins a ledger in a new file.
    ///
    /// # Errors
    /// [`LedgerError::Io`], also if the file exists: it may be the only proof of an earlier run.
    pub fn create(
        path: &Path,
        run: u64,
        topic: &str,
        partitions: u32,
    ) -> Result<Self, LedgerError> {
        let mut file = File::create_new(path)?;
        let head = Head { schema: SCHEMA.into(), run, topic: topic.into(), partitions };
        writeln!(file, "{}", serde_json::to_string(&head)?)?;
        Ok(Self { file: Mutex::new(file) })
    }

    /// Writes what is pending.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub fn write(&self, pending: &mut Pending) -> Result<(), LedgerError> {
        for ((partition, producer), run) in std::mem::take(&mut pending.runs) {
            pending.line(partition, producer, run);
        }
        if pending.text.is_empty() {
            return Ok(());
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(pending.text.as_bytes())?;
        pending.text.clear();
        Ok(())
    }
}

impl Pending {
    /// Notes that `records` from `first_sequence` on were acknowledged at `first_offset`.
    pub fn acked(&mut self, partition: u32, producer: u32, acked: Run) {
        let done = match self.runs.get_mut(&(partition, producer)) {
            Some(run) if run.continues_with(&acked) => {
                run.records += acked.records;
                return;
            }
            Some(run) => Some(std::mem::replace(run, acked)),
            None => self.runs.insert((partition, producer), acked),
        };
        if let Some(run) = done {
            self.line(partition, producer, run);
        }
    }

    fn line(&mut self, partition: u32, producer: u32, run: Run) {
        let Run { first_sequence, first_offset, records } = run;
        // Writing to a string cannot fail.
        let _ok =
            writeln!(self.text, "{partition} {producer} {first_sequence} {first_offset} {records}");
    }
}

impl Run {
    /// Whether `next` follows both in sequence and in offset.
    fn continues_with(&self, next: &Self) -> bool {
        self.first_sequence + self.records == next.first_sequence
            && i64::try_from(self.records)
                .is_ok_and(|n| self.first_offset.checked_add(n) == Some(next.first_offset))
    }
}

/// A ledger that was read: its head, and for each partition what each connection must find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Whose acknowledgements these are.
    pub head: Head,
    /// By partition.
    pub expected: BTreeMap<u32, Vec<Expected>>,
}

/// Reads a ledger.
///
/// # Errors
/// Any [`LedgerError`].
pub fn read(path: &Path) -> Result<Read, LedgerError> {
    parse(&std::fs::read_to_string(path)?)
}

fn parse(text: &str) -> Result<Read, LedgerError> {
    // What stands behind the last newline was cut off in the middle of a write.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = whole.lines();
    let head: Head = serde_json::from_str(lines.next().unwrap_or_default())?;
    if head.schema != SCHEMA {
        return Err(LedgerError::Schema(head.schema));
    }
    let mut runs: BTreeMap<(u32, u32), Vec<Run>> = BTreeMap::new();
    for (number, line) in (2..).zip(lines) {
        let (key, run) = parse_line(line).ok_or(LedgerError::Line(number))?;
        let runs = runs.entry(key).or_default();
        match runs.last_mut() {
            Some(last) if last.continues_with(&run) => last.records += run.records,
            _ => runs.push(run),
        }
    }
    let mut expected: BTreeMap<u32, Vec<Expected>> = BTreeMap::new();
    for ((partition, producer), runs) in runs {
        let mut acked = 0;
        for run in &runs {
            if run.first_sequence != acked {
                return Err(LedgerError::Order { partition, producer });
            }
            acked += run.records;
        }
        let offsets = Offsets::Runs(runs);
        let e = Expected { producer, sent: None, acked, offsets };
        expected.entry(partition).or_default().push(e);
    }
    Ok(Read { head, expected })
}

fn parse_line(line: &str) -> Option<((u32, u32), Run)> {
    let mut words = line.split(' ');
    let partition = words.next()?.parse().ok()?;
    let producer = words.next()?.parse().ok()?;
    let first_sequence = words.next()?.parse().ok()?;
    let first_offset = words.next()?.parse().ok()?;
    let records = words.next()?.parse().ok()?;
    let run = Run { first_sequence, first_offset, records };
    words.next().is_none().then_some(((partition, producer), run))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first_sequence: u64, first_offset: i64, records: u64) -> Run {
        Run { first_sequence, first_offset, records }
    }

    #[test]
    fn acknowledgements_survive_the_file() {
        let dir = std::env::temp_dir().join(format!("kariz-ledger-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("ledger");
        let ledger = Ledger::create(&path, 42, "t", 2).unwrap();
        assert!(Ledger::create(&path, 42, "t", 2).is_err(), "an old ledger is not overwritten");
        let mut pending = Pending::default();
        pending.acked(0, 0, run(0, 0, 10));
        pending.acked(0, 1, run(0, 10, 5));
        pending.acked(0, 0, run(10, 15, 10));
        ledger.write(&mut pending).unwrap();
        pending.acked(0, 0, run(20, 25, 10));
        pending.acked(1, 3, run(0, 7, 1));
        ledger.write(&mut pending).unwrap();
        let back = read(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((back.head.run, &*back.head.topic, back.head.partitions), (42, "t", 2));
        let e = |producer, acked, runs| Expected {
            producer,
            sent: None,
            acked,
            offsets: Offsets::Runs(runs),
        };
        assert_eq!(
            back.expected[&0],
            [e(0, 30, vec![run(0, 0, 10), run(10, 15, 20)]), e(1, 5, vec![run(0, 10, 5)])]
        );
        assert_eq!(back.expected[&1], [e(3, 1, vec![run(0, 7, 1)])]);
        // Cut off anywhere, it still says something true.
        for end in text.find('\n').unwrap() + 1..text.len() {
            let cut = parse(&text[..end]).unwrap();
            let acked: u64 = cut.expected.values().flatten().map(|e| e.acked).sum();
            assert!(acked <= 36);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let head = r#"{"schema":"kariz-loadgen/ledger/1","run":1,"topic":"t","partitions":1}"#;
        assert!(matches!(parse("x\n"), Err(LedgerError::Head(_))));
        assert!(parse(&(head.replace("/1\"", "/2\"") + "\n")).is_err());
        assert!(matches!(parse(&format!("{head}\n0 0 0\n")), Err(LedgerError::Line(2))));
        assert!(matches!(
            parse(&format!("{head}\n0 0 5 0 1\n")),
            Err(LedgerError::Order { partition: 0, producer: 0 })
        ));
    }
}
