//! A connection that produces: prepared requests out, acknowledgements in.
//!
//! `answered <= written <= next <= answered + depth`, all counts of requests; slot of a request =
//! its number modulo depth.

use super::ExecError;
use super::share::leader_of;
use super::slots::Slots;
use super::wire::{self, Filled, Inbox};
use super::worker::{Lane, Sent, Turn};
use crate::client::{AckReader, FrameShape};
use crate::num;
use crate::schedule::Schedule;
use crate::stats::Counts;
use crate::verify::ledger::{Ledger, Pending};
use crate::verify::{Expected, Offsets, PlacesHash, Run};
use crate::workload::batch::{ProducerSession, Stamp};
use crate::workload::value::Pool;
use crate::workload::{Acks, Workload};
use kariz_protocol::ErrorCode;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

/// The most bytes of an answer: the longest error message that is believed.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Room for answers; some hundred fit.
const INBOX_BYTES: usize = 32 << 10;

/// How often a refused request is sent again before the phase fails, and the pause before.
const RETRIES_MAX: u32 = 30;
const RETRY_PAUSE_NS: u64 = 100_000_000;

/// How often acknowledgements are written to the ledger.
const LEDGER_PAUSE_NS: u64 = 50_000_000;

/// What is to be produced, and where.
#[derive(Debug)]
pub(super) struct Plan<'p> {
    pub(super) workload: &'p Workload,
    pub(super) pool: &'p Pool,
    pub(super) topic: &'p str,
    /// Any broker, to ask for leaders again.
    pub(super) bootstrap: SocketAddr,
    /// The version to produce in.
    pub(super) version: i16,
    /// Whether answers are only counted, whatever they say.
    pub(super) raw: bool,
    pub(super) ledger: Option<Arc<Ledger>>,
    pub(super) seed: u64,
}

/// What one connection is to do.
#[derive(Debug)]
pub(super) struct Assignment {
    /// The connection's number.
    pub(super) connection: u32,
    /// The broker to connect to.
    pub(super) leader: SocketAddr,
    /// The partitions to produce to, in turn.
    pub(super) partitions: Vec<u32>,
    pub(super) session: ProducerSession,
}

/// What was sent to one partition.
#[derive(Debug)]
struct Stream {
    partition: u32,
    /// The next sequence to send.
    next: u64,
    /// Sequences below this are acknowledged.
    acked: u64,
    /// Acknowledged records beyond that: first sequence and number. Only after a retry.
    ahead: Vec<(u64, u64)>,
    places: PlacesHash,
    /// Whether acknowledgements came in order, so that `places` says something.
    in_order: bool,
}

/// A request that is not yet answered.
#[derive(Clone, Copy, Debug, Default)]
struct Request {
    intended_ns: u64,
    sent_ns: u64,
    stream: usize,
    first_sequence: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct ProduceLane<'p> {
    plan: &'p Plan<'p>,
    connection: u32,
    leader: SocketAddr,
    socket: TcpStream,
    inbox: Inbox,
    slots: Slots,
    acks: AckReader,
    session: ProducerSession,
    schedule: Schedule,
    streams: Vec<Stream>,
    requests: Vec<Request>,
    depth: u64,
    next: u64,
    written: u64,
    /// Bytes of request `written` that have left.
    written_bytes: usize,
    answered: u64,
    /// How many more may be sent.
    left: u64,
    /// When a slot last became free while all were taken.
    freed_ns: u64,
    blocked: bool,
    /// Requests that were refused and are to be sent again, whole.
    refused: Vec<(Request, Vec<u8>)>,
    /// Why, the last time.
    refusal: (ErrorCode, String),
    retry_ns: u64,
    retries: u32,
    pending: Pending,
    ledger_ns: u64,
}

impl<'p> ProduceLane<'p> {
    /// Connects and prepares everything.
    pub(super) fn new(
        plan: &'p Plan<'p>,
        shape: FrameShape,
        a: Assignment,
    ) -> Result<Self, ExecError> {
        let workload = plan.workload;
        let stream = |partition: &u32| Stream {
            partition: *partition,
            next: 0,
            acked: 0,
            ahead: Vec::new(),
            places: PlacesHash::default(),
            in_order: true,
        };
        let depth = u64::from(workload.depth);
        Ok(Self {
            plan,
            connection: a.connection,
            leader: a.leader,
            socket: wire::connect(a.leader)?,
            inbox: Inbox::new(INBOX_BYTES, ANSWER_BYTES_MAX),
            slots: Slots::new(shape, workload, plan.pool, a.connection),
            acks: AckReader::new(plan.version, plan.topic),
            session: a.session,
            schedule: Schedule::closed(),
            streams: a.partitions.iter().map(stream).collect(),
            requests: vec![Request::default(); num::index(depth)],
            depth,
            next: 0,
            written: 0,
            written_bytes: 0,
            answered: 0,
            left: workload.batches_of(a.connection),
            freed_ns: 0,
            blocked: false,
            refused: Vec::new(),
            refusal: (ErrorCode::None, String::new()),
            retry_ns: 0,
            retries: 0,
            pending: Pending::default(),
            ledger_ns: 0,
        })
    }

    /// How many records left, or were to leave.
    pub(super) fn sent(&self) -> u64 {
        self.streams.iter().map(|s| s.next).sum()
    }

    /// What must and may be found, by partition; writes the rest of the ledger.
    ///
    /// # Errors
    /// [`ExecError::Ledger`].
    pub(super) fn finish(mut self) -> Result<Vec<(u32, Expected)>, ExecError> {
        if let Some(ledger) = &self.plan.ledger {
            ledger.write(&mut self.pending)?;
        }
        let acks_none = self.plan.workload.acks == Acks::None;
        let of = |s: Stream| {
            let hashed = s.in_order && !acks_none;
            let offsets = if hashed { Offsets::Hash(s.places) } else { Offsets::Unknown };
            let producer = self.connection;
            (s.partition, Expected { producer, sent: Some(s.next), acked: s.acked, offsets })
        };
        Ok(self.streams.into_iter().map(of).collect())
    }

    fn slot(&self, request: u64) -> usize {
        num::index(request % self.depth)
    }

    fn has_room(&self) -> bool {
        self.next - self.answered < self.depth
    }

    /// Stamps what is due into free slots.
    fn stamp(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), ExecError> {
        while self.has_room() && self.left > 0 && self.refused.is_empty() && !turn.stopping {
            let Some(intended_ns) = self.schedule.take(turn.now_ns) else { return Ok(()) };
            if self.schedule.is_open() {
                let ready_ns = intended_ns.max(self.freed_ns);
                turn.recorder.lagged(turn.now_ns.saturating_sub(ready_ns));
                if self.freed_ns > intended_ns {
                    turn.recorder.count(Counts { depth_waits: 1, ..Counts::default() });
                }
            }
            let slot = self.slot(self.next);
            let at = num::index(self.next % u64::try_from(self.streams.len()).unwrap_or(1));
            let Some(stream) = self.streams.get_mut(at) else { return Ok(()) };
            let first_sequence = stream.next;
            stream.next += u64::from(self.plan.workload.batch_records);
            let stamp = Stamp {
                partition: stream.partition,
                producer: self.connection,
                first_sequence,
                intended_unix_ns: turn.clock.unix_ns(intended_ns),
            };
            let partition = num::as_i32(stream.partition);
            self.slots.stamp(slot, correlation_id(self.next), partition, stamp, self.session)?;
            let request = Request { intended_ns, sent_ns: turn.now_ns, stream: at, first_sequence };
            self.requests[slot] = request;
            self.next += 1;
            self.left -= 1;
        }
        Ok(())
    }

    /// Writes what is stamped.
    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool, ExecError> {
        let mut worked = false;
        self.blocked = false;
        while self.written < self.next {
            let slot = self.slot(self.written);
            let run = self.slots.run(slot, num::index(self.next - self.written));
            let bytes = &run[self.written_bytes..];
            let wanted = bytes.len();
            let n = wire::write(&self.socket, bytes)?;
            worked |= n > 0;
            self.written_bytes += n;
            while self.written < self.next {
                let frame_bytes = self.slots.frame_bytes(self.slot(self.written));
                if self.written_bytes < frame_bytes {
                    break;
                }
                self.written_bytes -= frame_bytes;
                self.written += 1;
                if self.plan.workload.acks == Acks::None {
                    self.unanswered(turn, frame_bytes);
                }
            }
            if n < wanted {
                self.blocked = true;
                break;
            }
        }
        Ok(worked)
    }

    /// A request that will not be answered has been written.
    fn unanswered(&mut self, turn: &mut Turn<'_, '_>, frame_bytes: usize) {
        let request = self.requests[self.slot(self.answered)];
        self.done(turn, request, frame_bytes);
        if let Some(stream) = self.streams.get_mut(request.stream) {
            stream.acked = stream
                .next
                .min(request.first_sequence + u64::from(self.plan.workload.batch_records));
        }
    }

    /// Counts an answered request.
    fn done(&mut self, turn: &mut Turn<'_, '_>, request: Request, frame_bytes: usize) {
        if !self.has_room() {
            self.freed_ns = turn.now_ns;
        }
        self.answered += 1;
        let done = Counts {
            requests: 1,
            records: u64::from(self.plan.workload.batch_records),
            bytes: self.plan.workload.batch_bytes(),
            wire_bytes: u64::try_from(frame_bytes).unwrap_or(0),
            ..Counts::default()
        };
        turn.recorder.answered(turn.now_ns, request.intended_ns, request.sent_ns, done);
    }

    /// Takes the answers that have arrived; how many bytes of the inbox they were, it knows.
    fn take_answers(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), ExecError> {
        while let Some(frame) = self.inbox.frame()? {
            let ack = if self.plan.raw {
                let id = frame.first_chunk::<4>().ok_or(ExecError::Frame(0))?;
                crate::client::Ack {
                    correlation_id: i32::from_be_bytes(*id),
                    error: ErrorCode::None,
                    message: None,
                    base_offset: -1,
                }
            } else {
                self.acks.read(frame)?
            };
            let expected = correlation_id(self.answered);
            if ack.correlation_id != expected || self.answered == self.next {
                return Err(ExecError::Correlation { expected, found: ack.correlation_id });
            }
            let slot = self.slot(self.answered);
            let request = self.requests[slot];
            if !ack.error.is_none() {
                let message = ack.message.unwrap_or_default();
                let again = ack.error.is_retriable()
                    && self.plan.ledger.is_none()
                    && (self.plan.workload.idempotent || !may_be_there(ack.error));
                if !again {
                    return Err(ExecError::Refused { error: ack.error, message });
                }
                self.refusal = (ack.error, message);
                self.refused.push((request, self.slots.frame(slot).to_vec()));
                self.answered += 1;
                self.retry_ns = turn.now_ns + RETRY_PAUSE_NS;
                continue;
            }
            let frame_bytes = self.slots.frame_bytes(slot);
            self.done(turn, request, frame_bytes);
            self.retries = 0;
            self.acked(request, ack.base_offset);
        }
        Ok(())
    }

    fn acked(&mut self, request: Request, base_offset: i64) {
        let records = u64::from(self.plan.workload.batch_records);
        let first_sequence = request.first_sequence;
        let Some(stream) = self.streams.get_mut(request.stream) else { return };
        if first_sequence == stream.acked {
            stream.places.add(first_sequence, base_offset);
            stream.acked += records;
            while let Some(i) = stream.ahead.iter().position(|(first, _)| *first == stream.acked) {
                stream.acked += stream.ahead.swap_remove(i).1;
            }
        } else {
            stream.in_order = false;
            stream.ahead.push((first_sequence, records));
        }
        if self.plan.ledger.is_some() {
            let run = Run { first_sequence, first_offset: base_offset, records };
            self.pending.acked(stream.partition, self.connection, run);
        }
    }

    /// Once everything in flight is answered: finds the leader again and sends what was refused.
    fn retry(&mut self, turn: &mut Turn<'_, '_>) -> Result<Sent, ExecError> {
        if self.answered < self.next || turn.now_ns < self.retry_ns {
            return Ok(Sent::Nothing);
        }
        self.retries += 1;
        if self.retries > RETRIES_MAX {
            let (error, message) =
                std::mem::replace(&mut self.refusal, (ErrorCode::None, String::new()));
            return Err(ExecError::Retries { attempts: RETRIES_MAX, error, message });
        }
        let partitions: Vec<_> = self.streams.iter().map(|s| s.partition).collect();
        let leader = match leader_of(self.plan.bootstrap, self.plan.topic, &partitions) {
            Ok(leader) => leader,
            Err(ExecError::Client(e)) if e.is_retriable() => {
                self.retry_ns = turn.clock.now_ns() + RETRY_PAUSE_NS;
                return Ok(Sent::Nothing);
            }
            Err(error) => return Err(error),
        };
        let moved = leader != self.leader;
        if moved {
            self.socket = wire::connect(leader)?;
            self.inbox = Inbox::new(INBOX_BYTES, ANSWER_BYTES_MAX);
            self.leader = leader;
        }
        turn.now_ns = turn.clock.now_ns();
        for (mut request, frame) in std::mem::take(&mut self.refused) {
            let slot = self.slot(self.next);
            let partition = self.streams.get(request.stream).map_or(0, |s| s.partition);
            let id = correlation_id(self.next);
            self.slots.restore(slot, &frame, id, num::as_i32(partition));
            request.sent_ns = turn.now_ns;
            self.requests[slot] = request;
            self.next += 1;
            turn.recorder.count(Counts { retries: 1, ..Counts::default() });
        }
        self.flush(turn)?;
        Ok(if moved { Sent::Reconnected } else { Sent::Something })
    }
}

/// Whether a refused batch may have been appended: only an idempotent producer may send it again,
/// or a broker would be blamed for the duplicates.
fn may_be_there(error: ErrorCode) -> bool {
    matches!(error, ErrorCode::RequestTimedOut | ErrorCode::NotEnoughReplicasAfterAppend)
}

/// The correlation id of a connection's request number `request`.
fn correlation_id(request: u64) -> i32 {
    i32::try_from(request & 0x7fff_ffff).unwrap_or(0)
}

impl Lane for ProduceLane<'_> {
    fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn begin(&mut self, start_ns: u64) {
        let workload = self.plan.workload;
        if let Some(per_second) = workload.requests_per_second() {
            self.schedule = Schedule::open(
                per_second,
                workload.arrival,
                self.connection,
                workload.connections,
                start_ns,
                self.plan.seed,
            );
        }
    }

    fn receive(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), ExecError> {
        loop {
            let filled = self.inbox.fill(&self.socket);
            turn.now_ns = turn.clock.now_ns();
            self.take_answers(turn)?;
            if filled? == Filled::Drained {
                break;
            }
        }
        if let Some(ledger) = &self.plan.ledger
            && turn.now_ns >= self.ledger_ns
        {
            self.ledger_ns = turn.now_ns + LEDGER_PAUSE_NS;
            ledger.write(&mut self.pending)?;
        }
        Ok(())
    }

    fn send(&mut self, turn: &mut Turn<'_, '_>) -> Result<Sent, ExecError> {
        if !self.refused.is_empty() {
            return self.retry(turn);
        }
        self.stamp(turn)?;
        let worked = self.flush(turn)?;
        Ok(if worked { Sent::Something } else { Sent::Nothing })
    }

    fn is_blocked(&self) -> bool {
        self.blocked
    }

    fn due_ns(&self) -> Option<u64> {
        if !self.refused.is_empty() {
            return (self.answered == self.next).then_some(self.retry_ns);
        }
        let open = self.schedule.is_open() || self.plan.workload.acks == Acks::None;
        (open && self.has_room() && self.left > 0 && !self.blocked).then(|| self.schedule.due_ns())
    }

    fn is_done(&self, stopping: bool) -> bool {
        let drained = self.answered == self.next && self.refused.is_empty();
        drained && (stopping || self.left == 0)
    }

    fn waiting_since(&self) -> Option<(u64, u64)> {
        let oldest = self.requests[self.slot(self.answered)];
        let allowed_ns = u64::from(self.plan.workload.timeout_ms) * 1_000_000;
        (self.answered < self.next).then_some((oldest.sent_ns, allowed_ns))
    }
}
