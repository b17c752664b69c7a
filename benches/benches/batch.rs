//! What it costs to accept a batch: its head and CRC, and, fully checked, its records.

#![allow(clippy::expect_used, missing_docs)] // Inputs are our own; criterion writes the functions.

mod shapes;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kariz_engine::Batch;
use kariz_engine::batch::{Check, crc32c};
use kariz_engine::types::{LeaderEpoch, Offset, Timestamp};
use shapes::{SHAPES, batch};
use std::hint::black_box;

fn parse(c: &mut Criterion) {
    let checks =
        [("opaque", Check::Opaque), ("full", Check::Full { inflated_bytes_max: usize::MAX })];
    for (name, check) in checks {
        let mut group = c.benchmark_group(format!("batch/parse-{name}"));
        for shape in SHAPES {
            let wire = batch(shape).wire().clone();
            group.throughput(Throughput::Bytes(wire.len() as u64));
            group.bench_with_input(BenchmarkId::from_parameter(shape), &wire, |b, wire| {
                b.iter(|| Batch::parse(black_box(Bytes::clone(wire)), check));
            });
        }
    }
}

fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch/crc32c");
    for shape in SHAPES {
        let wire = batch(shape).wire().clone();
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(shape), &wire, |b, wire| {
            b.iter(|| crc32c(black_box(wire)));
        });
    }
}

fn stamp(c: &mut Criterion) {
    let batch = batch(SHAPES[0]);
    let mut group = c.benchmark_group("batch/stamp");
    for (name, time) in [("create-time", None), ("log-append-time", Some(Timestamp(1)))] {
        group.bench_function(name, |b| {
            b.iter(|| black_box(&batch).stamp(black_box(Offset(7)), LeaderEpoch(3), time));
        });
    }
}

fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch/records");
    for shape in SHAPES {
        let batch = batch(shape);
        group.throughput(Throughput::Elements(shape.records as u64));
        group.bench_with_input(BenchmarkId::from_parameter(shape), &batch, |b, batch| {
            b.iter(|| {
                let records = black_box(batch).records(usize::MAX).expect("not compressed");
                records.into_iter().filter(Result::is_ok).count()
            });
        });
    }
}

criterion_group!(benches, parse, checksum, stamp, records);
criterion_main!(benches);
