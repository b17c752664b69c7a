//! Requests that name the same again and again: what comes back, and that it is not multiplied.

use super::common::{Client, batch, fetch_request, values};
use super::{client, topic};
use kariz_protocol::ErrorCode;
use kariz_protocol::messages::fetch::FetchPartition;
use kariz_protocol::messages::{delete_topics, fetch, find_coordinator, list_offsets, metadata};
use uuid::Uuid;

/// Partitions of a topic that is costly to describe.
const MANY: i32 = 100;
/// As often as a name of one character fits into a request for metadata.
const TIMES: usize = 25_000;

/// The answer to a request for metadata of `topics`, and its bytes.
fn metadata_of(
    c: &mut Client,
    version: i16,
    topics: Vec<metadata::TopicRequest>,
) -> (metadata::Response, usize) {
    let request = metadata::Request { topics: Some(topics), ..Default::default() };
    c.send(version, &request);
    let frame = c.receive_frame().unwrap();
    (kariz_protocol::header::decode_response(&frame, version).unwrap().1, frame.len())
}

fn by_name(name: &str) -> metadata::TopicRequest {
    metadata::TopicRequest { name: Some(name.to_owned()), ..Default::default() }
}

fn by_id(topic_id: Uuid) -> metadata::TopicRequest {
    metadata::TopicRequest { topic_id, name: None }
}

#[test]
fn metadata_describes_a_topic_once_however_often_it_is_named() {
    let mut c = client();
    let id = c.create("R", MANY).topic_id;
    let (_, once) = metadata_of(&mut c, 4, vec![by_name("R")]);
    let (answer, bytes) = metadata_of(&mut c, 4, vec![by_name("R"); TIMES]);
    assert_eq!((answer.topics.len(), bytes), (1, once));
    // An id takes more room in the request.
    let (_, once) = metadata_of(&mut c, 12, vec![by_id(id)]);
    let (answer, bytes) = metadata_of(&mut c, 12, vec![by_id(id); TIMES / 4]);
    assert_eq!((answer.topics.len(), bytes), (1, once));
    assert_eq!(answer.topics[0].name.as_deref(), Some("R"));
    // What is unknown, or no name, once too.
    let no_topic = Uuid::from_u128(7);
    let (answer, _) = metadata_of(&mut c, 12, vec![by_id(no_topic), by_id(id), by_id(no_topic)]);
    let mut errors: Vec<_> = answer.topics.iter().map(|topic| topic.error.code()).collect();
    errors.sort_unstable();
    assert_eq!(errors, [ErrorCode::None.code(), ErrorCode::UnknownTopicId.code()]);
    let (answer, _) = metadata_of(&mut c, 4, vec![by_name("a/b"), by_name("R"), by_name("a/b")]);
    assert_eq!(answer.topics.len(), 2);
}

#[test]
fn metadata_takes_ids_before_names() {
    let mut c = client();
    let id = c.create("named-and-known", 1).topic_id;
    let both = metadata::TopicRequest { topic_id: id, name: Some("another".to_owned()) };
    let topics = vec![by_name("named-and-known"), by_id(id), both, by_name("not-made")];
    let (answer, _) = metadata_of(&mut c, 12, topics);
    let found: Vec<_> = answer.topics.iter().map(|t| (t.error, t.name.as_deref())).collect();
    assert_eq!(found, [(ErrorCode::None, Some("named-and-known"))]);
    let made = c.metadata(Some(&["not-made"]), false).topics.remove(0);
    assert_eq!(made.error, ErrorCode::UnknownTopicOrPartition);
}

#[test]
fn a_topic_that_is_missing_twice_is_made() {
    let mut c = client();
    let answer = c.metadata(Some(&["missing-twice", "missing-twice"]), true);
    let found: Vec<_> = answer.topics.iter().map(|topic| topic.error).collect();
    assert_eq!(found, [ErrorCode::None]);
}

#[test]
fn offsets_of_a_partition_that_is_named_twice_are_refused() {
    let mut c = client();
    assert_eq!(c.create("offsets-twice", 2).error, ErrorCode::None);
    let of = |indexes: &[i32]| list_offsets::TopicRequest {
        name: "offsets-twice".to_owned(),
        partitions: indexes
            .iter()
            .map(|index| list_offsets::PartitionRequest {
                index: *index,
                current_leader_epoch: -1,
                timestamp: -2,
            })
            .collect(),
    };
    // As Kafka: each time that it is named, in whichever topic of the request.
    let topics = vec![of(&[0, 1]), of(&[0])];
    let answer = c.call(7, &list_offsets::Request { topics, ..Default::default() });
    let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    let errors: Vec<_> = partitions.map(|p| (p.index, p.error)).collect();
    let refused = ErrorCode::InvalidRequest;
    assert_eq!(errors, [(0, refused), (1, ErrorCode::None), (0, refused)]);
}

#[test]
fn a_partition_that_is_fetched_twice_comes_once() {
    let mut c = client();
    assert_eq!(c.create("fetched-twice", 2).error, ErrorCode::None);
    for partition in [0, 1] {
        c.produce("fetched-twice", partition, batch(&["a"]));
        c.produce("fetched-twice", partition, batch(&["b"]));
    }
    let from = |index, fetch_offset| FetchPartition { index, fetch_offset, ..Default::default() };
    let mut request = fetch_request("fetched-twice", from(0, 0));
    request.topics.push(fetch::TopicRequest {
        name: "fetched-twice".to_owned(),
        partitions: vec![from(1, 0), from(0, 0), from(0, 1)],
    });
    let answer = c.call(12, &request);
    let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    let found: Vec<_> =
        partitions.map(|p| (p.head.index, values(p.records.as_ref().unwrap()))).collect();
    // As Kafka: what was said last of it.
    let (a, b) = ((0, "a".to_owned()), (1, "b".to_owned()));
    assert_eq!(found, [(1, vec![a, b.clone()]), (0, vec![b])]);
}

#[test]
fn of_what_is_to_be_deleted_twice_nothing_is() {
    let mut c = client();
    let id = c.create("deleted-twice", 1).topic_id;
    topic(&mut c, "deleted-once");
    let name = |name: &str| delete_topics::TopicRequest {
        name: Some(name.to_owned()),
        ..Default::default()
    };
    let id = delete_topics::TopicRequest { name: None, topic_id: id };
    let refused = ErrorCode::InvalidRequest;
    let mut errors = |topics: Vec<delete_topics::TopicRequest>| -> Vec<ErrorCode> {
        let answer = c.call(6, &delete_topics::Request { topics, timeout_ms: 1000 });
        answer.topics.iter().map(|topic| topic.error).collect()
    };
    let twice = name("deleted-twice");
    assert_eq!(errors(vec![twice.clone(), twice.clone()]), [refused; 2]);
    assert_eq!(errors(vec![id.clone(), id.clone()]), [refused; 2]);
    assert_eq!(errors(vec![name("not-there"), name("not-there")]), [refused; 2]);
    // By name and by id; what is named once goes.
    let topics = vec![twice.clone(), name("deleted-once"), id];
    assert_eq!(errors(topics), [refused, ErrorCode::None, refused]);
    assert_eq!(
        errors(vec![twice, name("deleted-once")]),
        [ErrorCode::None, ErrorCode::UnknownTopicOrPartition]
    );
}

#[test]
fn coordinators_of_many_keys_cost_little_more_than_the_keys() {
    let mut c = client();
    let request = find_coordinator::Request { key_type: 0, keys: vec!["g".to_owned(); TIMES] };
    c.send(4, &request);
    let frame = c.receive_frame().unwrap();
    let (_, answer): (_, find_coordinator::Response) =
        kariz_protocol::header::decode_response(&frame, 4).unwrap();
    let expected = ErrorCode::CoordinatorNotAvailable;
    assert!(answer.coordinators.iter().all(|found| found.key == "g" && found.error == expected));
    assert_eq!(answer.coordinators.len(), TIMES);
    assert!(frame.len() < 16 * TIMES, "{} bytes", frame.len());
}
