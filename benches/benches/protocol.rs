//! What it costs to read a produce request where it lies, and to write its answer.

#![allow(clippy::expect_used, missing_docs)] // Inputs are our own; criterion writes the functions.

mod shapes;

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kariz_protocol::cursor::Cursor;
use kariz_protocol::frame::FrameCutter;
use kariz_protocol::header::RequestHeader;
use kariz_protocol::messages::produce;
use kariz_protocol::writer::Records;
use shapes::{SHAPES, Shape, batch};
use std::hint::black_box;

/// The newest version whose topics have names.
const VERSION: i16 = 11;

/// A whole frame, its length prefix first.
fn request(shape: Shape) -> Bytes {
    let mut buf = BytesMut::new();
    let head = produce::RequestHead { transactional_id: None, acks: 1, timeout_ms: 30_000 };
    let mut encoder = produce::RequestEncoder::begin(&mut buf, VERSION, 7, Some("bench"), head, 1);
    encoder.topic("bench", 1);
    encoder.partition(0, Records::Inline(batch(shape).wire()));
    encoder.finish().expect("one topic with one partition");
    buf.freeze()
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("protocol/produce-decode");
    for shape in SHAPES {
        let frame = request(shape).slice(4..);
        group.bench_with_input(BenchmarkId::from_parameter(shape), &frame, |b, frame| {
            b.iter(|| {
                let mut cursor = Cursor::new(black_box(frame));
                let header = RequestHeader::read(&mut cursor).expect("our own");
                let request = produce::RequestView::decode(&mut cursor, header.version);
                let mut bytes = 0;
                for topic in &request.expect("our own").topics {
                    for partition in &topic.partitions {
                        bytes += partition.share_records().map_or(0, |records| records.len());
                    }
                }
                bytes
            });
        });
    }
}

fn cut(c: &mut Criterion) {
    let mut group = c.benchmark_group("protocol/cut");
    // A receive of 64 KiB: many whole frames, and a part of one.
    let frame = request(SHAPES[0]);
    let chunk: Bytes = frame.iter().copied().cycle().take(64 << 10).collect();
    group.throughput(Throughput::Elements((chunk.len() / frame.len()) as u64));
    group.bench_function(SHAPES[0].to_string(), |b| {
        b.iter(|| {
            let (mut cutter, mut chunk) = (FrameCutter::new(100 << 20), chunk.clone());
            let mut frames = 0;
            while let Ok(Some(_)) = cutter.cut(black_box(&mut chunk)) {
                frames += 1;
            }
            frames
        });
    });
}

fn encode(c: &mut Criterion) {
    let answer = produce::PartitionResponse::default();
    let mut buf = BytesMut::with_capacity(1 << 10);
    c.bench_function("protocol/produce-answer", |b| {
        b.iter(|| {
            buf.clear();
            let mut encoder = produce::ResponseEncoder::begin(&mut buf, VERSION, 7, 1);
            encoder.topic("bench", 1);
            encoder.partition(black_box(&answer));
            encoder.finish(0, &[]).expect("one topic with one partition");
        });
    });
}

criterion_group!(benches, decode, cut, encode);
criterion_main!(benches);
