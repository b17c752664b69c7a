//! Produce and InitProducerId: what is appended, what is refused, and with which code.

use super::common::{batch, builder, now, produce_request, sequenced, values, wire};
use super::{client, topic};
use bytes::Bytes;
use kariz_engine::batch::{Batch, Codec};
use kariz_engine::types::{ProducerEpoch, ProducerId, Sequence, Timestamp};
use kariz_protocol::ErrorCode;
use kariz_protocol::messages::fetch::FetchPartition;
use kariz_protocol::messages::init_producer_id;

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
        let found =
            c.fetch_as(version, &t, FetchPartition { fetch_offset: 1, ..Default::default() });
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
        assert_eq!(
            (answer.error, answer.base_offset),
            (ErrorCode::None, i64::try_from(n).unwrap())
        );
    }
}

/// The server knows a request again that repeats the one before; it must see all that differs.
#[test]
fn a_request_that_repeats_the_last_one_is_answered_for_itself() {
    let mut c = client();
    let t = topic(&mut c, "repeats");
    let good = batch(&["a", "b"]);
    let mut torn = good.to_vec();
    *torn.last_mut().unwrap() ^= 1;
    let torn = Bytes::from(torn);
    for version in 3..=11 {
        let first = c.offset(&t, 0, -1).offset;
        for (n, acks) in (0..).zip([1, 1, 1, -1, -1, 1, -1]) {
            let answer = c.produce_as(version, acks, &t, 0, Some(good.clone()));
            let wanted = (ErrorCode::None, first + 2 * n, 0);
            assert_eq!((answer.error, answer.base_offset, answer.index), wanted);
            let refused = c.produce_as(version, acks, &t, 0, Some(torn.clone()));
            assert_eq!((refused.error, refused.base_offset), (ErrorCode::CorruptMessage, -1));
        }
        let end = c.offset(&t, 0, -1).offset;
        assert_eq!(
            c.produce_as(version, 1, &t, 9, Some(good.clone())).error,
            ErrorCode::UnknownTopicOrPartition
        );
        assert_eq!(
            c.produce_as(version, 7, &t, 0, Some(good.clone())).error,
            ErrorCode::InvalidRequiredAcks
        );
        assert_eq!(c.offset(&t, 0, -1).offset, end);
    }
}

#[test]
fn a_repeated_request_goes_to_the_topic_that_has_the_name_now() {
    let mut c = client();
    for round in 0..3 {
        assert_eq!(c.create("renewed", 1).error, ErrorCode::None);
        for n in 0..4 {
            let answer = c.produce("renewed", 0, batch(&["x"]));
            assert_eq!((answer.error, answer.base_offset), (ErrorCode::None, n), "round {round}");
        }
        // By another: the connection itself is told nothing.
        assert_eq!(client().delete("renewed").error, ErrorCode::None);
        let gone = c.produce("renewed", 0, batch(&["x"])).error;
        assert_eq!(gone, ErrorCode::UnknownTopicOrPartition);
    }
}

/// Whoever wrote to a topic keeps nothing of it alive: its room must be free when it is gone.
#[test]
fn a_deleted_topic_leaves_no_file_open_while_its_producers_are_connected() {
    let open_files = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = files.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
        links.filter(|link| link.to_string_lossy().contains("abandoned-0")).count()
    };
    let mut c = client();
    assert_eq!(c.create("abandoned", 1).error, ErrorCode::None);
    for _ in 0..4 {
        assert_eq!(c.produce("abandoned", 0, batch(&["x"])).error, ErrorCode::None);
    }
    assert!(open_files() > 0);
    assert_eq!(client().delete("abandoned").error, ErrorCode::None);
    let until = now().0 + 10_000;
    while open_files() > 0 {
        assert!(now().0 < until, "its files are still open");
        std::thread::yield_now();
    }
    drop(c);
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
    let crowd = |bytes: &mut Vec<u8>| {
        bytes[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
        bytes[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
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
        ("more records than bytes", signed(&crowd), ErrorCode::InvalidRecord),
        ("last offset delta is wrong", signed(&|b| b[26] = 9), ErrorCode::InvalidRecord),
        ("codec 7", signed(&|b| b[22] = 7), ErrorCode::UnsupportedCompressionType),
        ("a control batch", control, ErrorCode::InvalidRecord),
        (
            "a producer id without sequence",
            Some(sequenced(&["x"], 5, 0, -1)),
            ErrorCode::InvalidRecord,
        ),
        ("two hours ahead", late(7_200_000), ErrorCode::InvalidTimestamp),
        (
            "a transaction that nobody began",
            Some(wire(
                builder(&["x"])
                    .producer(ProducerId(5), ProducerEpoch(0), Sequence(0))
                    .transactional(),
            )),
            ErrorCode::InvalidTxnState,
        ),
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

/// There is one replica, whatever was asked for, so more than one in sync cannot be waited for.
#[test]
fn more_replicas_in_sync_than_there_are_are_not_waited_for() {
    let mut c = client();
    assert_eq!(c.create_with("two", 1, &[("min.insync.replicas", "2")]).error, ErrorCode::None);
    for acks in [-1, 1] {
        let answer = c.produce_as(9, acks, "two", 0, Some(batch(&["a"])));
        assert_eq!(answer.error, ErrorCode::None, "acks {acks}");
    }
    assert_eq!(c.offset("two", 0, -1).offset, 2);
}

#[test]
fn a_compacted_topic_wants_keys() {
    let mut c = client();
    assert_eq!(
        c.create_with("compacted", 1, &[("cleanup.policy", "compact")]).error,
        ErrorCode::None
    );
    assert_eq!(c.produce("compacted", 0, batch(&["x"])).error, ErrorCode::InvalidRecord);
    let keyed = wire(Batch::build().record(Some(b"k"), Some(b"x"), &[], now()));
    assert_eq!(c.produce("compacted", 0, keyed).error, ErrorCode::None);
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
