//! Produce: appends each partition's batch, and answers when they have got as far as asked.
//!
//! The request is read in place and each batch handed to its partition as a slice of the frame.
//! What remains until the answer is a [`Pending`]: handles, offsets and marks, no bytes.

use super::inflation::Inflation;
use super::{Asked, Refusal};
use crate::connection::{Answer, Connection};
use crate::core::Core;
use crate::errors;
use crate::routes::{Place, Topic};
use bytes::{Bytes, BytesMut};
use kariz_engine::batch::Codec;
use kariz_engine::io::Io;
use kariz_engine::types::Instant;
use kariz_engine::{Mark, Partition, ReachError, Span};
use kariz_protocol::header::RequestHeader;
use kariz_protocol::messages::produce::repeat::{Appended, Pattern};
use kariz_protocol::messages::produce::{
    PartitionResponse, RequestView, ResponseEncoder, TopicView,
};
use kariz_protocol::{ApiKey, Cursor, EncodeError, ErrorCode};
use smallvec::{SmallVec, smallvec};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// The first version in which a client may send zstd. Source: KIP-110.
const ZSTD_FROM: i16 = 7;
/// Topics and partitions that one request may name; it is handled within one turn. Source: more
/// than there are batches in Kafka's default `max.request.size`.
const NAMED_MAX: usize = 16 * 1024;
/// What each of them holds, at most: its result, why it failed, and its part of the answer.
const HELD_BYTES: usize = 256;

/// Whom the client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acks {
    /// Nobody: there is no answer, and if the batch is not written the connection closes.
    Nobody,
    /// The leader: until the batch is written.
    Leader,
    /// All in-sync replicas: until the batch is below the high watermark.
    All,
}

impl Acks {
    fn from_code(code: i16) -> Option<Self> {
        match code {
            0 => Some(Self::Nobody),
            1 => Some(Self::Leader),
            -1 => Some(Self::All),
            _ => None,
        }
    }

    fn mark(self) -> Mark {
        match self {
            Self::Nobody | Self::Leader => Mark::Appended,
            Self::All => Mark::High,
        }
    }
}

/// The last request of a connection that wrote to one partition, as far as the next may repeat it.
struct Repeated<I: Io> {
    pattern: Pattern,
    answer: Appended,
    version: i16,
    acks: Acks,
    timeout_ms: i32,
    /// Not kept alive: a deleted topic's files must close although a producer stays connected.
    topic: Weak<Topic<I>>,
    index: i32,
}

impl<I: Io> Repeated<I> {
    /// The topic, if it is still what has its name.
    fn topic(&self) -> Option<Rc<Topic<I>>> {
        self.topic.upgrade().filter(|topic| !topic.is_stale())
    }
}

/// What a connection remembers of its produces.
pub(crate) struct LastProduce<I: Io> {
    last: RefCell<Option<Repeated<I>>>,
    /// Requests since one repeated the last.
    misses: Cell<u32>,
}

impl<I: Io> Default for LastProduce<I> {
    fn default() -> Self {
        Self { last: RefCell::new(None), misses: Cell::new(0) }
    }
}

impl<I: Io> LastProduce<I> {
    /// Remembers the request in `frame`, if it has one partition, of `topic`; unless requests
    /// hardly ever repeat: to remember one costs more than to read it.
    fn learn(&self, frame: &[u8], view: &RequestView<'_>, version: i16, topic: &Rc<Topic<I>>) {
        let (1, Some(only)) = (view.topics.len(), view.topics.iter().next()) else { return };
        let (1, Some(partition)) = (only.partitions.len(), only.partitions.iter().next()) else {
            return;
        };
        let Some(acks) = Acks::from_code(view.head.acks) else { return };
        let misses = self.misses.get().saturating_add(1);
        self.misses.set(misses);
        if !misses.is_power_of_two() {
            return;
        }
        let flexible = ApiKey::Produce.is_flexible(version);
        let pattern = partition.records.and_then(|records| Pattern::of(frame, records, flexible));
        let answer = Appended::new(version, &topic.name, partition.index);
        if let (Some(pattern), Ok(answer)) = (pattern, answer) {
            *self.last.borrow_mut() = Some(Repeated {
                pattern,
                answer,
                version,
                acks,
                timeout_ms: view.head.timeout_ms,
                topic: Rc::downgrade(topic),
                index: partition.index,
            });
        }
    }
}

/// An appended request that waits to be answered.
pub(crate) struct Pending<I: Io> {
    version: i16,
    correlation_id: i32,
    acks: Acks,
    /// When the client has waited long enough.
    deadline: Instant,
    /// In the order of the request: those of a topic stand together.
    results: SmallVec<[PartitionResult<I>; 1]>,
}

/// A topic's name, kept until the answer.
enum Name<I: Io> {
    Known(Rc<Topic<I>>),
    Unknown(Rc<str>),
}

impl<I: Io> Clone for Name<I> {
    fn clone(&self) -> Self {
        match self {
            Self::Known(topic) => Self::Known(Rc::clone(topic)),
            Self::Unknown(name) => Self::Unknown(Rc::clone(name)),
        }
    }
}

impl<I: Io> Name<I> {
    fn as_str(&self) -> &str {
        match self {
            Self::Known(topic) => &topic.name,
            Self::Unknown(name) => name,
        }
    }
}

struct PartitionResult<I: Io> {
    topic: Name<I>,
    index: i32,
    outcome: Outcome<I>,
}

enum Outcome<I: Io> {
    /// Appended; `reached` once it has been seen to be as far as the client asked.
    Appended {
        partition: Partition<I>,
        span: Span,
        reached: bool,
    },
    Failed(ErrorCode, Option<String>),
}

impl<I: Io> Outcome<I> {
    fn failed(code: ErrorCode) -> Self {
        Self::Failed(code, None)
    }

    fn explained(code: ErrorCode, why: &impl std::error::Error) -> Self {
        Self::Failed(code, Some(why.to_string()))
    }
}

/// Appends what the request holds and queues its answer.
pub(super) fn handle<I: Io>(
    connection: &Connection<I>,
    frame: &[u8],
    cursor: &mut Cursor<'_>,
    asked: Asked,
) -> Result<(), Refusal> {
    connection.produces.set(true);
    let request = RequestView::decode(cursor, asked.version)?;
    // None takes less than a byte: most requests need not be counted.
    if frame.len() > NAMED_MAX && named(&request) > NAMED_MAX {
        return Err(Refusal::TooMany { named: named(&request), max: NAMED_MAX });
    }
    let acks = Acks::from_code(request.head.acks);
    let mut pending = Pending {
        version: asked.version,
        correlation_id: asked.correlation_id,
        acks: acks.unwrap_or(Acks::All),
        deadline: asked.arrived.plus(crate::num::millis(request.head.timeout_ms)),
        results: SmallVec::new(),
    };
    let mut inflation = Inflation::default();
    for topic in request.topics {
        let known = connection.core().routes.topic(topic.name);
        if let Some(known) = &known {
            connection.last_produce.learn(frame, &request, asked.version, known);
        }
        append_topic(known, &topic, acks, asked.version, &mut inflation, &mut pending.results);
    }
    connection.inflated(inflation.bytes());
    push(connection, pending, asked.arrived, asked.bytes)
}

/// Topics and partitions that a request names.
fn named(request: &RequestView<'_>) -> usize {
    request.topics.iter().map(|topic| 1 + topic.partitions.len()).sum()
}

/// What the produce in `frame` will hold until it is answered. Not its batches: they go to the
/// log.
pub(crate) fn will_hold(frame: &[u8]) -> usize {
    let mut cursor = Cursor::over(frame);
    let header = RequestHeader::read(&mut cursor).ok();
    let request = header.and_then(|h| RequestView::decode(&mut cursor, h.version).ok());
    // What is refused holds nothing.
    let Some(request) = request.filter(|request| named(request) <= NAMED_MAX) else { return 0 };
    // A name is kept, and is in the answer.
    let names = request.topics.iter().map(|topic| 2 * topic.name.len());
    named(&request) * HELD_BYTES + names.sum::<usize>()
}

/// Handles `frame`, a part of `chunk`, if it is a produce that repeats the connection's last one
/// but for its records.
pub(super) fn repeat<I: Io>(
    connection: &Connection<I>,
    chunk: &Bytes,
    frame: &[u8],
    arrived: Instant,
) -> Result<bool, Refusal> {
    let last = connection.last_produce.last.borrow();
    let Some(last) = &*last else { return Ok(false) };
    let Some((correlation_id, records)) = last.pattern.matches(frame) else { return Ok(false) };
    let Some(topic) = last.topic() else { return Ok(false) };
    connection.last_produce.misses.set(0);
    let Repeated { version, index, acks, .. } = *last;
    let mut inflation = Inflation::default();
    let outcome = append(&topic, index, chunk.slice_ref(records), version, &mut inflation);
    connection.inflated(inflation.bytes());
    let pending = Pending {
        version,
        correlation_id,
        acks,
        deadline: arrived.plus(crate::num::millis(last.timeout_ms)),
        results: smallvec![PartitionResult { topic: Name::Known(topic), index, outcome }],
    };
    push(connection, pending, arrived, frame.len())?;
    Ok(true)
}

/// Queues the answer. If the client wants none it is empty, and waits all the same: a write may
/// fail yet, and closing the connection is how the client hears of it.
fn push<I: Io>(
    connection: &Connection<I>,
    pending: Pending<I>,
    arrived: Instant,
    bytes: usize,
) -> Result<(), Refusal> {
    if let Some(refusal) = pending.refusal(connection.core()) {
        return Err(refusal);
    }
    connection.push(ApiKey::Produce, arrived, bytes, Answer::Produce(pending));
    Ok(())
}

fn append_topic<I: Io>(
    known: Option<Rc<Topic<I>>>,
    view: &TopicView<'_>,
    acks: Option<Acks>,
    version: i16,
    inflation: &mut Inflation,
    results: &mut SmallVec<[PartitionResult<I>; 1]>,
) {
    let name = match &known {
        Some(topic) => Name::Known(Rc::clone(topic)),
        None => Name::Unknown(view.name.into()),
    };
    for partition in view.partitions {
        let outcome = match (&known, acks) {
            (_, None) => Outcome::failed(ErrorCode::InvalidRequiredAcks),
            (None, _) => Outcome::failed(ErrorCode::UnknownTopicOrPartition),
            (Some(topic), Some(_)) => {
                let records = partition.share_records().unwrap_or_default();
                append(topic, partition.index, records, version, inflation)
            }
        };
        results.push(PartitionResult { topic: name.clone(), index: partition.index, outcome });
    }
}

fn append<I: Io>(
    topic: &Topic<I>,
    index: i32,
    records: Bytes,
    version: i16,
    inflation: &mut Inflation,
) -> Outcome<I> {
    let partition = match topic.place(index) {
        Some(Place::Here(partition)) => partition,
        Some(Place::Elsewhere) => return Outcome::failed(ErrorCode::NotLeaderOrFollower),
        Some(Place::Offline) => return Outcome::failed(ErrorCode::KafkaStorageError),
        None => return Outcome::failed(ErrorCode::UnknownTopicOrPartition),
    };
    let check = partition.config().check();
    let batch = match inflation.parse(records, check) {
        Ok(batch) => batch,
        Err(why) => return Outcome::explained(why.code(), &why),
    };
    let header = batch.header();
    if header.codec() == Some(Codec::Zstd) && version < ZSTD_FROM {
        return Outcome::failed(ErrorCode::UnsupportedCompressionType);
    }
    if header.is_transactional() {
        // No producer can have begun a transaction: InitProducerId refuses transactional ids.
        return Outcome::failed(ErrorCode::InvalidTxnState);
    }
    match partition.append(&batch) {
        Ok(span) => Outcome::Appended { partition: partition.clone(), span, reached: false },
        Err(error) => Outcome::explained(errors::append(&error), &error),
    }
}

impl<I: Io> Pending<I> {
    fn failures(&self) -> impl Iterator<Item = ErrorCode> {
        self.results.iter().filter_map(|result| match &result.outcome {
            Outcome::Failed(code, _) => Some(*code),
            Outcome::Appended { .. } => None,
        })
    }

    /// Why the connection must close: something failed, and the client wants no answer.
    pub(crate) fn refusal(&self, core: &Core<I>) -> Option<Refusal> {
        let code = self.failures().next().filter(|_| self.acks == Acks::Nobody)?;
        core.metrics.error(code.code());
        Some(Refusal::Unacknowledged(code))
    }

    /// Whether the answer is settled: every partition has reached the mark or failed. `now` is
    /// asked only if one has not.
    pub(crate) fn is_done(&mut self, now: impl FnOnce() -> Instant) -> bool {
        let mark = self.acks.mark();
        let mut waiting = false;
        for result in &mut self.results {
            if let Outcome::Appended { partition, span, reached } = &mut result.outcome
                && !*reached
            {
                match partition.reached(mark, span) {
                    Ok(there) => {
                        *reached = there;
                        waiting |= !there;
                    }
                    Err(error) => {
                        result.outcome = Outcome::explained(errors::reach(&error), &error);
                    }
                }
            }
        }
        if waiting && self.acks == Acks::All && now() >= self.deadline {
            for result in &mut self.results {
                if let Outcome::Appended { reached: false, .. } = result.outcome {
                    result.outcome = Outcome::failed(ErrorCode::RequestTimedOut);
                }
            }
            waiting = false;
        }
        !waiting
    }

    /// What it holds until it is answered, beside itself.
    pub(crate) fn held_bytes(&self) -> usize {
        let held = self.results.iter().map(|result| {
            let name = match &result.topic {
                Name::Known(_) => 0,
                Name::Unknown(name) => name.len(),
            };
            let reason = match &result.outcome {
                Outcome::Failed(_, Some(reason)) => reason.len(),
                Outcome::Appended { .. } | Outcome::Failed(..) => 0,
            };
            size_of::<PartitionResult<I>>() + name + reason
        });
        held.sum()
    }

    /// What to wait for before asking again.
    pub(crate) fn next_wait(&self) -> Option<Wait<I>> {
        self.results.iter().find_map(|result| match &result.outcome {
            Outcome::Appended { partition, span, reached: false } => Some(Wait {
                partition: partition.clone(),
                mark: self.acks.mark(),
                span: *span,
                deadline: (self.acks == Acks::All).then_some(self.deadline),
            }),
            Outcome::Appended { .. } | Outcome::Failed(..) => None,
        })
    }

    /// Writes the answer to the end of `out`, if that is as easy as it was to read the request.
    fn encode_repeated(&self, last: &LastProduce<I>, out: &mut BytesMut) -> Option<()> {
        let last = last.last.borrow();
        let last = last.as_ref()?;
        let [PartitionResult { topic: Name::Known(topic), index, outcome }] = &*self.results else {
            return None;
        };
        let same = last.version == self.version
            && last.index == *index
            && last.topic.as_ptr() == Rc::as_ptr(topic);
        match outcome {
            Outcome::Appended { partition, span, .. } if same => {
                let time = span.append_time.map_or(-1, |t| t.0);
                let start = partition.marks().log_start;
                last.answer.write(out, self.correlation_id, span.base.0, time, start.0);
                Some(())
            }
            Outcome::Appended { .. } | Outcome::Failed(..) => None,
        }
    }

    /// Writes the answer, if the client wants one, to the end of `out`.
    pub(crate) fn encode(
        &self,
        core: &Core<I>,
        last: &LastProduce<I>,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        if self.acks == Acks::Nobody || self.encode_repeated(last, out).is_some() {
            return Ok(());
        }
        let Self { version, correlation_id, .. } = *self;
        let same_topic = |a: &PartitionResult<I>, b: &PartitionResult<I>| {
            std::ptr::eq(a.topic.as_str(), b.topic.as_str())
        };
        let topics = self.results.chunk_by(same_topic);
        let mut response =
            ResponseEncoder::begin(out, version, correlation_id, topics.clone().count());
        let mut endpoints = Vec::new();
        for partitions in topics {
            let Some(name) = partitions.first().map(|first| first.topic.as_str()) else { continue };
            response.topic(name, partitions.len());
            for PartitionResult { index, outcome, .. } in partitions {
                let index = *index;
                response.partition(&match outcome {
                    Outcome::Appended { partition, span, .. } => PartitionResponse {
                        index,
                        base_offset: span.base.0,
                        log_append_time_ms: span.append_time.map_or(-1, |t| t.0),
                        log_start_offset: partition.marks().log_start.0,
                        ..PartitionResponse::default()
                    },
                    Outcome::Failed(error, message) => {
                        core.metrics.error(error.code());
                        let moved = *error == ErrorCode::NotLeaderOrFollower && version >= 10;
                        let leader = if moved { core.leader(name, index) } else { None };
                        if let Some(leader) = leader {
                            core.add_endpoint(leader.leader_id, &mut endpoints);
                        }
                        PartitionResponse {
                            index,
                            error: *error,
                            error_message: message.clone(),
                            current_leader: leader,
                            ..PartitionResponse::default()
                        }
                    }
                });
            }
        }
        response.finish(0, &endpoints)
    }
}

/// One partition's mark, waited for.
pub(crate) struct Wait<I: Io> {
    partition: Partition<I>,
    mark: Mark,
    span: Span,
    deadline: Option<Instant>,
}

impl<I: Io> Wait<I> {
    /// Waits until the mark is reached, cannot be, or the client has waited long enough.
    pub(crate) async fn done(self, io: &I) {
        let reach = self.partition.reach(self.mark, &self.span);
        // Which of them it was is asked of the partition afterwards.
        let settled = |_: Result<(), ReachError>| ();
        match self.deadline {
            None => settled(reach.await),
            Some(deadline) => tokio::select! {
                biased;
                result = reach => settled(result),
                () = io.sleep_until(deadline) => (),
            },
        }
    }
}
