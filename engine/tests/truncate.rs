//! A log that is cut back while it is read.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Faults, Sim, World};
use kariz_engine::{LeaderEpoch, LogConfig, Mark, Offset, Partition, TopicId, TopicPartition, sim};
use std::path::Path;

const BEFORE: u8 = 7;
const AFTER: u8 = 9;
/// Some five to a segment.
const SEGMENT_BYTES: u64 = 1000;

async fn append(io: &Sim, partition: &Partition<Sim>, fill: u8) {
    let batch = Batch::build().record(None, Some(&[fill; 100]), &[], io.timestamp()).done();
    let span = partition.append(&batch.unwrap()).unwrap();
    partition.reach(Mark::Durable, &span).await.unwrap();
}

#[test]
fn whoever_reads_what_is_cut_sees_that_or_an_error_and_never_what_came_after() {
    const RECORDS: i64 = 12;
    for to in 0..=RECORDS {
        World::new(1, Faults::none())
            .boot(move |io| async move {
                let opened = sim::open(io.clone(), Path::new("/data"), sim::Options::default());
                let shard = opened.await.unwrap().0;
                let mut config = LogConfig::default();
                config.segment_bytes = SEGMENT_BYTES;
                let (name, id) = (TopicPartition::new("t", 0), TopicId([1; 16]));
                let partition = shard.create(&name, id, LeaderEpoch(0), config).await.unwrap();
                for _ in 0..RECORDS {
                    append(&io, &partition, BEFORE).await;
                }
                let mut held = Vec::new();
                for from in 0..RECORDS {
                    held.push(partition.slice(Offset(from), 1 << 20).await.unwrap());
                }
                shard.truncate(&partition, Offset(to)).await.unwrap();
                for _ in 0..RECORDS {
                    append(&io, &partition, AFTER).await;
                }
                for slice in held {
                    for batch in slice.batches().await.unwrap_or_default() {
                        let records = batch.records(1 << 20).unwrap();
                        for value in records.iter().map(|record| record.unwrap().value.unwrap()) {
                            assert_eq!(*value, [BEFORE; 100], "cut at {to}");
                        }
                    }
                }
                let end = partition.marks().high_watermark;
                assert_eq!(end, Offset(to + RECORDS));
                let last = partition.slice(end.plus(-1), 1).await.unwrap();
                let last = last.batches().await.unwrap().remove(0);
                let records = last.records(1 << 20).unwrap();
                assert_eq!(*records.iter().next().unwrap().unwrap().value.unwrap(), [AFTER; 100]);
            })
            .done();
    }
}
