//! Damage on disk, as clients see it.

use super::{Client, serve_with};
use bytes::Bytes;
use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Faults, Sim, World};
use kariz_engine::sim;
use kariz_protocol::ErrorCode;
use kariz_protocol::messages::{create_topics, fetch, produce};
use std::time::Duration;

const BATCHES: i64 = 20;
const SET: [(&str, &str); 1] = [("log.segment.bytes", "1048576")];

async fn create(client: &mut Client) {
    let topic = create_topics::CreatableTopic {
        name: "t".to_owned(),
        num_partitions: 2,
        replication_factor: 1,
        ..Default::default()
    };
    let request =
        create_topics::Request { topics: vec![topic], timeout_ms: 1000, validate_only: false };
    assert_eq!(client.call(7, &request).await.topics[0].error, ErrorCode::None);
}

/// Produces to both partitions at once; returns both answers.
async fn produce(io: &Sim, client: &mut Client) -> [(ErrorCode, i64); 2] {
    let value = vec![b'x'; 300_000];
    let records: Bytes = Batch::build()
        .record(None, Some(&value), &[], io.timestamp())
        .done()
        .unwrap()
        .wire()
        .clone();
    let partitions = [0, 1]
        .map(|index| produce::PartitionRequest { index, records: Some(records.clone()) })
        .into();
    let topic = produce::TopicRequest { name: "t".to_owned(), partitions };
    let topics = vec![topic];
    let request = produce::Request { acks: -1, timeout_ms: 30_000, topics, ..Default::default() };
    let answer = client.call(9, &request).await.topics.remove(0).partitions;
    [0, 1].map(|n| (answer[n].error, answer[n].base_offset))
}

/// Fetches from both partitions at once; returns each one's error, and whether records came.
async fn fetch(client: &mut Client, fetch_offset: i64) -> [(ErrorCode, bool); 2] {
    let partitions = [0, 1]
        .map(|index| fetch::FetchPartition {
            index,
            fetch_offset,
            max_bytes: 1 << 20,
            ..Default::default()
        })
        .into();
    let topics = vec![fetch::TopicRequest { name: "t".to_owned(), partitions }];
    let request = fetch::Request { topics, max_bytes: 1 << 22, ..Default::default() };
    let answer = client.call(12, &request).await.topics.remove(0).partitions;
    [0, 1].map(|n| {
        (
            answer[n].head.error,
            answer[n].records.as_ref().is_some_and(|records| !records.is_empty()),
        )
    })
}

#[test]
fn a_damaged_partition_answers_so_and_the_other_of_its_topic_is_served() {
    for clean in [true, false] {
        let mut world = World::new(5, Faults::none());
        world
            .boot(move |io| async move {
                let core = serve_with(io.clone(), &SET).await;
                let mut client = Client::connect(&io).await;
                create(&mut client).await;
                for n in 0..BATCHES {
                    assert_eq!(produce(&io, &mut client).await, [(ErrorCode::None, n); 2]);
                }
                // The recovery point passes the sealed segments.
                io.sleep(Duration::from_secs(120)).await;
                if clean {
                    sim::close(&core.shard).await.unwrap();
                }
            })
            .done();
        world.crash();
        let disk = world.disk();
        let mut files = disk.list("/data/t-0").unwrap();
        files.retain(|file| file.name.ends_with(".log"));
        assert!(files.len() > 4, "{} segments", files.len());
        let name = &files[files.len() / 2].name;
        let base: i64 = name.trim_end_matches(".log").parse().unwrap();
        // The magic of the first batch there.
        disk.flip(format!("/data/t-0/{name}"), 16, 0xff).unwrap();
        world
            .boot(move |io| async move {
                serve_with(io.clone(), &SET).await;
                let mut client = Client::connect(&io).await;
                assert_eq!(
                    fetch(&mut client, 0).await,
                    [(ErrorCode::None, true); 2],
                    "no read yet"
                );
                let storage = ErrorCode::KafkaStorageError;
                assert_eq!(storage.code(), 56);
                assert_eq!(client.offset_of(-1, -1, 1000).await.error, ErrorCode::None);
                for n in BATCHES..BATCHES + 2 {
                    let good = (ErrorCode::None, true);
                    assert_eq!(fetch(&mut client, base).await, [(storage, false), good]);
                    let good = (ErrorCode::None, n);
                    assert_eq!(produce(&io, &mut client).await, [(storage, -1), good]);
                    assert_eq!(client.offset_of(-1, -1, 1000).await.error, storage);
                }
            })
            .done();
    }
}
