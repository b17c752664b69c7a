//! Partitions whose disk has failed: what is there is read, and nobody else suffers.

use super::{Client, produce_request, serve};
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Fault, Faults, OpKind, Rule, World};
use kariz_protocol::ErrorCode;
use kariz_protocol::messages::fetch;
use std::time::Duration;

const WAIT: Duration = Duration::from_millis(500);

/// A fetch behind the only record.
fn long_poll() -> fetch::Request {
    let partition =
        fetch::FetchPartition { fetch_offset: 1, max_bytes: 1 << 20, ..Default::default() };
    let topic = fetch::TopicRequest { name: "t".to_owned(), partitions: vec![partition] };
    fetch::Request {
        topics: vec![topic],
        max_wait_ms: i32::try_from(WAIT.as_millis()).unwrap(),
        min_bytes: 1,
        max_bytes: 1 << 20,
        ..Default::default()
    }
}

#[test]
fn a_consumer_that_waits_where_nothing_can_come_waits_its_time() {
    let of_partition = Rule::on(OpKind::Write, Fault::Io)
        .named(|path| path.contains("t-0") && path.ends_with(".log"));
    let of_core = Rule::on(OpKind::Sync, Fault::Io).named(|path| path.contains("kariz.journal"));
    for fault in [of_partition, of_core] {
        let mut world = World::new(1, Faults::none());
        world
            .boot(|io| async move {
                serve(io.clone()).await;
                let mut client = Client::connect(&io).await;
                client.create().await;
                let answer = client.call(9, &produce_request(&io, -1, 1000, "a")).await;
                assert_eq!(answer.topics[0].partitions[0].error, ErrorCode::None);
                // One waits when it fails, and one comes afterwards.
                let mut waiting = Client::connect(&io).await;
                waiting.send(12, &long_poll()).await;
                io.sleep(WAIT / 5).await;
                io.set_faults(Faults::none().with(fault));
                let answer = client.call(9, &produce_request(&io, -1, 1000, "b")).await;
                assert_eq!(answer.topics[0].partitions[0].error, ErrorCode::KafkaStorageError);
                let empty = |answer: &fetch::Response| {
                    let partition = &answer.topics[0].partitions[0];
                    assert_eq!(partition.head.error, ErrorCode::None);
                    assert!(partition.records.as_ref().is_none_or(|records| records.is_empty()));
                };
                empty(&waiting.receive::<fetch::Request>(12).await);
                let asked = io.now();
                empty(&waiting.call(12, &long_poll()).await);
                let took = io.now() - asked;
                assert!(took >= WAIT && took < 2 * WAIT, "{took:?}");
                assert_eq!(waiting.fetch(0, -1).await.0, ErrorCode::None, "what is there is read");
            })
            .done();
    }
}

#[test]
fn the_largest_timestamp_is_one_that_is_shown() {
    let disk_latency = Duration::from_secs(1)..Duration::from_secs(2);
    let mut world = World::new(1, Faults { disk_latency, ..Faults::none() });
    world
        .boot(|io| async move {
            serve(io.clone()).await;
            let mut client = Client::connect(&io).await;
            client.create().await;
            for durable in 0..3 {
                let answer = client.call(9, &produce_request(&io, -1, 60_000, "durable")).await;
                assert_eq!(answer.topics[0].partitions[0].error, ErrorCode::None);
                io.sleep(Duration::from_millis(5)).await;
                let answer = client.call(9, &produce_request(&io, 1, 60_000, "not yet")).await;
                assert_eq!(answer.topics[0].partitions[0].error, ErrorCode::None);
                let found = client.offset_of(-3, -1, 0).await;
                assert_eq!((found.error, found.offset), (ErrorCode::None, 2 * durable));
                io.sleep(Duration::from_secs(5)).await;
                let found = client.offset_of(-3, -1, 0).await;
                assert_eq!((found.error, found.offset), (ErrorCode::None, 2 * durable + 1));
            }
        })
        .done();
}
