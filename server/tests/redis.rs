//! Two protocols on one engine: the Redis example beside Kafka's.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)] // a test fails by panicking

mod common;

#[path = "../../engine/examples/resp/main.rs"]
#[allow(dead_code, unreachable_pub, reason = "a program of its own")]
mod resp;

use common::Fixture;
use kariz_engine::batch::Batch;
use kariz_engine::{Mark, Shard};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// Sends `command` and gives the lines of its answer, which is `lines` long.
fn ask(redis: &mut TcpStream, command: &[&str], lines: usize) -> Vec<String> {
    let mut request = format!("*{}\r\n", command.len());
    command.iter().for_each(|arg| request += &format!("${}\r\n{arg}\r\n", arg.len()));
    redis.write_all(request.as_bytes()).unwrap();
    let mut answer = BufReader::new(&*redis).lines();
    (0..lines).map(|_| answer.next().unwrap().unwrap()).collect()
}

/// Two ports in a row that were free a moment ago.
fn ports() -> SocketAddr {
    loop {
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if TcpListener::bind((at.ip(), at.port().wrapping_add(1))).is_ok() {
            return at;
        }
    }
}

#[test]
fn what_redis_adds_a_kafka_consumer_reads_and_the_other_way_round() {
    let fixture = Fixture::start(2);
    let first = ports();
    let serve = move |shard: Shard| resp::serve(shard, resp::Options(first, Mark::High, false));
    fixture.server.engine().unwrap().serve(serve).unwrap();
    let mut kafka = fixture.client(0);
    assert_eq!(kafka.create("shared", 1).error, kariz_protocol::ErrorCode::None);

    let connect = |at: SocketAddr| loop {
        if let Ok(redis) = TcpStream::connect(at) {
            return redis;
        }
    };
    let mut redis = connect(first);
    // Only Kafka makes topics here.
    assert_eq!(ask(&mut redis, &["XLEN", "none"], 1), ["-ERR there is no such stream"]);
    let mut added = ask(&mut redis, &["XADD", "shared", "*", "greeting", "water", "more", "1"], 1);
    let mut core = 0;
    if let Some(to) = added[0].strip_prefix("-MOVED ") {
        let to: SocketAddr = to.split(' ').nth(1).unwrap().parse().unwrap();
        core = usize::from(to.port() - first.port());
        redis = connect(to);
        added = ask(&mut redis, &["XADD", "shared", "*", "greeting", "water", "more", "1"], 1);
    }
    assert_eq!(added, ["$3"]);

    let fetched = fixture.client(core).fetch("shared", 0, 0).records.unwrap();
    let batch = Batch::from_stored(fetched).unwrap();
    let records = batch.records(1 << 20).unwrap();
    let record = records.iter().next().unwrap().unwrap();
    assert_eq!((record.key, record.value), (Some(&b"greeting"[..]), Some(&b"water"[..])));
    assert_eq!(record.headers.collect::<Vec<_>>(), [("more", Some(&b"1"[..]))]);

    let batch = common::builder(&[]).record(Some(b"k"), Some(b"v"), &[], common::now());
    fixture.client(core).produce("shared", 0, common::wire(batch));
    let entry = ask(&mut redis, &["XRANGE", "shared", "2-0", "+"], 9);
    assert_eq!(entry, ["*1", "*2", "$3", "2-0", "*2", "$1", "k", "$1", "v"]);
}
