//! A connection that fetches its partitions from their first offset on and checks what comes.

use super::ExecError;
use super::share::leader_of;
use super::wire::{self, Filled, Inbox};
use super::worker::{Lane, Sent, Turn};
use crate::client::{FetchRequest, FetchResponse};
use crate::num;
use crate::schedule::Schedule;
use crate::stats::Counts;
use crate::verify::{Findings, Knowledge, PartitionCheck};
use crate::workload::Workload;
use bytes::BytesMut;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};

/// What a broker may add to the bytes asked for: one batch larger than that, and the rest of the
/// answer.
const BATCH_BYTES_MAX: usize = 128 << 20;

/// How long a broker may wait for records that are announced but not there yet.
const MAX_WAIT_MS: u32 = 500;

/// How often a partition that cannot be read is asked for again, and the pause before.
const RETRIES_MAX: u32 = 30;
const RETRY_PAUSE_NS: u64 = 100_000_000;

/// What is to be fetched.
#[derive(Debug)]
pub(super) struct Plan<'p> {
    pub(super) workload: &'p Workload,
    pub(super) topic: &'p str,
    /// Any broker, to ask for leaders again.
    pub(super) bootstrap: SocketAddr,
    pub(super) version: i16,
    /// The run whose records are expected, if it is known.
    pub(super) run: Option<u64>,
    /// Whether to start again at the end, until the time is up.
    pub(super) repeat: bool,
    /// How many connections fetch.
    pub(super) connections: u32,
    pub(super) seed: u64,
}

/// A partition that a connection is to fetch.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    pub(super) partition: u32,
    /// From its first offset,
    pub(super) start: i64,
    /// up to this one.
    pub(super) end: i64,
    /// What is known of it.
    pub(super) knowledge: Knowledge,
}

/// A partition on its way.
#[derive(Debug)]
struct Part {
    assignment: Assignment,
    check: PartitionCheck,
    in_flight: bool,
    done: bool,
    /// When it last came nearer to its end; 0: not yet asked for.
    progress_ns: u64,
}

/// A request that is not yet answered.
#[derive(Clone, Copy, Debug)]
struct Request {
    part: usize,
    intended_ns: u64,
    sent_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct FetchLane<'p> {
    plan: &'p Plan<'p>,
    number: u32,
    leader: SocketAddr,
    socket: TcpStream,
    inbox: Inbox,
    request: FetchRequest,
    outbox: BytesMut,
    schedule: Schedule,
    parts: Vec<Part>,
    /// The part to ask for next, if it can be.
    turn_of: usize,
    in_flight: VecDeque<Request>,
    next_id: i32,
    depth: usize,
    freed_ns: u64,
    /// Nothing is sent before: a partition could not be read.
    retry_ns: u64,
    retries: u32,
    findings: Findings,
}

impl<'p> FetchLane<'p> {
    /// Connects.
    pub(super) fn new(
        plan: &'p Plan<'p>,
        number: u32,
        leader: SocketAddr,
        assignments: Vec<Assignment>,
    ) -> Result<Self, ExecError> {
        let workload = plan.workload;
        let fetch_bytes = num::index(u64::from(workload.fetch_bytes));
        let depth = num::index(u64::from(workload.depth)).min(assignments.len());
        Ok(Self {
            plan,
            number,
            leader,
            socket: wire::connect(leader)?,
            inbox: Inbox::new(fetch_bytes + 4096, fetch_bytes + BATCH_BYTES_MAX),
            request: FetchRequest::new(plan.version, plan.topic, workload.fetch_bytes, MAX_WAIT_MS),
            outbox: BytesMut::with_capacity(4096),
            schedule: Schedule::closed(),
            parts: assignments.into_iter().map(|a| Part::new(plan, a)).collect(),
            turn_of: 0,
            in_flight: VecDeque::with_capacity(depth),
            next_id: 0,
            depth,
            freed_ns: 0,
            retry_ns: 0,
            retries: 0,
            findings: Findings::default(),
        })
    }

    /// What was found. A partition that was not read to its end (because the time was up while
    /// repeating, or `cut_short`: the user stopped, or the connection broke) is judged by what
    /// came: nobody may say that the rest is lost.
    pub(super) fn finish(mut self, cut_short: bool) -> Findings {
        for part in self.parts {
            // Those that are done have been counted.
            if part.done {
                continue;
            }
            if self.plan.repeat || cut_short {
                self.findings.add(part.check.findings());
            } else {
                self.findings.add(&part.check.finish());
            }
        }
        self.findings
    }

    /// Whether every partition was read to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.parts.iter().all(|p| p.done)
    }

    /// Appends a request for the next part that is idle; false: there is none.
    fn ask(&mut self, intended_ns: u64, turn: &Turn<'_, '_>) -> Result<bool, ExecError> {
        let parts = self.parts.len();
        let idle = (self.turn_of..self.turn_of + parts)
            .map(|i| i % parts.max(1))
            .find(|i| self.parts.get(*i).is_some_and(|p| !p.in_flight && !p.done));
        let Some(at) = idle else { return Ok(false) };
        self.turn_of = at + 1;
        let Some(part) = self.parts.get_mut(at) else { return Ok(false) };
        part.in_flight = true;
        let partition = num::as_i32(part.assignment.partition);
        let offset = part.check.next_offset();
        self.request.write(&mut self.outbox, self.next_id, partition, offset)?;
        self.next_id = self.next_id.wrapping_add(1);
        self.in_flight.push_back(Request { part: at, intended_ns, sent_ns: turn.now_ns });
        Ok(true)
    }

    fn idle_parts(&self) -> bool {
        self.parts.iter().any(|p| !p.in_flight && !p.done)
    }

    fn take_answers(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), ExecError> {
        while let Some(frame) = self.inbox.frame()? {
            // Before the check, whose time is the generator's.
            let arrived_ns = turn.now_ns;
            let fetched = FetchResponse::new(frame, self.plan.version)
                .read()
                .map_err(crate::client::ClientError::from)?;
            let oldest =
                self.next_id.wrapping_sub(i32::try_from(self.in_flight.len()).unwrap_or(i32::MAX));
            let Some(request) = self.in_flight.pop_front() else {
                return Err(ExecError::Unasked(fetched.correlation_id));
            };
            if fetched.correlation_id != oldest {
                let (expected, found) = (oldest, fetched.correlation_id);
                return Err(ExecError::Correlation { expected, found });
            }
            let Some(part) = self.parts.get_mut(request.part) else { continue };
            part.in_flight = false;
            if !fetched.error.is_none() {
                if !fetched.error.is_retriable() || self.retries >= RETRIES_MAX {
                    let message = format!("partition {}", part.assignment.partition);
                    return Err(ExecError::Refused { error: fetched.error, message });
                }
                self.retries += 1;
                self.retry_ns = turn.now_ns + RETRY_PAUSE_NS;
                turn.recorder.count(Counts { retries: 1, ..Counts::default() });
                continue;
            }
            self.retries = 0;
            let before = (part.check.findings().read, part.check.value_bytes());
            let offset = part.check.next_offset();
            part.check.take(fetched.records);
            if part.check.next_offset() > offset || part.progress_ns == 0 {
                part.progress_ns = arrived_ns;
            }
            let done = Counts {
                requests: 1,
                records: part.check.findings().read - before.0,
                bytes: part.check.value_bytes() - before.1,
                wire_bytes: u64::try_from(frame.len() + 4).unwrap_or(0),
                ..Counts::default()
            };
            turn.recorder.answered(arrived_ns, request.intended_ns, request.sent_ns, done);
            let stalled_ns = arrived_ns.saturating_sub(part.progress_ns);
            let given_up = stalled_ns > u64::from(self.plan.workload.timeout_ms) * 1_000_000;
            if part.check.next_offset() >= part.assignment.end || given_up {
                part.end(self.plan, &mut self.findings);
            }
        }
        if self.plan.repeat && !turn.stopping && self.parts.iter().all(|p| p.done) {
            for part in &mut self.parts {
                *part = Part::new(self.plan, part.assignment.clone());
            }
        }
        Ok(())
    }

    /// Goes to the leader that the partitions have now.
    fn find_leader(&mut self, turn: &mut Turn<'_, '_>) -> Result<Sent, ExecError> {
        self.retry_ns = 0;
        let partitions: Vec<_> = self.parts.iter().map(|p| p.assignment.partition).collect();
        let leader = match leader_of(self.plan.bootstrap, self.plan.topic, &partitions) {
            Ok(leader) => leader,
            Err(ExecError::Client(e)) if e.is_retriable() && self.retries < RETRIES_MAX => {
                self.retries += 1;
                self.retry_ns = turn.clock.now_ns() + RETRY_PAUSE_NS;
                return Ok(Sent::Nothing);
            }
            Err(error) => return Err(error),
        };
        if leader == self.leader {
            return Ok(Sent::Nothing);
        }
        self.socket = wire::connect(leader)?;
        self.leader = leader;
        Ok(Sent::Reconnected)
    }
}

impl Part {
    fn new(plan: &Plan<'_>, assignment: Assignment) -> Self {
        let check = PartitionCheck::new(
            plan.workload.verify,
            assignment.partition,
            assignment.start,
            plan.run,
            &assignment.knowledge,
        );
        let done = assignment.start >= assignment.end;
        Self { assignment, check, in_flight: false, done, progress_ns: 0 }
    }

    /// Ends the part: it is read to its end, or nothing more comes. What is missing is lost.
    fn end(&mut self, plan: &Plan<'_>, findings: &mut Findings) {
        self.done = true;
        let fresh = Self::new(plan, self.assignment.clone()).check;
        findings.add(&std::mem::replace(&mut self.check, fresh).finish());
    }
}

impl Lane for FetchLane<'_> {
    fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn begin(&mut self, start_ns: u64) {
        if let Some(per_second) = self.plan.workload.requests_per_second() {
            self.schedule = Schedule::open(
                per_second,
                self.plan.workload.arrival,
                self.number,
                self.plan.connections,
                start_ns,
                self.plan.seed,
            );
        }
        // What is empty is already read.
        for part in self.parts.iter_mut().filter(|p| p.done) {
            part.end(self.plan, &mut self.findings);
        }
    }

    fn receive(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), ExecError> {
        loop {
            let filled = self.inbox.fill(&self.socket)?;
            turn.now_ns = turn.clock.now_ns();
            let full = self.in_flight.len() >= self.depth;
            self.take_answers(turn)?;
            if full && self.in_flight.len() < self.depth {
                self.freed_ns = turn.now_ns;
            }
            if filled == Filled::Drained {
                return Ok(());
            }
        }
    }

    fn send(&mut self, turn: &mut Turn<'_, '_>) -> Result<Sent, ExecError> {
        if self.retry_ns > turn.now_ns {
            return Ok(Sent::Nothing);
        }
        if self.retry_ns > 0 && self.in_flight.is_empty() {
            let found = self.find_leader(turn)?;
            if found == Sent::Reconnected || self.retry_ns > 0 {
                return Ok(found);
            }
        }
        while self.in_flight.len() < self.depth && !turn.stopping && self.idle_parts() {
            let Some(intended_ns) = self.schedule.take(turn.now_ns) else { break };
            if self.schedule.is_open() {
                let ready_ns = intended_ns.max(self.freed_ns);
                turn.recorder.lagged(turn.now_ns.saturating_sub(ready_ns));
                if self.freed_ns > intended_ns {
                    turn.recorder.count(Counts { depth_waits: 1, ..Counts::default() });
                }
            }
            if !self.ask(intended_ns, turn)? {
                break;
            }
        }
        if self.outbox.is_empty() {
            return Ok(Sent::Nothing);
        }
        let n = wire::write(&self.socket, &self.outbox)?;
        if n == self.outbox.len() {
            self.outbox.clear();
        } else {
            bytes::Buf::advance(&mut self.outbox, n);
        }
        Ok(Sent::Something)
    }

    fn is_blocked(&self) -> bool {
        !self.outbox.is_empty()
    }

    fn due_ns(&self) -> Option<u64> {
        if self.retry_ns > 0 {
            return Some(self.retry_ns);
        }
        let open = self.schedule.is_open();
        (open && self.in_flight.len() < self.depth && self.outbox.is_empty() && self.idle_parts())
            .then(|| self.schedule.due_ns())
    }

    fn is_done(&self, stopping: bool) -> bool {
        self.in_flight.is_empty() && (stopping || (!self.plan.repeat && self.is_complete()))
    }

    fn waiting_since(&self) -> Option<(u64, u64)> {
        let allowed_ns = u64::from(self.plan.workload.timeout_ms) * 1_000_000;
        self.in_flight.front().map(|oldest| (oldest.sent_ns, allowed_ns))
    }
}
