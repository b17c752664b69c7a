//! ListOffsets: the first offset, the end, or the first record from a time on.

use super::{Asked, Refusal, fetch};
use crate::connection::Connection;
use crate::core::Core;
use crate::errors;
use crate::repeats::repeated;
use crate::routes::Place;
use kariz_engine::io::Io;
use kariz_engine::types::{Instant, LeaderEpoch, Offset, Timestamp};
use kariz_engine::{Found, Mark, Partition};
use kariz_protocol::messages::Message;
use kariz_protocol::messages::list_offsets::{
    EARLIEST, EARLIEST_LOCAL, LATEST, LATEST_TIERED, MAX_TIMESTAMP, PartitionRequest,
    PartitionResponse, Request, Response, TopicResponse,
};
use kariz_protocol::{Cursor, ErrorCode};
use std::rc::Rc;

/// The first version with [`MAX_TIMESTAMP`]. Source: KIP-734.
const MAX_TIMESTAMP_FROM: i16 = 7;
/// The first version with [`EARLIEST_LOCAL`]. Source: KIP-405.
const EARLIEST_LOCAL_FROM: i16 = 8;
/// The first version with [`LATEST_TIERED`]. Source: KIP-1005.
const LATEST_TIERED_FROM: i16 = 9;
/// The first version that says how long to wait.
const TIMEOUT_FROM: i16 = 10;
/// How long to wait where the client does not say. Source: Kafka's default request.timeout.ms.
const TIMEOUT_MS_DEFAULT: i32 = 30_000;

/// Answers when all that may have to be waited for has come.
pub(super) fn handle<I: Io>(
    connection: &Connection<I>,
    cursor: &mut Cursor<'_>,
    asked: Asked,
) -> Result<(), Refusal> {
    let request = Request::decode(cursor, asked.version)?;
    let core = Rc::clone(connection.core());
    let timeout_ms =
        if asked.version >= TIMEOUT_FROM { request.timeout_ms } else { TIMEOUT_MS_DEFAULT };
    let deadline = asked.arrived.plus(crate::num::millis(timeout_ms));
    asked.later(connection, async move {
        let mut topics = Vec::with_capacity(request.topics.len());
        // As Kafka: refused each time. Many of one partition would cost as many reads of the log.
        let repeated = repeated(all_partitions(&request));
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for wanted in &topic.partitions {
                let found = if repeated.contains(&(&*topic.name, wanted.index)) {
                    Err(ErrorCode::InvalidRequest)
                } else {
                    find(&core, &topic.name, wanted, asked.version, deadline).await
                };
                partitions.push(found.unwrap_or_else(|error| {
                    core.metrics.error(error.code());
                    PartitionResponse { index: wanted.index, error, ..PartitionResponse::default() }
                }));
            }
            topics.push(TopicResponse { name: topic.name.clone(), partitions });
        }
        Response { topics, throttle_time_ms: 0 }
    });
    Ok(())
}

/// Topic and number of each partition, in the order of the request.
fn all_partitions(request: &Request) -> impl Iterator<Item = (&str, i32)> {
    let topics = request.topics.iter();
    topics.flat_map(|topic| topic.partitions.iter().map(|p| (&*topic.name, p.index)))
}

async fn find<I: Io>(
    core: &Core<I>,
    topic: &str,
    wanted: &PartitionRequest,
    version: i16,
    deadline: Instant,
) -> Result<PartitionResponse, ErrorCode> {
    let topic = core.routes.topic(topic).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let partition = match topic.place(wanted.index) {
        Some(Place::Here(partition)) => partition,
        Some(Place::Elsewhere) => return Err(ErrorCode::NotLeaderOrFollower),
        Some(Place::Offline) => return Err(ErrorCode::KafkaStorageError),
        None => return Err(ErrorCode::UnknownTopicOrPartition),
    };
    fetch::check_epoch(partition, wanted.current_leader_epoch)?;
    partition.check_readable().map_err(|e| errors::read(&e))?;
    let at = |offset: Offset, epoch: Option<LeaderEpoch>| PartitionResponse {
        index: wanted.index,
        offset: offset.0,
        leader_epoch: epoch.map_or(-1, |epoch| epoch.0),
        ..PartitionResponse::default()
    };
    let nowhere = PartitionResponse { index: wanted.index, ..PartitionResponse::default() };
    match wanted.timestamp {
        LATEST => {
            let end = latest(core, partition, deadline).await?;
            Ok(at(end, Some(partition.leader_epoch())))
        }
        EARLIEST => Ok(earliest(partition, at)),
        EARLIEST_LOCAL if version >= EARLIEST_LOCAL_FROM => Ok(earliest(partition, at)),
        LATEST_TIERED if version >= LATEST_TIERED_FROM => Ok(nowhere),
        MAX_TIMESTAMP if version >= MAX_TIMESTAMP_FROM => {
            let found = partition.find_max_timestamp().await.map_err(|e| errors::read(&e))?;
            Ok(visible(partition, found).map_or(nowhere, |found| record(wanted.index, &found)))
        }
        timestamp if timestamp >= 0 => {
            let found = partition.find(Timestamp(timestamp)).await.map_err(|e| errors::read(&e))?;
            Ok(visible(partition, found).map_or(nowhere, |found| record(wanted.index, &found)))
        }
        _ => Err(ErrorCode::UnsupportedVersion),
    }
}

fn earliest<I: Io>(
    partition: &Partition<I>,
    at: impl Fn(Offset, Option<LeaderEpoch>) -> PartitionResponse,
) -> PartitionResponse {
    let start = partition.marks().log_start;
    at(start, partition.epoch_at(start))
}

/// The high watermark, once it has reached what was written when the request came: who produces
/// and then asks for the end must see what was acknowledged, by whatever acks.
async fn latest<I: Io>(
    core: &Core<I>,
    partition: &Partition<I>,
    deadline: Instant,
) -> Result<Offset, ErrorCode> {
    let written = partition.marks().written;
    tokio::select! {
        biased;
        reached = partition.reach_offset(Mark::High, written) => {
            reached.map_err(|error| errors::reach(&error))?;
        }
        () = core.shard.io().sleep_until(deadline) => return Err(ErrorCode::RequestTimedOut),
    }
    // Without transactions the last stable offset is the high watermark.
    Ok(partition.marks().high_watermark)
}

/// `found`, unless a power cut could still take it back.
fn visible<I: Io>(partition: &Partition<I>, found: Option<Found>) -> Option<Found> {
    found.filter(|found| found.offset < partition.marks().high_watermark)
}

fn record(index: i32, found: &Found) -> PartitionResponse {
    PartitionResponse {
        index,
        timestamp: found.timestamp.0,
        offset: found.offset.0,
        leader_epoch: found.leader_epoch.0,
        ..PartitionResponse::default()
    }
}
