//! One client's connection: a task that receives and handles requests, a task that sends answers,
//! and between them the queue of answers in the order of their requests.
//!
//! ```text
//! recv -> cut -> handle -> | Slot | Slot | Slot | -> gather what is ready -> one send
//! ```
//!
//! A request is handled when it arrives; what it must wait for (a group write, a commit, a parked
//! fetch) waits in its slot, and only the slot at the head is awaited. There is no task a request.
//!
//! A request that changes or may change the cluster is a **barrier**: nothing behind it is handled
//! until it is answered, so that a client that pipelines sees what it has just done.
//!
//! **Bounds:** requests and bytes in flight (past them nothing is received), the unfinished frame
//! ([`budget`]), what is gathered for one send, and what the disk has yet to take (past it nothing
//! more is taken from whoever produces than the ring has received).

pub(crate) mod budget;
mod send;
pub(crate) mod wake;

use crate::core::Core;
use crate::handlers::{self, Refusal, create_topics, fetch, produce};
use budget::{Claim, FREE_BYTES};
use bytes::{Buf, Bytes};
use kariz_engine::io::{Conn, Io};
use kariz_engine::types::Instant;
use kariz_protocol::ApiKey;
use kariz_protocol::frame::{FrameCutter, PREFIX_BYTES};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::yield_now;
use wake::WakeSlot;

/// Requests of one connection that may wait for their answers. Source: above any client's default
/// depth (5) and any benchmark's here (256); librdkafka's own limit of a million is left to TCP.
const IN_FLIGHT_MAX: usize = 1024;
/// Bytes that the requests of a core's connections hold until they are answered, and answers until
/// they are sent; past it each connection has its [`FAIR_BYTES`], or one request. Source: 64 that
/// read no answers hold this, 4 MiB of fair shares, 16 MiB gathered for their sends, and each one
/// request or answer past its share. That stays below 64 MiB; measured, it is 52.
const IN_FLIGHT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a connection may hold of them whatever the others hold, so that one that reads no answers
/// does not take the others' pipelines away. Source: 160 produces to one partition each.
const FAIR_BYTES: usize = 64 * 1024;
/// What a request other than Produce holds for each of its bytes, at most: Fetch some 400 bytes for
/// each partition it names in 16. CreateTopics holds its answer as well.
const HELD_PER_BYTE: usize = 24;
/// What a request may hold without asking. Source: a fetch of 1,000 partitions in most versions.
const ADMITTED_BYTES: usize = 512 * 1024;
/// A frame of so many bytes claims all that it will hold at once. Source: twice Kafka's default
/// `max.request.size`.
const LUMP_BYTES: usize = 2 * 1024 * 1024;
/// Once its requests have inflated so many bytes of records, a connection gives way to the others.
/// Source: measured, some 1.5 ms of zstd; a whole request may take a hundred.
const INFLATED_BYTES_A_TURN: usize = 1024 * 1024;
/// How long a connection waits for memory before it looks for those that hold it up.
const BUDGET_PATIENCE: Duration = Duration::from_secs(1);

/// How far a connection's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Requests are received and answered.
    Open,
    /// No more requests are taken; those taken are answered.
    Draining,
    /// Nothing more is sent.
    Closed,
}

/// An answer, or what it waits for.
pub(crate) enum Answer<I: Io> {
    /// The whole frame.
    Ready(Bytes),
    /// Appended; to be answered once the partitions have got as far as the client asks.
    Produce(produce::Pending<I>),
    /// To be read, and waited for, when its turn comes.
    Fetch(Box<fetch::Request<I>>),
    /// A barrier: polled when its turn comes, nothing is handled before it is done.
    Later(Pin<Box<dyn Future<Output = Bytes>>>),
}

/// A request's place in the queue.
pub(crate) struct Slot<I: Io> {
    api: ApiKey,
    arrived: Instant,
    /// What it holds while it is in the queue, beside its claim.
    bytes: usize,
    /// Its share of the budget, if it holds much.
    _claim: Option<Claim>,
    answer: Answer<I>,
}

/// What the two tasks of a connection share.
pub(crate) struct Connection<I: Io> {
    core: Rc<Core<I>>,
    conn: I::Conn,
    life: Cell<Life>,
    queue: RefCell<VecDeque<Slot<I>>>,
    in_flight_bytes: Cell<usize>,
    /// The share of the budget of the request that is being handled.
    claim: Cell<Option<Claim>>,
    /// Whether a barrier is in the queue.
    barrier: Cell<bool>,
    /// What its requests have inflated since the others had their turn.
    inflated_bytes: Cell<usize>,
    /// The core's tick at which something was last received or sent.
    active: Cell<u64>,
    reader: WakeSlot,
    writer: WakeSlot,
    /// Whether it has ever produced.
    pub(crate) produces: Cell<bool>,
    /// Most producers send the same request again and again, with other records.
    pub(crate) last_produce: produce::LastProduce<I>,
}

impl<I: Io> Connection<I> {
    /// Serves `conn` until either side ends it.
    pub(crate) fn start(core: &Rc<Core<I>>, conn: I::Conn) {
        let connection = Rc::new(Self {
            core: Rc::clone(core),
            conn,
            life: Cell::new(Life::Open),
            queue: RefCell::new(VecDeque::new()),
            in_flight_bytes: Cell::new(0),
            claim: Cell::new(None),
            barrier: Cell::new(false),
            inflated_bytes: Cell::new(0),
            active: Cell::new(core.tick()),
            reader: WakeSlot::default(),
            writer: WakeSlot::default(),
            produces: Cell::new(false),
            last_produce: produce::LastProduce::default(),
        });
        let key = core.connections.insert(&connection);
        let writer = Rc::clone(&connection);
        core.shard.spawn(async move {
            if let Err(error) = writer.send_answers().await {
                tracing::debug!(peer = %writer.conn.peer(), %error, "sending failed");
            }
            // Also ends the task that receives.
            writer.end(Life::Closed);
            writer.conn.close();
            writer.core.connections.remove(key);
        });
        core.shard.spawn(async move {
            match connection.receive_requests().await {
                Ok(()) => connection.end(Life::Draining),
                Err(Ended::Refused(refusal)) => {
                    connection.refuse(&refusal);
                }
                Err(Ended::Lost(error)) => {
                    tracing::debug!(peer = %connection.conn.peer(), %error, "receiving failed");
                    connection.end(Life::Closed);
                    connection.conn.close();
                }
            }
        });
    }

    /// The core that serves the connection.
    pub(crate) fn core(&self) -> &Rc<Core<I>> {
        &self.core
    }

    /// Takes no more requests; answers those that were taken, then closes.
    pub(crate) fn drain(&self) {
        self.end(Life::Draining);
    }

    /// Closes at once if nothing has moved since tick `since`.
    pub(crate) fn close_if_idle(&self, since: u64) {
        if self.active.get() < since {
            tracing::debug!(peer = %self.conn.peer(), "closing an idle connection");
            self.end(Life::Closed);
            self.conn.close();
        }
    }

    /// Takes no more requests, for what came was no good.
    fn refuse(&self, refusal: &Refusal) {
        self.core.metrics.refused.add(1);
        tracing::debug!(peer = %self.conn.peer(), %refusal, "closing a connection");
        self.end(Life::Draining);
    }

    fn end(&self, life: Life) {
        let now = self.life.get();
        // Closed is the last: it never becomes draining again.
        if now != Life::Closed {
            self.life.set(life);
        }
        self.reader.wake();
        self.writer.wake();
    }

    fn is_open(&self) -> bool {
        self.life.get() == Life::Open
    }

    /// Puts the answer to a request of `bytes` bytes, which came at `arrived`, at the end.
    pub(crate) fn push(&self, api: ApiKey, arrived: Instant, bytes: usize, answer: Answer<I>) {
        let claim = self.claim.take();
        // A request's claim is counted in the budget. Its answer may be larger than that.
        let unclaimed = |bytes| if claim.is_some() { 0 } else { bytes };
        let bytes = match &answer {
            Answer::Later(_) => {
                self.barrier.set(true);
                unclaimed(bytes)
            }
            Answer::Ready(answer) => answer.len(),
            // Its batches are in the log.
            Answer::Produce(pending) => unclaimed(pending.held_bytes()),
            Answer::Fetch(_) => unclaimed(bytes * HELD_PER_BYTE),
        };
        let bytes = bytes + size_of::<Slot<I>>();
        self.hold(bytes);
        self.queue.borrow_mut().push_back(Slot { api, arrived, bytes, _claim: claim, answer });
        self.writer.wake();
    }

    fn pop(&self) -> Option<Slot<I>> {
        let slot = self.queue.borrow_mut().pop_front()?;
        self.release(slot.bytes);
        Some(slot)
    }

    fn hold(&self, bytes: usize) {
        for held in [&self.in_flight_bytes, &self.core.in_flight_bytes] {
            held.set(held.get() + bytes);
        }
    }

    fn release(&self, bytes: usize) {
        for held in [&self.in_flight_bytes, &self.core.in_flight_bytes] {
            held.set(held.get().saturating_sub(bytes));
        }
    }

    /// Counts what a request has inflated.
    pub(crate) fn inflated(&self, bytes: usize) {
        self.inflated_bytes.set(self.inflated_bytes.get() + bytes);
    }

    /// Lets the core's other tasks have their turn if this one has inflated much.
    async fn give_way(&self) {
        if self.inflated_bytes.get() > INFLATED_BYTES_A_TURN {
            self.inflated_bytes.set(0);
            yield_now().await;
        }
    }

    /// Whether another request may be handled now.
    fn has_room(&self) -> bool {
        let waiting = self.queue.borrow().len();
        let is_within = self.in_flight_bytes.get() < FAIR_BYTES
            || self.core.in_flight_bytes.get() < IN_FLIGHT_BYTES_MAX;
        !self.barrier.get() && (waiting == 0 || (waiting < IN_FLIGHT_MAX && is_within))
    }

    /// Receives, cuts and handles requests until the peer ends, or breaks the protocol.
    async fn receive_requests(self: &Rc<Self>) -> Result<(), Ended> {
        let limit = self.core.config.request_bytes_max;
        let mut cutter = FrameCutter::new(limit);
        let mut claim: Option<Claim> = None;
        loop {
            // A large frame that is half there holds memory for which others wait.
            if claim.is_none() {
                self.disk_keeps_up().await;
            }
            if !self.is_open() {
                return Ok(());
            }
            let Some(mut chunk) = self.conn.recv().await.map_err(Ended::Lost)? else {
                return Ok(());
            };
            let now = self.core.shard.io().now();
            self.active.set(self.core.tick());
            self.core.metrics.bytes_in.add(crate::num::u64_from(chunk.len()));
            let mut at = 0;
            loop {
                if !self.has_room() {
                    // The chunk is the ring's: do not hold it while the answers are waited for.
                    chunk = Bytes::copy_from_slice(chunk.get(at..).unwrap_or_default());
                    at = 0;
                    self.reader.until(|| self.has_room() || !self.is_open()).await;
                }
                if !self.is_open() {
                    return Ok(());
                }
                let rest = chunk.get(at..).unwrap_or_default();
                if let Some(frame) = cutter.whole(rest).map_err(Refusal::from)? {
                    at += PREFIX_BYTES + frame.len();
                    self.admit(frame, None).await;
                    self.handle(&chunk, frame, now)?;
                    self.give_way().await;
                    continue;
                }
                chunk.advance(at);
                at = 0;
                let Some(frame) = cutter.cut(&mut chunk).map_err(Refusal::from)? else { break };
                self.admit(&frame, claim.take()).await;
                self.handle(&frame, &frame, now)?;
                self.give_way().await;
            }
            let held = cutter.buffered();
            if held > FREE_BYTES {
                let missing = cutter.missing();
                // The cutter's buffer doubles as it grows. What is not large waits once.
                let bytes = if held + missing <= LUMP_BYTES { held + missing } else { held };
                self.wait_for_memory(&mut claim, bytes.saturating_mul(2), missing).await;
            }
        }
    }

    /// Waits, if this connection has produced, while the disk is too far behind.
    async fn disk_keeps_up(&self) {
        if self.produces.get() && !self.core.shard.has_room() {
            tokio::select! {
                biased;
                () = self.core.shard.room() => {}
                () = self.reader.until(|| !self.is_open()) => {}
            }
        }
    }

    /// Handles the request in `frame`, a part of `chunk`.
    fn handle(self: &Rc<Self>, chunk: &Bytes, frame: &[u8], now: Instant) -> Result<(), Refusal> {
        let handled = handlers::handle(self, chunk, frame, now);
        // A request that is refused leaves its claim behind.
        self.claim.take();
        handled
    }

    /// Waits until the request in `frame`, which has come under `claim`, may hold what it will.
    async fn admit(self: &Rc<Self>, frame: &[u8], claim: Option<Claim>) {
        let bytes = will_hold(frame);
        if bytes > ADMITTED_BYTES {
            self.admit_large(bytes, claim).await;
        }
    }

    /// Waits until a request that has come under `claim` may hold `bytes`.
    async fn admit_large(self: &Rc<Self>, bytes: usize, mut claim: Option<Claim>) {
        self.wait_for_memory(&mut claim, bytes, 0).await;
        if let Some(claim) = &claim {
            claim.hold(self.core.shard.io().now());
        }
        self.claim.set(claim);
    }

    /// Waits until the unfinished frame, of which so many bytes are `missing`, or the request, may
    /// hold `bytes`.
    async fn wait_for_memory(
        self: &Rc<Self>,
        claim: &mut Option<Claim>,
        bytes: usize,
        missing: usize,
    ) {
        let claim = claim.get_or_insert_with(|| {
            let this = Rc::downgrade(self);
            self.core.budget.claim(missing, self.core.shard.io().now(), move || {
                if let Some(this) = this.upgrade() {
                    this.core.metrics.refused.add(1);
                    tracing::debug!(peer = %this.conn.peer(), "closing: a large request comes, or its answer is read, too slowly");
                    this.end(Life::Closed);
                    this.conn.close();
                }
            })
        });
        let mut patience = BUDGET_PATIENCE;
        while self.is_open() {
            let io = self.core.shard.io();
            tokio::select! {
                biased;
                () = claim.grow(bytes, missing, || io.now()) => return,
                () = io.sleep(patience) => self.core.budget.close_slow(io.now()),
            }
            patience = budget::LOOK;
        }
    }
}

/// What the request in `frame` holds until it is answered, at most, if that is much.
fn will_hold(frame: &[u8]) -> usize {
    let bytes = frame.len().saturating_mul(HELD_PER_BYTE);
    let is = |api: ApiKey| frame.starts_with(&api.code().to_be_bytes());
    if bytes > ADMITTED_BYTES && is(ApiKey::Produce) {
        produce::will_hold(frame)
    } else if is(ApiKey::CreateTopics) {
        bytes.saturating_add(create_topics::will_hold(frame))
    } else {
        bytes
    }
}

impl<I: Io> Drop for Connection<I> {
    fn drop(&mut self) {
        // What was not answered.
        self.release(self.in_flight_bytes.get());
    }
}

/// Why a connection ended that its peer had not closed.
enum Ended {
    /// What came breaks the protocol, or can only be answered by closing.
    Refused(Refusal),
    /// The network failed.
    Lost(std::io::Error),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
