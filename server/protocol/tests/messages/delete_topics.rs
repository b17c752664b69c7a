//! DeleteTopics.

use kafka_protocol::messages as peer;
use kariz_protocol::messages::delete_topics::{Request, Response, TopicRequest, TopicResult};

use crate::*;

/// From version 6 on a topic may go by its id.
fn name(version: i16) -> BoxedStrategy<Option<String>> {
    if version >= 6 { maybe_text().boxed() } else { text().prop_map(Some).boxed() }
}

#[test]
fn delete_topics_request() {
    let values = |version| {
        let topic = (name(version), since(version >= 6, uuid(), Uuid::nil()))
            .prop_map(|(name, topic_id)| TopicRequest { name, topic_id });
        (list(topic), any::<i32>()).prop_map(|(topics, timeout_ms)| Request { topics, timeout_ms })
    };
    compare(values, |ours: &Request, version| {
        let request = peer::DeleteTopicsRequest::default().with_timeout_ms(ours.timeout_ms);
        if version >= 6 {
            let topic = |topic: &TopicRequest| {
                peer::delete_topics_request::DeleteTopicState::default()
                    .with_name(maybe_theirs(topic.name.as_ref()))
                    .with_topic_id(topic.topic_id)
            };
            request.with_topics(ours.topics.iter().map(topic).collect())
        } else {
            let names = ours.topics.iter().filter_map(|topic| maybe_theirs(topic.name.as_ref()));
            request.with_topic_names(names.collect())
        }
    });
}

#[test]
fn old_versions_delete_by_name_only() {
    let topic = TopicRequest { name: None, topic_id: Uuid::from_u128(1) };
    let request = Request { topics: vec![topic], timeout_ms: 0 };
    let refused = EncodeError::NotInVersion { field: "topic_id", version: 5 };
    assert_eq!(body(&request, 5), Err(refused));
    assert!(body(&request, 6).is_ok());
}

#[test]
fn delete_topics_response() {
    let values =
        |version| {
            let topic =
                (
                    name(version),
                    since(version >= 6, uuid(), Uuid::nil()),
                    error(),
                    since(version >= 5, maybe_text(), None),
                )
                    .prop_map(|(name, topic_id, error, error_message)| {
                        TopicResult { name, topic_id, error, error_message }
                    });
            (any::<i32>(), list(topic))
                .prop_map(|(throttle_time_ms, topics)| Response { throttle_time_ms, topics })
        };
    compare(values, |ours: &Response, _| {
        let topic = |topic: &TopicResult| {
            peer::delete_topics_response::DeletableTopicResult::default()
                .with_name(maybe_theirs(topic.name.as_ref()))
                .with_topic_id(topic.topic_id)
                .with_error_code(topic.error.code())
                .with_error_message(maybe_theirs(topic.error_message.as_ref()))
        };
        peer::DeleteTopicsResponse::default()
            .with_throttle_time_ms(ours.throttle_time_ms)
            .with_responses(ours.topics.iter().map(topic).collect())
    });
}
