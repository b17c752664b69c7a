//! Clients that mean no good, or do not speak Kafka: each costs only itself.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)] // a test fails by panicking
#![allow(missing_docs)]

mod common;

use bytes::{BufMut, Bytes, BytesMut};
use common::{Fixture, batch, produce_request, shared};
use kariz_protocol::header::encode_request;
use kariz_protocol::messages::{api_versions, metadata};
use kariz_protocol::{ApiKey, ErrorCode};
use std::io::Write;
use std::net::Shutdown;

/// A frame with a request's header and this body.
fn frame(api_key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut buf = BytesMut::new();
    buf.put_i32(i32::try_from(10 + body.len()).unwrap());
    buf.put_i16(api_key);
    buf.put_i16(version);
    buf.put_i32(1);
    buf.put_i16(-1); // No client id.
    buf.put_slice(body);
    buf.to_vec()
}

/// Whether somebody else is served.
fn others_are_served() {
    let answer = shared().client(0).call(4, &api_versions::Request::default());
    assert_eq!(answer.error, ErrorCode::None);
}

#[test]
fn what_breaks_the_protocol_closes_the_connection() {
    let produce_0 = frame(0, 0, &[0; 10]);
    let cases: [(&str, Vec<u8>); 9] = [
        ("2 GiB", i32::MAX.to_be_bytes().to_vec()),
        ("a negative length", (-1_i32).to_be_bytes().to_vec()),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("an empty frame", vec![0; 4]),
        ("an unknown API", frame(999, 0, &[])),
        ("a version that is advertised but not served", produce_0),
        ("a version that is too new", frame(3, 99, &[0; 20])),
        ("garbage behind a good header", frame(3, 1, &[0x7f; 20])),
        ("an array of 2^31 topics", frame(3, 1, &[0x7f, 0xff, 0xff, 0xff])),
    ];
    for (case, bytes) in cases {
        let mut c = shared().client(0);
        c.stream.write_all(&bytes).unwrap();
        assert!(c.is_closed(), "{case}");
    }
    others_are_served();
}

#[test]
fn what_was_asked_before_is_still_answered() {
    let mut c = shared().client(0);
    let id = c.send(12, &metadata::Request::default());
    c.stream.write_all(&frame(999, 0, &[])).unwrap();
    assert!(!c.receive::<metadata::Request>(12, id).brokers.is_empty());
    assert!(c.is_closed());
}

#[test]
fn api_versions_is_answered_in_any_version() {
    for version in [5, 99, i16::MAX] {
        let mut c = shared().client(0);
        // The header has tags from version 3 on; what follows is unknown to us.
        c.stream.write_all(&frame(18, version, &[0, 1, 2, 3])).unwrap();
        let answer = c.receive_frame().unwrap();
        // In version 0: the correlation id, the error, and the range to step down to.
        let mut expected = BytesMut::new();
        expected.put_i32(1);
        expected.put_i16(ErrorCode::UnsupportedVersion.code());
        expected.put_i32(1);
        for n in [18, 0, 4] {
            expected.put_i16(n);
        }
        assert_eq!(answer, expected);
        // And the connection goes on.
        assert_eq!(c.call(4, &api_versions::Request::default()).error, ErrorCode::None);
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let mut c = shared().client(0);
    let mut buf = BytesMut::new();
    encode_request(&mut buf, 12, 7, Some("slow"), &metadata::Request::default()).unwrap();
    for byte in &buf {
        c.stream.write_all(&[*byte]).unwrap();
    }
    assert!(!c.receive::<metadata::Request>(12, 7).brokers.is_empty());
}

#[test]
fn a_request_that_breaks_off_is_forgotten() {
    for keep in [1, 3, 4, 7, 20] {
        let mut c = shared().client(0);
        let frame = frame(ApiKey::Produce.code(), 9, &[1; 100]);
        c.stream.write_all(&frame[..keep]).unwrap();
        c.stream.shutdown(Shutdown::Write).unwrap();
        assert!(c.is_closed());
    }
    others_are_served();
}

#[test]
fn past_max_connections_the_next_is_turned_away_and_the_others_are_served() {
    let fixture = Fixture::with(1, &[("max.connections", "3")]);
    let served = |c: &mut common::Client| {
        assert_eq!(c.call(4, &api_versions::Request::default()).error, ErrorCode::None);
    };
    let mut open: Vec<_> = (0..3).map(|_| fixture.client(0)).collect();
    open.iter_mut().for_each(served);
    for _ in 0..3 {
        assert!(fixture.client(0).is_closed());
        open.iter_mut().for_each(served);
    }
    // One goes, and there is room for one.
    let mut gone = open.remove(0);
    gone.stream.shutdown(Shutdown::Write).unwrap();
    assert!(gone.is_closed());
    // Its socket is closed before it is out of the count, so the next may be turned away once.
    open.push(loop {
        let mut next = fixture.client(0);
        next.send(4, &api_versions::Request::default());
        if next.receive_frame().is_ok() {
            break next;
        }
    });
    open.iter_mut().for_each(served);
    assert!(fixture.client(0).is_closed());
}

#[test]
fn a_compressed_bomb_is_stored_and_inflated_to_a_bound_at_most() {
    // 40 KiB of gzip that inflate to 40 MiB, in a topic that reads every record and in one that
    // does not: only the bytes on the wire are taken, or none.
    let mut c = shared().client(0);
    let zeros = "0".repeat(40 << 20);
    let bomb = common::builder(&[&zeros]).compress(kariz_engine::batch::Codec::Gzip);
    let bomb: Bytes = common::wire(bomb);
    assert!(bomb.len() < 100_000);
    c.create("bomb", 1);
    assert_eq!(c.produce("bomb", 0, bomb.clone()).error, ErrorCode::None);
    // By time, and the largest time: the batch as a whole has to do.
    for timestamp in [1, -3] {
        let found = c.offset("bomb", 0, timestamp);
        assert_eq!((found.error, found.offset), (ErrorCode::None, 0), "{timestamp}");
        assert!(found.timestamp > 1);
    }
    assert_eq!(c.offset("bomb", 0, i64::MAX).offset, -1);
    c.create_with("bomb-checked", 1, &[("validate", "full")]);
    let answer = c.produce("bomb-checked", 0, bomb);
    assert_eq!(answer.error, ErrorCode::None, "40 MiB is within the bound of 64");
    let larger = "0".repeat(70 << 20);
    let larger = common::builder(&[&larger]).compress(kariz_engine::batch::Codec::Gzip);
    let answer = c.produce("bomb-checked", 0, common::wire(larger));
    assert_eq!(answer.error, ErrorCode::MessageTooLarge);
}

#[test]
fn the_bombs_of_a_request_inflate_to_a_bound_together() {
    let mut c = shared().client(0);
    c.create_with("bombs", 1, &[("validate", "full")]);
    let zeros = "0".repeat(20 << 20);
    let bomb = common::builder(&[&zeros]).compress(kariz_engine::batch::Codec::Gzip);
    let mut request = produce_request(-1, "bombs", 0, Some(common::wire(bomb)));
    let partitions = &mut request.topics[0].partitions;
    let bomb = partitions[0].clone();
    partitions.resize(5, bomb);
    let of = |answer: &kariz_protocol::messages::produce::Response| -> Vec<_> {
        answer.topics[0].partitions.iter().map(|p| p.error).collect()
    };
    let (good, refused) = (ErrorCode::None, ErrorCode::MessageTooLarge);
    let answer = c.call(9, &request);
    assert_eq!(of(&answer), [good, good, good, refused, refused]);
    let why = answer.topics[0].partitions[4].error_message.as_deref();
    assert!(why.is_some_and(|why| why.contains("in all")), "{why:?}");
    // The next request has a bound of its own.
    assert_eq!(of(&c.call(9, &request)), [good, good, good, refused, refused]);
}

#[test]
fn many_requests_of_one_connection_are_all_answered() {
    let mut c = shared().client(0);
    c.create("flood", 1);
    // More than may be in flight; a second thread writes, for the server stops receiving.
    let n = 5000;
    let mut writer = c.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        let request = produce_request(-1, "flood", 0, Some(batch(&["x"])));
        let mut buf = BytesMut::new();
        for id in 0..n {
            encode_request(&mut buf, 9, id, None, &request).unwrap();
        }
        writer.write_all(&buf).unwrap();
    });
    for id in 0..n {
        let answer = c.receive::<kariz_protocol::messages::produce::Request>(9, id);
        let answer = &answer.topics[0].partitions[0];
        assert_eq!((answer.error, answer.base_offset), (ErrorCode::None, i64::from(id)));
    }
    writing.join().unwrap();
}
