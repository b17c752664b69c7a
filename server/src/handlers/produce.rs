//! Produce: appends each partition's batch, and answers when they have got as far as asked.
//!
//! The request is read in place and each batch handed to its partition as a slice of the frame.
//! What remains until the answer is a [`Pending`]: handles, offsets and marks, no bytes.

use super::{Asked, Refusal};
use crate::connection::{Answer, Connection};
use crate::core::Core;
use crate::errors;
use crate::routes::{Place, Topic};
use bytes::BytesMut;
use kariz_engine::batch::{Batch, Codec};
use kariz_engine::io::Io;
use kariz_engine::types::Instant;
use kariz_engine::{Mark, Partition, ReachError, Span};
use kariz_protocol::messages::produce::{
    PartitionResponse, PartitionView, RequestView, ResponseEncoder, TopicView,
};
use kariz_protocol::{ApiKey, Cursor, EncodeError, ErrorCode};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// The first version in which a client may send zstd. Source: KIP-110.
const ZSTD_FROM: i16 = 7;

/// Whom the client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acks {
    /// Nobody: there is no answer.
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

/// The topic that a connection named last, to spare the table a look-up.
pub(crate) struct LastTopic<I: Io>(RefCell<Option<Rc<Topic<I>>>>);

impl<I: Io> Default for LastTopic<I> {
    fn default() -> Self {
        Self(RefCell::new(None))
    }
}

impl<I: Io> LastTopic<I> {
    fn find(&self, core: &Core<I>, name: &str) -> Option<Rc<Topic<I>>> {
        let mut last = self.0.borrow_mut();
        match &*last {
            Some(topic) if *topic.name == *name && !topic.is_stale() => Some(Rc::clone(topic)),
            _ => {
                *last = core.routes.topic(name);
                last.clone()
            }
        }
    }
}

/// An appended request that waits to be answered.
pub(crate) struct Pending<I: Io> {
    asked: Asked,
    acks: Acks,
    /// When the client has waited long enough.
    deadline: Instant,
    topics: SmallVec<[TopicResult<I>; 1]>,
}

struct TopicResult<I: Io> {
    name: Name<I>,
    partitions: SmallVec<[PartitionResult<I>; 1]>,
}

/// A topic's name, kept until the answer.
enum Name<I: Io> {
    Known(Rc<Topic<I>>),
    Unknown(Box<str>),
}

struct PartitionResult<I: Io> {
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
    cursor: &mut Cursor<'_>,
    asked: Asked,
) -> Result<(), Refusal> {
    let request = RequestView::decode(cursor, asked.version)?;
    let acks = Acks::from_code(request.head.acks);
    let mut pending = Pending {
        asked,
        acks: acks.unwrap_or(Acks::All),
        deadline: asked.arrived.plus(crate::num::millis(request.head.timeout_ms)),
        topics: SmallVec::new(),
    };
    for topic in request.topics {
        let known = connection.last_topic.find(connection.core(), topic.name);
        pending.topics.push(append_topic(known, topic, acks, asked.version));
    }
    if pending.acks == Acks::Nobody {
        return match pending.failures().next() {
            None => {
                connection.core().metrics.answered(ApiKey::Produce, Duration::ZERO);
                Ok(())
            }
            Some(code) => {
                connection.core().metrics.error(code.code());
                Err(Refusal::Unacknowledged(code))
            }
        };
    }
    connection.push(ApiKey::Produce, asked.arrived, asked.bytes, Answer::Produce(pending));
    Ok(())
}

fn append_topic<I: Io>(
    known: Option<Rc<Topic<I>>>,
    view: TopicView<'_>,
    acks: Option<Acks>,
    version: i16,
) -> TopicResult<I> {
    let mut partitions = SmallVec::new();
    for partition in view.partitions {
        let outcome = match (&known, acks) {
            (_, None) => Outcome::failed(ErrorCode::InvalidRequiredAcks),
            (None, _) => Outcome::failed(ErrorCode::UnknownTopicOrPartition),
            (Some(topic), Some(_)) => append(topic, &partition, version),
        };
        partitions.push(PartitionResult { index: partition.index, outcome });
    }
    let name = match known {
        Some(topic) => Name::Known(topic),
        None => Name::Unknown(view.name.into()),
    };
    TopicResult { name, partitions }
}

fn append<I: Io>(topic: &Topic<I>, view: &PartitionView<'_>, version: i16) -> Outcome<I> {
    let partition = match topic.place(view.index) {
        Some(Place::Here(partition)) => partition,
        Some(Place::Elsewhere) => return Outcome::failed(ErrorCode::NotLeaderOrFollower),
        Some(Place::Offline) => return Outcome::failed(ErrorCode::KafkaStorageError),
        None => return Outcome::failed(ErrorCode::UnknownTopicOrPartition),
    };
    let check = partition.config().check();
    let batch = match Batch::parse(view.share_records().unwrap_or_default(), check) {
        Ok(batch) => batch,
        Err(fault) => return Outcome::explained(errors::fault(&fault), &fault),
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
    fn results(&self) -> impl Iterator<Item = &PartitionResult<I>> {
        self.topics.iter().flat_map(|topic| &topic.partitions)
    }

    fn results_mut(&mut self) -> impl Iterator<Item = &mut PartitionResult<I>> {
        self.topics.iter_mut().flat_map(|topic| &mut topic.partitions)
    }

    fn failures(&self) -> impl Iterator<Item = ErrorCode> {
        self.results().filter_map(|result| match &result.outcome {
            Outcome::Failed(code, _) => Some(*code),
            Outcome::Appended { .. } => None,
        })
    }

    /// Whether the answer is settled: every partition has reached the mark or failed. `now` is
    /// asked only if one has not.
    pub(crate) fn is_done(&mut self, now: impl FnOnce() -> Instant) -> bool {
        let mark = self.acks.mark();
        let mut waiting = false;
        for result in self.results_mut() {
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
            for result in self.results_mut() {
                if let Outcome::Appended { reached: false, .. } = result.outcome {
                    result.outcome = Outcome::failed(ErrorCode::RequestTimedOut);
                }
            }
            waiting = false;
        }
        !waiting
    }

    /// What to wait for before asking again.
    pub(crate) fn next_wait(&self) -> Option<Wait<I>> {
        self.results().find_map(|result| match &result.outcome {
            Outcome::Appended { partition, span, reached: false } => Some(Wait {
                partition: partition.clone(),
                mark: self.acks.mark(),
                span: *span,
                deadline: (self.acks == Acks::All).then_some(self.deadline),
            }),
            Outcome::Appended { .. } | Outcome::Failed(..) => None,
        })
    }

    /// Writes the answer to the end of `out`.
    pub(crate) fn encode(&self, core: &Core<I>, out: &mut BytesMut) -> Result<(), EncodeError> {
        let Asked { version, correlation_id, .. } = self.asked;
        let mut response = ResponseEncoder::begin(out, version, correlation_id, self.topics.len());
        let mut endpoints = Vec::new();
        for topic in &self.topics {
            let name = match &topic.name {
                Name::Known(topic) => &*topic.name,
                Name::Unknown(name) => &**name,
            };
            response.topic(name, topic.partitions.len());
            for PartitionResult { index, outcome } in &topic.partitions {
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
