//! Metadata, CreateTopics and DeleteTopics.

use super::common::{batch, shared};
use super::{client, topic};
use kariz_protocol::ErrorCode;
use kariz_protocol::messages::{create_topics, delete_topics, metadata};
use uuid::Uuid;

#[test]
fn metadata_in_every_version() {
    let mut c = client();
    let t = topic(&mut c, "metadata");
    for version in 0..=13 {
        let topics = vec![metadata::TopicRequest { name: Some(t.clone()), ..Default::default() }];
        let request = metadata::Request { topics: Some(topics), ..Default::default() };
        let answer = c.call(version, &request);
        assert_eq!(answer.brokers.len(), 1);
        assert_eq!(answer.brokers[0].node_id, 256);
        assert_eq!(answer.brokers[0].port, i32::from(shared().server.bootstrap().port()));
        let found = &answer.topics[0];
        assert_eq!((found.error, found.partitions.len()), (ErrorCode::None, 1));
        assert_eq!(
            (found.partitions[0].leader_id, &found.partitions[0].isr_nodes),
            (256, &vec![256])
        );
        if version >= 1 {
            assert_eq!(answer.controller_id, 256);
        }
        if version >= 2 {
            assert!(answer.cluster_id.is_some_and(|id| !id.is_empty()));
        }
        if version >= 10 {
            let topics = vec![metadata::TopicRequest { name: None, topic_id: found.topic_id }];
            let request = metadata::Request { topics: Some(topics), ..Default::default() };
            assert_eq!(c.call(version, &request).topics[0].name.as_deref(), Some(&*t));
        }
    }
    let answer = c.metadata(None, true);
    assert!(answer.topics.iter().any(|topic| topic.name.as_deref() == Some(&*t)));
    assert!(answer.topics.iter().all(|topic| topic.name.as_deref() != Some("__cluster_metadata")));
    assert!(c.metadata(Some(&[]), true).topics.is_empty());
}

#[test]
fn topics_are_made_on_the_way_if_all_agree() {
    let mut c = client();
    let error = |answer: &metadata::Response| answer.topics[0].error;
    let unknown = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(error(&c.metadata(Some(&["auto"]), false)), unknown);
    assert_eq!(error(&c.metadata(Some(&["auto"]), true)), ErrorCode::None);
    assert_eq!(c.produce("auto", 0, batch(&["x"])).error, ErrorCode::None);
    for bad in ["..", ".", "a/b", "a b", "", &"x".repeat(250)] {
        let answer = c.metadata(Some(&[bad]), true);
        assert_eq!(error(&answer), ErrorCode::InvalidTopicException, "{bad}");
    }
}

#[test]
fn create_topics_refuses() {
    let mut c = client();
    topic(&mut c, "exists");
    topic(&mut c, "with.dot_s");
    let base = || create_topics::CreatableTopic {
        name: "created".to_owned(),
        num_partitions: 1,
        replication_factor: 1,
        ..Default::default()
    };
    let assigned = |lists: &[(i32, &[i32])]| create_topics::CreatableTopic {
        num_partitions: -1,
        replication_factor: -1,
        assignments: lists
            .iter()
            .map(|(partition_index, ids)| create_topics::Assignment {
                partition_index: *partition_index,
                broker_ids: ids.to_vec(),
            })
            .collect(),
        ..base()
    };
    let config = |name: &str, value: Option<&str>| create_topics::CreatableTopic {
        configs: vec![create_topics::Config {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        }],
        ..base()
    };
    let named = |name: &str| create_topics::CreatableTopic { name: name.to_owned(), ..base() };
    let cases = [
        ("exists", named("exists"), ErrorCode::TopicAlreadyExists),
        ("bad name", named("a/b"), ErrorCode::InvalidTopicException),
        ("collides", named("with_dot.s"), ErrorCode::InvalidTopicException),
        ("metadata", named("__cluster_metadata"), ErrorCode::InvalidTopicException),
        (
            "0 partitions",
            create_topics::CreatableTopic { num_partitions: 0, ..base() },
            ErrorCode::InvalidPartitions,
        ),
        (
            "-2 partitions",
            create_topics::CreatableTopic { num_partitions: -2, ..base() },
            ErrorCode::InvalidPartitions,
        ),
        (
            "too many",
            create_topics::CreatableTopic { num_partitions: 10_001, ..base() },
            ErrorCode::PolicyViolation,
        ),
        (
            "factor 0",
            create_topics::CreatableTopic { replication_factor: 0, ..base() },
            ErrorCode::InvalidReplicationFactor,
        ),
        (
            "both",
            create_topics::CreatableTopic { num_partitions: 1, ..assigned(&[(0, &[256])]) },
            ErrorCode::InvalidRequest,
        ),
        ("unknown broker", assigned(&[(0, &[1])]), ErrorCode::InvalidReplicaAssignment),
        ("no broker", assigned(&[(0, &[])]), ErrorCode::InvalidReplicaAssignment),
        ("twice", assigned(&[(0, &[256, 256])]), ErrorCode::InvalidReplicaAssignment),
        ("not from 0", assigned(&[(1, &[256])]), ErrorCode::InvalidReplicaAssignment),
        ("unknown config", config("no.such.config", Some("1")), ErrorCode::InvalidConfig),
        ("the broker's", config("log.dirs", Some("/elsewhere")), ErrorCode::InvalidConfig),
        ("the broker's", config("node.id", Some("7")), ErrorCode::InvalidConfig),
        ("bad value", config("retention.ms", Some("soon")), ErrorCode::InvalidConfig),
        ("null value", config("retention.ms", None), ErrorCode::InvalidConfig),
        ("recompression", config("compression.type", Some("lz4")), ErrorCode::InvalidConfig),
    ];
    for (case, topic, error) in cases {
        let request =
            create_topics::Request { topics: vec![topic], timeout_ms: 1000, validate_only: false };
        let answer = c.call(7, &request).topics.remove(0);
        assert_eq!(answer.error, error, "{case}: {:?}", answer.error_message);
        assert!(answer.error_message.is_some(), "{case}");
    }
    let request = create_topics::Request {
        topics: vec![base(), base()],
        timeout_ms: 1000,
        validate_only: false,
    };
    let answer = c.call(7, &request);
    assert!(answer.topics.iter().all(|topic| topic.error == ErrorCode::InvalidRequest));
    // More partitions in one request than the cluster's log takes at once: none of it.
    let many = ["m0", "m1", "m2"];
    let many =
        many.map(|name| create_topics::CreatableTopic { num_partitions: 4000, ..named(name) });
    let request =
        create_topics::Request { topics: many.into(), timeout_ms: 1000, validate_only: true };
    let answer = c.call(7, &request);
    assert!(answer.topics.iter().all(|topic| topic.error == ErrorCode::PolicyViolation));
    // Of two that collide the first is made.
    let request = create_topics::Request {
        topics: vec![named("pair_x"), named("pair.x")],
        timeout_ms: 1000,
        validate_only: false,
    };
    let errors: Vec<_> = c.call(7, &request).topics.iter().map(|topic| topic.error).collect();
    assert_eq!(errors, [ErrorCode::None, ErrorCode::InvalidTopicException]);
    // Only looked at, not made.
    for _ in 0..2 {
        let request =
            create_topics::Request { topics: vec![base()], timeout_ms: 1000, validate_only: true };
        assert_eq!(c.call(7, &request).topics[0].error, ErrorCode::None);
    }
    assert_eq!(
        c.metadata(Some(&["created"]), false).topics[0].error,
        ErrorCode::UnknownTopicOrPartition
    );
}

#[test]
fn create_topics_tells_what_was_made() {
    let mut c = client();
    for version in 2..=7 {
        let name = format!("made-{version}");
        let topic = create_topics::CreatableTopic {
            name: name.clone(),
            num_partitions: 3,
            replication_factor: 3, // Accepted, and reported as what it is.
            configs: vec![create_topics::Config {
                name: "retention.ms".to_owned(),
                value: Some("1234567".to_owned()),
            }],
            ..Default::default()
        };
        let request =
            create_topics::Request { topics: vec![topic], timeout_ms: 1000, validate_only: false };
        let answer = c.call(version, &request).topics.remove(0);
        assert_eq!((answer.error, &answer.name), (ErrorCode::None, &name));
        if version >= 5 {
            assert_eq!((answer.num_partitions, answer.replication_factor), (3, 1));
            let configs = answer.configs.unwrap();
            let of = |name: &str| configs.iter().find(|c| c.name == name).unwrap();
            let (set, default) = (of("retention.ms"), of("segment.bytes"));
            assert_eq!((set.value.as_deref(), set.config_source), (Some("1234567"), 1));
            assert_eq!((default.value.as_deref(), default.config_source), (Some("1073741824"), 5));
        }
        if version >= 7 {
            let found = c.metadata(Some(&[&name]), false).topics.remove(0);
            assert_eq!(answer.topic_id, found.topic_id);
            assert_ne!(answer.topic_id, Uuid::nil());
        }
    }
}

#[test]
fn a_topic_that_was_deleted_is_gone() {
    let mut c = client();
    for version in 1..=6 {
        let id = c.create("gone", 2).topic_id;
        c.produce("gone", 1, batch(&["old"]));
        let by_name =
            delete_topics::TopicRequest { name: Some("gone".to_owned()), ..Default::default() };
        let by_id = delete_topics::TopicRequest { name: None, topic_id: id };
        let wanted = if version == 6 { by_id } else { by_name };
        let request = delete_topics::Request { topics: vec![wanted.clone()], timeout_ms: 1000 };
        let answer = c.call(version, &request).topics.remove(0);
        assert_eq!((answer.error, answer.name.as_deref()), (ErrorCode::None, Some("gone")));
        assert_eq!(c.produce("gone", 1, batch(&["x"])).error, ErrorCode::UnknownTopicOrPartition);
        let again = c.call(version, &request).topics.remove(0).error;
        let unknown = if version == 6 {
            ErrorCode::UnknownTopicId
        } else {
            ErrorCode::UnknownTopicOrPartition
        };
        assert_eq!(again, unknown);
        // Made again it has a new id and none of the old records.
        assert_ne!(c.create("gone", 2).topic_id, id);
        assert_eq!(c.offset("gone", 1, -1).offset, 0);
        assert!(c.fetch("gone", 1, 0).records.unwrap().is_empty());
        assert_eq!(c.delete("gone").error, ErrorCode::None);
    }
}

#[test]
fn a_topic_named_by_name_and_id_is_not_deleted() {
    let mut c = client();
    let (kept, gone) = (topic(&mut c, "kept"), topic(&mut c, "goes"));
    let id = c.metadata(Some(&[&kept]), false).topics[0].topic_id;
    let named = |name: &str, topic_id| delete_topics::TopicRequest {
        name: Some(name.to_owned()),
        topic_id,
    };
    let topics = vec![named(&kept, id), named(&gone, Uuid::nil()), named("not-there", id)];
    let answer = c.call(6, &delete_topics::Request { topics, timeout_ms: 1000 });
    let found: Vec<_> =
        answer.topics.iter().map(|t| (t.name.as_deref(), t.topic_id == id, t.error)).collect();
    let refused = ErrorCode::InvalidRequest;
    let expected = [
        (Some(&*kept), true, refused),
        (Some(&*gone), false, ErrorCode::None),
        (Some("not-there"), true, refused),
    ];
    assert_eq!(found, expected);
    assert!(answer.topics[0].error_message.is_some());
    assert_eq!(c.produce(&kept, 0, batch(&["x"])).error, ErrorCode::None);
}
