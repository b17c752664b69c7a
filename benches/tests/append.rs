//! `append` appends what it says it does, and tells of every row.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed step is a failed test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An empty directory of this test's own.
fn dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).unwrap();
    }
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn append(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_append")).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// One measurement of 100 batches in groups of 32, which a minute is enough for. Returns its JSON.
fn one(subject: &str, durability: &str, batch_bytes: usize, dir: &Path) -> serde_json::Value {
    let (size, bytes) = (batch_bytes.to_string(), (100 * batch_bytes).to_string());
    let job = ["--subject", subject, "--durability", durability, "--batch-bytes", &size];
    let limits = ["--bytes", &bytes, "--group", "32", "--seconds", "60"];
    let place = ["--segment-bytes", "1048576", "--cpu", "0", "--dir", dir.to_str().unwrap()];
    let said = append(&[&["one"], &job[..], &limits, &place].concat());
    serde_json::from_str(&said).unwrap()
}

#[test]
fn the_engine_is_given_batches_of_just_that_size_and_syncs_each_group() {
    for (durability, batch_bytes, syncs) in
        [("page-cache", 100, 0), ("durable", 100, 4), ("durable", 1 << 10, 4)]
    {
        let dir = dir(&format!("append-kariz-{durability}-{batch_bytes}"));
        let said = one("kariz", durability, batch_bytes, &dir);
        assert_eq!(said["batches"], 100, "{said}");
        assert!(said["counts"]["commits"].as_u64().unwrap() >= syncs, "{said}");
        let log = dir.join("broker-256/append-0/00000000000000000000.log");
        assert_eq!(fs::metadata(log).unwrap().len(), 100 * batch_bytes as u64);
    }
}

#[test]
fn the_ceiling_writes_the_same_bytes_into_files_of_a_segments_size() {
    let dir = dir("append-pwritev");
    let said = one("pwritev", "page-cache", 64 << 10, &dir);
    assert_eq!(said["batches"], 100, "{said}");
    // Groups of 2 MiB into segments of 1 MiB: a file each, for a group is written as a whole.
    let mut lengths: Vec<u64> =
        fs::read_dir(&dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
    lengths.retain(|len| *len > 0);
    assert_eq!(lengths.iter().sum::<u64>(), 100 * (64 << 10));
}

#[test]
fn every_row_is_measured_in_every_round() {
    let dir = dir("append-rows");
    let (data, out) = (dir.join("data"), dir.join("out"));
    let place = ["--data", data.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let amount = ["--sizes", "100", "--bytes", "6400", "--seconds", "60", "--rounds", "2"];
    let table =
        append(&[&["--alone"], &place[..], &amount, &["--segment-bytes", "1048576"]].concat());
    assert!(fs::read_to_string(out.join("README.md")).unwrap().contains(table.trim()), "{table}");
    let summary = fs::read_to_string(out.join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let rows = summary["rows"].as_array().unwrap();
    let subjects = |row: &serde_json::Value| row["subjects"].as_array().unwrap().len();
    assert_eq!(rows.iter().map(subjects).collect::<Vec<_>>(), [5, 2, 2]);
    for subject in rows.iter().flat_map(|row| row["subjects"].as_array().unwrap()) {
        let rounds = subject["rounds"].as_array().unwrap();
        assert_eq!(rounds.len(), 2);
        assert!(rounds.iter().all(|round| round["batches"] == 64), "{subject}");
    }
}
