//! The command line: flags, and the workloads that they mean.

use crate::exec::cores;
use crate::schedule::Arrival;
use crate::workload::codec::Codec;
use crate::workload::{self, Acks, Limits, Rate, Verify, Workload, duration, quantity};
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Drives a Kafka-compatible broker at full speed and checks every record.
///
/// Without a mode and a workload it does the main job: starts a server of its own on one half of
/// the cores, loads it from the other half, reads everything back, checks every record, and
/// reports; at most a minute, at most 4 GB of disk. With -b it does the same to any broker.
///
/// Exit codes: 0 pass, 1 could not run, or not to the end (connections broke), 2 usage, 10 verification violated, 14 numbers are invalid
/// (in the main job only with --strict), 130 interrupted.
#[derive(Clone, Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    /// What to do. Default: the main job, or `run` if a workload is given.
    #[arg(value_enum)]
    pub mode: Option<Mode>,

    /// The broker to connect to; default: an embedded server.
    #[arg(short = 'b', long, value_name = "HOST:PORT")]
    pub brokers: Option<String>,
    /// The target speaks no protocol (`bare`): no topic, no verification, answers are counted.
    #[arg(long)]
    pub raw: bool,
    /// The topic; made if it is not there. Default: a new one that is deleted at the end.
    #[arg(short, long)]
    pub topic: Option<String>,
    /// Keep a topic that this run has made.
    #[arg(long)]
    pub keep: bool,

    /// The load.
    #[command(flatten)]
    pub load: Load,

    /// CPUs to load from, such as 1,3-5. Default: the second half of those available, or all of
    /// them if the broker is on another machine.
    #[arg(long, value_parser = cpus, value_name = "LIST")]
    pub cores: Option<Cpus>,
    /// CPUs of the embedded server. Default: the first half of those available.
    #[arg(long, value_parser = cpus, value_name = "LIST")]
    pub server_cores: Option<Cpus>,
    /// Let load threads sleep when nothing is due, instead of looking for work.
    #[arg(long)]
    pub sleep: bool,
    /// Account the CPU time of this process as the server's.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Where the embedded server's data goes, in a directory of its own that is removed again.
    /// Default: ./target if there is one, else the directory for temporary files.
    #[arg(long, value_name = "DIR", conflicts_with = "brokers")]
    pub data: Option<PathBuf>,
    /// A file that tells what was acknowledged: `produce` writes it, `verify` reads it.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,

    /// Where result.json and latency.hlog go. Default: ./target/kariz-loadgen, or without a
    /// ./target ./kariz-loadgen-result.
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What to print at the end.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Exit with 14 if the machine or the generator spoiled numbers, in the main job, too.
    #[arg(long)]
    pub strict: bool,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Make a topic, warm up, produce, read back and check, delete.
    Run,
    /// Only produce; keeps the topic.
    Produce,
    /// Only fetch, from the first offset to the last; with a duration again and again.
    Fetch,
    /// Read a topic once and check it against --ledger.
    Verify,
}

/// What to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// The load.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct Load {
    /// How long to produce (or fetch), such as 30s. Default: 10s, if nothing else ends it.
    #[arg(short, long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// How many records to produce, such as 10M.
    #[arg(long, value_parser = quantity)]
    pub records: Option<u64>,
    /// How many bytes of values to produce, such as 1GiB.
    #[arg(long, value_parser = quantity)]
    pub bytes: Option<u64>,
    /// max (closed loop), or an open loop: records (200k), bytes (500MB) or requests (20kreq) a
    /// second. Latency then counts from the moment a request was due.
    #[arg(short, long)]
    pub rate: Option<Rate>,
    /// How requests of an open loop are spread.
    #[arg(long, value_enum)]
    pub arrival: Option<Arrival>,
    /// Bytes of a record's value, at least 36.
    #[arg(short = 's', long, value_parser = size)]
    pub record_size: Option<u32>,
    /// Records in a batch; each request is one batch.
    #[arg(long, value_name = "N", value_parser = size)]
    pub batch_records: Option<u32>,
    /// Connections; a list (1,16,64) runs one after the other.
    #[arg(short, long, value_delimiter = ',', value_name = "N[,N]")]
    pub connections: Vec<u32>,
    /// Requests in flight on each connection.
    #[arg(long, value_name = "N")]
    pub depth: Option<u32>,
    /// Partitions of the topic. Default: 4, or with a list of connections one for each of them.
    #[arg(short, long, value_name = "N")]
    pub partitions: Option<u32>,
    /// Replication factor of the topic; -1: the broker's default.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub replication_factor: Option<i16>,
    /// A config of the topic, such as write.caching=true. May be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub topic_config: Vec<(String, String)>,
    /// Whom the broker waits for: 0, 1, all.
    #[arg(long)]
    pub acks: Option<Acks>,
    /// How batches are compressed (in the run: it costs the generator's time).
    #[arg(long, value_enum)]
    pub compression: Option<Codec>,
    /// How many of a hundred filler bytes are zeros. Default: 50 with compression, else 0.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub compressible: Option<u8>,
    /// Idempotent producers.
    #[arg(long)]
    pub idempotent: bool,
    /// How closely to look at what is read back.
    #[arg(long, value_enum)]
    pub verify: Option<Verify>,
    /// The most bytes of a partition in one answer to a fetch.
    #[arg(long, value_parser = size, value_name = "BYTES")]
    pub fetch_bytes: Option<u32>,
    /// How long a request may be unanswered.
    #[arg(long, value_parser = duration)]
    pub timeout: Option<Duration>,
    /// auto: as much as the run will write, at most 10 s; off; or a duration.
    #[arg(long, value_parser = warm_up, value_name = "auto|off|DURATION")]
    pub warm_up: Option<WarmUp>,
}

/// How to warm up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WarmUp {
    /// As much as the run will write.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// So long.
    For(Duration),
}

/// CPU numbers, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus(pub Vec<u32>);

fn cpus(text: &str) -> Result<Cpus, String> {
    cores::parse(text).map(Cpus)
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn size(text: &str) -> Result<u32, String> {
    u32::try_from(quantity(text)?).map_err(|_| format!("`{text}` is too large"))
}

fn warm_up(text: &str) -> Result<WarmUp, String> {
    match text {
        "auto" => Ok(WarmUp::Auto),
        "off" => Ok(WarmUp::Off),
        text => {
            workload::duration(text).map(|d| if d.is_zero() { WarmUp::Off } else { WarmUp::For(d) })
        }
    }
}

impl Cli {
    /// Whether this is the main job.
    #[must_use]
    pub fn is_main_job(&self) -> bool {
        self.mode.is_none() && self.load == Load::default() && self.topic.is_none() && !self.raw
    }

    /// What to do, if it is not the main job.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or(Mode::Run)
    }

    /// Refuses flags that the mode would pass over where somebody could rely on them.
    ///
    /// # Errors
    /// What to change.
    pub fn check(&self) -> Result<(), String> {
        let mode = self.mode();
        if self.raw && mode == Mode::Verify {
            return Err("a raw server has nothing to verify".into());
        }
        if self.ledger.is_some() {
            if self.raw || !matches!(mode, Mode::Produce | Mode::Verify) {
                return Err("--ledger is for `produce`, which writes it, and for `verify`, which \
                            reads it; a raw server has none"
                    .into());
            }
            if mode == Mode::Produce && self.load.connections.len() > 1 {
                return Err("a ledger tells of one run: give --connections one number".into());
            }
        }
        let ignored = match mode {
            Mode::Verify => self.load.beside_reading(),
            Mode::Fetch if !self.raw => self.load.ends_of_producing(),
            _ => None,
        };
        match (mode, ignored) {
            (_, None) => Ok(()),
            (Mode::Verify, Some(flag)) => Err(format!(
                "`verify` reads all that the ledger tells of and checks every record: leave out \
                 {flag}"
            )),
            (_, Some(flag)) => Err(format!(
                "`fetch` reads a topic to its end, or again and again for a --duration: leave out \
                 {flag}"
            )),
        }
    }
}

/// The first flag that was given, of pairs of whether and which.
fn first_given<const N: usize>(flags: [(bool, &'static str); N]) -> Option<&'static str> {
    flags.into_iter().find(|(given, _)| *given).map(|(_, flag)| flag)
}

impl Load {
    /// A flag that only producing looks at to know when to end.
    fn ends_of_producing(&self) -> Option<&'static str> {
        first_given([(self.records.is_some(), "--records"), (self.bytes.is_some(), "--bytes")])
    }

    /// A flag that says nothing to who reads a known topic once, each record.
    fn beside_reading(&self) -> Option<&'static str> {
        self.ends_of_producing().or(first_given([
            (self.duration.is_some(), "--duration"),
            (self.rate.is_some(), "--rate"),
            (self.arrival.is_some(), "--arrival"),
            (self.record_size.is_some(), "--record-size"),
            (self.batch_records.is_some(), "--batch-records"),
            (self.partitions.is_some(), "--partitions"),
            (self.replication_factor.is_some(), "--replication-factor"),
            (!self.topic_config.is_empty(), "--topic-config"),
            (self.acks.is_some(), "--acks"),
            (self.compression.is_some(), "--compression"),
            (self.compressible.is_some(), "--compressible"),
            (self.idempotent, "--idempotent"),
            (self.verify.is_some_and(|v| v != Verify::Full), "--verify"),
            (self.warm_up.is_some(), "--warm-up"),
        ]))
    }

    /// The workloads: one for each number of connections.
    #[must_use]
    pub fn workloads(&self, mode: Mode) -> Vec<Workload> {
        let base = Workload::default();
        let list = self.connections.len() > 1;
        let all = if self.connections.is_empty() {
            std::slice::from_ref(&base.connections)
        } else {
            &self.connections
        };
        all.iter()
            .map(|connections| {
                let name = if list { format!("{connections} connections") } else { name(mode) };
                self.workload(*connections, list, name, &base)
            })
            .collect()
    }

    fn workload(&self, connections: u32, list: bool, name: String, base: &Workload) -> Workload {
        let compression = self.compression.unwrap_or_default();
        let zeros = if compression == Codec::None { 0 } else { 50 };
        let ends = self.records.is_some() || self.bytes.is_some();
        let duration_ns = self.duration.map(crate::clock::nanos);
        Workload {
            name,
            partitions: self.partitions.unwrap_or(if list { connections } else { base.partitions }),
            replication_factor: self.replication_factor.unwrap_or(base.replication_factor),
            topic_config: self.topic_config.clone(),
            connections,
            depth: self.depth.unwrap_or(base.depth),
            acks: self.acks.unwrap_or(base.acks),
            record_bytes: self.record_size.unwrap_or(base.record_bytes),
            batch_records: self.batch_records.unwrap_or(base.batch_records),
            compression,
            zero_percent: self.compressible.unwrap_or(zeros),
            idempotent: self.idempotent,
            rate: self.rate.unwrap_or_default(),
            arrival: self.arrival.unwrap_or_default(),
            limits: Limits {
                duration_ns: duration_ns.or(base.limits.duration_ns.filter(|_| !ends)),
                records: self.records,
                bytes: self.bytes,
            },
            verify: self.verify.unwrap_or_default(),
            fetch_bytes: self.fetch_bytes.unwrap_or(base.fetch_bytes),
            timeout_ms: self
                .timeout
                .map_or(base.timeout_ms, |t| u32::try_from(t.as_millis()).unwrap_or(u32::MAX)),
        }
    }
}

fn name(mode: Mode) -> String {
    mode.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

/// The main job's workloads, in order.
#[must_use]
pub fn main_job(embedded: bool) -> Vec<Workload> {
    const SECOND: u64 = 1_000_000_000;
    let limits = |seconds: u64, bytes: Option<u64>| Limits {
        duration_ns: Some(seconds * SECOND),
        records: None,
        bytes,
    };
    // 1 GB each: with their warm-up the two stay under 4 GB of disk even if nothing that is
    // deleted is given back at once.
    let throughput = Workload {
        name: "throughput".into(),
        connections: 16,
        depth: 16,
        fetch_bytes: 4 << 20,
        limits: limits(7, Some(1_000_000_000)),
        ..Workload::default()
    };
    let caching = Workload {
        name: "throughput, write.caching".into(),
        topic_config: vec![("write.caching".into(), "true".into())],
        ..throughput.clone()
    };
    let latency = Workload {
        name: "latency".into(),
        connections: 16,
        depth: 64,
        record_bytes: 1024,
        batch_records: 1,
        rate: Rate::RequestsPerSecond(10_000),
        arrival: Arrival::Poisson,
        limits: limits(7, None),
        ..Workload::default()
    };
    let acks = [1, 16, 64].map(|connections| Workload {
        name: match connections {
            1 => "acks=all, alone".into(),
            n => format!("acks=all, {n} at once, each on a partition of its own"),
        },
        connections,
        partitions: connections,
        depth: 1,
        batch_records: 1,
        limits: limits(3, None),
        ..Workload::default()
    });
    // write.caching is Kariz's; other brokers refuse to make such a topic.
    let caching = embedded.then_some(caching);
    std::iter::once(throughput).chain(caching).chain([latency]).chain(acks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &str) -> Cli {
        Cli::try_parse_from(std::iter::once("kariz-loadgen").chain(args.split_whitespace()))
            .unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn alone_it_is_the_main_job() {
        assert!(parse("").is_main_job() && parse("-b localhost:9092 -q").is_main_job());
        for args in ["run", "-d 5s", "-t topic", "--raw -b a:1", "--acks 1"] {
            assert!(!parse(args).is_main_job(), "{args}");
        }
        assert_eq!(parse("-d 5s").mode(), Mode::Run);
    }

    #[test]
    fn flags_that_a_mode_would_ignore_are_refused() {
        for bad in [
            "verify --ledger l --verify off",
            "verify --ledger l --verify batches",
            "verify --ledger l -d 5s",
            "verify --ledger l --records 5",
            "verify --ledger l -p 4",
            "verify --raw -b a:1",
            "run --ledger l",
            "--ledger l",
            "fetch -t t --ledger l",
            "fetch -t t --records 5",
            "produce --raw -b a:1 --ledger l",
            "produce -c 1,4 --ledger l",
        ] {
            assert!(parse(bad).check().is_err(), "{bad}");
        }
        for good in [
            "",
            "verify -b a:1 --ledger l -t t --verify full -c 4 --depth 2 --timeout 5s",
            "produce --ledger l -c 4 --warm-up off",
            "fetch -t t --record-size 1KiB -d 5s",
            "fetch --raw -b a:1 --records 5",
        ] {
            assert_eq!(parse(good).check(), Ok(()), "{good}");
        }
    }

    #[test]
    fn flags_become_a_workload() {
        let cli = parse(
            "produce -r 20kreq/s -s 1KiB --batch-records 1 -c 64 --depth 16 -p 8 --acks 1 \
             --compression lz4 --records 1M --topic-config a=b --topic-config c=d=e",
        );
        let all = cli.load.workloads(cli.mode());
        let [w] = &all[..] else { panic!("{all:?}") };
        assert_eq!((w.record_bytes, w.batch_records, w.connections), (1024, 1, 64));
        assert_eq!((w.depth, w.partitions, w.acks), (16, 8, Acks::Leader));
        assert_eq!(w.rate, Rate::RequestsPerSecond(20_000));
        assert_eq!((w.compression, w.zero_percent), (Codec::Lz4, 50));
        assert_eq!(w.limits, Limits { records: Some(1_000_000), ..Limits::default() });
        assert_eq!(w.topic_config[1], ("c".to_owned(), "d=e".to_owned()));
        assert_eq!(w.check(), Ok(()));
    }

    #[test]
    fn a_list_of_connections_is_a_run_each_with_partitions_of_their_own() {
        let all = parse("run -c 1,16,64 --depth 1").load.workloads(Mode::Run);
        let shape: Vec<_> = all.iter().map(|w| (w.connections, w.partitions)).collect();
        assert_eq!(shape, [(1, 1), (16, 16), (64, 64)]);
    }

    #[test]
    fn the_main_job_keeps_its_bounds() {
        for embedded in [false, true] {
            let all = main_job(embedded);
            assert!(all.iter().all(|w| w.check() == Ok(())));
            let seconds: u64 = all.iter().filter_map(|w| w.limits.duration_ns).sum();
            assert!(seconds <= 35_000_000_000);
            let bytes: u64 = all.iter().filter_map(|w| w.limits.bytes).sum();
            assert!(bytes <= 2_000_000_000);
            assert_eq!(
                all.iter().any(|w| !w.topic_config.is_empty()),
                embedded,
                "only Kariz knows write.caching"
            );
        }
    }
}
