//! Requests that create many topics: what they cost, and whom they hold up.

use super::{Client, produce_request, serve, start};
use crate::cluster::control::{ControlError, NewTopic};
use crate::cluster::log;
use crate::cluster::names::COMPARED;
use crate::cluster::owner::{Owner, Publish};
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Fault, Faults, OpKind, Rule, Sim, World};
use kariz_engine::types::TopicPartition;
use kariz_protocol::ErrorCode;
use kariz_protocol::messages::{create_topics, delete_topics};
use std::cell::{Cell, RefCell};
use std::future::ready;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::yield_now;

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

#[test]
fn a_config_that_is_named_twice_is_written_once() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let core = serve(io.clone()).await;
            let mut client = Client::connect(&io).await;
            let log = core.shard.partition(&log::partition_name()).unwrap();
            let before = log.marks().high_watermark;
            let mut request = create_many(1, false);
            let config = |value: &str| create_topics::Config {
                name: "retention.ms".to_owned(),
                value: Some(value.to_owned()),
            };
            request.topics[0].configs = ["5", "6", "7"].map(config).into();
            let answer = client.call(7, &request).await.topics.remove(0);
            let told = answer.configs.unwrap().into_iter().find(|c| c.name == "retention.ms");
            assert_eq!(told.unwrap().value.as_deref(), Some("7"));
            // The topic, its config, its partition.
            assert_eq!(log.marks().high_watermark.0 - before.0, 3);
            let image = core.image.borrow();
            assert_eq!(image.topic_configs("topic_0").collect::<Vec<_>>(), [("retention.ms", "7")]);
        })
        .done();
}

#[test]
fn others_have_their_turn_between_two_topics() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let core = serve(io.clone()).await;
            let mut client = Client::connect(&io).await;
            let mut request = create_many(300, true);
            for topic in &mut request.topics {
                topic.num_partitions = 0;
            }
            // How many have been checked, and how many answered, at each turn of another task.
            let seen: Rc<RefCell<Vec<[u64; 2]>>> = Rc::default();
            let is_answered = Rc::new(Cell::new(false));
            let (notes, done) = (Rc::clone(&seen), Rc::clone(&is_answered));
            io.spawn(async move {
                while !done.get() {
                    let checked = u64::try_from(COMPARED.get()).unwrap();
                    let answered = core.metrics.snapshot().errors.iter().map(|e| e.1).sum();
                    notes.borrow_mut().push([checked, answered]);
                    yield_now().await;
                }
            });
            assert_eq!(client.call(7, &request).await.topics.len(), 300);
            is_answered.set(true);
            let seen = seen.borrow();
            for what in [0, 1] {
                assert!(seen.last().unwrap()[what] - seen[0][what] >= 300);
                let steps = seen.windows(2).map(|pair| pair[1][what] - pair[0][what]);
                assert_eq!(steps.max(), Some(1));
            }
        })
        .done();
}

#[test]
fn an_answer_is_claimed_until_it_is_read() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let core = serve(io.clone()).await;
            let mut client = Client::connect(&io).await;
            // Their settings are fifty times the request.
            client.send(7, &create_many(2_000, true)).await;
            io.sleep(Duration::from_secs(1)).await;
            let claimed = core.budget.used_bytes();
            assert!(claimed > 2_000 * 1_000, "{claimed} bytes");
            let answer = client.receive::<create_topics::Request>(7).await;
            assert!(answer.topics.iter().all(|topic| topic.error == ErrorCode::None));
            io.sleep(Duration::from_secs(1)).await;
            assert_eq!(core.budget.used_bytes(), 0);
        })
        .done();
}

#[test]
fn more_topics_than_the_log_takes_at_once_are_refused() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            serve(io.clone()).await;
            let mut client = Client::connect(&io).await;
            let answer = client.call(7, &create_many(5_001, true)).await;
            let refused = ErrorCode::PolicyViolation;
            assert!(answer.topics.iter().all(|topic| topic.error == refused));
        })
        .done();
}

/// The owner of the cluster's log, and how many topics it has told of.
async fn owner(io: Sim) -> (Owner<Sim>, Rc<Cell<usize>>) {
    let (shard, config, log, image) = start(io, &[]).await;
    let told = Rc::new(Cell::new(0));
    let count = Rc::clone(&told);
    let publish: Publish = Box::new(move |delta| {
        count.set(count.get() + delta.batches.len());
        Box::pin(ready(()))
    });
    (Owner::new(shard, log, config, image, publish), told)
}

#[test]
fn what_a_full_disk_lets_through_of_a_request_exists() {
    // Their records take three writes.
    const TOPICS: usize = 4_000;
    let topics =
        || (0..TOPICS).map(|n| NewTopic::by_default(format!("topic-{n}"))).collect::<Vec<_>>();
    let mut world = World::new(1, Faults::none());
    world
        .boot(move |io| async move {
            let (owner, told) = owner(io.clone()).await;
            let is_log = |path: &str| path.contains(log::NAME) && path.ends_with(".log");
            let full = Rule::on(OpKind::Write, Fault::NoSpace).named(is_log).after(1).times(1);
            io.set_faults(Faults::none().with(full));
            let failed = owner.create_topics(topics(), false).await;
            assert!(matches!(failed, Err(ControlError::Log(_))), "{failed:?}");
            let there = told.get();
            assert!((1..TOPICS).contains(&there), "{there} topics");
            // Tried again, those that are missing are made.
            let again = owner.create_topics(topics(), false).await.unwrap();
            let exists = ErrorCode::TopicAlreadyExists;
            let found = again.iter().filter(|t| t.as_ref().is_err_and(|e| e.code == exists));
            assert_eq!(found.count(), there);
            assert_eq!(told.get(), TOPICS);
        })
        .done();
    world
        .boot(|io| async move {
            let (_, _, _, image) = start(io, &[]).await;
            assert_eq!(image.topics().count(), TOPICS);
        })
        .done();
}

#[test]
fn partitions_that_a_full_disk_did_not_let_be_made_are_made_once_there_is_room() {
    for kind in [OpKind::CreateDir, OpKind::Open, OpKind::Write] {
        let mut world = World::new(1, Faults::none());
        world
            .boot(move |io| async move {
                let core = serve(io.clone()).await;
                let mut client = Client::connect(&io).await;
                let full = Rule::on(kind, Fault::NoSpace).named(|path| path.contains("/t-"));
                io.set_faults(Faults::none().with(full));
                client.create().await;
                let mut produced = Vec::new();
                for _ in 0..3 {
                    let answer = client.call(9, &produce_request(&io, -1, 1000, "a")).await;
                    produced.push(answer.topics[0].partitions[0].error);
                    io.sleep(Duration::from_secs(2)).await;
                }
                assert_eq!(produced, [ErrorCode::KafkaStorageError; 3]);
                io.set_faults(Faults::none());
                io.sleep(Duration::from_secs(2)).await;
                let answer = client.call(9, &produce_request(&io, -1, 1000, "a")).await;
                assert_eq!(answer.topics[0].partitions[0].error, ErrorCode::None, "{kind:?}");
                assert_eq!(client.read_all().await.into_values().collect::<Vec<_>>(), ["a"]);
                assert!(core.unmade.is_empty());
            })
            .done();
    }
}

#[test]
fn a_topic_that_is_deleted_before_there_is_room_is_not_made() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let core = serve(io.clone()).await;
            let mut client = Client::connect(&io).await;
            let full = Rule::on(OpKind::Write, Fault::NoSpace).named(|path| path.contains("/t-"));
            io.set_faults(Faults::none().with(full));
            client.create().await;
            assert!(!core.unmade.is_empty());
            let topic =
                delete_topics::TopicRequest { name: Some("t".to_owned()), ..Default::default() };
            let request = delete_topics::Request { topics: vec![topic], timeout_ms: 1000 };
            let deleted = client.call(6, &request).await;
            assert_eq!(deleted.topics[0].error, ErrorCode::None);
            io.set_faults(Faults::none());
            io.sleep(Duration::from_secs(2)).await;
            assert!(core.unmade.is_empty());
            assert!(core.shard.partition(&TopicPartition::new("t", 0)).is_err());
        })
        .done();
}

#[test]
fn a_partition_that_is_refused_for_good_is_in_nobodys_way() {
    const TOPICS: usize = 10;
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let core = serve(io.clone()).await;
            let mut client = Client::connect(&io).await;
            let refused = |names: fn(&str) -> bool| {
                Faults::none().with(Rule::on(OpKind::CreateDir, Fault::NoSpace).named(names))
            };
            io.set_faults(refused(|path| path.contains("/topic_")));
            let mut request = create_many(TOPICS, false);
            request.topics.iter_mut().for_each(|topic| topic.num_partitions = 3);
            client.call(7, &request).await;
            let made = || {
                let names = (0..TOPICS).flat_map(|n| (0..3).map(move |index| (n, index)));
                let is_made = |(n, index): &(usize, i32)| {
                    core.shard.partition(&TopicPartition::new(format!("topic_{n}"), *index)).is_ok()
                };
                names.filter(is_made).count()
            };
            io.sleep(Duration::from_secs(5)).await;
            assert_eq!(made(), 0);
            io.set_faults(refused(|path| {
                path.ends_with("/topic_3-1") || path.ends_with("/topic_7-0")
            }));
            io.sleep(Duration::from_secs(6)).await;
            assert_eq!(made(), 3 * TOPICS - 2);
        })
        .done();
}
