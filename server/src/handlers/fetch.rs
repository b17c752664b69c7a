//! Fetch: collects a slice of a segment file a partition, parks while there is too little, sends.
//!
//! Small answers are read into the send buffer; larger ones go from the page cache to the socket
//! by `sendfile`, between the parts of the response that are written here.

use super::{Asked, Refusal};
use crate::connection::{Answer, Connection};
use crate::core::Core;
use crate::errors;
use crate::num::{u64_from, usize_from};
use crate::repeats::repeated;
use crate::routes::{Place, Topic};
use bytes::BytesMut;
use kariz_engine::batch::{Codec, HEADER_BYTES, Header};
use kariz_engine::io::{Conn, File, Io};
use kariz_engine::types::{Instant, Offset};
use kariz_engine::{Mark, Partition, ReadError, Slice};
use kariz_protocol::messages::fetch::{
    FetchPartition, PartitionHead, RequestView, ResponseEncoder, ResponseHead,
};
use kariz_protocol::writer::{Hole, Records, Segment, segments};
use kariz_protocol::{ApiKey, Cursor, ErrorCode};
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Up to so many bytes are read into the send buffer: one `pread` and one `send` instead of
/// three calls. Source: the copy costs less than a system call below it.
const INLINE_BYTES_MAX: usize = 16 * 1024;
/// The first version in which a client may be sent zstd. Source: KIP-110.
const ZSTD_FROM: i16 = 10;
/// A consumer's replica ids: -1, and -2 for tools. Others are followers.
const FOLLOWER_FROM: i32 = 0;

/// A fetch that waits for its turn, with what is needed of its frame.
pub(crate) struct Request<I: Io> {
    asked: Asked,
    max_wait: Duration,
    min_bytes: usize,
    max_bytes: usize,
    read_committed: bool,
    is_follower: bool,
    /// Whether the client named a fetch session, of which there are none.
    in_session: bool,
    topics: SmallVec<[WantedTopic<I>; 1]>,
    /// When to stop waiting; set when the request is parked first.
    deadline: Cell<Option<Instant>>,
}

struct WantedTopic<I: Io> {
    name: Box<str>,
    /// As looked up last.
    topic: RefCell<Option<Rc<Topic<I>>>>,
    partitions: SmallVec<[FetchPartition; 1]>,
}

/// What there is to send.
pub(crate) struct Found<I: Io> {
    /// In the order of the request, over all topics.
    parts: SmallVec<[Part<I>; 2]>,
    bytes: usize,
    /// Whether a partition has an error, which the client must hear of at once.
    failed: bool,
    /// Whether a partition's part lies in an older segment: it will not grow.
    is_followed: bool,
    /// Whether a partition's first batch is past the limit of the whole: no more fits.
    is_full: bool,
}

struct Part<I: Io> {
    head: PartitionHead,
    slice: Option<Slice<I>>,
    /// How much of the slice is sent.
    len: usize,
    /// What to wait for if there is too little.
    partition: Option<Partition<I>>,
    /// Whether it did not fit behind the others.
    is_left_out: bool,
}

/// Queues the request; it is read when its turn comes.
pub(super) fn handle<I: Io>(
    connection: &Connection<I>,
    cursor: &mut Cursor<'_>,
    asked: Asked,
) -> Result<(), Refusal> {
    let RequestView { head, topics, .. } = RequestView::decode(cursor, asked.version)?;
    let limit = connection.core().config.fetch_bytes_max;
    let max_bytes = usize_from(head.max_bytes).min(limit);
    let wanted = topics.iter().map(|topic| WantedTopic {
        name: topic.name.into(),
        topic: RefCell::new(None),
        partitions: topic.partitions.iter().collect(),
    });
    let mut wanted: SmallVec<[WantedTopic<I>; 1]> = wanted.collect();
    keep_last(&mut wanted);
    let request = Request {
        asked,
        max_wait: crate::num::millis(head.max_wait_ms),
        // As Kafka: more than may be sent is not waited for.
        min_bytes: usize_from(head.min_bytes).min(max_bytes),
        max_bytes,
        read_committed: head.isolation_level == 1,
        is_follower: head.replica_id >= FOLLOWER_FROM,
        in_session: head.session_id != 0,
        topics: wanted,
        deadline: Cell::new(None),
    };
    connection.push(ApiKey::Fetch, asked.arrived, asked.bytes, Answer::Fetch(Box::new(request)));
    Ok(())
}

/// Leaves each partition once, as Kafka with what was said last of it: one that is named again and
/// again would be read, and waited for, as often.
fn keep_last<I: Io>(topics: &mut [WantedTopic<I>]) {
    // Most name one partition, and for that nothing is allocated here.
    let several = topics.len() > 1 || topics.iter().any(|topic| topic.partitions.len() > 1);
    let all = || topics.iter().flat_map(|t| t.partitions.iter().map(|p| (&*t.name, p.index)));
    if !several || repeated(all()).is_empty() {
        return;
    }
    let mut seen = BTreeSet::new();
    for WantedTopic { name, partitions, .. } in topics.iter_mut().rev() {
        partitions.reverse();
        partitions.retain(|partition| seen.insert((&**name, partition.index)));
        partitions.reverse();
    }
}

impl<I: Io> WantedTopic<I> {
    fn find(&self, core: &Core<I>) -> Option<Rc<Topic<I>>> {
        let mut topic = self.topic.borrow_mut();
        if topic.as_ref().is_none_or(|topic| topic.is_stale()) {
            *topic = core.routes.topic(&self.name);
        }
        topic.clone()
    }
}

impl<I: Io> Found<I> {
    /// Whether the client should have this now.
    pub(crate) fn is_enough(&self, request: &Request<I>) -> bool {
        self.failed
            || self.is_followed
            || self.is_full
            || self.bytes >= request.min_bytes
            || request.topics.is_empty()
    }
}

/// Reads what there is for `request`; waits only for pages that are not resident.
pub(crate) async fn collect<I: Io>(core: &Core<I>, request: &Request<I>) -> Found<I> {
    let failed = request.in_session;
    let parts = SmallVec::new();
    let mut found = Found { parts, bytes: 0, failed, is_followed: false, is_full: false };
    if request.in_session {
        return found;
    }
    for wanted in &request.topics {
        let topic = wanted.find(core);
        for partition in &wanted.partitions {
            let left = request.max_bytes.saturating_sub(found.bytes);
            let is_first = found.bytes == 0;
            let read = read(topic.as_deref(), partition, left, is_first, request);
            let part = match read.await {
                Ok(part) => part,
                Err((error, mut head)) => {
                    found.failed = true;
                    head.error = error;
                    let tell = request.asked.version >= 12
                        && matches!(
                            error,
                            ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch
                        );
                    if tell {
                        head.current_leader = core.leader(&wanted.name, partition.index);
                    }
                    Part { head, slice: None, len: 0, partition: None, is_left_out: false }
                }
            };
            found.bytes += part.len;
            found.is_full |= part.is_left_out;
            found.is_followed |= part.slice.as_ref().is_some_and(Slice::is_followed);
            found.parts.push(part);
        }
    }
    found
}

/// Reads one partition, of which at most `left` bytes may be sent, save that the first batch of
/// all is sent whole.
async fn read<I: Io>(
    topic: Option<&Topic<I>>,
    wanted: &FetchPartition,
    left: usize,
    is_first: bool,
    request: &Request<I>,
) -> Result<Part<I>, (ErrorCode, PartitionHead)> {
    let mut head = PartitionHead { index: wanted.index, ..PartitionHead::default() };
    let place = topic.and_then(|topic| topic.place(wanted.index));
    let partition = match place {
        Some(Place::Here(partition)) => partition,
        Some(Place::Elsewhere) => return Err((ErrorCode::NotLeaderOrFollower, head)),
        Some(Place::Offline) => return Err((ErrorCode::KafkaStorageError, head)),
        None => return Err((ErrorCode::UnknownTopicOrPartition, head)),
    };
    if let Err(error) = check_epoch(partition, wanted.current_leader_epoch) {
        return Err((error, head));
    }
    if request.is_follower {
        // Nobody else is in any partition's replicas.
        return Err((ErrorCode::UnknownLeaderEpoch, head));
    }
    let marks = partition.marks();
    head.high_watermark = marks.high_watermark.0;
    head.last_stable_offset = marks.last_stable.0;
    head.log_start_offset = marks.log_start.0;
    head.aborted_transactions = request.read_committed.then(Vec::new);
    let limit = usize_from(wanted.max_bytes).min(left);
    let mut is_left_out = false;
    let slice = if limit == 0 && !is_first {
        None
    } else {
        match partition.slice(Offset(wanted.fetch_offset), limit).await {
            // The engine never cuts the first batch; only the first of all may exceed the limit.
            Ok(slice) if slice.len() > limit && !is_first => {
                is_left_out = slice.len() > left;
                None
            }
            Ok(slice) => Some(slice),
            Err(error) => {
                log_read_error(partition, &error);
                return Err((errors::read(&error), head));
            }
        }
    };
    let mut len = slice.as_ref().map_or(0, Slice::len);
    if let Some(slice) = slice.as_ref().filter(|_| request.asked.version < ZSTD_FROM && len > 0) {
        match before_zstd(slice).await {
            Ok(0) => return Err((ErrorCode::UnsupportedCompressionType, head)),
            Ok(before) => len = before,
            Err(error) => {
                tracing::warn!(partition = %partition.name(), %error, "fetch failed");
                return Err((ErrorCode::KafkaStorageError, head));
            }
        }
    }
    Ok(Part { head, slice, len, partition: Some(partition.clone()), is_left_out })
}

/// How many bytes of `slice` a client can read that knows no zstd.
async fn before_zstd<I: Io>(slice: &Slice<I>) -> io::Result<usize> {
    slice.load().await?;
    let (mut at, mut head) = (0, [0; HEADER_BYTES]);
    while at < slice.len() {
        let n = slice.file().read_at(&mut head, slice.position() + u64_from(at))?;
        let Some(header) = Header::read(head.get(..n).unwrap_or_default()) else { break };
        if header.codec() == Some(Codec::Zstd) {
            return Ok(at);
        }
        at += header.total_bytes().ok_or(io::ErrorKind::InvalidData)?;
    }
    Ok(slice.len())
}

fn log_read_error<I: Io>(partition: &Partition<I>, error: &ReadError) {
    match error {
        ReadError::OutOfRange { .. } | ReadError::Deleted => {
            tracing::debug!(partition = %partition.name(), %error, "fetch refused");
        }
        _ => tracing::warn!(partition = %partition.name(), %error, "fetch failed"),
    }
}

/// Compares the leader epoch that a client believes in with the partition's; -1 is "any".
pub(super) fn check_epoch<I: Io>(partition: &Partition<I>, epoch: i32) -> Result<(), ErrorCode> {
    let current = partition.leader_epoch().0;
    match epoch {
        -1 => Ok(()),
        epoch if epoch < current => Err(ErrorCode::FencedLeaderEpoch),
        epoch if epoch > current => Err(ErrorCode::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

/// Waits until there may be more than `found`; `false` once the client has waited long enough.
pub(crate) async fn park<I: Io>(core: &Core<I>, request: &Request<I>, found: &Found<I>) -> bool {
    if request.max_wait.is_zero() {
        return false;
    }
    let deadline = request.deadline.get().unwrap_or_else(|| {
        core.metrics.parked.add(1);
        core.shard.io().now().plus(request.max_wait)
    });
    request.deadline.set(Some(deadline));
    let waits: SmallVec<[_; 2]> = found
        .parts
        .iter()
        .filter_map(|part| {
            let next = Offset(part.head.high_watermark).plus(1);
            // One that has failed never gets there: waiting for it would end at once, each time.
            let partition = part.partition.clone().filter(Partition::can_grow);
            partition.map(|partition| (partition, Mark::High, next))
        })
        .collect();
    core.shard.any(&waits, deadline).await.is_some()
}

/// Sends `found` as the answer to `request`, through the buffer `out`. Returns the bytes sent.
///
/// # Errors
/// When the connection is of no more use.
pub(crate) async fn send<I: Io>(
    core: &Core<I>,
    conn: &I::Conn,
    request: &Request<I>,
    found: &Found<I>,
    out: &mut BytesMut,
) -> io::Result<u64> {
    // A page that is not resident would make the whole core wait for the disk.
    for slice in found.parts.iter().filter_map(|part| part.slice.as_ref()) {
        if !slice.is_empty() {
            slice.load().await?;
        }
    }
    let holes = encode(core, request, found, out)?;
    let slices: SmallVec<[&Slice<I>; 2]> =
        found.parts.iter().filter_map(|part| part.slice.as_ref()).collect();
    let mut order = segments(out, &holes).peekable();
    let mut sent = 0;
    while let Some(segment) = order.next() {
        match segment {
            Segment::Bytes(bytes) => {
                conn.send(bytes, order.peek().is_some()).await?;
                sent += u64_from(bytes.len());
            }
            Segment::Hole { index, len } => {
                let slice = slices.get(index).ok_or(io::ErrorKind::InvalidData)?;
                conn.send_file(slice.file(), slice.position(), len).await?;
                sent += u64_from(len);
            }
        }
    }
    Ok(sent)
}

/// Writes the answer to the end of `out`. Larger slices are left out: the holes.
fn encode<I: Io>(
    core: &Core<I>,
    request: &Request<I>,
    found: &Found<I>,
    out: &mut BytesMut,
) -> io::Result<Vec<Hole>> {
    let inline = found.bytes <= INLINE_BYTES_MAX;
    let Asked { version, correlation_id, .. } = request.asked;
    let head = if request.in_session && version >= 7 {
        ResponseHead { error: ErrorCode::FetchSessionIdNotFound, ..ResponseHead::default() }
    } else {
        ResponseHead::default()
    };
    let topics = if request.in_session { &[][..] } else { &request.topics };
    let mut response = ResponseEncoder::begin(out, version, correlation_id, head, topics.len());
    let mut records = [0; INLINE_BYTES_MAX];
    let mut parts = found.parts.iter();
    for topic in topics {
        response.topic(&topic.name, topic.partitions.len());
        for part in parts.by_ref().take(topic.partitions.len()) {
            if part.head.error != ErrorCode::None {
                core.metrics.error(part.head.error.code());
            }
            let records = match &part.slice {
                Some(slice) if inline => {
                    Records::Inline(read_inline(slice, part.len, &mut records)?)
                }
                Some(_) => Records::Hole(part.len),
                None => Records::Inline(&[]),
            };
            response.partition(&part.head, records);
        }
    }
    response.finish().map_err(io::Error::other)
}

/// Reads a small slice into `room`.
fn read_inline<'r, I: Io>(
    slice: &Slice<I>,
    len: usize,
    room: &'r mut [u8],
) -> io::Result<&'r [u8]> {
    let room = room.get_mut(..len).ok_or(io::ErrorKind::InvalidData)?;
    let mut done = 0;
    while done < room.len() {
        let rest = room.get_mut(done..).unwrap_or_default();
        match slice.file().read_at(rest, slice.position() + u64_from(done))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => done += n,
        }
    }
    Ok(room)
}
