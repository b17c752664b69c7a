//! Metadata.

use kafka_protocol::messages as peer;
use kariz_protocol::messages::NO_AUTHORIZED_OPERATIONS;
use kariz_protocol::messages::metadata::{
    Broker, Partition, Request, Response, Topic, TopicRequest,
};

use crate::*;

fn request(version: i16) -> impl Strategy<Value = Request> {
    let topic = (
        since(version >= 10, uuid(), Uuid::nil()),
        since(version < 10, text().prop_map(Some), None),
        since(version >= 10, maybe_text(), None),
    )
        .prop_map(|(topic_id, old, new)| TopicRequest { topic_id, name: old.or(new) });
    // Version 0 has no list without topics, and says "all" otherwise than the other crate can.
    let topics = if version == 0 {
        prop::collection::vec(topic, 1..4).prop_map(Some).boxed()
    } else {
        prop::option::of(list(topic)).boxed()
    };
    (
        topics,
        since(version >= 4, any::<bool>(), true),
        since((8..=10).contains(&version), any::<bool>(), false),
        since(version >= 8, any::<bool>(), false),
    )
        .prop_map(|(topics, create, cluster, topic)| Request {
            topics,
            allow_auto_topic_creation: create,
            include_cluster_authorized_operations: cluster,
            include_topic_authorized_operations: topic,
        })
}

fn translate_request(ours: &Request, _: i16) -> peer::MetadataRequest {
    let topic = |topic: &TopicRequest| {
        peer::metadata_request::MetadataRequestTopic::default()
            .with_topic_id(topic.topic_id)
            .with_name(maybe_theirs(topic.name.as_ref()))
    };
    peer::MetadataRequest::default()
        .with_topics(ours.topics.as_ref().map(|topics| topics.iter().map(topic).collect()))
        .with_allow_auto_topic_creation(ours.allow_auto_topic_creation)
        .with_include_cluster_authorized_operations(ours.include_cluster_authorized_operations)
        .with_include_topic_authorized_operations(ours.include_topic_authorized_operations)
}

#[test]
fn metadata_request() {
    compare(request, translate_request);
}

#[test]
fn version_0_asks_for_all_topics_with_an_empty_list() {
    let all = Request::default();
    assert_eq!(body(&all, 0).unwrap().as_ref(), [0, 0, 0, 0]);
    assert_eq!(read::<Request>(&Bytes::from_static(&[0; 4]), 0), Ok(all));
    let none = Request { topics: Some(vec![]), ..Request::default() };
    assert_eq!(body(&none, 0), Err(EncodeError::NotInVersion { field: "topics", version: 0 }));
    let no_creation = Request { allow_auto_topic_creation: false, ..Request::default() };
    assert!(body(&no_creation, 3).is_err(), "a topic would be created against the caller's will");
}

fn partition(version: i16) -> impl Strategy<Value = Partition> {
    (
        error(),
        any::<(i32, i32)>(),
        since(version >= 7, any::<i32>(), -1),
        list(any::<i32>()),
        list(any::<i32>()),
        since(version >= 5, list(any::<i32>()), Vec::new()),
    )
        .prop_map(|(error, (index, leader_id), leader_epoch, replicas, isr, offline)| {
            Partition {
                error,
                index,
                leader_id,
                leader_epoch,
                replica_nodes: replicas,
                isr_nodes: isr,
                offline_replicas: offline,
            }
        })
}

fn topic(version: i16) -> impl Strategy<Value = Topic> {
    (
        error(),
        since(version >= 12, maybe_text(), None),
        text(),
        since(version >= 10, uuid(), Uuid::nil()),
        since(version >= 1, any::<bool>(), false),
        list(partition(version)),
        since(version >= 8, any::<i32>(), NO_AUTHORIZED_OPERATIONS),
    )
        .prop_map(
            move |(error, new, old, topic_id, is_internal, partitions, authorized_operations)| {
                Topic {
                    error,
                    name: if version >= 12 { new } else { Some(old) },
                    topic_id,
                    is_internal,
                    partitions,
                    authorized_operations,
                }
            },
        )
}

fn response(version: i16) -> impl Strategy<Value = Response> {
    let broker = (any::<i32>(), text(), any::<i32>(), since(version >= 1, maybe_text(), None))
        .prop_map(|(node_id, host, port, rack)| Broker { node_id, host, port, rack });
    let has_cluster_operations = (8..=10).contains(&version);
    (
        since(version >= 3, any::<i32>(), 0),
        list(broker),
        since(version >= 2, maybe_text(), None),
        since(version >= 1, any::<i32>(), -1),
        list(topic(version)),
        since(has_cluster_operations, any::<i32>(), NO_AUTHORIZED_OPERATIONS),
        since(version >= 13, error(), ErrorCode::None),
    )
        .prop_map(
            |(throttle, brokers, cluster_id, controller_id, topics, operations, error)| Response {
                throttle_time_ms: throttle,
                brokers,
                cluster_id,
                controller_id,
                topics,
                cluster_authorized_operations: operations,
                error,
            },
        )
}

fn translate_response(ours: &Response, _: i16) -> peer::MetadataResponse {
    use peer::metadata_response::{
        MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
    };
    let ids = |ids: &[i32]| ids.iter().map(|id| (*id).into()).collect::<Vec<peer::BrokerId>>();
    let broker = |broker: &Broker| {
        MetadataResponseBroker::default()
            .with_node_id(broker.node_id.into())
            .with_host(theirs(&broker.host))
            .with_port(broker.port)
            .with_rack(maybe_theirs(broker.rack.as_ref()))
    };
    let partition = |partition: &Partition| {
        MetadataResponsePartition::default()
            .with_error_code(partition.error.code())
            .with_partition_index(partition.index)
            .with_leader_id(partition.leader_id.into())
            .with_leader_epoch(partition.leader_epoch)
            .with_replica_nodes(ids(&partition.replica_nodes))
            .with_isr_nodes(ids(&partition.isr_nodes))
            .with_offline_replicas(ids(&partition.offline_replicas))
    };
    let topic = |topic: &Topic| {
        MetadataResponseTopic::default()
            .with_error_code(topic.error.code())
            .with_name(maybe_theirs(topic.name.as_ref()))
            .with_topic_id(topic.topic_id)
            .with_is_internal(topic.is_internal)
            .with_partitions(topic.partitions.iter().map(partition).collect())
            .with_topic_authorized_operations(topic.authorized_operations)
    };
    peer::MetadataResponse::default()
        .with_throttle_time_ms(ours.throttle_time_ms)
        .with_brokers(ours.brokers.iter().map(broker).collect())
        .with_cluster_id(maybe_theirs(ours.cluster_id.as_ref()))
        .with_controller_id(ours.controller_id.into())
        .with_topics(ours.topics.iter().map(topic).collect())
        .with_cluster_authorized_operations(ours.cluster_authorized_operations)
        .with_error_code(ours.error.code())
}

#[test]
fn metadata_response() {
    compare(response, translate_response);
}
