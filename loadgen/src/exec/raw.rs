//! A connection that fetches from a server without a protocol: any request is answered by a
//! length, the request's correlation id and so many bytes of a file. Bytes are counted, not looked
//! at: this is the ceiling that a fetch is compared with.

use super::ExecError;
use super::wire;
use super::worker::{Lane, Sent, Turn};
use crate::client::FetchRequest;
use crate::num;
use crate::schedule::Schedule;
use crate::stats::Counts;
use crate::workload::Workload;
use bytes::BytesMut;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};

/// Bytes of an answer before those of the file.
const HEAD_BYTES: usize = 8;

/// Bytes read at once: as much as the caches hold.
const BUFFER_BYTES: usize = 256 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct RawFetchLane<'p> {
    workload: &'p Workload,
    number: u32,
    seed: u64,
    socket: TcpStream,
    request: FetchRequest,
    outbox: BytesMut,
    buffer: Vec<u8>,
    schedule: Schedule,
    in_flight: VecDeque<(u64, u64)>,
    next_id: i32,
    /// The head of the answer that is being received, as far as it has come.
    head: [u8; HEAD_BYTES],
    head_len: usize,
    /// Bytes of its body that are missing, and all it has.
    missing: usize,
    body: usize,
    left: u64,
    depth: usize,
}

impl<'p> RawFetchLane<'p> {
    /// Connects.
    pub(super) fn new(
        workload: &'p Workload,
        address: SocketAddr,
        number: u32,
        seed: u64,
    ) -> Result<Self, ExecError> {
        let depth = num::index(u64::from(workload.depth));
        Ok(Self {
            workload,
            number,
            seed,
            socket: wire::connect(address)?,
            request: FetchRequest::new(12, "raw", workload.fetch_bytes, 0),
            outbox: BytesMut::with_capacity(depth * 128),
            buffer: vec![0; BUFFER_BYTES],
            schedule: Schedule::closed(),
            in_flight: VecDeque::with_capacity(depth),
            next_id: 0,
            head: [0; HEAD_BYTES],
            head_len: 0,
            missing: 0,
            body: 0,
            left: workload.batches_of(number),
            depth,
        })
    }

    /// Takes `bytes` that have arrived.
    fn take(&mut self, mut bytes: usize, turn: &mut Turn<'_, '_>) -> Result<(), ExecError> {
        let mut at = 0;
        loop {
            let body = self.missing.min(bytes);
            self.missing -= body;
            bytes -= body;
            at += body;
            if self.head_len == HEAD_BYTES && self.missing == 0 {
                self.answered(turn)?;
            }
            if bytes == 0 {
                return Ok(());
            }
            let head = (HEAD_BYTES - self.head_len).min(bytes);
            self.head[self.head_len..][..head].copy_from_slice(&self.buffer[at..at + head]);
            self.head_len += head;
            bytes -= head;
            at += head;
            if self.head_len == HEAD_BYTES {
                let [a, b, c, d, ..] = self.head;
                let length = i32::from_be_bytes([a, b, c, d]);
                let body = usize::try_from(length).ok().and_then(|n| n.checked_sub(4));
                self.body = body.ok_or(ExecError::Frame(length))?;
                self.missing = self.body;
            }
        }
    }

    fn answered(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), ExecError> {
        let [.., a, b, c, d] = self.head;
        let found = i32::from_be_bytes([a, b, c, d]);
        let in_flight = i32::try_from(self.in_flight.len()).unwrap_or(i32::MAX);
        let expected = self.next_id.wrapping_sub(in_flight);
        let Some((intended_ns, sent_ns)) = self.in_flight.pop_front() else {
            return Err(ExecError::Unasked(found));
        };
        if found != expected {
            return Err(ExecError::Correlation { expected, found });
        }
        let bytes = u64::try_from(self.body).unwrap_or(0);
        let wire_bytes = bytes + 8;
        let done = Counts { requests: 1, bytes, wire_bytes, ..Counts::default() };
        turn.recorder.answered(turn.now_ns, intended_ns, sent_ns, done);
        self.head_len = 0;
        Ok(())
    }
}

impl Lane for RawFetchLane<'_> {
    fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn begin(&mut self, start_ns: u64) {
        let w = self.workload;
        if let Some(rate) = w.requests_per_second() {
            self.schedule =
                Schedule::open(rate, w.arrival, self.number, w.connections, start_ns, self.seed);
        }
    }

    fn receive(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), ExecError> {
        loop {
            match (&self.socket).read(&mut self.buffer) {
                Ok(0) => return Err(ExecError::Lost { source: ErrorKind::UnexpectedEof.into() }),
                Ok(n) => {
                    turn.now_ns = turn.clock.now_ns();
                    self.take(n, turn)?;
                    if n < self.buffer.len() {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(source) => return Err(ExecError::Lost { source }),
            }
        }
    }

    fn send(&mut self, turn: &mut Turn<'_, '_>) -> Result<Sent, ExecError> {
        while self.in_flight.len() < self.depth && self.left > 0 && !turn.stopping {
            let Some(intended_ns) = self.schedule.take(turn.now_ns) else { break };
            self.request.write(&mut self.outbox, self.next_id, 0, 0)?;
            self.next_id = self.next_id.wrapping_add(1);
            self.in_flight.push_back((intended_ns, turn.now_ns));
            self.left -= 1;
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
        let can = self.in_flight.len() < self.depth && self.outbox.is_empty() && self.left > 0;
        (self.schedule.is_open() && can).then(|| self.schedule.due_ns())
    }

    fn is_done(&self, stopping: bool) -> bool {
        self.in_flight.is_empty() && (stopping || self.left == 0)
    }

    fn waiting_since(&self) -> Option<(u64, u64)> {
        let allowed_ns = u64::from(self.workload.timeout_ms) * 1_000_000;
        self.in_flight.front().map(|(_, sent_ns)| (*sent_ns, allowed_ns))
    }
}
