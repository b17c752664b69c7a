//! Rounds of measurements, each in a process and a directory of its own.

use crate::Args;
use crate::cases::{Row, Subject};
use crate::job::Durability;
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// What a process says of its job.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Measured {
    pub(crate) batches: u64,
    pub(crate) took_ns: u64,
    /// Of all its threads.
    pub(crate) cpu_ns: u64,
    /// The cheapest system call, right before.
    pub(crate) syscall_ns: u64,
    /// What else it counted.
    pub(crate) counts: BTreeMap<String, u64>,
    /// What the host took of the machine's CPUs meanwhile, in percent.
    #[serde(default)]
    pub(crate) stolen_percent: f64,
    /// The machine's, over a minute, at the end.
    #[serde(default)]
    pub(crate) loadavg: f64,
}

impl Measured {
    /// Batches a second.
    pub(crate) fn rate(&self) -> f64 {
        self.batches as f64 * 1e9 / self.took_ns.max(1) as f64
    }

    /// CPU time a batch.
    pub(crate) fn cpu_ns_a_batch(&self) -> f64 {
        self.cpu_ns as f64 / self.batches.max(1) as f64
    }
}

/// A row, and for each of its subjects what every round said, or why it did not.
pub(crate) struct Outcome {
    pub(crate) row: Row,
    pub(crate) rounds: Vec<Vec<Result<Measured, String>>>,
}

/// Measures `row` as often as `args` says: each round begins with the next subject, and every
/// second one goes backwards.
pub(crate) fn measure(args: &Args, row: Row) -> Outcome {
    let count = row.subjects.len();
    let mut rounds = vec![Vec::new(); count];
    for round in 0..args.rounds {
        for step in 0..count {
            let step = if round % 2 == 0 { step } else { count - 1 - step };
            let which = (round + step) % count;
            let subject = &row.subjects[which];
            let measured = one(args, &row, subject).map_err(|error| error.to_string());
            let shown = match &measured {
                Ok(m) => format!("{:.0} batches/s", m.rate()),
                Err(error) => error.clone(),
            };
            let Subject { name, durability, .. } = subject;
            eprintln!("  {} | round {} | {name} {durability:?}: {shown}", row.name(), round + 1);
            rounds[which].push(measured);
        }
    }
    Outcome { row, rounds }
}

/// One measurement, behind one that is thrown away: it touches the memory that this one gets.
fn one(args: &Args, row: &Row, subject: &Subject) -> io::Result<Measured> {
    process(args, row, subject)?;
    // What others have left to be written back is not this one's.
    rustix::fs::sync();
    process(args, row, subject)
}

fn process(args: &Args, row: &Row, subject: &Subject) -> io::Result<Measured> {
    let dir = args.data.join(subject.name);
    remove(&dir)?;
    fs::create_dir_all(&dir)?;
    let mut command = if subject.is_rival {
        Command::new(&args.rivals)
    } else {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("one");
        command
    };
    let durability = subject.durability.to_possible_value();
    let flags = [
        ("--subject", subject.name.to_owned()),
        ("--batch-bytes", row.batch_bytes.to_string()),
        ("--group", row.group.to_string()),
        ("--durability", durability.map(|v| v.get_name().to_owned()).unwrap_or_default()),
        ("--bytes", args.bytes.to_string()),
        ("--seconds", args.seconds.to_string()),
        ("--segment-bytes", args.segment_bytes.to_string()),
        ("--cpu", args.cpu.to_string()),
    ];
    command.args(flags.iter().flat_map(|(name, value)| [*name, value])).arg("--dir").arg(&dir);
    // So that it writes there, and not a line for each append; it has no other way to be told.
    command.env("WALRUS_DATA_DIR", &dir).env("WALRUS_QUIET", "1");
    let before = ticks();
    let output = command.output();
    let after = ticks();
    remove(&dir)?;
    let output = output?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{}: {}", output.status, said.trim())));
    }
    let mut measured: Measured = serde_json::from_slice(&output.stdout)?;
    measured.loadavg = loadavg().unwrap_or_default();
    if let (Some((all, stolen)), Some((all_after, stolen_after))) = (before, after) {
        let all = all_after.saturating_sub(all).max(1);
        measured.stolen_percent = stolen_after.saturating_sub(stolen) as f64 * 100.0 / all as f64;
    }
    Ok(measured)
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The ticks of all CPUs so far, and those that the host took.
fn ticks() -> Option<(u64, u64)> {
    /// Behind user, nice, system, idle, iowait, irq and softirq. Source: proc_stat(5).
    const STEAL: usize = 7;
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let all: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|t| t.parse().ok()).collect();
    // What guests used is in the first ones already.
    Some((all.iter().take(STEAL + 1).sum(), *all.get(STEAL)?))
}

fn loadavg() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// A durability, as the table has it.
pub(crate) fn durability(of: Durability) -> &'static str {
    match of {
        Durability::PageCache => "page cache",
        Durability::Behind => "page cache, synced behind",
        Durability::Durable => "durable",
    }
}
