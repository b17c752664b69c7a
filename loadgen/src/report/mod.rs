//! The result of a run, and its three forms: text for people, JSON for programs, interval logs for
//! HdrHistogram's tools. All of them are made from [`Report`] and from nothing else.

pub mod hlog;
pub mod json;
pub mod progress;
pub mod text;

use crate::exec::Done;
use crate::probe::{Machine, Probe};
use crate::stats::resources::Resources;
use crate::stats::{Counts, Latency, Row};
use crate::verify::Findings;
use crate::workload::{Acks, Workload};
use serde::{Deserialize, Serialize};

/// The JSON's format and its version. Inside a version fields are only added.
pub const SCHEMA: &str = "kariz-loadgen/result/1";

/// How busy a load core may be before the generator counts as the limit.
const GENERATOR_BUSY_PERCENT_MAX: u64 = 85;

/// How much of the time the host may take before a measurement counts for nothing: 1 %.
const STEAL_PER_10000_MAX: u64 = 100;

/// How late the generator may be, of the response time, both at the 99th percentile: a tenth.
const LAG_SHARE: u64 = 10;

/// How many reasons why connections broke are told.
const REASONS_MAX: usize = 3;

/// A lag below this is no reason to doubt anything: clocks and system calls are not finer.
const LAG_NS_MIN: u64 = 20_000;

/// What came of the run, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything is as it must be.
    Pass,
    /// A record was lost, doubled, moved or changed.
    Violated,
    /// It could not be done to its end.
    Failed,
    /// The numbers do not say what they seem to.
    Invalid,
    /// The user stopped it.
    Interrupted,
}

impl Verdict {
    /// The process's exit code. 1 and 2 belong to programs that could not do or understand what
    /// was asked.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Failed => 1,
            Self::Violated => 10,
            Self::Invalid => 14,
            Self::Interrupted => 130,
        }
    }
}

/// What a phase did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Sent records.
    Produce,
    /// Read them back.
    Fetch,
    /// Sent frames to a server without a protocol.
    RawProduce,
    /// Read from a server without a protocol.
    RawFetch,
}

impl Kind {
    /// In a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Produce | Self::RawProduce => "produce",
            Self::Fetch | Self::RawFetch => "fetch",
        }
    }
}

/// What a phase is called: its workload and what it does, if that is not the workload's name.
#[must_use]
pub fn title(workload: &Workload, kind: Kind) -> String {
    let (name, what) = (&workload.name, kind.name());
    if name == what { name.clone() } else { format!("{name}, {what}") }
}

/// Who was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFacts {
    /// What it is.
    pub kind: TargetKind,
    /// Where it listened.
    pub address: String,
    /// The CPUs of an embedded server.
    pub server_cores: Vec<u32>,
    /// The file system of its data: type and mount options, if it is known.
    pub file_system: Option<String>,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// A Kariz in this process.
    Embedded,
    /// Any broker.
    Broker,
    /// A server without a protocol.
    Raw,
}

/// One phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What it did.
    pub kind: Kind,
    /// What was sent or read.
    pub workload: Workload,
    /// What an acknowledgement promised, in words.
    pub contract: String,
    /// When it began, from the start of the run.
    pub start_ns: u64,
    /// From its first request to its last answer.
    pub elapsed_ns: u64,
    /// Connections used.
    pub connections: u32,
    /// Connections that broke, or were given up.
    pub lost_connections: u32,
    /// When the first of them did, from the start of the phase.
    pub first_lost_ns: Option<u64>,
    /// Records sent of which nobody has said what became of them: with acks=0 all.
    pub unanswered_records: u64,
    /// Why it was not done to its end, if it was not.
    pub failure: Option<String>,
    /// What was done.
    pub counts: Counts,
    /// Requests a second that were asked for, if the loop was open.
    pub requested_requests_per_s: Option<u64>,
    /// Answered requests a second.
    pub requests_per_s: u64,
    /// Records a second.
    pub records_per_s: u64,
    /// Bytes of values a second.
    pub bytes_per_s: u64,
    /// From due (closed loop: sent) to answered.
    pub response: Latency,
    /// From sent to answered, if the loop was open.
    pub service: Option<Latency>,
    /// From "due and possible" to sent, if the loop was open: the generator's own delay.
    pub generator_lag: Option<Latency>,
    /// What it cost.
    pub resources: Resources,
    /// What was found, if records were read back.
    pub verification: Option<Findings>,
    /// What the numbers must be read with.
    pub notes: Vec<String>,
    /// Why the numbers do not say what they seem to.
    pub invalid: Vec<String>,
    /// By the second.
    pub series: Vec<Row>,
}

impl Phase {
    /// Sums a phase up.
    #[must_use]
    pub fn new(kind: Kind, workload: &Workload, contract: String, done: Done) -> Self {
        let counts = done.stats.total.counts;
        let per_s = |n| crate::num::per_second(n, done.elapsed_ns);
        let open = workload.requests_per_second();
        let total = &done.stats.total;
        let mut this = Self {
            kind,
            workload: workload.clone(),
            contract,
            start_ns: done.start_ns,
            elapsed_ns: done.elapsed_ns,
            connections: done.connections,
            lost_connections: u32::try_from(done.broken.len()).unwrap_or(u32::MAX),
            first_lost_ns: done.broken.first().map(|b| b.at_ns),
            unanswered_records: done.unanswered_records,
            failure: failure(kind, workload.acks, &done),
            counts,
            requested_requests_per_s: open.map(crate::num::round),
            requests_per_s: per_s(counts.requests),
            records_per_s: per_s(counts.records),
            bytes_per_s: per_s(counts.bytes),
            response: Latency::of(&total.response),
            service: open.map(|_| Latency::of(&total.service)),
            generator_lag: open.map(|_| Latency::of(&total.lag)),
            resources: done.resources,
            verification: None,
            notes: Vec::new(),
            invalid: Vec::new(),
            series: done.stats.rows,
        };
        this.judge(done.interrupted);
        this
    }

    /// What it is called.
    #[must_use]
    pub fn title(&self) -> String {
        title(&self.workload, self.kind)
    }

    /// Says what limits the meaning of the numbers.
    fn judge(&mut self, interrupted: bool) {
        let busy = self.resources.generator_busy_percent();
        if busy > GENERATOR_BUSY_PERCENT_MAX {
            let text = format!("a load core was {busy} % busy");
            if self.requested_requests_per_s.is_some() {
                self.invalid.push(format!("{text}: the generator may be the limit"));
            } else {
                self.notes.push(format!("{text}: the target may be able to do more"));
            }
        }
        if let Some(requested) = self.requested_requests_per_s
            && self.kind != Kind::Fetch
            && !interrupted
            && self.failure.is_none()
            && self.requests_per_s < requested - requested / 100
        {
            let achieved = self.requests_per_s;
            self.notes.push(format!(
                "{achieved} of {requested} requests/s: the target did not keep up, and response \
                 times count the wait"
            ));
        }
        if self.counts.depth_waits > 0 {
            let (n, depth) = (self.counts.depth_waits, self.workload.depth);
            self.notes.push(format!(
                "{n} requests were late because {depth} were in flight on their connection; \
                 their wait is in the response times"
            ));
        }
        if let Some(lag) = &self.generator_lag
            && let (Some(lag), Some(response)) = (lag.p99_ns, self.response.p99_ns)
            && lag > LAG_NS_MIN
            && lag > response / LAG_SHARE
        {
            self.invalid.push(format!(
                "the generator itself was late by {} at p99, against a response of {}",
                text::time(lag),
                text::time(response)
            ));
        }
        if let Some(steal) = self.resources.steal_per_10000.filter(|s| *s > STEAL_PER_10000_MAX) {
            let (whole, tenth) = (steal / 100, steal % 100 / 10);
            self.invalid.push(format!("the host took {whole}.{tenth} % of the CPU time"));
        }
        if self.counts.retries > 0 {
            self.notes.push(format!(
                "{} requests were refused and sent again; their latency counts from the first time",
                self.counts.retries
            ));
        }
    }
}

/// Why a phase was not done to its end: what broke, when, and what that leaves open.
fn failure(kind: Kind, acks: Acks, done: &Done) -> Option<String> {
    let first = done.broken.first()?;
    let mut reasons: Vec<String> = Vec::new();
    for reason in done.broken.iter().map(|b| b.why.to_string()) {
        if reasons.len() < REASONS_MAX && !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    let (broken, all, when) = (done.broken.len(), done.connections, text::time(first.at_ns));
    let first = if broken == 1 { "" } else { "the first " };
    let reasons = reasons.join("; ");
    let what = format!("{broken} of {all} connections broke, {first}after {when}: {reasons}");
    let (acked, unanswered) = (done.stats.total.counts.records, done.unanswered_records);
    Some(match (kind, acks) {
        (Kind::Fetch | Kind::RawFetch, _) => what,
        (_, Acks::None) => format!("{what}. {unanswered} records were sent, none acknowledged"),
        _ => format!(
            "{what}. {acked} records were acknowledged; whether {unanswered} more that were sent \
             are there is unknown"
        ),
    })
}

/// What an acknowledgement promises.
#[must_use]
pub fn contract(target: TargetKind, workload: &Workload) -> String {
    let cached = workload
        .topic_config
        .iter()
        .any(|(name, value)| name == "write.caching" && value == "true");
    let promise = match (target, workload.acks) {
        (TargetKind::Raw, _) => return "no protocol, no promise".into(),
        (_, Acks::None) => "nobody answers, nothing is promised",
        (TargetKind::Broker, _) => "durable as the broker is configured",
        (TargetKind::Embedded, Acks::Leader) => "in the page cache when acknowledged",
        (TargetKind::Embedded, Acks::All) if cached => {
            "write.caching: in the page cache when acknowledged"
        }
        (TargetKind::Embedded, Acks::All) => "on disk (fdatasync) when acknowledged",
    };
    format!("acks={}: {promise}", workload.acks.name())
}

/// Who made the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// The program.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Tool {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        Self {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Where the cores were, before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementFacts {
    /// Before the first phase.
    pub before: Probe,
    /// After the last.
    pub after: Probe,
}

impl PlacementFacts {
    /// Why the run is invalid, if the host moved the CPUs meanwhile.
    #[must_use]
    pub fn invalid(&self) -> Option<String> {
        let (before, after) = (self.before.placement()?, self.after.placement()?);
        let (a, b) = (self.before.core_to_core_rtt_ns?, self.after.core_to_core_rtt_ns?);
        // Near the limit the same place can be measured on either side of it.
        let moved = before != after && a.max(b) * 2 > a.min(b) * 3;
        moved.then(|| {
            format!("the host moved the CPUs: {} before, {} after", before.name(), after.name())
        })
    }
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The run's number, in hexadecimal, as it stands in every record.
    pub id: String,
    /// Unix time.
    pub started_unix_ns: u64,
    /// Who measured.
    pub tool: Tool,
    /// The command line.
    pub argv: Vec<String>,
    /// Who was measured.
    pub target: TargetFacts,
    /// On what.
    pub machine: Machine,
    /// The CPUs that the load came from.
    pub load_cores: Vec<u32>,
    /// Where they were.
    pub placement: PlacementFacts,
    /// What was done.
    pub phases: Vec<Phase>,
    /// Everything that was found, of all phases.
    pub verification: Option<Findings>,
    /// Why it was not done to its end, if it was not.
    pub failures: Vec<String>,
    /// Why numbers do not say what they seem to.
    pub invalid: Vec<String>,
    /// What came of it.
    pub verdict: Verdict,
}

impl Report {
    /// Draws the conclusions from what has been filled in. `ended_by`: what ended the run beside
    /// its phases' own failures. `numbers_decide`: whether numbers that do not say what they seem
    /// to make the run invalid, or are only named.
    pub fn conclude(&mut self, ended_by: Vec<String>, interrupted: bool, numbers_decide: bool) {
        let mut all: Option<Findings> = None;
        for findings in self.phases.iter().filter_map(|p| p.verification.as_ref()) {
            all.get_or_insert_default().add(findings);
        }
        self.verification = all;
        let failed = self.phases.iter().filter_map(|p| Some((p, p.failure.as_ref()?)));
        self.failures =
            failed.map(|(p, why)| format!("{}: {why}", p.title())).chain(ended_by).collect();
        let phases = self.phases.iter();
        self.invalid = phases
            .flat_map(|p| p.invalid.iter().map(|why| format!("{}: {why}", p.workload.name)))
            .chain(self.placement.invalid())
            .collect();
        self.verdict = if self.verification.as_ref().is_some_and(|f| !f.is_clean()) {
            Verdict::Violated
        } else if !self.failures.is_empty() {
            Verdict::Failed
        } else if interrupted {
            Verdict::Interrupted
        } else if numbers_decide && !self.invalid.is_empty() {
            Verdict::Invalid
        } else {
            Verdict::Pass
        };
    }
}

#[cfg(test)]
mod tests;
