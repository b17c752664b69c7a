//! The offline check of a data directory: what is sound, and that each damage is told with its file.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::verify::{Report, segments};
use kariz_engine::{
    Config, Engine, LogConfig, Mark, OpenError, ShardId, Timestamp, TopicPartition, VerifyError,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Batches that are written; several segments of them.
const BATCHES: i64 = 40;

/// A directory that is removed when the test ends.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kariz-verify-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// An engine of two cores with one partition on each, of several segments.
fn written(dir: &Path) -> Engine {
    let config = Config { cpus: vec![0, 0], journal_bytes: 8 << 20, ..Config::default() };
    let engine = Engine::open(dir, config).unwrap();
    let handle = engine.handle();
    for shard in 0..2 {
        let wrote = handle.on(ShardId(shard), move |shard| async move {
            let mut config = LogConfig::default();
            (config.segment_bytes, config.index_interval_bytes) = (1500, 250);
            config.retention_ms = -1;
            let name = TopicPartition::new("t", i32::from(shard.id().0));
            let created = shard.create(&name, config).await;
            let log = created.unwrap();
            for n in 0..BATCHES {
                let (value, at) = ([u8::try_from(n).unwrap(); 60], Timestamp(1000 + n));
                let batch = Batch::build().record(None, Some(&value), &[], at).done().unwrap();
                let span = log.append(&batch).unwrap();
                log.reach(Mark::Durable, &span).await.unwrap();
            }
        });
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(wrote).unwrap();
    }
    engine
}

/// All files below `dir`, and what is in them.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

/// Checks `dir`, and that the check changes nothing.
fn verify(dir: &Path) -> Report {
    let before = contents(dir);
    let report = Engine::verify(dir).unwrap();
    assert!(before == contents(dir), "the check has written");
    report
}

fn all_batches(report: &Report) -> bool {
    (report.cores, report.partitions, report.batches) == (2, 2, 2 * BATCHES.unsigned_abs())
}

#[test]
fn what_was_stopped_in_order_is_sound() {
    let dir = Dir::new("clean");
    written(&dir.0).shutdown(Duration::from_secs(1)).unwrap();
    let report = verify(&dir.0);
    assert!(report.is_sound() && report.notes.is_empty(), "{report:?}");
    assert!(all_batches(&report) && report.segments > 4, "{report:?}");
    let files = contents(&dir.0).into_iter();
    let logs = files.filter(|(path, _)| path.extension().is_some_and(|e| e == "log"));
    assert_eq!(report.bytes, logs.map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
}

#[test]
fn what_a_crash_left_is_sound_and_its_journals_are_named() {
    let dir = Dir::new("crash");
    drop(written(&dir.0));
    let report = loop {
        match Engine::verify(&dir.0) {
            Err(VerifyError::Locked(_)) => std::thread::yield_now(),
            verified => break verified.unwrap(),
        }
    };
    assert!(report.is_sound() && all_batches(&report), "{report:?}");
    let noted: Vec<PathBuf> = report.notes.iter().map(|note| note.path.clone()).collect();
    assert_eq!(noted, ["broker-256", "broker-257"].map(|core| dir.0.join(core)));
    assert!(verify(&dir.0).is_sound());
}

#[test]
fn a_directory_in_use_is_refused_and_one_under_check_is_not_opened() {
    let dir = Dir::new("in-use");
    let engine = written(&dir.0);
    let refused = Engine::verify(&dir.0).unwrap_err();
    assert!(matches!(&refused, VerifyError::Locked(path) if *path == dir.0), "{refused}");
    engine.shutdown(Duration::from_secs(1)).unwrap();
    let held = kariz_engine::verify::hold(&dir.0).unwrap();
    // Two checks are not in each other's way, but an engine and a check are.
    assert!(verify(&dir.0).is_sound());
    let opened = Engine::open(&dir.0, Config::default()).map(drop);
    assert!(matches!(opened, Err(OpenError::Locked(_))));
    drop(held);
    let config = Config { cpus: vec![0, 0], ..Config::default() };
    Engine::open(&dir.0, config).unwrap().shutdown(Duration::from_secs(1)).unwrap();
}

#[test]
fn what_is_no_data_directory_is_refused_by_name() {
    let dir = Dir::new("none");
    let refused = Engine::verify(&dir.0).unwrap_err();
    assert!(matches!(&refused, VerifyError::NoData(path) if *path == dir.0), "{refused}");
    let missing = dir.0.join("missing");
    let refused = Engine::verify(&missing).unwrap_err();
    assert!(
        matches!(&refused, VerifyError::Directory { path, .. } if *path == missing),
        "{refused}"
    );
}

/// What is done to a file's bytes.
type Damage = fn(&mut Vec<u8>);

/// The first batch is as long as each of them.
fn batch_bytes(log: &[u8]) -> usize {
    12 + usize::try_from(u32::from_be_bytes(log[8..12].try_into().unwrap())).unwrap()
}

fn without_second_batch(log: &mut Vec<u8>) {
    let len = batch_bytes(log);
    log.drain(len..2 * len);
}

fn zero_second_batch(log: &mut [u8]) {
    let len = batch_bytes(log);
    log[len..2 * len].fill(0);
}

#[test]
fn each_damage_is_told_with_its_file() {
    let dir = Dir::new("damage");
    written(&dir.0).shutdown(Duration::from_secs(1)).unwrap();
    let partition = dir.0.join("broker-257/t-1");
    let logs = segments(&partition).unwrap();
    let (_, log) = &logs[1];
    let damages: [(PathBuf, Damage, &str); 11] = [
        (log.clone(), |b| *b.last_mut().unwrap() ^= 1, "CRC"),
        (log.clone(), |b| b.truncate(b.len() - 1), "the batch needs"),
        (log.clone(), |b| b.extend([0; 100]), "too short to be one"),
        (log.clone(), |b| zero_second_batch(b), "too short to be one"),
        (log.clone(), without_second_batch, "no records from offset"),
        // The position, and then the offset, of the first entry.
        (log.with_extension("index"), |b| b[7] ^= 1, "no batch begins at position"),
        (log.with_extension("index"), |b| b[3] ^= 1, "ends at offset"),
        // The timestamp, and then the offset.
        (log.with_extension("timeindex"), |b| b[7] ^= 1, "the largest is"),
        (log.with_extension("timeindex"), |b| b[9] ^= 1, "no batch holds offset"),
        (partition.join("leader-epoch-checkpoint"), |b| b[0] = b'x', "not the version"),
        (
            dir.0.join("broker-257/recovery-point-offset-checkpoint"),
            |b| b[2] = b'7',
            "entries, 7 announced",
        ),
    ];
    for (file, damage, expected) in damages {
        let good = fs::read(&file).unwrap();
        let mut bad = good.clone();
        damage(&mut bad);
        assert!(good != bad, "{}: no damage", file.display());
        fs::write(&file, bad).unwrap();
        let report = verify(&dir.0);
        let told = report.faults.iter().any(|f| f.path == file && f.what.contains(expected));
        assert!(told, "`{expected}` of {} not in {:?}", file.display(), report.faults);
        // Nothing is said of the other core, or of other segments than the next.
        let near = |path: &Path| path.starts_with(&partition) || path == file;
        assert!(report.faults.iter().all(|f| near(&f.path)), "{:?}", report.faults);
        assert!(!report.is_sound());
        fs::write(&file, good).unwrap();
        assert!(verify(&dir.0).is_sound());
    }
}

#[test]
fn each_missing_file_is_told_where_it_leaves_a_hole() {
    let dir = Dir::new("missing");
    written(&dir.0).shutdown(Duration::from_secs(1)).unwrap();
    let partition = dir.0.join("broker-256/t-0");
    let logs = segments(&partition).unwrap();
    let (first, middle, last) = (&logs[0], &logs[1], logs.last().unwrap());
    let aside = dir.0.join("aside");
    let refused_without = |gone: &Path, told_of: &Path, expected: String| {
        fs::rename(gone, &aside).unwrap();
        let report = verify(&dir.0);
        let told: Vec<_> = report.faults.iter().map(|f| (&*f.path, &*f.what)).collect();
        assert_eq!(told, [(told_of, &*expected)]);
        fs::rename(&aside, gone).unwrap();
        assert!(verify(&dir.0).is_sound());
    };
    // Indexes may be gone, for they are rebuilt; here they would be told of as well.
    for (_, log) in &logs {
        fs::remove_file(log.with_extension("index")).unwrap();
        fs::remove_file(log.with_extension("timeindex")).unwrap();
    }
    assert!(verify(&dir.0).is_sound());
    let hole = format!("no records from offset {} to {}", middle.0, logs[2].0);
    refused_without(&middle.1, &logs[2].1, hole);
    let hole = format!("no records from offset {}, the log start, to {}", first.0, middle.0);
    refused_without(&first.1, &middle.1, hole);
    let hole = format!("no records from offset {} to {BATCHES}, the log end", last.0);
    refused_without(&last.1, &partition, hole);
    refused_without(&partition, &partition, "not there, but in the checkpoint".to_owned());
    let core = dir.0.join("broker-256");
    refused_without(&core, &core, "not there, but broker-257 is".to_owned());
}
