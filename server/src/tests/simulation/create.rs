//! Requests that create many topics: what they cost, and whom they hold up.

use super::{Client, serve};
use crate::cluster::names::COMPARED;
use kariz_engine::io::sim::{Faults, World};
use kariz_protocol::ErrorCode;
use kariz_protocol::messages::create_topics;

/// A request for `count` topics, of names that could collide with others, but do not.
fn create_many(count: usize, validate_only: bool) -> create_topics::Request {
    let topic = |n| create_topics::CreatableTopic {
        name: format!("topic_{n}"),
        num_partitions: 1,
        replication_factor: 1,
        ..Default::default()
    };
    create_topics::Request {
        topics: (0..count).map(topic).collect(),
        timeout_ms: 1000,
        validate_only,
    }
}

#[test]
fn a_name_is_not_compared_with_all_others() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            serve(io.clone()).await;
            let mut client = Client::connect(&io).await;
            // Against those of the same request, then against those that exist.
            for validate_only in [true, false, true] {
                let before = COMPARED.get();
                let answer = client.call(7, &create_many(300, validate_only)).await;
                assert_eq!(answer.topics.len(), 300);
                let compared = COMPARED.get() - before;
                assert!(compared <= 4 * 300, "{compared} names");
            }
            let mut other = create_many(300, true);
            other.topics.iter_mut().for_each(|topic| topic.name = topic.name.replace('_', "."));
            let before = COMPARED.get();
            let answer = client.call(7, &other).await;
            let refused = ErrorCode::InvalidTopicException;
            assert!(answer.topics.iter().all(|topic| topic.error == refused));
            let compared = COMPARED.get() - before;
            assert!(compared <= 4 * 300, "{compared} names");
        })
        .done();
}
