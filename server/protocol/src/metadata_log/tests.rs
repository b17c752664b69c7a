use bytes::BytesMut;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const TOPIC: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
const DIR: Uuid = Uuid::from_u128(0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20);

/// Records and what Kafka 4.1.1's `MetadataRecordSerde` makes of them.
fn written_by_kafka() -> Vec<(Record, &'static str)> {
    let partition = Partition {
        partition_id: 3,
        topic_id: TOPIC,
        replicas: vec![256, 257],
        isr: vec![256],
        leader: 256,
        leader_epoch: 4,
        partition_epoch: 5,
        directories: vec![DIR, DIR],
        ..Partition::default()
    };
    let change = PartitionChange { partition_id: 3, topic_id: TOPIC, ..PartitionChange::default() };
    vec![
        (
            Record::RegisterBroker(RegisterBroker {
                broker_id: 256,
                is_migrating_zk_broker: false,
                incarnation_id: TOPIC,
                broker_epoch: 7,
                endpoints: vec![BrokerEndpoint {
                    name: "PLAINTEXT".into(),
                    host: "localhost".into(),
                    port: 59092,
                    security_protocol: 0,
                }],
                features: vec![BrokerFeature {
                    name: "metadata.version".into(),
                    min_supported_version: 7,
                    max_supported_version: 25,
                }],
                rack: Some("r1".into()),
                is_fenced: false,
                in_controlled_shutdown: true,
                log_dirs: vec![DIR],
            }),
            "01000300000100000102030405060708090a0b0c0d0e0f100000000000000007020a504c41494e54455854\
             0a6c6f63616c686f7374e6d400000002116d657461646174612e76657273696f6e00070019000372310001\
             010011021112131415161718191a1b1c1d1e1f20",
        ),
        (
            Record::RegisterBroker(RegisterBroker {
                broker_id: 1,
                incarnation_id: TOPIC,
                broker_epoch: -1,
                is_fenced: true,
                ..RegisterBroker::default()
            }),
            "01000300000001000102030405060708090a0b0c0d0e0f10ffffffffffffffff010100010000",
        ),
        (
            Record::UnregisterBroker(UnregisterBroker { broker_id: 256, broker_epoch: 7 }),
            "01010000000100000000000000000700",
        ),
        (
            Record::Topic(Topic { name: "orders".into(), topic_id: TOPIC }),
            "010200076f72646572730102030405060708090a0b0c0d0e0f1000",
        ),
        (
            Record::Partition(partition.clone()),
            "010302000000030102030405060708090a0b0c0d0e0f1003000001000000010102000001000101000001\
             000000000400000005031112131415161718191a1b1c1d1e1f201112131415161718191a1b1c1d1e1f2000",
        ),
        (
            Record::Partition(Partition {
                removing_replicas: vec![1],
                adding_replicas: vec![2, 3],
                leader_recovery_state: LeaderRecoveryState::Recovering,
                eligible_leader_replicas: Some(vec![257]),
                last_known_elr: Some(vec![]),
                ..partition
            }),
            "010302000000030102030405060708090a0b0c0d0e0f1003000001000000010102000001000200000001\
             030000000200000003000001000000000400000005031112131415161718191a1b1c1d1e1f2011121314\
             15161718191a1b1c1d1e1f200300010101050200000101020101",
        ),
        (
            Record::Config(Config {
                resource_type: CONFIG_TOPIC,
                resource_name: "orders".into(),
                name: "retention.ms".into(),
                value: Some("1000".into()),
            }),
            "01040002076f72646572730d726574656e74696f6e2e6d73053130303000",
        ),
        (
            Record::Config(Config {
                resource_type: CONFIG_BROKER,
                resource_name: String::new(),
                name: "retention.ms".into(),
                value: None,
            }),
            "01040004010d726574656e74696f6e2e6d730000",
        ),
        (
            Record::PartitionChange(change.clone()),
            "010502000000030102030405060708090a0b0c0d0e0f1000",
        ),
        (
            Record::PartitionChange(PartitionChange { leader: Some(257), ..change.clone() }),
            "010502000000030102030405060708090a0b0c0d0e0f1001010400000101",
        ),
        (
            Record::PartitionChange(PartitionChange {
                isr: Some(vec![256]),
                leader: Some(-1),
                replicas: Some(vec![256, 257]),
                removing_replicas: Some(vec![]),
                adding_replicas: Some(vec![258]),
                leader_recovery_state: Some(LeaderRecoveryState::Recovered),
                eligible_leader_replicas: Some(vec![257]),
                last_known_elr: Some(vec![300]),
                directories: Some(vec![DIR]),
                ..change
            }),
            "010502000000030102030405060708090a0b0c0d0e0f1009000502000001000104ffffffff0209030000\
             01000000010103010104050200000102050100060502000001010705020000012c081102111213141516\
             1718191a1b1c1d1e1f20",
        ),
        (
            Record::RemoveTopic(RemoveTopic { topic_id: TOPIC }),
            "0109000102030405060708090a0b0c0d0e0f1000",
        ),
        (
            Record::FeatureLevel(FeatureLevel { name: "metadata.version".into(), level: 25 }),
            "010c00116d657461646174612e76657273696f6e001900",
        ),
        (
            Record::ProducerIds(ProducerIds {
                broker_id: 256,
                broker_epoch: 7,
                next_producer_id: 1000,
            }),
            "010f0000000100000000000000000700000000000003e800",
        ),
        (
            Record::BrokerRegistrationChange(BrokerRegistrationChange {
                broker_id: 256,
                broker_epoch: 7,
                is_fenced: Some(false),
                in_controlled_shutdown: true,
                log_dirs: vec![DIR],
            }),
            "011102000001000000000000000007030001ff0101010211021112131415161718191a1b1c1d1e1f20",
        ),
        (
            Record::BrokerRegistrationChange(BrokerRegistrationChange {
                broker_id: 256,
                broker_epoch: 7,
                ..BrokerRegistrationChange::default()
            }),
            "01110200000100000000000000000700",
        ),
        (Record::NoOp, "01140000"),
    ]
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut buf = BytesMut::from(&b"before"[..]);
    record.encode(&mut buf).unwrap();
    buf[6..].to_vec()
}

#[test]
fn records_are_those_that_kafka_writes() {
    for (record, value) in written_by_kafka() {
        let value = hex(value);
        assert_eq!(Record::decode(&value).as_ref(), Ok(&record));
        assert_eq!(encoded(&record), value, "{record:?}");
    }
}

#[test]
fn older_versions_lack_the_newer_fields() {
    let (Record::Partition(partition), _) = written_by_kafka().swap_remove(4) else { panic!() };
    let v1 = "010301000000030102030405060708090a0b0c0d0e0f10030000010000000101020000010001010000\
              01000000000400000005031112131415161718191a1b1c1d1e1f201112131415161718191a1b1c1d1e1f2000";
    assert_eq!(Record::decode(&hex(v1)), Ok(Record::Partition(partition.clone())));
    let v0 = "010300000000030102030405060708090a0b0c0d0e0f10030000010000000101020000010001010000\
              0100000000040000000500";
    let without = Partition { directories: vec![], ..partition };
    assert_eq!(Record::decode(&hex(v0)), Ok(Record::Partition(without)));
}

#[test]
fn what_is_not_known_is_an_error() {
    // ClearElr, as Kafka 4.1.1 writes it.
    let clear_elr = hex("011c00076f726465727300");
    assert_eq!(Record::decode(&clear_elr), Err(RecordError::UnknownRecord { key: 28, version: 0 }));
    assert_eq!(
        Record::decode(&hex("010303")),
        Err(RecordError::UnknownRecord { key: 3, version: 3 })
    );
    assert_eq!(Record::decode(&hex("02140000")), Err(RecordError::UnknownFrame { version: 2 }));
    let fenced = hex("01110200000100000000000000000701000105");
    assert_eq!(Record::decode(&fenced), Err(RecordError::BadValue { field: "Fenced", value: 5 }));
    assert!(matches!(
        Record::decode(&hex("0114000000")),
        Err(RecordError::Malformed(DecodeError::TrailingBytes { .. }))
    ));
}

#[test]
fn a_record_cut_short_is_an_error() {
    for (record, value) in written_by_kafka() {
        let value = hex(value);
        for end in 0..value.len() {
            assert!(Record::decode(&value[..end]).is_err(), "{record:?} cut at {end}");
        }
    }
}

#[test]
fn leader_changes_are_those_that_kafka_writes() {
    for (directory_id, value) in [
        (None, "00000000010002000001000002000001000000"),
        (
            Some(DIR),
            "00010000010002000001001112131415161718191a1b1c1d1e1f200002000001001112131415161718191a\
             1b1c1d1e1f200000",
        ),
    ] {
        let voters = vec![Voter { voter_id: 256, directory_id }];
        let change =
            LeaderChange { leader_id: 256, voters: voters.clone(), granting_voters: voters };
        let value = hex(value);
        assert_eq!(LeaderChange::decode(&value).as_ref(), Ok(&change));
        let mut buf = BytesMut::new();
        change.encode(&mut buf).unwrap();
        assert_eq!(buf, value);
        for end in 0..value.len() {
            assert!(LeaderChange::decode(&value[..end]).is_err(), "cut at {end}");
        }
    }
    assert_eq!(control_record_type(&LEADER_CHANGE_KEY), Ok(2));
    assert_eq!(
        LeaderChange::decode(&[0, 2]),
        Err(RecordError::UnknownRecord { key: 2, version: 2 })
    );
}

proptest! {
    #[test]
    fn hostile_values_are_read_or_refused(
        record in 0..17_usize,
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        tail in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut value = hex(written_by_kafka()[record].1);
        let at = at.index(value.len());
        value[at] = byte;
        value.splice(at + 1..(at + 1 + tail.len()).min(value.len()), tail);
        if let Ok(record) = Record::decode(&value) {
            // Whatever was accepted is a record that can be written and read again.
            prop_assert_eq!(Record::decode(&encoded(&record)), Ok(record));
        }
        LeaderChange::decode(&value).ok();
    }
}
