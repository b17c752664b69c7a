//! Fetch and ListOffsets.

use super::common::{Fixture, batch, fetch_request, now, values, wire};
use super::{client, topic};
use kariz_engine::batch::{Batch, announced_bytes};
use kariz_engine::types::Timestamp;
use kariz_protocol::ErrorCode;
use kariz_protocol::messages::fetch::{self, FetchPartition};

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
    let cases = [(-1, ErrorCode::None), (0, ErrorCode::None), (1, ErrorCode::UnknownLeaderEpoch)];
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
fn later_data_may_end_inside_a_batch() {
    let mut c = client();
    let t = topic(&mut c, "cut-short");
    let value = "x".repeat(2000);
    for _ in 0..3 {
        c.produce(&t, 0, batch(&[&value]));
    }
    let all = c.fetch(&t, 0, 0).records.unwrap();
    let first = announced_bytes(&all).unwrap();
    for max_bytes in [first + 1, first + 100, 2 * first - 1] {
        let max_bytes = i32::try_from(max_bytes).unwrap();
        let wanted = FetchPartition { max_bytes, ..Default::default() };
        let found = c.fetch_as(12, &t, wanted).records.unwrap();
        assert_eq!(found, all[..usize::try_from(max_bytes).unwrap()]);
        assert_eq!(values(&found.slice(..first)), [(0, value.clone())]);
    }
}

#[test]
fn what_retention_has_let_go_is_out_of_range() {
    let fixture = Fixture::with(1, &[("log.retention.check.interval.ms", "1")]);
    let mut c = fixture.client(0);
    // The smallest segments: three of these batches fill one.
    let set = [("segment.bytes", "1048576"), ("retention.bytes", "1048576")];
    assert_eq!(c.create_with("short-lived", 1, &set).error, ErrorCode::None);
    let value = "x".repeat(300_000);
    for n in 0..9 {
        assert_eq!(c.produce("short-lived", 0, batch(&[&value])).base_offset, n);
    }
    let until = now().0 + 20_000;
    let start = loop {
        match c.offset("short-lived", 0, -2).offset {
            0 => assert!(now().0 < until, "nothing was let go"),
            start => break start,
        }
    };
    for offset in [0, start - 1] {
        let found = c.fetch("short-lived", 0, offset);
        assert_eq!((found.head.error, offset < start), (ErrorCode::OffsetOutOfRange, true));
    }
    let found = c.fetch("short-lived", 0, start);
    assert_eq!((found.head.error, found.head.log_start_offset), (ErrorCode::None, start));
    assert_eq!(values(&found.records.unwrap())[0].0, start);
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
        assert_eq!(
            (found.error, found.offset, found.timestamp),
            (ErrorCode::None, offset, timestamp),
            "{at}"
        );
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

/// What lies in an older segment will not grow, however long the client would wait for more.
#[test]
fn a_long_poll_does_not_wait_at_the_end_of_an_older_segment() {
    let mut c = client();
    assert_eq!(c.create_with("older", 1, &[("segment.bytes", "1048576")]).error, ErrorCode::None);
    let large = "x".repeat(600_000);
    for _ in 0..3 {
        assert_eq!(c.produce("older", 0, batch(&[&large])).error, ErrorCode::None);
    }
    let partition = FetchPartition { max_bytes: 8 << 20, ..FetchPartition::default() };
    let mut request = fetch_request("older", partition);
    // Longer than a client of these tests waits for an answer.
    (request.min_bytes, request.max_wait_ms, request.max_bytes) = (1 << 20, 60_000, 8 << 20);
    let found = c.call(12, &request);
    let records = found.topics[0].partitions[0].records.as_ref().unwrap();
    assert_eq!(values(records).len(), 1);
}
