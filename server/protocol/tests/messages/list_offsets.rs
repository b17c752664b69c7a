//! ListOffsets.

use kafka_protocol::messages as peer;
use kariz_protocol::messages::list_offsets::{
    PartitionRequest, PartitionResponse, Request, Response, TopicRequest, TopicResponse,
};

use crate::*;

#[test]
fn list_offsets_request() {
    let values =
        |version| {
            let partition = (any::<i32>(), since(version >= 4, any::<i32>(), -1), any::<i64>())
                .prop_map(|(index, current_leader_epoch, timestamp)| PartitionRequest {
                    index,
                    current_leader_epoch,
                    timestamp,
                });
            let topic = (text(), list(partition))
                .prop_map(|(name, partitions)| TopicRequest { name, partitions });
            (
                any::<i32>(),
                since(version >= 2, any::<i8>(), 0),
                list(topic),
                since(version >= 10, any::<i32>(), 0),
            )
                .prop_map(|(replica_id, isolation_level, topics, timeout_ms)| {
                    Request { replica_id, isolation_level, topics, timeout_ms }
                })
        };
    compare(values, |ours: &Request, _| {
        use peer::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
        let partition = |partition: &PartitionRequest| {
            ListOffsetsPartition::default()
                .with_partition_index(partition.index)
                .with_current_leader_epoch(partition.current_leader_epoch)
                .with_timestamp(partition.timestamp)
        };
        let topic = |topic: &TopicRequest| {
            ListOffsetsTopic::default()
                .with_name(theirs(&topic.name).into())
                .with_partitions(topic.partitions.iter().map(partition).collect())
        };
        peer::ListOffsetsRequest::default()
            .with_replica_id(ours.replica_id.into())
            .with_isolation_level(ours.isolation_level)
            .with_topics(ours.topics.iter().map(topic).collect())
            .with_timeout_ms(ours.timeout_ms)
    });
}

#[test]
fn list_offsets_response() {
    let values =
        |version| {
            let partition =
                (any::<i32>(), error(), any::<(i64, i64)>(), since(version >= 4, any::<i32>(), -1))
                    .prop_map(|(index, error, (timestamp, offset), leader_epoch)| {
                        PartitionResponse { index, error, timestamp, offset, leader_epoch }
                    });
            let topic = (text(), list(partition))
                .prop_map(|(name, partitions)| TopicResponse { name, partitions });
            (since(version >= 2, any::<i32>(), 0), list(topic))
                .prop_map(|(throttle_time_ms, topics)| Response { throttle_time_ms, topics })
        };
    compare(values, |ours: &Response, _| {
        use peer::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
        let partition = |partition: &PartitionResponse| {
            ListOffsetsPartitionResponse::default()
                .with_partition_index(partition.index)
                .with_error_code(partition.error.code())
                .with_timestamp(partition.timestamp)
                .with_offset(partition.offset)
                .with_leader_epoch(partition.leader_epoch)
        };
        let topic = |topic: &TopicResponse| {
            ListOffsetsTopicResponse::default()
                .with_name(theirs(&topic.name).into())
                .with_partitions(topic.partitions.iter().map(partition).collect())
        };
        peer::ListOffsetsResponse::default()
            .with_throttle_time_ms(ours.throttle_time_ms)
            .with_topics(ours.topics.iter().map(topic).collect())
    });
}
