//! CreateTopics.

use bytes::BytesMut;
use kafka_protocol::messages as peer;
use kariz_protocol::EncodeError;
use kariz_protocol::header;
use kariz_protocol::messages::create_topics::{
    Assignment, Config as TopicConfig, ConfigResult, CreatableTopic, Request, Response,
    ResponseEncoder, TopicResult,
};

use crate::*;

fn topic() -> impl Strategy<Value = CreatableTopic> {
    let assignment = (any::<i32>(), list(any::<i32>()))
        .prop_map(|(partition_index, broker_ids)| Assignment { partition_index, broker_ids });
    let config = (text(), maybe_text()).prop_map(|(name, value)| TopicConfig { name, value });
    (text(), any::<i32>(), any::<i16>(), list(assignment), list(config)).prop_map(
        |(name, num_partitions, replication_factor, assignments, configs)| CreatableTopic {
            name,
            num_partitions,
            replication_factor,
            assignments,
            configs,
        },
    )
}

#[test]
fn create_topics_request() {
    let values = |_| {
        (list(topic()), any::<i32>(), any::<bool>()).prop_map(
            |(topics, timeout_ms, validate_only)| Request { topics, timeout_ms, validate_only },
        )
    };
    compare(values, |ours: &Request, _| {
        use peer::create_topics_request as p;
        let assignment = |assignment: &Assignment| {
            p::CreatableReplicaAssignment::default()
                .with_partition_index(assignment.partition_index)
                .with_broker_ids(assignment.broker_ids.iter().map(|id| (*id).into()).collect())
        };
        let config = |config: &TopicConfig| {
            p::CreatableTopicConfig::default()
                .with_name(theirs(&config.name))
                .with_value(maybe_theirs(config.value.as_ref()))
        };
        let topic = |topic: &CreatableTopic| {
            p::CreatableTopic::default()
                .with_name(theirs(&topic.name).into())
                .with_num_partitions(topic.num_partitions)
                .with_replication_factor(topic.replication_factor)
                .with_assignments(topic.assignments.iter().map(assignment).collect())
                .with_configs(topic.configs.iter().map(config).collect())
        };
        peer::CreateTopicsRequest::default()
            .with_topics(ours.topics.iter().map(topic).collect())
            .with_timeout_ms(ours.timeout_ms)
            .with_validate_only(ours.validate_only)
    });
}

fn topic_result(version: i16) -> impl Strategy<Value = TopicResult> {
    let config = (text(), maybe_text(), any::<(bool, i8, bool)>()).prop_map(
        |(name, value, (read_only, config_source, is_sensitive))| ConfigResult {
            name,
            value,
            read_only,
            config_source,
            is_sensitive,
        },
    );
    let has_configs = version >= 5;
    (
        text(),
        since(version >= 7, uuid(), Uuid::nil()),
        error(),
        maybe_text(),
        since(has_configs, error(), ErrorCode::None),
        since(has_configs, any::<(i32, i16)>(), (-1, -1)),
        since(has_configs, prop::option::of(list(config)), None),
    )
        .prop_map(|(name, topic_id, error, error_message, config_error, counts, configs)| {
            TopicResult {
                name,
                topic_id,
                error,
                error_message,
                config_error,
                num_partitions: counts.0,
                replication_factor: counts.1,
                configs,
            }
        })
}

#[test]
fn create_topics_response() {
    let values = |version| {
        (any::<i32>(), list(topic_result(version)))
            .prop_map(|(throttle_time_ms, topics)| Response { throttle_time_ms, topics })
    };
    compare(values, |ours: &Response, version| {
        use peer::create_topics_response as p;
        let config = |config: &ConfigResult| {
            p::CreatableTopicConfigs::default()
                .with_name(theirs(&config.name))
                .with_value(maybe_theirs(config.value.as_ref()))
                .with_read_only(config.read_only)
                .with_config_source(config.config_source)
                .with_is_sensitive(config.is_sensitive)
        };
        let topic = |topic: &TopicResult| {
            let configs = topic.configs.as_ref();
            let result = p::CreatableTopicResult::default()
                .with_name(theirs(&topic.name).into())
                .with_topic_id(topic.topic_id)
                .with_error_code(topic.error.code())
                .with_error_message(maybe_theirs(topic.error_message.as_ref()))
                .with_topic_config_error_code(topic.config_error.code())
                .with_num_partitions(topic.num_partitions)
                .with_replication_factor(topic.replication_factor);
            if version < 5 {
                // The other crate's value for a field that is not there.
                return result;
            }
            result.with_configs(configs.map(|configs| configs.iter().map(config).collect()))
        };
        peer::CreateTopicsResponse::default()
            .with_throttle_time_ms(ours.throttle_time_ms)
            .with_topics(ours.topics.iter().map(topic).collect())
    });
}

proptest! {
    #[test]
    fn a_response_written_topic_by_topic_is_the_same(
        (version, topics) in (2..=7_i16).prop_flat_map(|v| (Just(v), list(topic_result(v)))),
    ) {
        let mut buf = BytesMut::new();
        let mut encoder = ResponseEncoder::begin(&mut buf, version, -3, topics.len());
        topics.iter().for_each(|topic| encoder.topic(topic));
        encoder.finish().unwrap();
        let mut whole = BytesMut::new();
        let response = Response { topics, throttle_time_ms: 0 };
        header::encode_response(&mut whole, version, -3, &response).unwrap();
        prop_assert_eq!(buf, whole);
    }
}

#[test]
fn a_response_with_other_topics_than_announced_is_taken_back() {
    for announced in [0, 2] {
        let mut buf = BytesMut::from(&b"before"[..]);
        let mut encoder = ResponseEncoder::begin(&mut buf, 7, 0, announced);
        encoder.topic(&TopicResult::default());
        assert_eq!(encoder.finish(), Err(EncodeError::CountMismatch));
        assert_eq!(&buf[..], b"before");
    }
}
