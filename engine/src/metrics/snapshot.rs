//! What a core had counted at one moment: plain numbers, and the one list of their names.

#[cfg(test)]
mod tests;

use super::{BUCKETS, HistogramSnapshot, ShardMetrics};
use crate::types::{ShardId, TopicPartition};
use std::fmt::Write as _;

/// What the values of a histogram are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Microseconds, which [`Snapshot::prometheus`] writes as seconds.
    Microseconds,
    /// Bytes, or a count.
    Number,
}

/// One value of a [`Snapshot`], as [`Snapshot::each`] tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Only grows, from 0 when the engine was opened.
    Counter(u64),
    /// Rises and falls.
    Gauge(u64),
    /// Counts by powers of two.
    Histogram(Unit, &'a HistogramSnapshot),
}

/// How large a log is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogSize {
    /// Whose.
    pub partition: TopicPartition,
    /// Bytes of its segment files.
    pub bytes: u64,
}

/// What a core had counted since the engine was opened, or several together.
///
/// ```
/// # use kariz_engine::{io::sim::{Faults, World}, *};
/// # World::new(1, Faults::none()).boot(|io| async move {
/// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
/// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
/// use kariz_engine::metrics::Value;
///
/// let snapshot = shard.snapshot();
/// assert_eq!((snapshot.shard, snapshot.appends), (Some(shard.id()), 0));
/// snapshot.each(|name, labels, value| {
///     if let Value::Counter(n) = value {
///         println!("{name} {labels:?} {n}");
///     }
/// });
/// # drop(log);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).done().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Which core; none once several were merged.
    pub shard: Option<ShardId>,
    /// Batches appended.
    pub appends: u64,
    /// Bytes of batches appended.
    pub append_bytes: u64,
    /// Batches that were duplicates of an idempotent producer.
    pub duplicates: u64,
    /// Group writes into segment files.
    pub writes: u64,
    /// Microseconds of each of them, with what it took to roll.
    pub write_us: HistogramSnapshot,
    /// Group commits.
    pub commits: u64,
    /// Partitions in each of them.
    pub commit_partitions: HistogramSnapshot,
    /// Bytes of each journal entry.
    pub commit_bytes: HistogramSnapshot,
    /// Microseconds of each commit, from its start until its waiters are woken.
    pub commit_us: HistogramSnapshot,
    /// Microseconds from the first write of each commit's group until all of it is durable: how far
    /// readers are behind writers, at most.
    pub lag_us: HistogramSnapshot,
    /// Waits for the disk to keep up, before more was received.
    pub held: u64,
    /// `fdatasync` calls on journals and segment files.
    pub syncs: u64,
    /// Segments begun.
    pub rolls: u64,
    /// Segments deleted by retention or trimming.
    pub segments_deleted: u64,
    /// Writes refused because the disk was full.
    pub full: u64,
    /// Partitions that stopped serving because of an I/O error or damage.
    pub fenced: u64,
    /// Reads answered with records.
    pub reads: u64,
    /// Bytes handed out by reads.
    pub read_bytes: u64,
    /// The logs of the partitions that live there, in no order.
    pub logs: Vec<LogSize>,
}

impl ShardMetrics {
    /// A copy that can leave the core. It names no core and no logs: [`Shard::snapshot`] does.
    ///
    /// [`Shard::snapshot`]: crate::Shard::snapshot
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            shard: None,
            appends: self.appends.get(),
            append_bytes: self.append_bytes.get(),
            duplicates: self.duplicates.get(),
            writes: self.writes.get(),
            write_us: self.write_us.snapshot(),
            commits: self.commits.get(),
            commit_partitions: self.commit_partitions.snapshot(),
            commit_bytes: self.commit_bytes.snapshot(),
            commit_us: self.commit_us.snapshot(),
            lag_us: self.lag_us.snapshot(),
            held: self.held.get(),
            syncs: self.syncs.get(),
            rolls: self.rolls.get(),
            segments_deleted: self.segments_deleted.get(),
            full: self.full.get(),
            fenced: self.fenced.get(),
            reads: self.reads.get(),
            read_bytes: self.read_bytes.get(),
            logs: Vec::new(),
        }
    }
}

/// How a metric is taken from a snapshot.
enum Pick {
    Counter(fn(&Snapshot) -> u64),
    Histogram(Unit, fn(&Snapshot) -> &HistogramSnapshot),
    Logs,
}

/// A metric: its name, what it is in a line, and where it stands.
struct Metric(&'static str, &'static str, Pick);

impl Metric {
    /// The kind, by Prometheus' name.
    fn kind(&self) -> &'static str {
        match self.2 {
            Pick::Counter(_) => "counter",
            Pick::Histogram(..) => "histogram",
            Pick::Logs => "gauge",
        }
    }

    fn each(&self, of: &Snapshot, mut f: impl FnMut(&str, &[(&str, &str)], Value<'_>)) {
        let core = of.shard.map(|shard| shard.0.to_string());
        let core = ("core", core.as_deref().unwrap_or_default());
        // A merged snapshot has no core to name.
        let from = usize::from(of.shard.is_none());
        match self.2 {
            Pick::Counter(pick) => f(self.0, &[core][from..], Value::Counter(pick(of))),
            Pick::Histogram(unit, pick) => {
                f(self.0, &[core][from..], Value::Histogram(unit, pick(of)));
            }
            Pick::Logs => {
                for LogSize { partition: name, bytes } in &of.logs {
                    let partition = name.partition.to_string();
                    let labels = [core, ("topic", &*name.topic), ("partition", &*partition)];
                    f(self.0, &labels[from..], Value::Gauge(*bytes));
                }
            }
        }
    }
}

/// All of them, in the order in which they are written.
const METRICS: [Metric; 19] = {
    use Pick::{Counter, Histogram, Logs};
    use Unit::{Microseconds, Number};
    [
        Metric("kariz_appends_total", "Batches appended.", Counter(|s| s.appends)),
        Metric(
            "kariz_append_bytes_total",
            "Bytes of batches appended.",
            Counter(|s| s.append_bytes),
        ),
        Metric(
            "kariz_duplicates_total",
            "Batches that an idempotent producer sent again.",
            Counter(|s| s.duplicates),
        ),
        Metric("kariz_writes_total", "Group writes into segment files.", Counter(|s| s.writes)),
        Metric("kariz_commits_total", "Group commits.", Counter(|s| s.commits)),
        Metric(
            "kariz_syncs_total",
            "Calls of fdatasync on journals and segment files.",
            Counter(|s| s.syncs),
        ),
        Metric("kariz_segment_rolls_total", "Segments begun.", Counter(|s| s.rolls)),
        Metric(
            "kariz_receives_held_for_the_disk_total",
            "Waits for the disk to keep up, before more was received.",
            Counter(|s| s.held),
        ),
        Metric(
            "kariz_segments_deleted_total",
            "Segments deleted by retention or trimming.",
            Counter(|s| s.segments_deleted),
        ),
        Metric(
            "kariz_appends_refused_full_total",
            "Writes refused because the disk was full.",
            Counter(|s| s.full),
        ),
        Metric(
            "kariz_partitions_fenced_total",
            "Partitions that stopped serving because of an I/O error or damage.",
            Counter(|s| s.fenced),
        ),
        Metric("kariz_reads_total", "Reads answered with records.", Counter(|s| s.reads)),
        Metric("kariz_read_bytes_total", "Bytes handed out by reads.", Counter(|s| s.read_bytes)),
        Metric(
            "kariz_write_seconds",
            "Time of a group write, with what it took to roll.",
            Histogram(Microseconds, |s| &s.write_us),
        ),
        Metric(
            "kariz_commit_seconds",
            "Time of a group commit, until its waiters are woken.",
            Histogram(Microseconds, |s| &s.commit_us),
        ),
        Metric(
            "kariz_high_watermark_lag_seconds",
            "How far readers are behind writers, at most.",
            Histogram(Microseconds, |s| &s.lag_us),
        ),
        Metric(
            "kariz_commit_partitions",
            "Partitions in a group commit.",
            Histogram(Number, |s| &s.commit_partitions),
        ),
        Metric(
            "kariz_commit_bytes",
            "Bytes of a group commit's journal entry.",
            Histogram(Number, |s| &s.commit_bytes),
        ),
        Metric("kariz_log_bytes", "Bytes of a partition's segment files.", Logs),
    ]
};

impl Snapshot {
    /// Adds what another core has counted.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            shard,
            appends,
            append_bytes,
            duplicates,
            writes,
            write_us,
            commits,
            commit_partitions,
            commit_bytes,
            commit_us,
            lag_us,
            held,
            syncs,
            rolls,
            segments_deleted,
            full,
            fenced,
            reads,
            read_bytes,
            logs,
        } = self;
        *shard = None;
        for (mine, theirs) in [
            (appends, other.appends),
            (append_bytes, other.append_bytes),
            (duplicates, other.duplicates),
            (writes, other.writes),
            (commits, other.commits),
            (held, other.held),
            (syncs, other.syncs),
            (rolls, other.rolls),
            (segments_deleted, other.segments_deleted),
            (full, other.full),
            (fenced, other.fenced),
            (reads, other.reads),
            (read_bytes, other.read_bytes),
        ] {
            *mine = mine.wrapping_add(theirs);
        }
        write_us.merge(&other.write_us);
        commit_partitions.merge(&other.commit_partitions);
        commit_bytes.merge(&other.commit_bytes);
        commit_us.merge(&other.commit_us);
        lag_us.merge(&other.lag_us);
        logs.extend_from_slice(&other.logs);
    }

    /// Tells `f` each value with its name and its labels, for whatever framework one has. The names
    /// are those of [`Snapshot::prometheus`]; the label `core` is there unless this was merged.
    pub fn each(&self, mut f: impl FnMut(&str, &[(&str, &str)], Value<'_>)) {
        METRICS.iter().for_each(|metric| metric.each(self, &mut f));
    }

    /// Adds this snapshot to `out` in Prometheus' text format, version 0.0.4.
    ///
    /// Not for several cores one after another, for a name may be there only once: [`prometheus`],
    /// or [`Snapshot::merge`] them.
    pub fn prometheus(&self, out: &mut String) {
        prometheus(std::slice::from_ref(self), out);
    }
}

/// Adds the snapshots of several cores to `out` in Prometheus' text format, version 0.0.4.
pub fn prometheus(snapshots: &[Snapshot], out: &mut String) {
    for metric in &METRICS {
        let (name, help, kind) = (metric.0, metric.1, metric.kind());
        write(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for snapshot in snapshots {
            metric.each(snapshot, |name, labels, value| match value {
                Value::Counter(n) | Value::Gauge(n) => sample(out, name, "", labels, None, &n),
                Value::Histogram(unit, counts) => counts.prometheus(name, labels, unit, out),
            });
        }
    }
}

impl HistogramSnapshot {
    /// Adds the samples of the histogram `name` to `out` in Prometheus' text format: cumulative
    /// buckets, their sum and count. The lines HELP and TYPE are the caller's.
    pub fn prometheus(&self, name: &str, labels: &[(&str, &str)], unit: Unit, out: &mut String) {
        let scale = |n: u64| match unit {
            // Exact: decimal places, not floating point.
            Unit::Microseconds => format!("{}.{:06}", n / 1_000_000, n % 1_000_000),
            Unit::Number => n.to_string(),
        };
        let mut below = 0_u64;
        // The last bucket has no bound.
        for (power, n) in self.buckets.iter().enumerate().take(BUCKETS - 1) {
            below += n;
            // Values are whole numbers: below 2^i means at most 2^i - 1.
            let bound = scale((1_u64 << power) - 1);
            sample(out, name, "_bucket", labels, Some(&bound), &below);
        }
        let count = self.count();
        sample(out, name, "_bucket", labels, Some("+Inf"), &count);
        sample(out, name, "_sum", labels, None, &scale(self.sum));
        sample(out, name, "_count", labels, None, &count);
    }
}

/// Adds one line.
fn sample(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &[(&str, &str)],
    le: Option<&str>,
    value: &dyn std::fmt::Display,
) {
    write(out, format_args!("{name}{suffix}"));
    let labels = labels.iter().copied().chain(le.map(|le| ("le", le)));
    let mut open = '{';
    for (label, text) in labels {
        write(out, format_args!("{open}{label}=\""));
        for c in text.chars() {
            // The three that the format escapes. Kafka's topics have none of them.
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
        open = ',';
    }
    out.push_str(if open == ',' { "} " } else { " " });
    write(out, format_args!("{value}\n"));
}

fn write(out: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _infallible = out.write_fmt(what);
}
