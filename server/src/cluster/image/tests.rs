//! The fold, by the rules of Kafka's `PartitionRegistration` and `TopicDelta`.

use super::*;
use kariz_protocol::metadata_log::{
    Config, FeatureLevel, Partition, ProducerIds, RegisterBroker, RemoveTopic, Topic,
};
use proptest::prelude::*;
use uuid::Uuid;

fn topic(id: u128, name: &str) -> Record {
    Record::Topic(Topic { name: name.to_owned(), topic_id: Uuid::from_u128(id) })
}

fn partition(id: u128, partition_id: i32, leader: i32) -> Record {
    Record::Partition(Partition {
        partition_id,
        topic_id: Uuid::from_u128(id),
        replicas: vec![leader],
        isr: vec![leader],
        leader,
        leader_epoch: 0,
        partition_epoch: 0,
        ..Partition::default()
    })
}

fn remove(id: u128) -> Record {
    Record::RemoveTopic(RemoveTopic { topic_id: Uuid::from_u128(id) })
}

fn config(name: &str, value: Option<&str>) -> Record {
    Record::Config(Config {
        resource_type: CONFIG_TOPIC,
        resource_name: "t".to_owned(),
        name: name.to_owned(),
        value: value.map(str::to_owned),
    })
}

fn change(leader: Option<i32>, isr: Option<Vec<i32>>) -> Record {
    let topic_id = Uuid::from_u128(1);
    Record::PartitionChange(PartitionChange { topic_id, leader, isr, ..PartitionChange::default() })
}

fn fold(records: &[Record]) -> Result<Image, FoldError> {
    let mut image = Image::default();
    image.apply(records, 100)?;
    Ok(image)
}

#[test]
fn a_leader_begins_a_term_and_any_change_a_partition_epoch() {
    let cases = [
        (change(Some(5), None), (5, 1, 1), vec![3]),
        (change(Some(3), None), (3, 1, 1), vec![3]), // Even the same.
        (change(None, Some(vec![3, 4])), (3, 0, 1), vec![3, 4]),
        (change(Some(-1), Some(vec![])), (-1, 1, 1), vec![]),
    ];
    for (change, (leader, leader_epoch, partition_epoch), isr) in cases {
        let image = fold(&[topic(1, "t"), partition(1, 0, 3), change.clone()]).unwrap();
        let found = image.topic("t").unwrap().partition(0).unwrap();
        assert_eq!((found.leader, found.leader_epoch), (leader, leader_epoch), "{change:?}");
        assert_eq!((found.partition_epoch, &found.isr), (partition_epoch, &isr), "{change:?}");
        assert_eq!(found.replicas, [3]);
    }
}

#[test]
fn a_topic_takes_its_configs_with_it() {
    let made = [topic(1, "t"), partition(1, 0, 3), config("retention.ms", Some("5"))];
    let image = fold(&made).unwrap();
    assert_eq!(image.topic_configs("t").collect::<Vec<_>>(), [("retention.ms", "5")]);
    let again = [&made[..], &[remove(1), topic(2, "t")]].concat();
    let image = fold(&again).unwrap();
    assert_eq!(image.topic_configs("t").count(), 0);
    assert_eq!(image.topic("t").unwrap().partitions().len(), 0);
    assert!(image.topic_by_id(TopicId(1_u128.to_be_bytes())).is_none());
    assert!(image.topic_by_id(TopicId(2_u128.to_be_bytes())).is_some());
    let unset = [&made[..], &[config("retention.ms", None)]].concat();
    assert_eq!(fold(&unset).unwrap().topic_configs("t").count(), 0);
}

#[test]
fn a_topic_is_found_by_what_metrics_call_it() {
    let called =
        |image: &Image, name: &str| image.topic_in_metrics(name.to_owned()).map(str::to_owned);
    // Two that collide: an older Kafka made them.
    let made = ["a.b", "a_b", "a_b-c", "a-b"];
    let mut image =
        fold(&(1..).zip(made).map(|(n, name)| topic(n, name)).collect::<Vec<_>>()).unwrap();
    assert_eq!(called(&image, "a_b").as_deref(), Some("a.b"));
    assert_eq!(called(&image, "a_b-c").as_deref(), Some("a_b-c"));
    for none in ["a-b", "a_", "a_b-", ""] {
        assert_eq!(called(&image, none), None, "{none}");
    }
    for (gone, left) in [(1, Some("a_b")), (2, None)] {
        image.apply(&[remove(gone)], 101).unwrap();
        assert_eq!(called(&image, "a_b").as_deref(), left);
    }
}

#[test]
fn what_is_not_there_cannot_be_changed() {
    let unknown = FoldError::UnknownTopic(TopicId(1_u128.to_be_bytes()));
    for record in [partition(1, 0, 3), change(Some(3), None), remove(1)] {
        assert_eq!(fold(&[record]).unwrap_err(), unknown);
    }
    let gap = fold(&[topic(1, "t"), partition(1, 1, 3)]).unwrap_err();
    assert!(matches!(gap, FoldError::PartitionOrder { partition: 1, expected: 0, .. }));
    let none = fold(&[topic(1, "t"), change(Some(3), None)]).unwrap_err();
    assert!(matches!(none, FoldError::UnknownPartition { partition: 0, .. }));
}

#[test]
fn brokers_features_and_producer_ids() {
    let broker = |broker_id| {
        Record::RegisterBroker(RegisterBroker { broker_id, ..RegisterBroker::default() })
    };
    let feature =
        |name: &str, level| Record::FeatureLevel(FeatureLevel { name: name.to_owned(), level });
    let image = fold(&[
        broker(257),
        broker(256),
        feature("metadata.version", 25),
        feature("kraft.version", 1),
        feature("group.version", 1),
        feature("group.version", 0),
        Record::ProducerIds(ProducerIds {
            broker_id: 256,
            broker_epoch: 1,
            next_producer_id: 1000,
        }),
    ])
    .unwrap();
    assert_eq!(image.brokers().map(|(id, _)| id).collect::<Vec<_>>(), [256, 257]);
    assert_eq!(image.controller_id(), 256);
    assert_eq!(image.features().collect::<Vec<_>>(), [("metadata.version", 25)]);
    assert_eq!((image.next_producer_id(), image.offset()), (1000, 99));
}

/// What may happen to topics, by the number that is id and name of a topic.
#[derive(Clone, Copy, Debug)]
enum Op {
    Create(u8, u8),
    Delete(u8),
    Elect(u8, i32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..6_u8, 0..4_u8).prop_map(|(t, n)| Op::Create(t, n)),
        (0..6_u8).prop_map(Op::Delete),
        (0..6_u8, 0..3).prop_map(|(t, leader)| Op::Elect(t, leader)),
    ]
}

proptest! {
    #[test]
    fn the_image_agrees_with_a_list_of_topics(ops in prop::collection::vec(op(), 0..60)) {
        let mut image = Image::default();
        // Topic to id and the leaders' (id, term)s.
        let mut model: BTreeMap<u8, (u128, Vec<(i32, i32)>)> = BTreeMap::new();
        for (id, op) in (1_u128..).zip(ops) {
            let mut records = Vec::new();
            match op {
                Op::Create(t, n) if !model.contains_key(&t) => {
                    records.push(topic(id, &t.to_string()));
                    records.extend((0..i32::from(n)).map(|p| partition(id, p, 9)));
                    model.insert(t, (id, vec![(9, 0); usize::from(n)]));
                }
                Op::Delete(t) => {
                    if let Some((id, _)) = model.remove(&t) {
                        records.push(remove(id));
                    }
                }
                Op::Elect(t, leader) => {
                    if let Some((id, partitions)) = model.get_mut(&t)
                        && let Some(first) = partitions.first_mut()
                    {
                        *first = (leader, first.1 + 1);
                        records.push(Record::PartitionChange(PartitionChange {
                            topic_id: Uuid::from_u128(*id),
                            leader: Some(leader),
                            ..PartitionChange::default()
                        }));
                    }
                }
                Op::Create(..) => (),
            }
            image.apply(&records, 0).unwrap();
            let found: BTreeMap<u8, (u128, Vec<(i32, i32)>)> = image
                .topics()
                .map(|t| {
                    let led = t.partitions().map(|(_, p)| (p.leader, p.leader_epoch)).collect();
                    (t.name.parse().unwrap(), (u128::from_be_bytes(t.id.0), led))
                })
                .collect();
            prop_assert_eq!(&found, &model);
            prop_assert_eq!(image.names.len(), model.len());
        }
    }
}
