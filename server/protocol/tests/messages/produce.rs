//! Produce: the messages, and their views and encoders.

use kafka_protocol::messages as peer;
use kariz_protocol::ApiKey;
use kariz_protocol::header::{self, RequestHeader};
use kariz_protocol::messages::produce::{
    PartitionRequest, PartitionResponse, RecordError, Request, RequestEncoder, RequestHead,
    RequestView, Response, ResponseEncoder, TopicRequest, TopicResponse,
};
use kariz_protocol::messages::{LeaderIdAndEpoch, NodeEndpoint};
use kariz_protocol::writer::{Records, Segment, segments};

use crate::*;

fn request(_: i16) -> impl Strategy<Value = Request> + Clone {
    let partition =
        (any::<i32>(), records()).prop_map(|(index, records)| PartitionRequest { index, records });
    let topic = (text(), prop::collection::vec(partition, 0..4))
        .prop_map(|(name, partitions)| TopicRequest { name, partitions });
    (maybe_text(), any::<i16>(), any::<i32>(), prop::collection::vec(topic, 0..4)).prop_map(
        |(transactional_id, acks, timeout_ms, topics)| Request {
            transactional_id,
            acks,
            timeout_ms,
            topics,
        },
    )
}

fn translate_request(ours: &Request, _: i16) -> peer::ProduceRequest {
    use peer::produce_request::{PartitionProduceData, TopicProduceData};
    let partition = |partition: &PartitionRequest| {
        PartitionProduceData::default()
            .with_index(partition.index)
            .with_records(partition.records.clone())
    };
    let topic = |topic: &TopicRequest| {
        TopicProduceData::default()
            .with_name(theirs(&topic.name).into())
            .with_partition_data(topic.partitions.iter().map(partition).collect())
    };
    peer::ProduceRequest::default()
        .with_transactional_id(maybe_theirs(ours.transactional_id.as_ref()))
        .with_acks(ours.acks)
        .with_timeout_ms(ours.timeout_ms)
        .with_topic_data(ours.topics.iter().map(topic).collect())
}

#[test]
fn produce_request() {
    compare(request, translate_request);
}

fn leader() -> impl Strategy<Value = LeaderIdAndEpoch> {
    (0..=i32::MAX, any::<i32>())
        .prop_map(|(leader_id, leader_epoch)| LeaderIdAndEpoch { leader_id, leader_epoch })
}

fn partition_response(version: i16) -> impl Strategy<Value = PartitionResponse> {
    let record_error = (any::<i32>(), maybe_text())
        .prop_map(|(batch_index, message)| RecordError { batch_index, message });
    (
        any::<i32>(),
        error(),
        any::<(i64, i64)>(),
        since(version >= 5, any::<i64>(), -1),
        since(version >= 8, list(record_error), Vec::new()),
        since(version >= 8, maybe_text(), None),
        since(version >= 10, prop::option::of(leader()), None),
    )
        .prop_map(
            |(index, error, (base, time), start, record_errors, error_message, leader)| {
                PartitionResponse {
                    index,
                    error,
                    base_offset: base,
                    log_append_time_ms: time,
                    log_start_offset: start,
                    record_errors,
                    error_message,
                    current_leader: leader,
                }
            },
        )
}

fn endpoint() -> impl Strategy<Value = NodeEndpoint> {
    (any::<i32>(), text(), any::<i32>(), maybe_text())
        .prop_map(|(node_id, host, port, rack)| NodeEndpoint { node_id, host, port, rack })
}

fn response(version: i16) -> impl Strategy<Value = Response> {
    let topic = (text(), list(partition_response(version)))
        .prop_map(|(name, partitions)| TopicResponse { name, partitions });
    let endpoints = since(version >= 10, list(endpoint()), Vec::new());
    (list(topic), any::<i32>(), endpoints).prop_map(|(topics, throttle_time_ms, endpoints)| {
        Response { topics, throttle_time_ms, node_endpoints: endpoints }
    })
}

fn translate_response(ours: &Response, _: i16) -> peer::ProduceResponse {
    use peer::produce_response as p;
    let record_error = |error: &RecordError| {
        p::BatchIndexAndErrorMessage::default()
            .with_batch_index(error.batch_index)
            .with_batch_index_error_message(maybe_theirs(error.message.as_ref()))
    };
    let leader = |leader: Option<LeaderIdAndEpoch>| {
        leader.map_or_else(p::LeaderIdAndEpoch::default, |leader| {
            p::LeaderIdAndEpoch::default()
                .with_leader_id(leader.leader_id.into())
                .with_leader_epoch(leader.leader_epoch)
        })
    };
    let partition = |partition: &PartitionResponse| {
        p::PartitionProduceResponse::default()
            .with_index(partition.index)
            .with_error_code(partition.error.code())
            .with_base_offset(partition.base_offset)
            .with_log_append_time_ms(partition.log_append_time_ms)
            .with_log_start_offset(partition.log_start_offset)
            .with_record_errors(partition.record_errors.iter().map(record_error).collect())
            .with_error_message(maybe_theirs(partition.error_message.as_ref()))
            .with_current_leader(leader(partition.current_leader))
    };
    let topic = |topic: &TopicResponse| {
        p::TopicProduceResponse::default()
            .with_name(theirs(&topic.name).into())
            .with_partition_responses(topic.partitions.iter().map(partition).collect())
    };
    let endpoint = |endpoint: &NodeEndpoint| {
        p::NodeEndpoint::default()
            .with_node_id(endpoint.node_id.into())
            .with_host(theirs(&endpoint.host))
            .with_port(endpoint.port)
            .with_rack(maybe_theirs(endpoint.rack.as_ref()))
    };
    peer::ProduceResponse::default()
        .with_responses(ours.topics.iter().map(topic).collect())
        .with_throttle_time_ms(ours.throttle_time_ms)
        .with_node_endpoints(ours.node_endpoints.iter().map(endpoint).collect())
}

#[test]
fn produce_response() {
    compare(response, translate_response);
}

fn at_any_version<T: Debug, S: Strategy<Value = T>>(
    values: impl Fn(i16) -> S,
) -> impl Strategy<Value = (i16, T)> {
    ApiKey::Produce.spec().served.prop_flat_map(move |version| (Just(version), values(version)))
}

proptest! {
    #[test]
    fn a_view_reads_the_request_without_allocating_or_copying(
        (version, request) in at_any_version(request),
    ) {
        let body = body(&request, version).unwrap();
        let mut seen = 0;
        let allocated = allocation_counter::measure(|| {
            let mut cursor = Cursor::new(&body);
            let view = RequestView::decode(&mut cursor, version).unwrap();
            cursor.finish().unwrap();
            assert_eq!(view.head.transactional_id, request.transactional_id.as_deref());
            assert_eq!((view.head.acks, view.head.timeout_ms), (request.acks, request.timeout_ms));
            assert_eq!(view.topics.len(), request.topics.len());
            for (topic, expected) in view.topics.iter().zip(&request.topics) {
                assert_eq!(topic.name, expected.name);
                assert_eq!(topic.partitions.iter().len(), expected.partitions.len());
                for (partition, expected) in topic.partitions.iter().zip(&expected.partitions) {
                    assert_eq!(partition.index, expected.index);
                    assert_eq!(partition.records, expected.records.as_deref());
                    seen += 1;
                }
            }
        });
        prop_assert_eq!(seen, request.topics.iter().map(|t| t.partitions.len()).sum::<usize>());
        prop_assert_eq!(allocated.count_total, 0);

        // Sharing takes a slice of the frame, not a copy.
        let view = RequestView::decode(&mut Cursor::new(&body), version).unwrap();
        let frame = body.as_ptr_range();
        for partition in view.topics.iter().flat_map(|topic| topic.partitions) {
            let shared = partition.share_records();
            prop_assert_eq!(shared.as_deref(), partition.records);
            if let Some(records) = shared.filter(|records| !records.is_empty()) {
                prop_assert!(frame.contains(&records.as_ptr()));
            }
        }
    }

    #[test]
    fn a_request_written_in_pieces_is_the_same_request(
        (version, request) in at_any_version(request),
        client_id in maybe_text(),
        holes in any::<bool>(),
    ) {
        let mut whole = BytesMut::new();
        header::encode_request(&mut whole, version, 7, client_id.as_deref(), &request).unwrap();

        let mut buf = BytesMut::from(&b"what was sent before"[..]);
        let before = buf.len();
        let head = RequestHead {
            transactional_id: request.transactional_id.as_deref(),
            acks: request.acks,
            timeout_ms: request.timeout_ms,
        };
        let topics = request.topics.len();
        let mut encoder =
            RequestEncoder::begin(&mut buf, version, 7, client_id.as_deref(), head, topics);
        let mut elsewhere = Vec::new();
        for topic in &request.topics {
            encoder.topic(&topic.name, topic.partitions.len());
            for partition in &topic.partitions {
                let records = match &partition.records {
                    None => Records::Null,
                    Some(records) if holes => {
                        elsewhere.push(records.clone());
                        Records::Hole(records.len())
                    }
                    Some(records) => Records::Inline(records),
                };
                encoder.partition(partition.index, records);
            }
        }
        let holes = encoder.finish().unwrap();
        prop_assert_eq!(holes.len(), elsewhere.len());
        let mut sent = Vec::new();
        for segment in segments(&buf, &holes) {
            match segment {
                Segment::Bytes(bytes) => sent.extend_from_slice(bytes),
                Segment::Hole { index, len } => {
                    prop_assert_eq!(elsewhere[index].len(), len);
                    sent.extend_from_slice(&elsewhere[index]);
                }
            }
        }
        prop_assert_eq!(&sent[before..], &whole[..]);

        let frame = whole.freeze();
        let length = i32::from_be_bytes(frame[..4].try_into().unwrap());
        prop_assert_eq!(usize::try_from(length).unwrap(), frame.len() - 4);
        let frame = frame.slice(4..);
        let mut cursor = Cursor::new(&frame);
        let header = RequestHeader::read(&mut cursor).unwrap();
        prop_assert_eq!(header, RequestHeader {
            api: ApiKey::Produce,
            version,
            correlation_id: 7,
            client_id: client_id.as_deref(),
        });
        prop_assert_eq!(Request::decode(&mut cursor, version).unwrap(), request);
    }

    #[test]
    fn a_response_written_in_pieces_is_the_same_response(
        (version, response) in at_any_version(response),
    ) {
        let mut whole = BytesMut::new();
        header::encode_response(&mut whole, version, -3, &response).unwrap();
        let mut buf = BytesMut::new();
        let mut encoder = ResponseEncoder::begin(&mut buf, version, -3, response.topics.len());
        for topic in &response.topics {
            encoder.topic(&topic.name, topic.partitions.len());
            for partition in &topic.partitions {
                encoder.partition(partition);
            }
        }
        encoder.finish(response.throttle_time_ms, &response.node_endpoints).unwrap();
        prop_assert_eq!(&buf, &whole);

        let frame = buf.freeze().slice(4..);
        prop_assert_eq!(header::correlation_id(&frame), Ok(-3));
        prop_assert_eq!(header::decode_response(&frame, version), Ok((-3, response)));
    }
}

#[test]
fn a_response_with_other_counts_than_announced_is_taken_back() {
    let partition = PartitionResponse::default();
    for (topics, partitions) in [(0, 1), (2, 1), (1, 0), (1, 2)] {
        let mut buf = BytesMut::from(&b"before"[..]);
        let mut encoder = ResponseEncoder::begin(&mut buf, 9, 0, topics);
        encoder.topic("t", partitions);
        encoder.partition(&partition);
        assert_eq!(encoder.finish(0, &[]), Err(EncodeError::CountMismatch));
        assert_eq!(&buf[..], b"before");
    }
    let mut buf = BytesMut::new();
    let encoder = ResponseEncoder::begin(&mut buf, 12, 0, 0);
    let unsupported = EncodeError::UnsupportedVersion { api: ApiKey::Produce, version: 12 };
    assert_eq!(encoder.finish(0, &[]), Err(unsupported));
    assert!(buf.is_empty());
}
