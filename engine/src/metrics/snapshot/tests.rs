use super::*;
use std::collections::BTreeSet;

/// A snapshot whose every number is another, from `base` on.
fn counted(shard: u16, base: u64) -> Snapshot {
    let metrics = ShardMetrics::default();
    let ShardMetrics {
        appends,
        append_bytes,
        duplicates,
        writes,
        write_us,
        commits,
        commit_partitions,
        commit_bytes,
        commit_us,
        lag_us,
        held,
        syncs,
        rolls,
        segments_deleted,
        full,
        fenced,
        reads,
        read_bytes,
    } = &metrics;
    let counters = [
        appends,
        append_bytes,
        duplicates,
        writes,
        commits,
        held,
        syncs,
        rolls,
        segments_deleted,
        full,
        fenced,
        reads,
        read_bytes,
    ];
    for (n, counter) in (1..).zip(counters) {
        counter.add(base + n);
    }
    let histograms = [write_us, commit_us, lag_us, commit_partitions, commit_bytes];
    for (n, histogram) in (1..).zip(histograms) {
        for power in 0..n {
            histogram.record(7_u64.pow(power) + base);
        }
        histogram.record(u64::MAX >> 20);
    }
    let log = |topic, partition, bytes| LogSize {
        partition: TopicPartition::new(topic, partition),
        bytes,
    };
    let mut snapshot = metrics.snapshot();
    snapshot.shard = Some(ShardId(shard));
    snapshot.logs = vec![log("orders", 0, 5 + base), log("x.y", 3, base)];
    snapshot
}

#[test]
fn each_number_is_told_once() {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    counted(3, 0).each(|name, labels, value| {
        assert_eq!(labels.first(), Some(&("core", "3")));
        let number = match value {
            Value::Counter(n) => (0, n),
            Value::Gauge(n) => (1, n),
            Value::Histogram(_, counts) => (2, counts.count()),
        };
        assert!(numbers.insert(number), "{name}: {number:?}");
        names.insert((name.to_owned(), labels.len(), labels.get(1).is_some()));
    });
    // The sizes of the two logs have one name.
    assert_eq!((numbers.len(), names.len()), (13 + 5 + 2, 13 + 5 + 1));
}

#[test]
fn cores_are_merged_number_by_number() {
    let (one, other) = (counted(0, 0), counted(1, 1000));
    let mut sum = one.clone();
    sum.merge(&other);
    let (mut parts, mut whole) = (Vec::new(), Vec::new());
    let number = |value: Value<'_>| match value {
        Value::Counter(n) => Some((n, 0)),
        Value::Histogram(_, counts) => Some((counts.count(), counts.sum)),
        Value::Gauge(_) => None,
    };
    one.each(|_, _, value| parts.extend(number(value)));
    let mut i = 0;
    other.each(|_, _, value| {
        if let Some((count, sum)) = number(value) {
            (parts[i].0, parts[i].1, i) = (parts[i].0 + count, parts[i].1 + sum, i + 1);
        }
    });
    sum.each(|_, labels, value| {
        assert!(labels.iter().all(|label| label.0 != "core"));
        whole.extend(number(value));
    });
    assert_eq!(whole, parts);
    assert_eq!(sum.logs.len(), 4);
}

#[test]
fn a_name_stands_once_and_buckets_are_cumulative() {
    let mut text = String::new();
    prometheus(&[counted(0, 0), counted(1, 1000)], &mut text);
    for expected in [
        "# HELP kariz_appends_total Batches appended.\n# TYPE kariz_appends_total counter\n\
         kariz_appends_total{core=\"0\"} 1\nkariz_appends_total{core=\"1\"} 1001\n",
        // 1, 7 and 2^44 - 1 µs.
        "# TYPE kariz_commit_seconds histogram\n\
         kariz_commit_seconds_bucket{core=\"0\",le=\"0.000000\"} 0\n\
         kariz_commit_seconds_bucket{core=\"0\",le=\"0.000001\"} 1\n\
         kariz_commit_seconds_bucket{core=\"0\",le=\"0.000003\"} 1\n\
         kariz_commit_seconds_bucket{core=\"0\",le=\"0.000007\"} 2\n",
        "kariz_commit_seconds_bucket{core=\"0\",le=\"274877.906943\"} 2\n\
         kariz_commit_seconds_bucket{core=\"0\",le=\"+Inf\"} 3\n\
         kariz_commit_seconds_sum{core=\"0\"} 17592186.044423\n\
         kariz_commit_seconds_count{core=\"0\"} 3\n\
         kariz_commit_seconds_bucket{core=\"1\",le=\"0.000000\"} 0\n",
        "kariz_commit_bytes_bucket{core=\"0\",le=\"274877906943\"} 5\n",
        "# TYPE kariz_log_bytes gauge\n\
         kariz_log_bytes{core=\"0\",topic=\"orders\",partition=\"0\"} 5\n\
         kariz_log_bytes{core=\"0\",topic=\"x.y\",partition=\"3\"} 0\n\
         kariz_log_bytes{core=\"1\",topic=\"orders\",partition=\"0\"} 1005\n",
    ] {
        assert!(text.contains(expected), "{expected} not in {text}");
    }
    for Metric(name, ..) in &METRICS {
        assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1);
    }
}

#[test]
fn a_label_is_escaped_and_a_merged_snapshot_has_none() {
    let mut snapshot = ShardMetrics::default().snapshot();
    let partition = TopicPartition::new("a\"b\\c\nd", 0);
    snapshot.logs.push(LogSize { partition, bytes: 1 });
    let mut text = String::new();
    snapshot.prometheus(&mut text);
    assert!(text.contains("\nkariz_appends_total 0\n"), "{text}");
    assert!(
        text.ends_with("\nkariz_log_bytes{topic=\"a\\\"b\\\\c\\nd\",partition=\"0\"} 1\n"),
        "{text}"
    );
}
