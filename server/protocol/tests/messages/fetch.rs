//! Fetch: the messages, and their views and encoders.

use kafka_protocol::messages as peer;
use kariz_protocol::ApiKey;
use kariz_protocol::header;
use kariz_protocol::messages::LeaderIdAndEpoch;
use kariz_protocol::messages::fetch::{
    AbortedTransaction, EpochEndOffset, FetchPartition, ForgottenTopic, PartitionHead,
    PartitionResponse, Request, RequestView, Response, ResponseEncoder, ResponseHead, SnapshotId,
    TopicRequest, TopicResponse,
};
use kariz_protocol::writer::{Records, Segment, segments};

use crate::*;

fn fetch_partition(version: i16) -> impl Strategy<Value = FetchPartition> {
    (
        any::<i32>(),
        since(version >= 9, any::<i32>(), -1),
        any::<i64>(),
        since(version >= 12, any::<i32>(), -1),
        since(version >= 5, any::<i64>(), -1),
        any::<i32>(),
    )
        .prop_map(|(index, leader_epoch, offset, last_epoch, log_start, max_bytes)| {
            FetchPartition {
                index,
                current_leader_epoch: leader_epoch,
                fetch_offset: offset,
                last_fetched_epoch: last_epoch,
                log_start_offset: log_start,
                max_bytes,
            }
        })
}

fn request(version: i16) -> impl Strategy<Value = Request> {
    let topic = (text(), list(fetch_partition(version)))
        .prop_map(|(name, partitions)| TopicRequest { name, partitions });
    let forgotten = (text(), list(any::<i32>()))
        .prop_map(|(name, partitions)| ForgottenTopic { name, partitions });
    (
        since(version >= 12, maybe_text(), None),
        any::<(i32, i32, i32, i32, i8)>(),
        since(version >= 7, any::<i32>(), 0),
        since(version >= 7, any::<i32>(), -1),
        list(topic),
        since(version >= 7, list(forgotten), Vec::new()),
        since(version >= 11, text(), String::new()),
    )
        .prop_map(|(cluster_id, numbers, session, epoch, topics, forgotten, rack_id)| {
            let (replica_id, max_wait_ms, min_bytes, max_bytes, isolation_level) = numbers;
            Request {
                cluster_id,
                replica_id,
                max_wait_ms,
                min_bytes,
                max_bytes,
                isolation_level,
                session_id: session,
                session_epoch: epoch,
                topics,
                forgotten_topics: forgotten,
                rack_id,
            }
        })
}

fn translate_request(ours: &Request, _: i16) -> peer::FetchRequest {
    use peer::fetch_request as p;
    let partition = |partition: &FetchPartition| {
        p::FetchPartition::default()
            .with_partition(partition.index)
            .with_current_leader_epoch(partition.current_leader_epoch)
            .with_fetch_offset(partition.fetch_offset)
            .with_last_fetched_epoch(partition.last_fetched_epoch)
            .with_log_start_offset(partition.log_start_offset)
            .with_partition_max_bytes(partition.max_bytes)
    };
    let topic = |topic: &TopicRequest| {
        p::FetchTopic::default()
            .with_topic(theirs(&topic.name).into())
            .with_partitions(topic.partitions.iter().map(partition).collect())
    };
    let forgotten = |topic: &ForgottenTopic| {
        p::ForgottenTopic::default()
            .with_topic(theirs(&topic.name).into())
            .with_partitions(topic.partitions.clone())
    };
    peer::FetchRequest::default()
        .with_cluster_id(maybe_theirs(ours.cluster_id.as_ref()))
        .with_replica_id(ours.replica_id.into())
        .with_max_wait_ms(ours.max_wait_ms)
        .with_min_bytes(ours.min_bytes)
        .with_max_bytes(ours.max_bytes)
        .with_isolation_level(ours.isolation_level)
        .with_session_id(ours.session_id)
        .with_session_epoch(ours.session_epoch)
        .with_topics(ours.topics.iter().map(topic).collect())
        .with_forgotten_topics_data(ours.forgotten_topics.iter().map(forgotten).collect())
        .with_rack_id(theirs(&ours.rack_id))
}

#[test]
fn fetch_request() {
    compare(request, translate_request);
}

fn partition_head(version: i16) -> impl Strategy<Value = PartitionHead> {
    let diverging = (0..=i32::MAX, any::<i64>())
        .prop_map(|(epoch, end_offset)| EpochEndOffset { epoch, end_offset });
    let leader = (0..=i32::MAX, any::<i32>())
        .prop_map(|(leader_id, leader_epoch)| LeaderIdAndEpoch { leader_id, leader_epoch });
    let snapshot = (0..=i64::MAX, any::<i32>())
        .prop_map(|(end_offset, epoch)| SnapshotId { end_offset, epoch });
    let aborted = any::<(i64, i64)>()
        .prop_map(|(producer_id, first_offset)| AbortedTransaction { producer_id, first_offset });
    let flexible = version >= 12;
    (
        (any::<i32>(), error(), any::<(i64, i64)>()),
        since(version >= 5, any::<i64>(), -1),
        since(flexible, prop::option::of(diverging), None),
        since(flexible, prop::option::of(leader), None),
        since(flexible, prop::option::of(snapshot), None),
        prop::option::of(list(aborted)),
        since(version >= 11, any::<i32>(), -1),
    )
        .prop_map(
            |((index, error, ends), start, diverging, leader, snapshot, aborted, replica)| {
                PartitionHead {
                    index,
                    error,
                    high_watermark: ends.0,
                    last_stable_offset: ends.1,
                    log_start_offset: start,
                    diverging_epoch: diverging,
                    current_leader: leader,
                    snapshot_id: snapshot,
                    aborted_transactions: aborted,
                    preferred_read_replica: replica,
                }
            },
        )
}

fn response(version: i16) -> impl Strategy<Value = Response> {
    let partition = (partition_head(version), records())
        .prop_map(|(head, records)| PartitionResponse { head, records });
    let topic =
        (text(), list(partition)).prop_map(|(name, partitions)| TopicResponse { name, partitions });
    (
        any::<i32>(),
        since(version >= 7, error(), ErrorCode::None),
        since(version >= 7, any::<i32>(), 0),
        list(topic),
    )
        .prop_map(|(throttle_time_ms, error, session_id, topics)| Response {
            head: ResponseHead { throttle_time_ms, error, session_id },
            topics,
        })
}

fn translate_partition(partition: &PartitionResponse) -> peer::fetch_response::PartitionData {
    use peer::fetch_response as p;
    let PartitionResponse { head, records } = partition;
    let mut data = p::PartitionData::default()
        .with_partition_index(head.index)
        .with_error_code(head.error.code())
        .with_high_watermark(head.high_watermark)
        .with_last_stable_offset(head.last_stable_offset)
        .with_log_start_offset(head.log_start_offset)
        .with_preferred_read_replica(head.preferred_read_replica.into())
        .with_records(records.clone());
    if let Some(diverging) = head.diverging_epoch {
        data.diverging_epoch.epoch = diverging.epoch;
        data.diverging_epoch.end_offset = diverging.end_offset;
    }
    if let Some(leader) = head.current_leader {
        data.current_leader.leader_id = leader.leader_id.into();
        data.current_leader.leader_epoch = leader.leader_epoch;
    }
    if let Some(snapshot) = head.snapshot_id {
        data.snapshot_id.end_offset = snapshot.end_offset;
        data.snapshot_id.epoch = snapshot.epoch;
    }
    let aborted = |aborted: &AbortedTransaction| {
        p::AbortedTransaction::default()
            .with_producer_id(aborted.producer_id.into())
            .with_first_offset(aborted.first_offset)
    };
    let all = head.aborted_transactions.as_ref();
    data.with_aborted_transactions(all.map(|all| all.iter().map(aborted).collect()))
}

fn translate_response(ours: &Response, _: i16) -> peer::FetchResponse {
    let topic = |topic: &TopicResponse| {
        peer::fetch_response::FetchableTopicResponse::default()
            .with_topic(theirs(&topic.name).into())
            .with_partitions(topic.partitions.iter().map(translate_partition).collect())
    };
    peer::FetchResponse::default()
        .with_throttle_time_ms(ours.head.throttle_time_ms)
        .with_error_code(ours.head.error.code())
        .with_session_id(ours.head.session_id)
        .with_responses(ours.topics.iter().map(topic).collect())
}

#[test]
fn fetch_response() {
    compare(response, translate_response);
}

#[test]
fn a_version_without_sessions_cannot_forget_topics() {
    let topic = ForgottenTopic { name: "t".into(), partitions: vec![0] };
    let request = Request { forgotten_topics: vec![topic], ..Request::default() };
    let refused = EncodeError::NotInVersion { field: "forgotten_topics", version: 6 };
    assert_eq!(body(&request, 6), Err(refused));
    assert!(body(&request, 7).is_ok());
}

fn at_any_version<T: Debug, S: Strategy<Value = T>>(
    values: impl Fn(i16) -> S,
) -> impl Strategy<Value = (i16, T)> {
    ApiKey::Fetch.spec().served.prop_flat_map(move |version| (Just(version), values(version)))
}

proptest! {
    #[test]
    fn a_view_reads_the_request_without_allocating(
        (version, request) in at_any_version(request),
    ) {
        let body = body(&request, version).unwrap();
        let allocated = allocation_counter::measure(|| {
            let mut cursor = Cursor::new(&body);
            let view = RequestView::decode(&mut cursor, version).unwrap();
            cursor.finish().unwrap();
            assert_eq!(view.head.cluster_id, request.cluster_id.as_deref());
            assert_eq!(view.head.rack_id, request.rack_id);
            assert_eq!(view.head.max_bytes, request.max_bytes);
            assert_eq!(view.topics.len(), request.topics.len());
            for (topic, expected) in view.topics.iter().zip(&request.topics) {
                assert_eq!(topic.name, expected.name);
                assert!(topic.partitions.iter().eq(expected.partitions.iter().copied()));
            }
            assert_eq!(view.forgotten_topics.len(), request.forgotten_topics.len());
            for (topic, expected) in view.forgotten_topics.iter().zip(&request.forgotten_topics) {
                assert_eq!(topic.name, expected.name);
                assert!(topic.partitions.iter().eq(expected.partitions.iter().copied()));
            }
        });
        prop_assert_eq!(allocated.count_total, 0);
    }

    #[test]
    fn a_response_around_holes_is_the_response_with_records(
        (version, response) in at_any_version(response),
    ) {
        let mut whole = BytesMut::new();
        header::encode_response(&mut whole, version, 9, &response).unwrap();

        let mut buf = BytesMut::from(&b"an answer that is still queued"[..]);
        let before = buf.len();
        let topics = response.topics.len();
        let mut encoder = ResponseEncoder::begin(&mut buf, version, 9, response.head, topics);
        let mut files = Vec::new();
        for topic in &response.topics {
            encoder.topic(&topic.name, topic.partitions.len());
            for partition in &topic.partitions {
                let records = match &partition.records {
                    None => Records::Null,
                    Some(records) => {
                        files.push(records.clone());
                        Records::Hole(records.len())
                    }
                };
                encoder.partition(&partition.head, records);
            }
        }
        let holes = encoder.finish().unwrap();
        let announced = i32::from_be_bytes(buf[before..before + 4].try_into().unwrap());
        prop_assert_eq!(usize::try_from(announced).unwrap(), whole.len() - 4);

        let mut sent = Vec::new();
        for segment in segments(&buf, &holes) {
            match segment {
                Segment::Bytes(bytes) => sent.extend_from_slice(bytes),
                Segment::Hole { index, len } => {
                    prop_assert_eq!(files[index].len(), len);
                    sent.extend_from_slice(&files[index]);
                }
            }
        }
        prop_assert_eq!(&sent[before..], &whole[..]);

        let frame = whole.freeze().slice(4..);
        let (correlation_id, read) =
            header::decode_response::<Response>(&frame, version).unwrap();
        prop_assert_eq!(correlation_id, 9);
        // The client's records are slices of the frame, not copies.
        let range = frame.as_ptr_range();
        let partitions = read.topics.iter().flat_map(|topic| &topic.partitions);
        for records in partitions.filter_map(|partition| partition.records.as_ref()) {
            prop_assert!(records.is_empty() || range.contains(&records.as_ptr()));
        }
        prop_assert_eq!(read, response);
    }
}
