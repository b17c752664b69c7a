//! What each API answers in each case of Kafka's table.

#![allow(missing_docs)]

mod common;

use bytes::Bytes;
use common::{Client, batch, builder, fetch_request, now, produce_request, sequenced, shared, values, wire};
use kariz_engine::batch::{Batch, Codec};
use kariz_engine::types::Timestamp;
use kariz_protocol::ErrorCode;
use kariz_protocol::messages::fetch::FetchPartition;
use kariz_protocol::messages::{
    api_versions, create_topics, delete_topics, fetch, find_coordinator, init_producer_id, metadata,
};
use uuid::Uuid;

fn client() -> Client {
    shared().client(0)
}

/// A topic of this test's own, with one partition.
fn topic(client: &mut Client, name: &str) -> String {
    let created = client.create(name, 1);
    assert_eq!(created.error, ErrorCode::None, "{:?}", created.error_message);
    name.to_owned()
}

#[test]
fn produce_then_fetch_gives_the_records_back() {
    let mut c = client();
    let t = topic(&mut c, "roundtrip");
    for (acks, first) in [(-1, 0), (1, 2)] {
        let answer = c.produce_as(9, acks, &t, 0, Some(batch(&["a", "b"])));
        assert_eq!((answer.error, answer.base_offset), (ErrorCode::None, first));
        assert_eq!((answer.log_start_offset, answer.log_append_time_ms), (0, -1));
    }
    // What was acknowledged by acks=1 is visible to those who ask for the end first.
    assert_eq!(c.offset(&t, 0, -1).offset, 4);
    for version in 4..=12 {
        let found = c.fetch_as(version, &t, FetchPartition { fetch_offset: 1, ..Default::default() });
        assert_eq!((found.head.error, found.head.high_watermark), (ErrorCode::None, 4));
        let all = [(0, "a"), (1, "b"), (2, "a"), (3, "b")].map(|(o, v)| (o, v.to_owned()));
        // From the batch that contains the offset on.
        assert_eq!(values(&found.records.unwrap()), all, "version {version}");
    }
}

#[test]
fn every_served_version_of_produce_is_answered() {
    let mut c = client();
    let t = topic(&mut c, "versions");
    for (n, version) in (3..=11).enumerate() {
        let answer = c.produce_as(version, -1, &t, 0, Some(batch(&["x"])));
        assert_eq!((answer.error, answer.base_offset), (ErrorCode::None, i64::try_from(n).unwrap()));
    }
}

#[test]
fn produce_refuses_what_is_no_good_batch() {
    let mut c = client();
    let t = topic(&mut c, "refusals");
    let good = batch(&["a", "b"]);
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        Some(Bytes::from(bytes))
    };
    // Changes behind the CRC field, signed again.
    let signed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.to_vec();
        change(&mut bytes);
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        Some(Bytes::from(bytes))
    };
    let twice = Some([&good[..], &good[..]].concat().into());
    let late = |ms: i64| {
        let at = Timestamp(now().0 + ms);
        Some(wire(Batch::build().record(None, Some(b"x"), &[], at)))
    };
    let control = Some(wire(builder(&["x"]).control()));
    let cases = [
        ("no records", None, ErrorCode::InvalidRecord),
        ("empty records", Some(Bytes::new()), ErrorCode::InvalidRecord),
        ("two batches", twice, ErrorCode::InvalidRecord),
        ("half a batch", Some(good.slice(..good.len() / 2)), ErrorCode::InvalidRecord),
        ("magic 1", changed(16, 1), ErrorCode::InvalidRecord),
        ("bad CRC", changed(good.len() - 1, 0xff), ErrorCode::CorruptMessage),
        ("count is wrong", signed(&|b| b[60] = 9), ErrorCode::InvalidRecord),
        ("last offset delta is wrong", signed(&|b| b[26] = 9), ErrorCode::InvalidRecord),
        ("codec 7", signed(&|b| b[22] = 7), ErrorCode::UnsupportedCompressionType),
        ("a control batch", control, ErrorCode::InvalidRecord),
        ("a producer id without sequence", Some(sequenced(&["x"], 5, 0, -1)), ErrorCode::InvalidRecord),
        ("two hours ahead", late(7_200_000), ErrorCode::InvalidTimestamp),
        ("a transaction", Some(wire(builder(&["x"]).transactional())), ErrorCode::InvalidRecord),
    ];
    for (case, records, error) in cases {
        let answer = c.produce_as(9, -1, &t, 0, records);
        assert_eq!((answer.error, answer.base_offset), (error, -1), "{case}");
    }
    assert_eq!(c.offset(&t, 0, -1).offset, 0, "nothing of it is in the log");
    assert_eq!(c.produce(&t, 0, late(1_800_000).unwrap()).error, ErrorCode::None);
}

#[test]
fn produce_to_what_is_not_there() {
    let mut c = client();
    let t = topic(&mut c, "there");
    for (name, partition) in [("not-there", 0), (&*t, 1), (&*t, -1), ("..", 0)] {
        let answer = c.produce_as(9, -1, name, partition, Some(batch(&["x"])));
        assert_eq!(answer.error, ErrorCode::UnknownTopicOrPartition, "{name} {partition}");
    }
    for acks in [2, -2, i16::MAX] {
        let answer = c.produce_as(9, acks, &t, 0, Some(batch(&["x"])));
        assert_eq!(answer.error, ErrorCode::InvalidRequiredAcks);
    }
}

#[test]
fn zstd_is_for_new_clients() {
    let mut c = client();
    let t = topic(&mut c, "zstd");
    let mut zstd = batch(&["x"]).to_vec();
    zstd[22] = Codec::Zstd.id();
    let crc = crc32c::crc32c(&zstd[21..]);
    zstd[17..21].copy_from_slice(&crc.to_be_bytes());
    let zstd = Bytes::from(zstd);
    let answer = c.produce_as(6, -1, &t, 0, Some(zstd.clone()));
    assert_eq!(answer.error, ErrorCode::UnsupportedCompressionType);
    assert_eq!(c.produce_as(7, -1, &t, 0, Some(zstd)).error, ErrorCode::None);
    // Nor can an old client read it.
    let found = c.fetch_as(9, &t, FetchPartition::default());
    assert_eq!(found.head.error, ErrorCode::UnsupportedCompressionType);
    assert_eq!(c.fetch_as(10, &t, FetchPartition::default()).head.error, ErrorCode::None);
}

#[test]
fn acks_0_has_no_answer_and_an_error_closes() {
    let mut c = client();
    let t = topic(&mut c, "acks0");
    c.send(9, &produce_request(0, &t, 0, Some(batch(&["x"]))));
    // The next answer is that of the next request.
    assert_eq!(c.offset(&t, 0, -1).offset, 1);
    c.send(9, &produce_request(0, "not-there", 0, Some(batch(&["x"]))));
    assert!(c.is_closed());
}

#[test]
fn an_idempotent_producer_is_held_to_its_sequence() {
    let mut c = client();
    let t = topic(&mut c, "idempotent");
    let id = c.call(4, &init_producer_id::Request::default());
    assert_eq!((id.error, id.producer_epoch), (ErrorCode::None, 0));
    let other = c.call(4, &init_producer_id::Request::default());
    assert_ne!(id.producer_id, other.producer_id);
    let id = id.producer_id;
    let steps = [
        ("the first", 0, 0, ErrorCode::None, 0),
        ("the next", 0, 2, ErrorCode::None, 2),
        ("again", 0, 0, ErrorCode::None, 0),
        ("a gap", 0, 6, ErrorCode::OutOfOrderSequenceNumber, -1),
        ("the next", 0, 4, ErrorCode::None, 4),
        ("a new epoch not from 0", 1, 6, ErrorCode::OutOfOrderSequenceNumber, -1),
        ("a new epoch", 1, 0, ErrorCode::None, 6),
        ("the old epoch", 0, 6, ErrorCode::InvalidProducerEpoch, -1),
    ];
    for (case, epoch, first, error, offset) in steps {
        let answer = c.produce(&t, 0, sequenced(&["a", "b"], id, epoch, first));
        assert_eq!((answer.error, answer.base_offset), (error, offset), "{case}");
    }
    // Without state for the producer any sequence is accepted.
    let answer = c.produce(&t, 0, sequenced(&["x"], 999_999, 0, 77));
    assert_eq!(answer.error, ErrorCode::None);
}

#[test]
fn a_batch_has_the_size_that_its_topic_allows() {
    let mut c = client();
    let created = c.create_with("small", 1, &[("max.message.bytes", "1000")]);
    assert_eq!(created.error, ErrorCode::None, "{:?}", created.error_message);
    let large = "x".repeat(1000);
    assert_eq!(c.produce("small", 0, batch(&[&large])).error, ErrorCode::MessageTooLarge);
    assert_eq!(c.produce("small", 0, batch(&[&large[..500]])).error, ErrorCode::None);
    let set = [("max.message.bytes", "2000000"), ("segment.bytes", "1048576")];
    assert_eq!(c.create_with("short", 1, &set).error, ErrorCode::None);
    let large = "x".repeat(1_200_000);
    assert_eq!(c.produce("short", 0, batch(&[&large])).error, ErrorCode::RecordListTooLarge);
}

#[test]
fn log_append_time_is_the_brokers() {
    let mut c = client();
    let set = [("message.timestamp.type", "LogAppendTime")];
    assert_eq!(c.create_with("append-time", 1, &set).error, ErrorCode::None);
    let before = now().0;
    let old = wire(Batch::build().record(None, Some(b"x"), &[], Timestamp(1000)));
    let answer = c.produce("append-time", 0, old);
    assert_eq!(answer.error, ErrorCode::None);
    assert!((before..=now().0).contains(&answer.log_append_time_ms));
    // The CRC covers the time: the client checks it.
    let found = c.fetch("append-time", 0, 0).records.unwrap();
    assert_eq!(values(&found), [(0, "x".to_owned())]);
}

#[test]
fn fetch_out_of_range() {
    let mut c = client();
    let t = topic(&mut c, "range");
    c.produce(&t, 0, batch(&["a", "b"]));
    for offset in [-1, 3, i64::MAX] {
        let found = c.fetch(&t, 0, offset);
        assert_eq!(found.head.error, ErrorCode::OffsetOutOfRange, "offset {offset}");
        assert!(found.records.unwrap().is_empty());
    }
    let at_end = c.fetch(&t, 0, 2);
    assert_eq!((at_end.head.error, at_end.head.high_watermark), (ErrorCode::None, 2));
    assert!(at_end.records.unwrap().is_empty());
    for (name, partition) in [("not-there", 0), (&*t, 1), (&*t, -1)] {
        let found = c.fetch(name, partition, 0);
        assert_eq!(found.head.error, ErrorCode::UnknownTopicOrPartition);
    }
}

#[test]
fn leader_epochs_are_compared() {
    let mut c = client();
    let t = topic(&mut c, "epochs");
    c.produce(&t, 0, batch(&["a"]));
    let cases = [
        (-1, ErrorCode::None),
        (0, ErrorCode::None),
        (1, ErrorCode::UnknownLeaderEpoch),
    ];
    for (epoch, error) in cases {
        let wanted = FetchPartition { current_leader_epoch: epoch, ..Default::default() };
        assert_eq!(c.fetch_as(12, &t, wanted).head.error, error, "epoch {epoch}");
        assert_eq!(c.offset_as(10, &t, 0, -1, epoch).error, error, "epoch {epoch}");
    }
}

#[test]
fn a_fetch_waits_for_records_and_not_longer_than_it_says() {
    let mut c = client();
    let t = topic(&mut c, "parked");
    let mut request = fetch_request(&t, FetchPartition::default());
    (request.min_bytes, request.max_wait_ms) = (1, 20);
    let empty = c.call(12, &request);
    assert!(empty.topics[0].partitions[0].records.as_ref().unwrap().is_empty());
    request.max_wait_ms = 25_000;
    let id = c.send(12, &request);
    let mut other = client();
    other.produce(&t, 0, batch(&["a"]));
    let found: fetch::Response = c.receive::<fetch::Request>(12, id);
    assert_eq!(values(found.topics[0].partitions[0].records.as_ref().unwrap()).len(), 1);
    // More than there is: waits again, and the deletion of the topic ends it.
    request.min_bytes = 1 << 20;
    let id = c.send(12, &request);
    assert_eq!(other.delete(&t).error, ErrorCode::None);
    let found: fetch::Response = c.receive::<fetch::Request>(12, id);
    let error = found.topics[0].partitions[0].head.error;
    assert_eq!(error, ErrorCode::UnknownTopicOrPartition);
}

#[test]
fn fetch_limits_spare_only_the_first_batch() {
    let mut c = client();
    assert_eq!(c.create("limits", 3).error, ErrorCode::None);
    let large = "x".repeat(2000);
    for partition in [1, 2] {
        c.produce("limits", partition, batch(&[&large]));
        c.produce("limits", partition, batch(&[&large]));
    }
    let wanted = |index, max_bytes| FetchPartition { index, max_bytes, ..Default::default() };
    let mut request = fetch_request("limits", wanted(0, 1));
    request.topics[0].partitions.extend([wanted(1, 1), wanted(2, 1)]);
    let lengths = |response: fetch::Response| -> Vec<usize> {
        let partitions = response.topics[0].partitions.iter();
        partitions.map(|p| values(p.records.as_ref().unwrap()).len()).collect()
    };
    // Nothing in 0; 1 is the first with records, so its first batch comes whole; 2 is over.
    assert_eq!(lengths(c.call(12, &request)), [0, 1, 0]);
    request.topics[0].partitions = vec![wanted(1, 1 << 20), wanted(2, 1 << 20)];
    assert_eq!(lengths(c.call(12, &request)), [2, 2]);
    request.max_bytes = 100;
    assert_eq!(lengths(c.call(12, &request)), [1, 0]);
}

#[test]
fn large_fetches_come_whole() {
    let mut c = client();
    let t = topic(&mut c, "large");
    let mut expected = Vec::new();
    for n in 0..200_i64 {
        let value = format!("{n}-{}", "y".repeat(10_000));
        assert_eq!(c.produce(&t, 0, batch(&[&value])).base_offset, n);
        expected.push((n, value));
    }
    let mut found = Vec::new();
    while let Some(next) = i64::try_from(found.len()).ok().filter(|n| *n < 200) {
        let records = c.fetch(&t, 0, next).records.unwrap();
        found.extend(values(&records));
    }
    assert!(found == expected);
}

#[test]
fn there_are_no_fetch_sessions() {
    let mut c = client();
    let t = topic(&mut c, "sessions");
    let mut request = fetch_request(&t, FetchPartition::default());
    request.session_epoch = 0;
    assert_eq!(c.call(12, &request).head.session_id, 0);
    (request.session_id, request.session_epoch) = (7, 1);
    assert_eq!(c.call(12, &request).head.error, ErrorCode::FetchSessionIdNotFound);
}

#[test]
fn offsets_are_found_by_time() {
    let mut c = client();
    let t = topic(&mut c, "times");
    let empty = c.offset(&t, 0, -1);
    assert_eq!((empty.offset, empty.timestamp), (0, -1));
    assert_eq!(c.offset(&t, 0, -3).offset, -1);
    // The largest timestamp is not that of the last record.
    let mut b = Batch::build();
    for at in [1000, 3000, 2000] {
        b.add(None, Some(b"x"), &[], Timestamp(at));
    }
    c.produce(&t, 0, wire(b));
    let cases = [
        (-2, 0, -1),
        (-4, 0, -1),
        (-1, 3, -1),
        (-5, -1, -1),
        (-3, 1, 3000),
        (0, 0, 1000),
        (1001, 1, 3000),
        (3000, 1, 3000),
        (3001, -1, -1),
    ];
    for (at, offset, timestamp) in cases {
        let found = c.offset(&t, 0, at);
        assert_eq!((found.error, found.offset, found.timestamp), (ErrorCode::None, offset, timestamp), "{at}");
    }
    assert_eq!(c.offset(&t, 0, -2).leader_epoch, 0);
    for version in 1..=10 {
        assert_eq!(c.offset_as(version, &t, 0, -1, -1).offset, 3, "version {version}");
    }
    let too_new = [(6, -3), (7, -4), (8, -5), (10, -6)];
    for (version, at) in too_new {
        let answer = c.offset_as(version, &t, 0, at, -1);
        assert_eq!(answer.error, ErrorCode::UnsupportedVersion, "{at} in version {version}");
    }
}

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
        assert_eq!((found.partitions[0].leader_id, &found.partitions[0].isr_nodes), (256, &vec![256]));
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
        ("metadata", named("__cluster_metadata"), ErrorCode::InvalidTopicException),
        ("0 partitions", create_topics::CreatableTopic { num_partitions: 0, ..base() }, ErrorCode::InvalidPartitions),
        ("-2 partitions", create_topics::CreatableTopic { num_partitions: -2, ..base() }, ErrorCode::InvalidPartitions),
        ("too many", create_topics::CreatableTopic { num_partitions: 10_001, ..base() }, ErrorCode::PolicyViolation),
        ("factor 0", create_topics::CreatableTopic { replication_factor: 0, ..base() }, ErrorCode::InvalidReplicationFactor),
        ("both", create_topics::CreatableTopic { num_partitions: 1, ..assigned(&[(0, &[256])]) }, ErrorCode::InvalidRequest),
        ("unknown broker", assigned(&[(0, &[1])]), ErrorCode::InvalidReplicaAssignment),
        ("no broker", assigned(&[(0, &[])]), ErrorCode::InvalidReplicaAssignment),
        ("twice", assigned(&[(0, &[256, 256])]), ErrorCode::InvalidReplicaAssignment),
        ("not from 0", assigned(&[(1, &[256])]), ErrorCode::InvalidReplicaAssignment),
        ("unknown config", config("no.such.config", Some("1")), ErrorCode::InvalidConfig),
        ("bad value", config("retention.ms", Some("soon")), ErrorCode::InvalidConfig),
        ("null value", config("retention.ms", None), ErrorCode::InvalidConfig),
        ("recompression", config("compression.type", Some("lz4")), ErrorCode::InvalidConfig),
    ];
    for (case, topic, error) in cases {
        let request = create_topics::Request { topics: vec![topic], timeout_ms: 1000, validate_only: false };
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
    // Only looked at, not made.
    for _ in 0..2 {
        let request = create_topics::Request { topics: vec![base()], timeout_ms: 1000, validate_only: true };
        assert_eq!(c.call(7, &request).topics[0].error, ErrorCode::None);
    }
    assert_eq!(c.metadata(Some(&["created"]), false).topics[0].error, ErrorCode::UnknownTopicOrPartition);
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
        let request = create_topics::Request { topics: vec![topic], timeout_ms: 1000, validate_only: false };
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
        let by_name = delete_topics::TopicRequest { name: Some("gone".to_owned()), ..Default::default() };
        let by_id = delete_topics::TopicRequest { name: None, topic_id: id };
        let wanted = if version == 6 { by_id } else { by_name };
        let request = delete_topics::Request { topics: vec![wanted.clone()], timeout_ms: 1000 };
        let answer = c.call(version, &request).topics.remove(0);
        assert_eq!((answer.error, answer.name.as_deref()), (ErrorCode::None, Some("gone")));
        assert_eq!(c.produce("gone", 1, batch(&["x"])).error, ErrorCode::UnknownTopicOrPartition);
        let again = c.call(version, &request).topics.remove(0).error;
        let unknown =
            if version == 6 { ErrorCode::UnknownTopicId } else { ErrorCode::UnknownTopicOrPartition };
        assert_eq!(again, unknown);
        // Made again it has a new id and none of the old records.
        assert_ne!(c.create("gone", 2).topic_id, id);
        assert_eq!(c.offset("gone", 1, -1).offset, 0);
        assert!(c.fetch("gone", 1, 0).records.unwrap().is_empty());
        assert_eq!(c.delete("gone").error, ErrorCode::None);
    }
}

#[test]
fn there_is_no_coordinator() {
    let mut c = client();
    for version in 0..=6 {
        let request = find_coordinator::Request { key_type: 0, keys: vec!["g".to_owned()] };
        let answer = c.call(version, &request);
        assert_eq!(answer.coordinators[0].error, ErrorCode::CoordinatorNotAvailable);
    }
    for version in 0..=5 {
        let transactional_id = Some("tx".to_owned());
        let request = init_producer_id::Request { transactional_id, ..Default::default() };
        assert_eq!(c.call(version, &request).error, ErrorCode::CoordinatorNotAvailable);
    }
}

#[test]
fn api_versions_tells_what_is_served() {
    let mut c = client();
    for version in 0..=4 {
        let answer = c.call(version, &api_versions::Request::default());
        assert_eq!(answer.error, ErrorCode::None);
        let of = |key| answer.api_keys.iter().find(|api| api.api_key == key).unwrap();
        assert_eq!((of(0).min_version, of(0).max_version), (0, 11));
        assert_eq!((of(1).min_version, of(1).max_version), (4, 12));
        if version >= 3 {
            let level = answer.finalized_features.iter().find(|f| f.name == "metadata.version");
            assert_eq!(level.map(|f| f.max_version_level), Some(25));
        }
    }
}

#[test]
fn answers_come_in_the_order_of_the_requests() {
    let mut c = client();
    let t = topic(&mut c, "pipelined");
    let mut ids = Vec::new();
    for n in 0..200 {
        let request = produce_request(if n % 2 == 0 { 1 } else { -1 }, &t, 0, Some(batch(&["x"])));
        ids.push(c.send(9, &request));
        if n % 50 == 0 {
            let mut request = fetch_request(&t, FetchPartition { fetch_offset: n, ..Default::default() });
            (request.min_bytes, request.max_wait_ms) = (1, 10_000);
            ids.push(-c.send(12, &request));
        }
    }
    let mut next = 0;
    for id in ids {
        if id > 0 {
            let answer = c.receive::<kariz_protocol::messages::produce::Request>(9, id);
            assert_eq!(answer.topics[0].partitions[0].base_offset, next);
            next += 1;
        } else {
            let answer = c.receive::<fetch::Request>(12, -id);
            assert_eq!(answer.topics[0].partitions[0].head.error, ErrorCode::None);
        }
    }
    // A change of the cluster is seen by what was sent behind it.
    let topic = create_topics::CreatableTopic {
        name: "behind".to_owned(),
        num_partitions: 1,
        replication_factor: 1,
        ..Default::default()
    };
    let request = create_topics::Request { topics: vec![topic], timeout_ms: 1000, validate_only: false };
    let first = c.send(7, &request);
    let second = c.send(9, &produce_request(-1, "behind", 0, Some(batch(&["x"]))));
    assert_eq!(c.receive::<create_topics::Request>(7, first).topics[0].error, ErrorCode::None);
    let answer = c.receive::<kariz_protocol::messages::produce::Request>(9, second);
    assert_eq!(answer.topics[0].partitions[0].error, ErrorCode::None);
}
