//! ApiVersions, FindCoordinator, and what holds for all requests of a connection.

use super::common::{batch, fetch_request, produce_request};
use super::{client, topic};
use kariz_protocol::ErrorCode;
use kariz_protocol::messages::fetch::{self, FetchPartition};
use kariz_protocol::messages::{
    api_versions, create_topics, find_coordinator, init_producer_id, produce,
};

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
            let mut request =
                fetch_request(&t, FetchPartition { fetch_offset: n, ..Default::default() });
            (request.min_bytes, request.max_wait_ms) = (1, 10_000);
            ids.push(-c.send(12, &request));
        }
    }
    let mut next = 0;
    for id in ids {
        if id > 0 {
            let answer = c.receive::<produce::Request>(9, id);
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
    let request =
        create_topics::Request { topics: vec![topic], timeout_ms: 1000, validate_only: false };
    let first = c.send(7, &request);
    let second = c.send(9, &produce_request(-1, "behind", 0, Some(batch(&["x"]))));
    assert_eq!(c.receive::<create_topics::Request>(7, first).topics[0].error, ErrorCode::None);
    let answer = c.receive::<produce::Request>(9, second);
    assert_eq!(answer.topics[0].partitions[0].error, ErrorCode::None);
}
