//! What hostile clients may cost. Apart from the other tests, and one after another, for what is
//! measured is the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)] // a test fails by panicking
#![allow(missing_docs)]

mod common;

use bytes::BytesMut;
use common::{Client, Fixture, batch};
use kariz_protocol::ErrorCode;
use kariz_protocol::header::encode_request;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// Held by the test that measures.
static ALONE: Mutex<()> = Mutex::new(());

/// Bytes of memory that this process holds now.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[test]
fn sixty_four_that_announce_90_mib_cost_at_most_64() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let fixture = Fixture::start(1);
    let mut witness = fixture.client(0);
    witness.create("t", 1);
    witness.produce("t", 0, batch(&["warm"]));
    let before = resident_bytes();
    let announced = (90_i32 << 20).to_be_bytes();
    let mut hostile: Vec<Client> = (0..64).map(|_| fixture.client(0)).collect();
    // Each sends until the server takes no more of it: well over 64 MiB in all, were it taken.
    let chunk = vec![0; 1 << 20];
    for c in &mut hostile {
        c.stream.set_nonblocking(true).unwrap();
        let _ = c.stream.write(&announced).unwrap();
    }
    for _ in 0..8 {
        for c in &mut hostile {
            // Would block: the server does not receive, and the socket's buffers are full.
            let _taken = c.stream.write(&chunk);
        }
        // The others are served meanwhile, with small requests and with large ones.
        assert_eq!(witness.produce("t", 0, batch(&["x"])).error, ErrorCode::None);
    }
    let added = resident_bytes().saturating_sub(before);
    assert!(added <= 64 << 20, "{} MiB", added >> 20);
    drop(hostile);
    // What they held is given back: a large request passes.
    let large = "x".repeat(900_000);
    assert_eq!(witness.produce("t", 0, batch(&[&large])).error, ErrorCode::None);
}

#[test]
fn who_does_not_read_is_not_read_from() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Asks for more than the sockets' buffers hold and reads nothing. The server's memory is
    // bounded by what may be in flight; here only that it stops, and serves the others.
    let fixture = Fixture::start(1);
    let mut c = fixture.client(0);
    c.create("t", 1);
    let large = "x".repeat(500_000);
    c.produce("t", 0, batch(&[&large]));
    let mut deaf = fixture.client(0);
    deaf.stream.set_nonblocking(true).unwrap();
    let wanted = kariz_protocol::messages::fetch::FetchPartition::default();
    let mut buf = BytesMut::new();
    encode_request(&mut buf, 12, 1, None, &common::fetch_request("t", wanted)).unwrap();
    let before = resident_bytes();
    let mut refused = 0;
    for _ in 0..200_000 {
        match deaf.stream.write(&buf) {
            Ok(n) if n == buf.len() => (),
            // Full, or a part of a request: nothing more may follow it.
            _ => {
                refused += 1;
                break;
            }
        }
    }
    assert_eq!(refused, 1, "the server stops receiving");
    assert!(resident_bytes().saturating_sub(before) < 32 << 20);
    assert_eq!(c.produce("t", 0, batch(&["x"])).error, ErrorCode::None);
}

/// A request for metadata of as many topics as fit in `bytes`, each of another name of three
/// characters: what takes the most memory decoded and answered.
fn metadata_of_many(bytes: usize) -> Vec<u8> {
    const HEAD: usize = 10; // API, version, correlation id, no client id
    let count = (bytes - HEAD - 5) / 5;
    let mut frame = Vec::with_capacity(bytes + 4);
    frame.extend(i32::try_from(HEAD + 5 + 5 * count).unwrap().to_be_bytes());
    frame.extend([0, 3, 0, 4, 0, 0, 0, 1, 0xff, 0xff]);
    frame.extend(i32::try_from(count).unwrap().to_be_bytes());
    for n in 0..count {
        let digits = [n, n / 90, n / 8100].map(|n| b'!' + u8::try_from(n % 90).unwrap());
        frame.extend([0, 3]);
        frame.extend(digits);
    }
    frame.push(0); // and none of them is to be made
    frame
}

#[test]
fn small_elements_do_not_multiply_what_64_may_hold() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let fixture = Fixture::start(1);
    let mut witness = fixture.client(0);
    witness.create("t", 1);
    let before = resident_bytes();
    // Far too many for one request: not decoded.
    let mut greedy = fixture.client(0);
    let _cut_off = greedy.stream.write_all(&metadata_of_many(8 << 20));
    assert!(greedy.is_closed());
    // As many as may be, from all at once; nobody reads an answer.
    let frame = metadata_of_many(128 << 10);
    let mut hostile: Vec<Client> = (0..64).map(|_| fixture.client(0)).collect();
    for c in &mut hostile {
        c.stream.write_all(&frame).unwrap();
    }
    for _ in 0..8 {
        assert_eq!(witness.produce("t", 0, batch(&["x"])).error, ErrorCode::None);
    }
    let added = resident_bytes().saturating_sub(before);
    assert!(added <= 64 << 20, "{} MiB", added >> 20);
}

/// Sends `frame` again and again until the server takes no more, reading nothing.
fn flood(c: &mut Client, frame: &[u8]) {
    c.stream.set_nonblocking(true).unwrap();
    // Past 64 MiB in all, were each taken; the sockets' own buffers are the kernel's.
    for _ in 0..(8 << 20) / frame.len() {
        if !matches!(c.stream.write(frame), Ok(n) if n == frame.len()) {
            return;
        }
    }
}

#[test]
fn answers_that_nobody_reads_cost_at_most_64_mib_in_all() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let fixture = Fixture::start(1);
    let mut witness = fixture.client(0);
    for n in 0..40 {
        witness.create(&format!("a-topic-with-a-name-of-some-length-{n}"), 5);
    }
    witness.create("t", 1);
    // A request of some 20 bytes; an answer of some 10 KiB.
    let mut frame = Vec::new();
    let all = [0, 3, 0, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
    frame.extend(i32::try_from(all.len()).unwrap().to_be_bytes());
    frame.extend(all);
    let before = resident_bytes();
    let mut deaf: Vec<Client> = (0..64).map(|_| fixture.client(0)).collect();
    for _ in 0..2 {
        for c in &mut deaf {
            flood(c, &frame);
        }
        assert_eq!(witness.produce("t", 0, batch(&["x"])).error, ErrorCode::None);
    }
    let added = resident_bytes().saturating_sub(before);
    assert!(added <= 64 << 20, "{} MiB", added >> 20);
}

/// A produce, in the version with the shortest entries, to `count` partitions of topic `t`, none of
/// which has records.
fn produce_of_many(count: u32) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0];
    body.extend([0, 0xff, 0xff, 0, 0, 0x75, 0x30]); // no transaction, all replicas, 30 s
    body.extend([2, 2, b't']);
    let mut length = count + 1;
    while length >= 0x80 {
        body.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    body.push(u8::try_from(length).unwrap());
    for _ in 0..count {
        body.extend([0, 0, 0, 0, 0, 0]);
    }
    body.extend([0, 0]);
    let mut frame = i32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(body);
    frame
}

#[test]
fn produces_to_many_partitions_cost_at_most_64_mib_in_all() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let fixture = Fixture::start(1);
    let mut witness = fixture.client(0);
    witness.create("t", 1);
    // More than anybody has batches for in one request: not appended, not answered.
    let mut greedy = fixture.client(0);
    let _cut_off = greedy.stream.write_all(&produce_of_many(20_000));
    assert!(greedy.is_closed());
    let frame = produce_of_many(16_000);
    let before = resident_bytes();
    let mut hostile: Vec<Client> = (0..64).map(|_| fixture.client(0)).collect();
    for _ in 0..2 {
        for c in &mut hostile {
            flood(c, &frame);
        }
        assert_eq!(witness.produce("t", 0, batch(&["x"])).error, ErrorCode::None);
    }
    let added = resident_bytes().saturating_sub(before);
    assert!(added <= 64 << 20, "{} MiB", added >> 20);
    // Who reads is answered.
    let mut patient = fixture.client(0);
    patient.stream.write_all(&frame).unwrap();
    assert!(patient.receive_frame().unwrap().len() > 16_000 * 30);
}

/// A fetch, in the version with the shortest entries, of `count` partitions of topic `t`, that waits
/// for an hour.
fn fetch_of_many(count: usize) -> Vec<u8> {
    let mut body = vec![0, 1, 0, 4, 0, 0, 0, 1, 0xff, 0xff];
    for field in [-1, 3_600_000, i32::MAX, i32::MAX] {
        body.extend(field.to_be_bytes());
    }
    body.push(0);
    body.extend([0, 0, 0, 1, 0, 1, b't']);
    body.extend(i32::try_from(count).unwrap().to_be_bytes());
    for _ in 0..count {
        body.extend(0_i32.to_be_bytes());
        body.extend(0_i64.to_be_bytes());
        body.extend(i32::MAX.to_be_bytes());
    }
    let mut frame = i32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(body);
    frame
}

#[test]
fn fetches_of_many_partitions_that_wait_cost_at_most_64_mib_in_all() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let fixture = Fixture::start(1);
    let mut witness = fixture.client(0);
    witness.create("t", 1);
    let frame = fetch_of_many(65_000);
    let before = resident_bytes();
    let mut hostile: Vec<Client> = (0..64).map(|_| fixture.client(0)).collect();
    for _ in 0..2 {
        for c in &mut hostile {
            flood(c, &frame);
        }
        assert_eq!(witness.produce("t", 0, batch(&["x"])).error, ErrorCode::None);
        assert_eq!(witness.fetch("t", 0, 0).head.error, ErrorCode::None);
    }
    let added = resident_bytes().saturating_sub(before);
    assert!(added <= 64 << 20, "{} MiB", added >> 20);
}
