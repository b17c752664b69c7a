//! A result survives its files, and says what it must.

use super::*;
use crate::exec::{Broken, ExecError};
use crate::stats::{Collector, Handover, Recorder};
use crate::workload::Rate;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use std::io;

/// A phase of three seconds with one request a millisecond, answered within `latency_ns`.
fn done(latency_ns: u64, lag_ns: u64, open: bool) -> Done {
    done_at(1, latency_ns, lag_ns, open)
}

/// As [`done`], with `each_ms` answers a millisecond.
fn done_at(each_ms: usize, latency_ns: u64, lag_ns: u64, open: bool) -> Done {
    let handover = Handover::default();
    let mut stats = Collector::default();
    let mut recorder = Recorder::new(&handover, 0, open);
    let one = Counts { requests: 1, records: 64, bytes: 6_400, ..Counts::default() };
    for ms in 1..=3_000_u64 {
        let now = ms * 1_000_000 - 1;
        recorder.tick(now);
        for _ in 0..each_ms {
            recorder.lagged(lag_ns);
            recorder.answered(now, now.saturating_sub(latency_ns), now.saturating_sub(5), one);
        }
        if ms % 1_000 == 0 {
            stats.collect(std::iter::once(&handover));
        }
    }
    assert_eq!(recorder.finish(), 2_999_999_999);
    stats.collect(std::iter::once(&handover));
    stats.finish(3_000_000_000);
    Done {
        stats,
        elapsed_ns: 3_000_000_000,
        start_ns: 250_000_000,
        resources: Resources { server_cpu_ns_per_request: Some(1_500), ..Resources::default() },
        connections: 8,
        broken: Vec::new(),
        unanswered_records: 0,
        interrupted: false,
    }
}

fn report(phases: Vec<Phase>) -> Report {
    let mut report = Report {
        schema: SCHEMA.into(),
        id: "00000000deadbeef".into(),
        started_unix_ns: 1_700_000_000_000_000_000,
        tool: Tool::this(),
        argv: vec!["kariz-loadgen".into()],
        target: TargetFacts {
            kind: TargetKind::Embedded,
            address: "127.0.0.1:9092".into(),
            server_cores: vec![0],
            file_system: Some("ext4 rw".into()),
        },
        machine: Machine::read(),
        load_cores: vec![1],
        placement: PlacementFacts::default(),
        phases,
        verification: None,
        failures: Vec::new(),
        invalid: Vec::new(),
        verdict: Verdict::Pass,
    };
    report.conclude(Vec::new(), false, true);
    report
}

fn produce(latency_ns: u64) -> Phase {
    let workload = Workload::default();
    let contract = contract(TargetKind::Embedded, &workload);
    Phase::new(Kind::Produce, &workload, contract, done(latency_ns, 0, false))
}

#[test]
fn a_report_survives_json() {
    let report = report(vec![produce(2_000_000)]);
    let mut json = Vec::new();
    json::write(&report, &mut json).unwrap();
    let mut back: Report = serde_json::from_slice(&json).unwrap();
    // Histograms of rows are in the interval log, not in the JSON.
    for (row, from) in back.phases[0].series.iter_mut().zip(&report.phases[0].series) {
        row.histogram.clone_from(&from.histogram);
    }
    assert_eq!(back, report);
    let text = String::from_utf8(json).unwrap();
    assert!(text.contains(r#""schema": "kariz-loadgen/result/1""#));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_no_floats(&value);
    assert_eq!(value["phases"][0]["records_per_s"], 64_000);
    assert_eq!(value["phases"][0]["response"]["samples"], 3_000);
}

fn assert_no_floats(value: &serde_json::Value) {
    match value {
        serde_json::Value::Number(n) => assert!(!n.is_f64(), "{n}"),
        serde_json::Value::Array(all) => all.iter().for_each(assert_no_floats),
        serde_json::Value::Object(all) => all.values().for_each(assert_no_floats),
        _ => {}
    }
}

#[test]
fn an_interval_log_holds_every_sample() {
    let report = report(vec![produce(2_000_000), produce(1_000)]);
    let mut log = Vec::new();
    hlog::write(&report, &mut log).unwrap();
    let mut samples = 0;
    let mut intervals = 0;
    for entry in IntervalLogIterator::new(&log) {
        if let LogEntry::Interval(interval) = entry.unwrap() {
            let encoded = interval.encoded_histogram();
            let bytes = decode_base64(encoded);
            let h: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
            samples += h.len();
            intervals += 1;
            let tag = interval.tag().unwrap().as_str().to_owned();
            assert!(["1-throughput-produce", "2-throughput-produce"].contains(&&*tag), "{tag}");
            assert_eq!(interval.duration().as_secs(), 1);
        }
    }
    assert_eq!((intervals, samples), (6, 6_000));
}

/// RFC 4648, the other way round.
fn decode_base64(text: &str) -> Vec<u8> {
    let mut bits = 0_u32;
    let mut have = 0;
    let mut bytes = Vec::new();
    for c in text.bytes().filter(|c| *c != b'=') {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        bits = (bits & 0xffff) << 6 | u32::from(six);
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push(u8::try_from(bits >> have & 0xff).unwrap());
        }
    }
    bytes
}

#[test]
fn the_text_names_the_contract_and_ends_with_the_verdict() {
    let mut fetch = produce(500);
    fetch.kind = Kind::Fetch;
    fetch.verification = Some(Findings { acked: 100, read: 100, ..Findings::default() });
    let text = text::render(&report(vec![produce(2_000_000), fetch]));
    for part in [
        "64.0 k",
        "6.40 MB/s",
        "1.00 k",
        "2.00 ms",
        "on disk (fdatasync)",
        "produce",
        "fetch",
        "1.50 us CPU a request",
        "100 records read back, each once, in order, as sent",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(text.ends_with("verdict    PASS\n"), "{text}");
    // One heading for the two phases of one workload.
    assert_eq!(text.matches("records/s").count(), 1, "{text}");
}

#[test]
fn a_violation_outweighs_everything() {
    let mut phase = produce(500);
    phase.invalid.push("something".into());
    phase.verification = Some(Findings { lost: 1, ..Findings::default() });
    let mut report = report(vec![phase]);
    assert_eq!(report.verdict, Verdict::Violated);
    report.phases[0].verification = Some(Findings::default());
    report.conclude(Vec::new(), false, true);
    assert_eq!(report.verdict, Verdict::Invalid);
    report.conclude(Vec::new(), false, false);
    assert_eq!(report.verdict, Verdict::Pass);
    assert!(text::render(&report).contains("PASS, but not all numbers say what they seem to"));
    report.phases[0].invalid.clear();
    report.conclude(Vec::new(), true, true);
    assert_eq!(report.verdict, Verdict::Interrupted);
    report.conclude(vec!["the topic is left behind".into()], true, true);
    assert_eq!(report.verdict, Verdict::Failed);
    let all = [Verdict::Pass, Verdict::Failed, Verdict::Violated, Verdict::Invalid];
    assert_eq!([0, 1, 10, 14], all.map(Verdict::exit_code));
    assert_eq!(Verdict::Interrupted.exit_code(), 130);
}

#[test]
fn connections_that_broke_fail_a_run_and_are_told() {
    let broken = |at_ns, why| Broken { at_ns, why };
    let lost = |kind: io::ErrorKind| ExecError::Lost { source: kind.into() };
    let report_of = |acks, broken| {
        let workload = Workload { acks, ..Workload::default() };
        let done = Done { broken, unanswered_records: 640, ..done(2_000_000, 0, false) };
        report(vec![Phase::new(Kind::Produce, &workload, String::new(), done)])
    };
    let one = report_of(Acks::All, vec![broken(1_500_000_000, lost(io::ErrorKind::UnexpectedEof))]);
    assert_eq!((one.verdict, one.phases[0].lost_connections), (Verdict::Failed, 1));
    assert_eq!(one.phases[0].first_lost_ns, Some(1_500_000_000));
    let text = text::render(&one);
    assert!(
        text.contains(
            "throughput, produce: 1 of 8 connections broke, after 1.50 s: the other side closed \
             it. 192000 records were acknowledged; whether 640 more that were sent are there is \
             unknown"
        ),
        "{text}"
    );
    assert!(text.contains("verdict    FAILED"), "{text}");
    let two = report_of(
        Acks::None,
        vec![
            broken(1_000_000_000, lost(io::ErrorKind::UnexpectedEof)),
            broken(2_000_000_000, ExecError::MovedApart),
            broken(2_000_000_000, lost(io::ErrorKind::UnexpectedEof)),
        ],
    );
    let [why] = &two.failures[..] else { panic!("{:?}", two.failures) };
    assert!(why.contains("3 of 8 connections broke, the first after 1.00 s: the other"), "{why}");
    assert!(
        why.contains("; the partitions") && why.contains("640 records were sent, none"),
        "{why}"
    );
    assert_eq!(why.matches("closed").count(), 1, "{why}");
}

#[test]
fn a_late_generator_makes_an_open_loop_invalid() {
    let workload = Workload { rate: Rate::RequestsPerSecond(4_000), ..Workload::default() };
    let phase =
        |lag| Phase::new(Kind::Produce, &workload, String::new(), done_at(4, 2_000_000, lag, true));
    assert!(phase(100_000).invalid.is_empty());
    assert_eq!(phase(300_000).invalid.len(), 1);
    let slow = Workload { rate: Rate::RequestsPerSecond(2_000), ..workload };
    let phase = Phase::new(Kind::Produce, &slow, String::new(), done(2_000_000, 0, true));
    assert_eq!(phase.notes.len(), 1, "{:?}", phase.notes);
}

#[test]
fn cpus_that_moved_make_the_run_invalid() {
    let probe = |rtt| Probe { core_to_core_rtt_ns: Some(rtt), ..Probe::default() };
    let facts = |before, after| PlacementFacts { before: probe(before), after: probe(after) };
    assert!(facts(130, 140).invalid().is_none());
    assert!(facts(190, 210).invalid().is_none());
    assert!(facts(130, 260).invalid().is_some());
}

#[test]
fn every_figure_has_its_contract() {
    let with = |acks, config: &[(&str, &str)]| Workload {
        acks,
        topic_config: config.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        ..Workload::default()
    };
    let embedded = |w: &Workload| contract(TargetKind::Embedded, w);
    assert!(embedded(&with(Acks::All, &[])).contains("fdatasync"));
    assert!(embedded(&with(Acks::All, &[("write.caching", "true")])).contains("page cache"));
    assert!(embedded(&with(Acks::Leader, &[])).contains("page cache"));
    assert!(contract(TargetKind::Broker, &with(Acks::All, &[])).contains("configured"));
}
