//! Runs phases: one thread a load core, each with its connections; this thread only watches.
//!
//! | Module | What it does |
//! |---|---|
//! | `worker` | the loop of a load core, over lanes: connections with something to do |
//! | `produce`, `fetch`, `raw` | the three kinds of lane |
//! | `slots` | prepared requests |
//! | `wire` | non-blocking sockets |
//! | `share` | lanes to threads, partitions to connections |
//! | `cores` | which CPUs there are, pinning |

pub mod cores;
mod error;
mod fetch;
mod produce;
mod raw;
mod share;
mod slots;
mod wire;
mod worker;

pub use error::ExecError;
pub use worker::Broken;

use crate::client::{self, ClientError, Control, FrameShape, Topic};
use crate::clock::Clock;
use crate::num;
use crate::stats::resources::{self, Resources, Thread};
use crate::stats::{Collector, Handover, Recorder};
use crate::verify::ledger::Ledger;
use crate::verify::{Expected, Findings, Knowledge};
use crate::workload::batch::ProducerSession;
use crate::workload::value::{IDENTITY_BYTES, Pool};
use crate::workload::{Acks, Workload};
use kariz_protocol::ApiKey;
use share::{deal, share_out};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use worker::{Lane, Loop, Ran};

/// How often the watching thread looks. Rarely: it takes time from a core that is measured.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// From "all threads are ready" to the start of the clock.
const START_DELAY_NS: u64 = 5_000_000;

/// Whose CPU time counts as the server's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerMeter {
    /// Nobody knows.
    #[default]
    None,
    /// That of another process.
    Process(u32),
    /// This process's, but for the threads of the load: the server is embedded.
    Rest,
}

impl ServerMeter {
    fn read(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Process(pid) => resources::cpu_ns_of(pid),
            Self::Rest => Some(resources::process_cpu_ns()),
        }
    }
}

/// What is shown while a phase runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Since its start.
    pub elapsed_ns: u64,
    /// So far.
    pub requests: u64,
    /// So far.
    pub records: u64,
    /// Of values, so far.
    pub bytes: u64,
}

/// Who wants to know how far a phase is.
pub trait Watcher {
    /// Shows it.
    fn show(&self, progress: Progress);
}

/// Where and how phases run.
pub struct Exec<'e> {
    /// The clock of the whole run.
    pub clock: Clock,
    /// The CPUs to load from, a thread on each.
    pub cores: Vec<u32>,
    /// Whether threads look for work instead of sleeping.
    pub spin: bool,
    /// Set when the user wants to stop.
    pub stop: Arc<AtomicBool>,
    /// Whose CPU time is the server's.
    pub server: ServerMeter,
    /// Told some times a second how far it is.
    pub line: &'e dyn Watcher,
}

/// What a phase did.
#[derive(Debug)]
pub struct Done {
    /// Numbers and series.
    pub stats: Collector,
    /// From the start of the clock to the last answer.
    pub elapsed_ns: u64,
    /// When the clock started, by the run's clock.
    pub start_ns: u64,
    /// What it cost.
    pub resources: Resources,
    /// Connections used.
    pub connections: u32,
    /// Those of them that ended before they were done, as they did.
    pub broken: Vec<Broken>,
    /// Records that were sent, or were just to be, and not acknowledged.
    pub unanswered_records: u64,
    /// The user stopped it.
    pub interrupted: bool,
}

/// What a produce phase left behind.
#[derive(Debug)]
pub struct Produced {
    /// What it did.
    pub done: Done,
    /// What must be found.
    pub known: Known,
}

/// What is known of a topic before it is read.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The run whose records are expected; `None`: that of the first record read.
    pub run: Option<u64>,
    /// By partition.
    pub partitions: BTreeMap<u32, Knowledge>,
}

/// What a fetch phase found.
#[derive(Debug)]
pub struct Fetched {
    /// What it did.
    pub done: Done,
    /// What was found.
    pub findings: Findings,
}

/// Where a phase's traffic goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// Any broker.
    pub bootstrap: SocketAddr,
    /// The topic and its leaders.
    pub topic: Topic,
    /// Each partition's first and next offset.
    pub offsets: Vec<(i64, i64)>,
}

impl Exec<'_> {
    /// Produces to `target` until a limit of the workload is reached.
    ///
    /// # Errors
    /// Any [`ExecError`].
    pub fn produce(
        &self,
        workload: &Workload,
        target: &Target,
        run: u64,
        ledger: Option<Arc<Ledger>>,
    ) -> Result<Produced, ExecError> {
        let mut control = Control::connect(target.bootstrap)?;
        let version = control.versions().of(ApiKey::Produce)?;
        let mut assignments = Vec::new();
        for (connection, (leader, partitions)) in
            (0..).zip(share_out(&target.topic.leaders, workload.connections))
        {
            let session = if workload.idempotent {
                let (id, epoch) = control.init_producer_id()?;
                ProducerSession { id, epoch }
            } else {
                ProducerSession::NONE
            };
            assignments.push(produce::Assignment { connection, leader, partitions, session });
        }
        self.produce_to(workload, target, run, ledger, version, assignments, false)
    }

    /// Produces to a server without a protocol.
    ///
    /// # Errors
    /// Any [`ExecError`].
    pub fn raw_produce(
        &self,
        workload: &Workload,
        address: SocketAddr,
        run: u64,
    ) -> Result<Produced, ExecError> {
        let assignment = |connection| produce::Assignment {
            connection,
            leader: address,
            partitions: vec![connection % workload.partitions],
            session: ProducerSession::NONE,
        };
        let assignments = (0..workload.connections).map(assignment).collect();
        let topic = Topic { name: "raw".into(), leaders: Vec::new() };
        let target = Target { bootstrap: address, topic, offsets: Vec::new() };
        self.produce_to(workload, &target, run, None, 9, assignments, true)
    }

    #[expect(clippy::too_many_arguments, reason = "the two ways to produce differ in all of them")]
    fn produce_to(
        &self,
        workload: &Workload,
        target: &Target,
        run: u64,
        ledger: Option<Arc<Ledger>>,
        version: i16,
        assignments: Vec<produce::Assignment>,
        raw: bool,
    ) -> Result<Produced, ExecError> {
        let workload = &Workload {
            connections: u32::try_from(assignments.len()).unwrap_or(u32::MAX),
            ..workload.clone()
        };
        let filler_bytes = num::index(u64::from(workload.record_bytes)) - IDENTITY_BYTES;
        let pool = Pool::new(run, workload.zero_percent, filler_bytes);
        let topic = &*target.topic.name;
        let shape = FrameShape::new(version, topic, workload.acks.code(), workload.timeout_ms)?;
        let plan = produce::Plan {
            workload,
            pool: &pool,
            topic,
            bootstrap: target.bootstrap,
            version,
            raw,
            ledger,
            seed: run,
        };
        let lanes: Result<Vec<_>, _> = assignments
            .into_iter()
            .map(|a| produce::ProduceLane::new(&plan, shape.clone(), a))
            .collect();
        let (lanes, mut done) = self.drive(lanes?, workload, workload.limits.duration_ns)?;
        let sent: u64 = lanes.iter().map(produce::ProduceLane::sent).sum();
        let acked = match workload.acks {
            Acks::None => 0,
            _ => done.stats.total.counts.records,
        };
        done.unanswered_records = sent.saturating_sub(acked);
        let mut expected: BTreeMap<u32, Vec<Expected>> = BTreeMap::new();
        for lane in lanes {
            for (partition, e) in lane.finish()? {
                expected.entry(partition).or_default().push(e);
            }
        }
        let partitions = expected.into_iter().map(|(p, e)| (p, Knowledge::Sent(e))).collect();
        Ok(Produced { done, known: Known { run: Some(run), partitions } })
    }

    /// Fetches `target` from its first offsets to its last ones and checks it against what is
    /// known. With a duration, starts again until the time is up.
    ///
    /// # Errors
    /// Any [`ExecError`].
    pub fn fetch(
        &self,
        workload: &Workload,
        target: &Target,
        known: &Known,
        duration_ns: Option<u64>,
    ) -> Result<Fetched, ExecError> {
        let version = Control::connect(target.bootstrap)?.versions().of(ApiKey::Fetch)?;
        let partitions = u32::try_from(target.topic.leaders.len()).unwrap_or(u32::MAX);
        let shares = share_out(&target.topic.leaders, workload.connections.min(partitions));
        let plan = fetch::Plan {
            workload,
            topic: &target.topic.name,
            bootstrap: target.bootstrap,
            version,
            run: known.run,
            repeat: duration_ns.is_some(),
            connections: u32::try_from(shares.len()).unwrap_or(u32::MAX),
            seed: known.run.unwrap_or(0),
        };
        let assignment = |partition: u32| {
            let at = num::index(u64::from(partition));
            let (start, end) = target.offsets.get(at).copied().unwrap_or_default();
            let knowledge = known.partitions.get(&partition).cloned().unwrap_or_default();
            // What nobody acknowledged may still be on its way: it is waited for.
            let end = match &knowledge {
                Knowledge::Sent(expected) if workload.acks == Acks::None => {
                    let sent: u64 = expected.iter().map(|e| e.acked).sum();
                    end.max(start.saturating_add_unsigned(sent))
                }
                _ => end,
            };
            fetch::Assignment { partition, start, end, knowledge }
        };
        let lanes: Result<Vec<_>, _> = (0..)
            .zip(shares)
            .map(|(number, (leader, partitions))| {
                let assignments = partitions.into_iter().map(assignment).collect();
                fetch::FetchLane::new(&plan, number, leader, assignments)
            })
            .collect();
        let (lanes, done) = self.drive(lanes?, workload, duration_ns)?;
        let mut findings = Findings::default();
        for lane in lanes {
            findings.add(&lane.finish(done.interrupted || !done.broken.is_empty()));
        }
        Ok(Fetched { done, findings })
    }

    /// Fetches from a server without a protocol.
    ///
    /// # Errors
    /// Any [`ExecError`].
    pub fn raw_fetch(
        &self,
        workload: &Workload,
        address: SocketAddr,
        run: u64,
    ) -> Result<Done, ExecError> {
        let lanes: Result<Vec<_>, _> = (0..workload.connections)
            .map(|number| raw::RawFetchLane::new(workload, address, number, run))
            .collect();
        Ok(self.drive(lanes?, workload, workload.limits.duration_ns)?.1)
    }

    /// Runs lanes on the load cores until they are done.
    fn drive<L: Lane + Send>(
        &self,
        lanes: Vec<L>,
        workload: &Workload,
        duration_ns: Option<u64>,
    ) -> Result<(Vec<L>, Done), ExecError> {
        let connections = u32::try_from(lanes.len()).unwrap_or(u32::MAX);
        let open_loop = workload.requests_per_second().is_some();
        let failed = AtomicBool::new(false);
        let shares = deal(lanes, self.cores.len().max(1));
        let handovers: Vec<_> = shares.iter().map(|_| Handover::default()).collect();
        let mut collector = Collector::default();
        let (server_before, ticks_before) = (self.server.read(), resources::machine_ticks());
        let own_before = resources::thread_cpu_ns();
        let start_ns = self.clock.now_ns() + START_DELAY_NS;
        let end_ns = duration_ns.map_or(u64::MAX, |d| start_ns.saturating_add(d));
        let body = Loop {
            clock: &self.clock,
            start_ns,
            end_ns,
            spin: self.spin,
            stop: &self.stop,
            failed: &failed,
        };
        let results = std::thread::scope(|scope| {
            let (done, ended) = mpsc::channel::<()>();
            let mut threads = Vec::new();
            for (i, (mut share, handover)) in shares.into_iter().zip(&handovers).enumerate() {
                let core = self.cores.get(i).copied();
                let (done, body, failed) = (done.clone(), &body, &failed);
                let run = move || {
                    let result = load_thread(core, body, &mut share, handover, open_loop);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    // The receiver waits for all of us, so it is there.
                    let _received = done.send(());
                    result.map(|thread| (share, thread))
                };
                let name = format!("load-{i}");
                let spawned = std::thread::Builder::new().name(name).spawn_scoped(scope, run);
                match spawned {
                    Ok(thread) => threads.push(thread),
                    Err(error) => {
                        failed.store(true, Ordering::Relaxed);
                        return Err(ExecError::Thread(error));
                    }
                }
            }
            drop(done);
            self.watch(&ended, threads.len(), &handovers, &mut collector, start_ns);
            let joined = threads.into_iter().map(|t| {
                t.join().unwrap_or_else(|_| {
                    Err(ExecError::Thread(io::Error::other("it panicked, see above")))
                })
            });
            joined.collect::<Result<Vec<_>, _>>()
        })?;
        collector.collect(handovers.iter());
        let mut lanes = Vec::new();
        let mut generator = Vec::new();
        let mut broken = Vec::new();
        let mut last_ns = start_ns;
        for (share, (thread, ran)) in results {
            lanes.extend(share);
            generator.push(thread);
            broken.extend(ran.broken);
            last_ns = last_ns.max(ran.last_answer_ns);
        }
        broken.sort_by_key(|b| b.at_ns);
        let elapsed_ns = last_ns - start_ns;
        collector.finish(elapsed_ns);
        let mut server_cpu_ns = self
            .server
            .read()
            .zip(server_before)
            .map(|(after, before)| after.saturating_sub(before));
        if self.server == ServerMeter::Rest {
            let own = resources::thread_cpu_ns() - own_before;
            let load: u64 = generator.iter().map(|t| t.cpu_ns).sum();
            server_cpu_ns = server_cpu_ns.map(|all| all.saturating_sub(own + load));
        }
        let counts = collector.total.counts;
        let steal = resources::machine_ticks().zip(ticks_before).map(|(after, before)| {
            let (all, stolen) =
                (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
            stolen * 10_000 / all.max(1)
        });
        let resources = Resources {
            generator,
            server_cpu_ns,
            server_cpu_ns_per_request: server_cpu_ns.and_then(|n| n.checked_div(counts.requests)),
            server_cpu_ns_per_1000_records: server_cpu_ns
                .and_then(|n| n.saturating_mul(1000).checked_div(counts.records)),
            steal_per_10000: steal,
        };
        let done = Done {
            stats: collector,
            elapsed_ns,
            start_ns,
            resources,
            connections,
            broken,
            unanswered_records: 0,
            interrupted: self.stop.load(Ordering::Relaxed),
        };
        Ok((lanes, done))
    }

    /// Until all threads have ended: merges numbers and shows progress.
    fn watch(
        &self,
        ended: &mpsc::Receiver<()>,
        threads: usize,
        handovers: &[Handover],
        collector: &mut Collector,
        start_ns: u64,
    ) {
        let mut running = threads;
        while running > 0 {
            match ended.recv_timeout(WATCH_INTERVAL) {
                Ok(()) => running -= 1,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    collector.collect(handovers.iter());
                    let mut progress = Progress {
                        elapsed_ns: self.clock.now_ns().saturating_sub(start_ns),
                        ..Progress::default()
                    };
                    for handover in handovers {
                        let (requests, records, bytes) = handover.so_far();
                        progress.requests += requests;
                        progress.records += records;
                        progress.bytes += bytes;
                    }
                    self.line.show(progress);
                }
            }
        }
    }
}

/// The whole life of a load thread. Returns what it spent and did.
fn load_thread<L: Lane>(
    core: Option<u32>,
    body: &Loop<'_>,
    share: &mut [L],
    handover: &Handover,
    open_loop: bool,
) -> Result<(Thread, Ran), ExecError> {
    if let Some(core) = core {
        cores::pin(&[core]).map_err(ExecError::Thread)?;
    }
    let cpu_before = resources::thread_cpu_ns();
    let before_ns = body.clock.now_ns();
    let recorder = Recorder::new(handover, body.start_ns, open_loop);
    while body.clock.now_ns() < body.start_ns {
        std::hint::spin_loop();
    }
    let ran = body.run(share, recorder)?;
    let thread = Thread {
        core,
        cpu_ns: resources::thread_cpu_ns() - cpu_before,
        busy_ns: ran.busy_ns,
        elapsed_ns: body.clock.now_ns() - before_ns,
    };
    Ok((thread, ran))
}

/// Waits until a topic is usable, and says where.
///
/// # Errors
/// Any [`ClientError`].
pub fn target(
    control: &mut Control,
    topic: &str,
    partitions: Option<u32>,
) -> Result<Target, ClientError> {
    let (topic, offsets) = client::settle(control, topic, partitions)?;
    Ok(Target { bootstrap: control.address(), topic, offsets })
}
