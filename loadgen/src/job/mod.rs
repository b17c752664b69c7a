//! A whole run: target, warm-up, phases, clean-up, report.

mod error;
mod host;
mod publish;

pub use error::JobError;

use crate::cli::{self, Cli, Mode, WarmUp};
use crate::client::{ClientError, Control};
use crate::clock::{Clock, nanos};
use crate::exec::{self, Exec, ExecError, Known, Produced, ServerMeter, Target, cores};
use crate::num;
use crate::probe::{Machine, Probe, file_system};
use crate::report::progress::Line;
use crate::report::{
    self, Kind, Phase, PlacementFacts, Report, SCHEMA, TargetFacts, TargetKind, Tool, Verdict,
    contract,
};
use crate::stats::resources;
use crate::verify::Knowledge;
use crate::verify::ledger::{self, Ledger};
use crate::workload::{Limits, Rate, Verify, Workload};
use host::Host;
use kariz_protocol::ErrorCode;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The longest warm-up that nobody asked for.
const WARM_UP_NS_MAX: u64 = 10_000_000_000;

/// The main job's: it has a minute for everything.
const MAIN_WARM_UP_NS: u64 = 5_000_000_000;

/// Does what the command line says and returns the verdict; the report is printed and written,
/// also of a run that failed, unless it did so before anything was measured.
///
/// # Errors
/// Any [`JobError`].
pub fn run(cli: &Cli, argv: Vec<String>) -> Result<Verdict, JobError> {
    cli.check().map_err(JobError::Usage)?;
    if let Some(pid) = cli.server_pid.filter(|pid| resources::cpu_ns_of(*pid).is_none()) {
        return Err(JobError::Usage(format!("there is no process {pid}: see --server-pid")));
    }
    for workload in cli.load.workloads(cli.mode()) {
        workload.check()?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second time nothing is cleaned up: whoever insists has a reason.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| JobError::Process { what: "signals cannot be handled", error })?;
    }
    let clock = Clock::start();
    let mut state = clock.unix_ns(0) ^ u64::from(std::process::id()) << 48;
    let run = num::random(&mut state);
    // Before this thread is pinned, or they would see its core only.
    let machine = Machine::read();
    let out = publish::directory(cli)?;
    let host = Host::find(cli, run)?;
    let mut job = Job {
        cli,
        clock,
        stop,
        run,
        topics: 0,
        bootstrap: host.address,
        kind: host.kind,
        load_cores: host.load_cores.clone(),
        // On a single core, looking for work takes time from whoever does it.
        spin: !cli.sleep && machine.cpus > 1,
        meter: host.meter(cli),
        phases: Vec::new(),
    };
    // Of a broker whose cores are not known, the other end of this machine says most.
    let first = cores::available().first().copied().unwrap_or(0);
    let server_core = host.server_cores.first().copied().unwrap_or(first);
    let load_core = host.load_cores.last().copied().unwrap_or(0);
    let before = Probe::measure(server_core, load_core);
    // One by one first: of several, those that do not exist would be passed over.
    for cpu in &host.load_cores {
        cores::pin(&[*cpu]).map_err(|error| JobError::Cpu { cpu: *cpu, error })?;
    }
    cores::pin(&host.load_cores)
        .map_err(|error| JobError::Process { what: "this thread cannot be pinned", error })?;
    let worked = job.work();
    let phases = std::mem::take(&mut job.phases);
    let after = Probe::measure(server_core, load_core);
    let mut report = Report {
        schema: SCHEMA.to_owned(),
        id: format!("{run:016x}"),
        started_unix_ns: clock.unix_ns(0),
        tool: Tool::this(),
        argv,
        target: TargetFacts {
            kind: host.kind,
            address: host.address.to_string(),
            server_cores: host.server_cores.clone(),
            file_system: host.data.as_ref().and_then(|d| file_system(&d.0)),
        },
        machine,
        load_cores: host.load_cores.clone(),
        placement: PlacementFacts { before, after },
        phases,
        verification: None,
        failures: Vec::new(),
        invalid: Vec::new(),
        verdict: Verdict::Pass,
    };
    let mut errors: Vec<_> = worked.err().into_iter().chain(host.stop().err()).collect();
    if report.phases.is_empty() && !errors.is_empty() {
        return Err(errors.swap_remove(0));
    }
    // The main job is about records; its machine may be anybody's.
    let numbers_decide = cli.strict || !cli.is_main_job();
    let ended_by = errors.iter().map(ToString::to_string).collect();
    report.conclude(ended_by, job.stop.load(Ordering::Relaxed), numbers_decide);
    publish::publish(cli, &report, &out)?;
    Ok(report.verdict)
}

/// A run under way.
struct Job<'c> {
    cli: &'c Cli,
    clock: Clock,
    stop: Arc<AtomicBool>,
    run: u64,
    /// Topics made so far: each has a number.
    topics: u32,
    bootstrap: SocketAddr,
    kind: TargetKind,
    load_cores: Vec<u32>,
    spin: bool,
    meter: ServerMeter,
    phases: Vec<Phase>,
}

/// A phase's outcome, with its name in the error.
fn named<T>(workload: &Workload, kind: Kind, result: Result<T, ExecError>) -> Result<T, JobError> {
    result.map_err(|error| JobError::Exec { phase: report::title(workload, kind), error })
}

impl Job<'_> {
    fn work(&mut self) -> Result<(), JobError> {
        if self.cli.is_main_job() {
            return self.main_job();
        }
        let mode = self.cli.mode();
        for workload in self.cli.load.workloads(mode) {
            match (mode, self.cli.raw) {
                (Mode::Run, false) => self.run_workload(&workload)?,
                (Mode::Produce, false) => self.produce_only(&workload)?,
                (Mode::Fetch, false) => self.fetch_only(&workload)?,
                (Mode::Verify, _) => self.verify_only(&workload)?,
                (Mode::Run | Mode::Produce, true) => self.raw_produce(&workload)?,
                (Mode::Fetch, true) => self.raw_fetch(&workload)?,
            }
            if self.is_over() {
                break;
            }
        }
        Ok(())
    }

    fn main_job(&mut self) -> Result<(), JobError> {
        let workloads = cli::main_job(self.kind == TargetKind::Embedded);
        for (i, workload) in workloads.iter().enumerate() {
            if i == 0 {
                self.warm_up(workload, MAIN_WARM_UP_NS)?;
            }
            self.one(workload)?;
            if self.is_over() {
                break;
            }
        }
        Ok(())
    }

    fn run_workload(&mut self, workload: &Workload) -> Result<(), JobError> {
        match self.cli.load.warm_up.unwrap_or_default() {
            WarmUp::Off => {}
            WarmUp::Auto => self.warm_up(workload, WARM_UP_NS_MAX)?,
            WarmUp::For(duration) => self.warm_up(workload, nanos(duration))?,
        }
        self.one(workload)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether no further workload is to be begun: the user stopped, or this one failed.
    fn is_over(&self) -> bool {
        self.stopped() || self.phases.iter().any(|p| p.failure.is_some())
    }

    fn control(&self) -> Result<Control, ClientError> {
        Control::connect(self.bootstrap)
    }

    /// Writes about as much as the workload will, and deletes it: the first touch of memory and
    /// of the page cache costs ten times what later ones do.
    fn warm_up(&mut self, workload: &Workload, longest_ns: u64) -> Result<(), JobError> {
        let duration_ns = workload.limits.duration_ns.unwrap_or(longest_ns).min(longest_ns);
        let limits = Limits { duration_ns: Some(duration_ns), ..workload.limits };
        let workload = Workload { limits, name: "warm-up".into(), ..workload.clone() };
        let topic = self.new_topic();
        let mut control = self.control()?;
        self.create(&mut control, &topic, &workload)?;
        let done = self.produce(&mut control, &topic, &workload, None).and_then(|produced| {
            self.whole(Kind::Produce, &workload, produced.done)?;
            let fetched = self.fetch(&mut control, &topic, &workload, &produced.known, None)?;
            self.whole(Kind::Fetch, &workload, fetched.done)
        });
        // If both fail, the first says why.
        done.and(self.delete(&mut control, topic))
    }

    /// Refuses what was not done to its end.
    fn whole(&self, kind: Kind, workload: &Workload, done: exec::Done) -> Result<(), JobError> {
        let phase = Phase::new(kind, workload, contract(self.kind, workload), done);
        phase.failure.map_or(Ok(()), |why| Err(JobError::WarmUp(why)))
    }

    fn delete(&self, control: &mut Control, topic: String) -> Result<(), JobError> {
        control.delete_topic(&topic).map_err(|error| JobError::LeftBehind { topic, error })
    }

    /// Produces to a topic, reads it back, deletes it.
    fn one(&mut self, workload: &Workload) -> Result<(), JobError> {
        let mut control = self.control()?;
        let topic = self.cli.topic.clone().unwrap_or_else(|| self.new_topic());
        self.create(&mut control, &topic, workload)?;
        let done = self.produce_and_fetch(&mut control, &topic, workload);
        if self.cli.keep { done } else { done.and(self.delete(&mut control, topic)) }
    }

    fn produce_and_fetch(
        &mut self,
        control: &mut Control,
        topic: &str,
        workload: &Workload,
    ) -> Result<(), JobError> {
        let produced = self.produce(control, topic, workload, None)?;
        let known = produced.known;
        let phase = self.phase(Kind::Produce, workload, produced.done);
        // Of a broker to which no connection has lasted nothing can be read back.
        if phase.lost_connections == phase.connections || self.stopped() {
            return Ok(());
        }
        // The schedule is that of producing; reading back is as fast as it goes.
        let back = Workload { rate: Rate::Max, ..workload.clone() };
        let fetched = self.fetch(control, topic, &back, &known, None)?;
        let phase = self.phase(Kind::Fetch, workload, fetched.done);
        phase.requested_requests_per_s = None;
        phase.verification = Some(fetched.findings);
        Ok(())
    }

    fn produce_only(&mut self, workload: &Workload) -> Result<(), JobError> {
        let mut control = self.control()?;
        let topic = self.cli.topic.clone().unwrap_or_else(|| self.new_topic());
        let made = match control.topic(&topic) {
            Err(ClientError::Refused { error: ErrorCode::UnknownTopicOrPartition, .. }) => {
                self.create(&mut control, &topic, workload)?;
                true
            }
            Err(error) if !error.is_retriable() => return Err(error.into()),
            _ => false,
        };
        let ledger = match &self.cli.ledger {
            Some(_) if !made => {
                return Err(JobError::Usage(format!(
                    "topic {topic} exists: a ledger tells of a topic from its first record on"
                )));
            }
            Some(path) => {
                let ledger = Ledger::create(path, self.run, &topic, workload.partitions)?;
                Some(Arc::new(ledger))
            }
            None => None,
        };
        let produced = self.produce(&mut control, &topic, workload, ledger)?;
        let embedded = self.kind == TargetKind::Embedded;
        let phase = self.phase(Kind::Produce, workload, produced.done);
        if !embedded {
            phase.notes.push(format!("topic {topic} is kept"));
        }
        Ok(())
    }

    fn fetch_only(&mut self, workload: &Workload) -> Result<(), JobError> {
        let Some(topic) = &self.cli.topic else {
            return Err(JobError::Usage("name the topic to fetch with -t".into()));
        };
        let mut control = self.control()?;
        // Its leaders may still be on their way, but nobody else makes it.
        if let Err(error @ ClientError::Refused { error: ErrorCode::UnknownTopicOrPartition, .. }) =
            control.topic(topic)
        {
            return Err(error.into());
        }
        let known = Known::default();
        let duration_ns = self.cli.load.duration.map(nanos);
        let fetched = self.fetch(&mut control, topic, workload, &known, duration_ns)?;
        let findings = fetched.findings;
        let phase = self.phase(Kind::Fetch, workload, fetched.done);
        phase.verification = Some(findings).filter(|_| workload.verify != Verify::Off);
        Ok(())
    }

    fn verify_only(&mut self, workload: &Workload) -> Result<(), JobError> {
        let Some(path) = &self.cli.ledger else {
            return Err(JobError::Usage("name the ledger to check against with --ledger".into()));
        };
        let read = ledger::read(path)?;
        if let Some(other) = self.cli.topic.as_ref().filter(|t| **t != read.head.topic) {
            return Err(JobError::Usage(format!(
                "the ledger tells of topic {}, not of {other}: leave out --topic",
                read.head.topic
            )));
        }
        let all = (0..read.head.partitions).map(|p| {
            let expected = read.expected.get(&p).cloned().unwrap_or_default();
            (p, Knowledge::Acked(expected))
        });
        let known = Known { run: Some(read.head.run), partitions: all.collect() };
        let mut control = self.control()?;
        let workload = Workload {
            partitions: read.head.partitions,
            rate: Rate::Max,
            verify: Verify::Full,
            ..workload.clone()
        };
        let fetched = self.fetch(&mut control, &read.head.topic, &workload, &known, None)?;
        self.phase(Kind::Fetch, &workload, fetched.done).verification = Some(fetched.findings);
        Ok(())
    }

    fn raw_produce(&mut self, workload: &Workload) -> Result<(), JobError> {
        let line = self.line(workload, Kind::RawProduce, true);
        let done = self.exec(&line).raw_produce(workload, self.bootstrap, self.run);
        line.clear();
        let done = named(workload, Kind::RawProduce, done)?.done;
        self.phase(Kind::RawProduce, workload, done);
        Ok(())
    }

    fn raw_fetch(&mut self, workload: &Workload) -> Result<(), JobError> {
        let line = self.line(workload, Kind::RawFetch, true);
        let done = self.exec(&line).raw_fetch(workload, self.bootstrap, self.run);
        line.clear();
        let done = named(workload, Kind::RawFetch, done)?;
        self.phase(Kind::RawFetch, workload, done);
        Ok(())
    }

    fn new_topic(&mut self) -> String {
        self.topics += 1;
        format!("kariz-loadgen-{:016x}-{}", self.run, self.topics)
    }

    fn create(
        &self,
        control: &mut Control,
        topic: &str,
        workload: &Workload,
    ) -> Result<(), ClientError> {
        let w = workload;
        control.create_topic(topic, w.partitions, w.replication_factor, &w.topic_config)
    }

    fn produce(
        &self,
        control: &mut Control,
        topic: &str,
        workload: &Workload,
        ledger: Option<Arc<Ledger>>,
    ) -> Result<Produced, JobError> {
        let target: Target = exec::target(control, topic, None)?;
        let line = self.line(workload, Kind::Produce, true);
        let done = self.exec(&line).produce(workload, &target, self.run, ledger);
        line.clear();
        named(workload, Kind::Produce, done)
    }

    fn fetch(
        &self,
        control: &mut Control,
        topic: &str,
        workload: &Workload,
        known: &Known,
        duration_ns: Option<u64>,
    ) -> Result<exec::Fetched, JobError> {
        let target = exec::target(control, topic, None)?;
        let line = self.line(workload, Kind::Fetch, duration_ns.is_some());
        let done = self.exec(&line).fetch(workload, &target, known, duration_ns);
        line.clear();
        named(workload, Kind::Fetch, done)
    }

    fn line(&self, workload: &Workload, kind: Kind, timed: bool) -> Line {
        let limits = workload.limits;
        let bytes = limits.bytes.or(limits.records.map(|n| n * u64::from(workload.record_bytes)));
        let duration_ns = limits.duration_ns.filter(|_| timed);
        Line::new(&report::title(workload, kind), duration_ns, bytes, self.cli.quiet)
    }

    fn exec<'e>(&self, line: &'e Line) -> Exec<'e> {
        Exec {
            clock: self.clock,
            cores: self.load_cores.clone(),
            spin: self.spin,
            stop: Arc::clone(&self.stop),
            server: self.meter,
            line,
        }
    }

    fn phase(&mut self, kind: Kind, workload: &Workload, done: exec::Done) -> &mut Phase {
        // A fetch is a closed loop even where producing was not.
        let shown = match kind {
            Kind::Fetch if self.cli.mode() == Mode::Run => {
                Workload { rate: Rate::Max, ..workload.clone() }
            }
            _ => workload.clone(),
        };
        let phase = Phase::new(kind, &shown, contract(self.kind, workload), done);
        self.phases.push(phase);
        let last = self.phases.len() - 1;
        &mut self.phases[last]
    }
}
